"""Test the catalogue of module types: complete, readable on any terminal, and robust to broken plug-ins."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from actors.errors import ModuleError
from actors.graph.registry import BUILT_IN
from runner.cli.app import app
from runner.cli.catalogue import describe_module_type, describe_module_types
from runner.cli.inspect import print_module_types
from tests.support.distributions import MODULE

RICH = """
from dataclasses import field
from typing import Annotated, Literal
from pydantic import Field
from actors.messaging.kinds import ArraySpec, Kind
""" + MODULE.replace(
    "        size: int = 3\n",
    "        size: Annotated[int, Field(ge=1, validation_alias='n')]\n"
    "        rate: float = Field(0.5, gt=0, le=1)\n"
    "        rule: Literal['slow', 'fast'] | None = None\n"
    "        weights: list[float] = field(default_factory=list)\n",
).replace("    ports =", "    kinds = (Kind('beats', (ArraySpec('times', ('N', 'T')),)),)\n    ports =").replace(
    '"observations"),)', '"observations"), Port("tact", "out", "backward", "beats", per_receiver=True))'
)


def printed(entries, width=100, **options):
    stream = io.StringIO()
    print_module_types(entries, Console(file=stream, width=width), **options)
    return stream.getvalue()


def serket_modules(*arguments, code=0):
    done = CliRunner().invoke(app, ["modules", *arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def installed(site):
    site.install("serket-rich", {"rich_one": "rich_module:Own"}, "0.3", rich_module=RICH)
    site.install("serket-broken", {"broken": "broken_module:Own", "gmm": "broken_module:Other"}, broken_module="1 / 0")
    return {entry["target"]: entry for entry in describe_module_types()}


def test_every_type_is_listed_with_its_distribution(installed):
    assert list(installed)[: len(BUILT_IN)] == list(BUILT_IN.values())
    described = installed["rich_module:Own"]
    assert (described["origin"], described["from"], described["version"]) == ("plug-in", "serket-rich", "0.3")
    assert (described["type"], described["summary"], described["doc"]) == ("rich_one", "Counts.", "Counts.")
    vae = installed[BUILT_IN["vae"]]
    assert (vae["type"], vae["origin"], vae["from"]) == ("vae", "built in", "serket-actors")


def test_ports_kinds_and_parameters_are_those_of_the_class(installed):
    described = installed["rich_module:Own"]
    assert [(port["name"], port["path"], port["kind"], port["per_receiver"]) for port in described["ports"]] == [
        ("observations", "forward", "observations", False),
        ("tact", "backward", "beats", True),
    ]
    assert described["kinds"] == {"beats": "times (N×T, real)"}
    assert described["parameters"] == [
        {"name": "size", "aliases": ["n"], "expected": "an integer of at least 1", "required": True},
        {"name": "rate", "aliases": [], "expected": "a number above 0 and of at most 1", "default": 0.5},
        {"name": "rule", "aliases": [], "expected": "'slow' or 'fast'", "default": None},
        {"name": "weights", "aliases": [], "expected": "a list, each entry a number", "default": []},
    ]
    assert described["schema"]["properties"]["size"]["minimum"] == 1


DOC = """Sends ``values`` (N, …),
and :mod:`actors.kernels.gibbs`.

Parameters
----------
parameters : Parameters
    size : int
        Of a *row*, which goes
        on: for `n` rows.
    rate (or r) : float
        Another.

- An item
  of two lines.
- Another.
"""


def test_documentation_is_printed_without_markup_and_wrapped_once(installed):
    text = printed([{**installed["rich_module:Own"], "doc": DOC}], width=60, whole=True)
    assert text.splitlines()[1:15] == [
        "  Sends values (N, …), and actors.kernels.gibbs.",
        "",
        "  Parameters",
        "  ----------",
        "  parameters : Parameters",
        "      size : int",
        "          Of a *row*, which goes on: for n rows.",
        "      rate (or r) : float",
        "          Another.",
        "",
        "  - An item of two lines.",
        "  - Another.",
        "",
        "  in   forward   observations:  observations",
    ]
    assert "`" not in printed(list(installed.values())[: len(BUILT_IN)], whole=True)


def test_a_broken_type_has_a_reason_and_the_others_are_listed(installed):
    problem = installed["broken_module:Own"]["problem"]
    assert "'broken' (broken_module:Own of serket-broken 1.2) cannot be loaded: ZeroDivisionError" in problem
    assert "the one built into serket-actors" in installed["broken_module:Other"]["problem"]
    assert "problem" not in installed["rich_module:Own"]


@pytest.mark.parametrize("width", [200, 80, 40])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(installed, width):
    text = printed(list(installed.values()), width)
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert lines
    assert max(map(len, lines)) <= width
    for entry in installed.values():
        for named in [*entry.get("ports", ()), *entry.get("parameters", ())]:
            assert f" {named['name']}" in text
    written = [
        line for entry in installed.values() for line in (entry.get("summary", ""), *entry.get("kinds", {}).values())
    ]
    assert text.count("…") == "".join(written).count("…")  # Rich adds one where it cuts a line


def test_the_command_lists_all_types_and_succeeds_although_some_are_broken(installed):
    text = serket_modules().stdout
    for word in (*BUILT_IN, "rich_one", "serket-rich 0.3", "broken", "cannot be used: module type 'broken'", "itr"):
        assert word in text


def test_a_single_type_is_printed_with_its_whole_documentation(installed):
    text = serket_modules("vae").stdout
    assert text.startswith("vae  built in: serket-actors")
    assert "learning_rate : float" in text
    assert "rich_one" not in text


def test_an_unknown_type_is_rejected_with_a_suggestion(installed):
    assert "did you mean 'rich_one'?" in serket_modules("rich_on", code=2).stderr
    assert "ZeroDivisionError" in serket_modules("broken", code=2).stderr
    with pytest.raises(ModuleError, match="No module named 'nowhere'"):
        describe_module_type("nowhere:Own")


def test_a_file_in_the_current_directory_is_found_by_its_dotted_name(site, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path / "here")
    described = describe_module_type("my_own:Own")
    assert (described["origin"], described["from"]) == ("file", str(tmp_path / "here" / "my_own.py"))


def test_json_is_one_object_on_one_line(installed):
    output = serket_modules("--json").stdout
    assert len(output.splitlines()) == 1
    listed = json.loads(output)["modules"]
    assert [entry["type"] for entry in listed].count("gmm") == 2
    assert [entry["type"] for entry in listed if "problem" in entry] == ["broken", "gmm"]
    assert [entry["type"] for entry in json.loads(serket_modules("rich_one", "--json").stdout)["modules"]] == [
        "rich_one"
    ]
