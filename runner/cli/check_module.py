"""Check that a module keeps the contract of modules, and print the outcome of each check: ``serket check``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from actors.conformance import ModuleChecks, Outcome, iter_outcomes
from actors.conformance.sample_messages import Size
from actors.graph.registry import add_code_directories, find, make_module
from actors.limits import MAX_CHECK_SIZE, MAX_DIMENSIONS
from actors.messaging.kinds import KINDS
from runner.config.error_messages import ConfigError, ConfigErrors, format_text, get_aliases, get_fields, unknown_name
from runner.config.yaml_io import set_at, split_override
from runner.report.console import SafeConsole
from runner.report.printable import printable, printable_line

SHORT_TRAINING = {"epochs": 3, "iterations": 3}
"""Default values of the parameters that set the duration of training: the checks train dozens of times."""

MAX_SENTENCE = 4_000
"""Characters of a check's sentence that are printed."""

_MAX_DIGITS = 9

_DIMENSION = re.compile(r"\b[A-Za-z]\b|\.\.\.")
"""A dimension in the notation of a message kind's arrays."""

_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def build_checks(
    type_name: str, settings: Sequence[str] = (), sizes: Sequence[str] = (), *, under_ray: bool = True
) -> type[ModuleChecks]:
    """Return the checks of a module type, which may be defined in a Python file in the working directory.

    Parameters
    ----------
    type_name : str
    settings : sequence of str
        Parameters as ``key=value``, the value in YAML.
    sizes : sequence of str
        Sizes of message dimensions as ``LETTER=4``, or ``...=8x8``; the size of N is the number of rows.
    under_ray : bool
        Whether to run the module on Ray and kill its process.

    Raises
    ------
    ModuleError
        If the module does not exist or a parameter is invalid.
    ConfigError
        If a setting or a size cannot be parsed.
    """
    add_code_directories([Path.cwd()])
    cls = find(type_name)
    given: dict[str, Any] = {}
    for setting in settings:
        keys, value = split_override(setting)
        try:
            given = set_at(given, keys, value)
        except ConfigErrors as error:
            raise ConfigError(str(error)) from None
    known = get_fields(cls.Parameters)
    if unknown := [name for name in given if name not in (*known, *get_aliases(known))]:
        raise ConfigError(f"--set {format_text(unknown[0])}: {unknown_name('parameter', unknown[0], known)}")
    parameters = {**_short_training_parameters(cls.Parameters, given), **given}
    make_module(type_name, parameters)
    lengths = dict(_parse_size(text) for text in sizes)
    letters = {letter for port in cls.ports for letter in _DIMENSION.findall(str(KINDS[port.kind]))}
    if other := [letter for letter in lengths if letter not in letters | {"N"}]:
        raise ConfigError(
            f"--size {format_text(other[0])}: no message of {type_name} has such a dimension; they have "
            f"{', '.join(sorted(letters | {'N'}))}"
        )
    rows = lengths.pop("N", ModuleChecks.rows)
    attributes = {"module": type_name, "parameters": parameters, "rows": rows, "sizes": lengths, "under_ray": under_ray}
    return type("Checks", (ModuleChecks,), attributes)


def run_checks(checks: type[ModuleChecks], console: Console | None = None) -> bool:
    """Run the checks of a module and print the outcome of each; return whether none failed."""
    console = console or SafeConsole()
    done: list[Outcome] = []
    with SafeConsole(stderr=True).status("checking") as status:
        for outcome in iter_outcomes(checks):
            done.append(outcome)
            status.update(f"checking: {len(done)} checks done, the last: {_readable_name(outcome.name)}")
    console.print(_outcome_table(checks, done))
    failed = sum(outcome.verdict == "failed" for outcome in done)
    passed = sum(outcome.verdict == "passed" for outcome in done)
    summary = f"{passed} passed, {failed} failed, {len(done) - passed - failed} not applicable"
    console.print(summary, markup=False, highlight=False)
    return not failed


def _outcome_table(checks: type[ModuleChecks], done: Sequence[Outcome]) -> Table:
    parameters = ", ".join(
        f"{printable_line(name)} = {printable_line(repr(value))}" for name, value in checks.parameters.items()
    )
    title = f"{checks.module}{parameters and f' with {parameters}'}"
    columns = [Column("check", ratio=1), Column(""), Column("why", ratio=1)]
    table = Table(*columns, title=Text(title), title_justify="left", expand=True)
    for outcome in done:
        sentence = printable(outcome.sentence.removeprefix(f"{checks.module}: "), MAX_SENTENCE)
        table.add_row(_readable_name(outcome.name), Text(outcome.verdict, _STYLES[outcome.verdict]), Text(sentence))
    return table


def _readable_name(name: str) -> str:
    return name.replace("_", " ")


def _short_training_parameters(parameters: type[Any], given: Mapping[str, Any]) -> dict[str, int]:
    """Return a short duration of training for those parameters that are not given."""
    aliases = get_aliases(get_fields(parameters))
    given_names = {aliases.get(name, name) for name in given}
    return {
        field.name: SHORT_TRAINING[field.name]
        for field in fields(parameters)
        if field.name in SHORT_TRAINING and field.name not in given_names and isinstance(field.default, int)
    }


def _parse_size(text: str) -> tuple[str, Size]:
    """Parse ``LETTER=4`` or ``...=8x8``."""
    letter, equals, number = text.partition("=")
    lengths = number.split("x")
    shown = format_text(text)
    if not (letter and equals and all(length.isdecimal() and len(length) <= _MAX_DIGITS for length in lengths)):
        raise ConfigError(f"--size {shown}: expected LETTER=NUMBER, for instance K=4, or ...=8x8")
    sizes = tuple(int(length) for length in lengths)
    if not all(0 < size <= MAX_CHECK_SIZE for size in sizes) or len(sizes) > MAX_DIMENSIONS:
        raise ConfigError(f"--size {shown}: expected LETTER=NUMBER, numbers from 1 to {MAX_CHECK_SIZE}")
    if len(sizes) > 1 and letter != "...":
        raise ConfigError(f"--size {shown}: only ... may have several numbers")
    return letter, sizes[0] if len(sizes) == 1 else sizes
