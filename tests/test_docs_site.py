"""Checks of the documentation as a site: anchors, commands and model files in it, public names in the reference.

``make docs`` builds it strictly. Whether a browser shows it is checked in tests/test_docs_browser.py.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from runner.cli.app import app
from runner.config.run_config import load_config
from tests.test_docs import DOCUMENTS, ROOT

DOCS = ROOT / "docs"
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
TYPES = {"Array", "BoolArray", "FloatArray", "IntArray", "State"}
"""Names of types, which one sentence of the reference describes."""


def blocks_of(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def anchors_of(text):
    """Return the anchors of the headings of a document, as GitHub and mkdocs make them."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = [line.replace("`", "").lower() for line in re.findall(r"^#+ (.+)$", outside, re.MULTILINE)]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading)).strip("-") for heading in headings}


def broken_anchors(text, path):
    """Return the links whose anchor is no heading of the document that they lead to."""
    links = re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", text)
    pages = {target: (path.parent / target).read_text(encoding="utf-8") if target else text for target, _ in links}
    return [f"{target}#{anchor}" for target, anchor in links if anchor not in anchors_of(pages[target])]


def commands_in(text):
    """Return the commands of ``serket`` in the blocks of a document, as lists of words without comments."""
    lines = "".join(blocks_of(text, "console") + blocks_of(text, "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if re.search(r"\bserket ", line)]
    found = [words[words.index("serket") + 1 :] for words in found if "serket" in words]
    return [words[: words.index(">")] if ">" in words else words for words in found]


def refusal_of(words):
    """Return why the command line refuses these words before anything starts, or None."""
    group = typer.main.get_command(app)
    try:
        group.commands[words[0]].make_context(words[0], words[1:])
    except Exception as error:
        return f"serket {' '.join(words)}: {error!r}"
    return None


@each_document
def test_every_anchor_is_a_heading_of_its_document(document):
    assert broken_anchors(document.read_text(encoding="utf-8"), document) == []


@each_document
def test_the_command_line_takes_every_command_that_is_shown(document):
    refused = [refusal_of(words) for words in commands_in(document.read_text(encoding="utf-8"))]
    assert [reason for reason in refused if reason] == []


@each_document
def test_every_block_of_yaml_is_valid_and_every_whole_model_in_one_can_be_loaded(document, tmp_path):
    for block in blocks_of(document.read_text(encoding="utf-8"), "yaml"):
        content = yaml.safe_load(block)
        own_code = re.search(r"type:\s+.?\w+:", block)  # tests/test_guide.py runs it
        if {"name", "data", "modules", "connections", "schedule"} <= set(content) and not own_code:
            (tmp_path / "model.yaml").write_text(block)
            assert load_config(tmp_path / "model.yaml").graph.modules


def test_every_public_name_has_its_place_in_the_reference():
    """Each entry of the reference is an object, and together they are all that the public faces offer."""
    missing = []
    for package, page in {"actors": "actors", "actors.conformance": "actors", "runner": "runner"}.items():
        text = (DOCS / f"reference_{page}.md").read_text(encoding="utf-8")
        described = [path.rpartition(".") for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
        objects = [getattr(importlib.import_module(module), name) for module, _, name in described]
        face = importlib.import_module(package)
        for name in face.__all__:
            offered = getattr(face, name)
            is_module_of_handles = name.islower() and package == "runner"
            if name not in TYPES and not is_module_of_handles and not any(each is offered for each in objects):
                missing.append(f"{package}.{name}")
    assert missing == []


def test_the_checks_find_what_they_look_for():
    text = "# One\n\n## What is `this`, then?\n\n[a](#what-is-this-then) [b](#none)\n```yaml\na: 1\n```\n"
    assert broken_anchors(text, Path("x.md")) == ["#none"]
    assert commands_in("```console\n$ serket run a --set b=1  # c\nmake test\n```") == [["run", "a", "--set", "b=1"]]
    assert "--nothing" in refusal_of(["run", "mnist", "--nothing"])
    assert refusal_of(["run", "mnist"]) is None
    assert blocks_of(text, "yaml") == ["a: 1\n"]
