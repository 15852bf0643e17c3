"""Runs the code of docs/python.md, and the examples in the docstrings of the Python interface."""

import doctest
import re
from pathlib import Path

import pytest

import runner.estimators
import runner.model

ROOT = Path(__file__).parents[1]


def test_the_guide_to_python_runs_from_the_first_block_to_the_last(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 6
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert (tmp_path / "mine" / "config.yaml").is_file()


@pytest.mark.parametrize("module", [runner.model, runner.estimators], ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_are_true(module, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = doctest.testmod(module)
    assert result.attempted > 5
    assert result.failed == 0
