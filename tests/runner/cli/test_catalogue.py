"""What there is to know of the module types: told whole, readable on any terminal, and though some are broken."""

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from actors.errors import ModuleError
from actors.graph.registry import BUILT_IN
from runner.cli.app import app
from runner.cli.catalogue import catalogue, describe
from runner.cli.inspect import show_modules
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


def shown(entries, width=100, **how):
    stream = io.StringIO()
    show_modules(entries, Console(file=stream, width=width), **how)
    return stream.getvalue()


def serket_modules(*words, code=0):
    done = CliRunner().invoke(app, ["modules", *words])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def installed(site):
    site.install("serket-rich", {"rich_one": "rich_module:Own"}, "0.3", rich_module=RICH)
    site.install("serket-broken", {"broken": "broken_module:Own", "gmm": "broken_module:Other"}, broken_module="1 / 0")
    return {entry["target"]: entry for entry in catalogue()}


def test_every_type_is_there_with_who_brings_it(installed):
    assert list(installed)[: len(BUILT_IN)] == list(BUILT_IN.values())
    found = installed["rich_module:Own"]
    assert (found["origin"], found["from"], found["version"]) == ("plug-in", "serket-rich", "0.3")
    assert (found["type"], found["summary"], found["doc"]) == ("rich_one", "Counts.", "Counts.")
    vae = installed[BUILT_IN["vae"]]
    assert (vae["type"], vae["origin"], vae["from"]) == ("vae", "built in", "serket-actors")


def test_ports_kinds_and_parameters_are_those_of_the_class(installed):
    found = installed["rich_module:Own"]
    assert [(port["name"], port["path"], port["kind"], port["per_receiver"]) for port in found["ports"]] == [
        ("observations", "forward", "observations", False),
        ("tact", "backward", "beats", True),
    ]
    assert found["kinds"] == {"beats": "times (N×T, real)"}
    assert found["parameters"] == [
        {"name": "size", "aliases": ["n"], "expected": "an integer of at least 1", "required": True},
        {"name": "rate", "aliases": [], "expected": "a number above 0 and of at most 1", "default": 0.5},
        {"name": "rule", "aliases": [], "expected": "'slow' or 'fast'", "default": None},
        {"name": "weights", "aliases": [], "expected": "a list, each entry a number", "default": []},
    ]
    assert found["schema"]["properties"]["size"]["minimum"] == 1


def test_a_broken_one_says_why_and_the_others_are_there(installed):
    said = installed["broken_module:Own"]["problem"]
    assert "'broken' (broken_module:Own of serket-broken 1.2) cannot be loaded: ZeroDivisionError" in said
    assert "the one built into serket-actors" in installed["broken_module:Other"]["problem"]
    assert "problem" not in installed["rich_module:Own"]


@pytest.mark.parametrize("width", [200, 80, 40])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(installed, width):
    text = shown(list(installed.values()), width)
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert lines
    assert max(map(len, lines)) <= width
    for entry in installed.values():
        for named in [*entry.get("ports", ()), *entry.get("parameters", ())]:
            assert f" {named['name']}" in text
    assert "…" not in text.replace("N×…", "")


def test_the_command_lists_all_and_ends_well_though_some_are_broken(installed):
    text = serket_modules().stdout
    for word in (*BUILT_IN, "rich_one", "serket-rich 0.3", "broken", "cannot be used: module type 'broken'", "itr"):
        assert word in text


def test_one_alone_comes_with_its_whole_documentation(installed):
    text = serket_modules("vae").stdout
    assert text.startswith("vae  built in: serket-actors")
    assert "learning_rate : float" in text
    assert "rich_one" not in text


def test_one_that_nobody_brings_is_refused_with_what_was_perhaps_meant(installed):
    assert "did you mean 'rich_one'?" in serket_modules("rich_on", code=2).stderr
    assert "ZeroDivisionError" in serket_modules("broken", code=2).stderr
    with pytest.raises(ModuleError, match="No module named 'nowhere'"):
        describe("nowhere:Own")


def test_a_file_in_the_current_directory_is_found_by_its_dotted_name(site, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my_own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path / "here")
    found = describe("my_own:Own")
    assert (found["origin"], found["from"]) == ("file", str(tmp_path / "here" / "my_own.py"))


def test_json_is_one_object_on_one_line(installed):
    done = serket_modules("--json").stdout
    assert len(done.splitlines()) == 1
    listed = json.loads(done)["modules"]
    assert [entry["type"] for entry in listed].count("gmm") == 2
    assert [entry["type"] for entry in listed if "problem" in entry] == ["broken", "gmm"]
    assert [entry["type"] for entry in json.loads(serket_modules("rich_one", "--json").stdout)["modules"]] == [
        "rich_one"
    ]
