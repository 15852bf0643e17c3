"""What ``serket check`` does: hold a module against the contract, and show what came of each check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from actors.conformance import ModuleChecks, Outcome, outcomes
from actors.conformance.sample_messages import Size
from actors.graph.registry import add_code_directories, find, make
from runner.config.error_messages import ConfigError, aliases_of, fields_of
from runner.config.yaml_io import set_at, split_override

SHORT = {"epochs": 3, "iterations": 3}
"""What parameters of these names are, where nothing else is asked for: a check trains dozens of times."""

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def checks_of(
    type_name: str, settings: Sequence[str] = (), sizes: Sequence[str] = (), *, under_ray: bool = True
) -> type[ModuleChecks]:
    """Return the checks of a module type; Python files in the working directory are found too.

    Parameters
    ----------
    type_name : str
    settings : sequence of str
        Parameters, ``key=value``, the value in YAML.
    sizes : sequence of str
        ``LETTER=4`` or, of ``...``, ``...=8x8``; that of N is the number of rows.
    under_ray : bool

    Raises
    ------
    ModuleError
        If there is no such module, or a parameter is wrong.
    ConfigError
        If a setting or a size cannot be read.
    """
    add_code_directories([Path.cwd()])
    cls = find(type_name)
    given: dict[str, Any] = {}
    for setting in settings:
        keys, value = split_override(setting)
        given = set_at(given, keys, value)
    parameters = {**_short(cls.Parameters, given), **given}
    make(type_name, parameters)
    lengths = dict(_size(text) for text in sizes)
    rows = lengths.pop("N", ModuleChecks.rows)
    said = {"module": type_name, "parameters": parameters, "rows": rows, "sizes": lengths, "under_ray": under_ray}
    return type("Checks", (ModuleChecks,), said)


def check(checks: type[ModuleChecks], console: Console | None = None) -> bool:
    """Go through the checks of a module and print what came of each; say whether it passes."""
    console = console or Console()
    found: list[Outcome] = []
    with Console(stderr=True).status("checking") as status:
        for outcome in outcomes(checks):
            found.append(outcome)
            status.update(f"checking: {len(found)} checks done, the last: {_plain(outcome.name)}")
    console.print(_table(checks, found))
    failed = sum(outcome.verdict == "failed" for outcome in found)
    passed = sum(outcome.verdict == "passed" for outcome in found)
    summary = f"{passed} passed, {failed} failed, {len(found) - passed - failed} not applicable"
    console.print(summary, markup=False, highlight=False)
    return not failed


def _table(checks: type[ModuleChecks], found: Sequence[Outcome]) -> Table:
    parameters = ", ".join(f"{name} = {value!r}" for name, value in checks.parameters.items())
    title = f"{checks.module}{parameters and f' with {parameters}'}"
    columns = [Column("check", ratio=1), Column(""), Column("why", ratio=1)]
    table = Table(*columns, title=Text(title), title_justify="left", expand=True)
    for outcome in found:
        sentence = outcome.sentence.removeprefix(f"{checks.module}: ")
        table.add_row(_plain(outcome.name), Text(outcome.verdict, _STYLES[outcome.verdict]), Text(sentence))
    return table


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _short(parameters: type[Any], given: Mapping[str, Any]) -> dict[str, int]:
    """Return for how long to learn where that is not said."""
    aliases = aliases_of(fields_of(parameters))
    said = {aliases.get(name, name) for name in given}
    return {
        field.name: SHORT[field.name]
        for field in fields(parameters)
        if field.name in SHORT and field.name not in said and isinstance(field.default, int)
    }


def _size(text: str) -> tuple[str, Size]:
    """Read ``LETTER=4`` or ``...=8x8``."""
    letter, equals, number = text.partition("=")
    lengths = number.split("x")
    if not (letter and equals and all(length.isdecimal() and int(length) > 0 for length in lengths)):
        raise ConfigError(f"--size {text}: expected LETTER=NUMBER, for instance K=4, or ...=8x8")
    sizes = tuple(int(length) for length in lengths)
    if len(sizes) > 1 and letter != "...":
        raise ConfigError(f"--size {text}: only ... may have several numbers")
    return letter, sizes[0] if len(sizes) == 1 else sizes
