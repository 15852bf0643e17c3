"""Error messages of model files: the key path, what was expected there and what was found.

:func:`describe_errors` translates pydantic's errors; the other functions each build one part of a message.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from actors.limits import (
    MAX_INTEGER,
    MAX_LISTED_NAMES,
    MAX_NAME_CHARACTERS,
    MAX_NUMBER_CHARACTERS,
    MAX_PRINTED_LINE,
    MAX_REPORTED_PROBLEMS,
)
from runner.report.printable import printable_line

Location: TypeAlias = tuple[Any, ...]
"""The keys that lead to a place in a model file."""

Problem: TypeAlias = tuple[Location, str]
"""A place in a model file, and a sentence that says what is wrong there."""


class ConfigError(ValueError):
    """A model file that cannot be used; lists each problem on a line of its own, with its key path."""


class ConfigErrors(ValueError):  # noqa: N818 (a collection)
    """The problems of a section of a model file; its text has the first :data:`MAX_REPORTED_PROBLEMS` of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        shown = self.problems[:MAX_REPORTED_PROBLEMS]
        lines = [f"{_key_path(loc)}: {printable_line(text, 4 * MAX_PRINTED_LINE)}" for loc, text in shown]
        if len(self.problems) > len(lines):
            lines.append(f"and {len(self.problems) - len(lines):,} more problems")
        super().__init__("\n".join(lines))


def _key_path(loc: Location) -> str:
    return ".".join(format_text(key) for key in loc) or "the model file"


def describe_errors(error: ValidationError, fields: Mapping[str, FieldInfo], given: Any) -> list[Problem]:
    """Translate pydantic's errors about `given`, one problem for each place.

    Parameters
    ----------
    error : ValidationError
    fields : mapping of str to FieldInfo
        The fields of what `given` was validated as.
    given : object
        What was validated.
    """
    problems: dict[Location, str] = {}
    unknown: list[tuple[Location, str]] = []
    for details in error.errors(include_url=False):
        loc = details["loc"]
        cause = details.get("ctx", {}).get("error")
        field = fields.get(str(loc[0])) if loc else None
        if isinstance(cause, ConfigErrors):
            for inner, text in cause.problems:  # the first of a place is the most detailed
                problems.setdefault((*(loc and _location(loc, given)), *inner), text)
        elif details["type"] == "missing":
            problems[loc] = f"is missing, expected {describe_type(field)}"
        elif details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            problems[loc] = ""  # keeps its place
            unknown.append((loc, str(loc[-1])))
        elif cause is not None:
            problems[loc] = f"{cause}, got {format_value(details['input'])}" if loc else str(cause)
        else:
            place = _location(loc, given)
            expected = describe_type(field) if len(place) == 1 else details["msg"].removeprefix("Input should be ")
            value = details["input"]
            expected = _crossed_bound(details, expected)
            problems[place] = f"expected {expected}, got {format_value(value)}{_notation_hint(value, expected)}"
    problems.update(unknown_names("key", unknown, fields))
    # Each branch of a union reports its own error; the deepest place belongs to the branch that was meant.
    outer = {loc[:length] for loc in problems for length in range(len(loc))}
    return [(loc, text) for loc, text in problems.items() if loc not in outer]


def _crossed_bound(details: ErrorDetails, expected: str) -> str:
    """Return what was expected, with the bound that was crossed where the value keeps its type and its range."""
    context = details.get("ctx", {})
    if details["type"] == "finite_number":
        return "a finite number"
    if details["type"] == "string_pattern_mismatch":
        return f"a text that matches {context['pattern']}"
    bound = context.get("min_length", context.get("max_length"))
    if details["type"] in ("too_short", "too_long") and bound is not None:
        least = "at least" if details["type"] == "too_short" else "at most"
        return f"{expected}, {least} {bound} {'entry' if bound == 1 else 'entries'}, not {context['actual_length']}"
    return expected


_NOTATIONS = {
    r"[-+]?0[0-9]+(\.[0-9]*)?": "write the number without leading zeros (octal numbers begin with 0o)",
    r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?": "write one number, as this is neither minutes nor seconds in YAML 1.2",
    r"[-+]?[0-9.]*_[0-9_.]*": "write the number without '_'",
    r"[-+]?0b[01]+": "write the number in decimal",
    r"[-+]?[0-9]+,[0-9]+": "write the number with a decimal point",
    r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?": "write the number without quotes",
}
"""Texts that people mean as numbers, and what to write instead."""


def _notation_hint(value: Any, expected: str) -> str:
    """Return the end of a message about a text that YAML 1.1 takes for a number or a truth value; mostly empty."""
    if not isinstance(value, str) or len(value) > MAX_NUMBER_CHARACTERS:
        return ""
    if value.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false") and "true or false" in expected:
        return "; in YAML 1.2 only true and false, without quotes, are truth values"
    if "number" not in expected and "integer" not in expected:
        return ""
    hint = next((hint for pattern, hint in _NOTATIONS.items() if re.fullmatch(pattern, value)), "")
    return f"; {hint}" if hint else ""


def _location(loc: Location, given: Any) -> Location:
    """Return pydantic's `loc` without the parts that name branches of a union."""
    location: list[Any] = []
    for part in loc:
        inside = part in given if isinstance(given, dict) else isinstance(given, list) and isinstance(part, int)
        if inside:
            given = given[part]
            location.append(part)
    return tuple(location) or loc


def get_fields(cls: type[Any]) -> dict[str, FieldInfo]:
    """Return the fields of a section, or of a dataclass of module parameters, by name."""
    if issubclass(cls, BaseModel):
        return dict(cls.model_fields)
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: FieldInfo.from_annotation(hints[field.name])
        if field.default is MISSING
        else FieldInfo.from_annotated_attribute(hints[field.name], field.default)
        for field in dataclass_fields(cls)
    }


def get_aliases(fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Return the aliases of parameters, each with the parameter's own name."""
    aliases: dict[str, str] = {}
    for name, field in fields.items():
        other = field.validation_alias
        others = other.choices if isinstance(other, AliasChoices) else [other, field.alias]
        aliases.update({alias: name for alias in others if isinstance(alias, str) and alias != name})
    return aliases


_NAMES: dict[Any, str] = {
    int: "an integer", float: "a number", str: "a text", bool: "true or false", Path: "a path", type(None): "nothing",
    Any: "anything",
}  # fmt: skip
_BOUNDS = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Describe the values that an annotation allows: ``an integer of at least 0``."""
    if isinstance(annotation, FieldInfo):
        return describe_type(annotation.annotation, annotation.metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for extra in arguments[1:] for part in getattr(extra, "metadata", [extra])]
        return describe_type(arguments[0], [*inner, *metadata])
    if origin is Literal:
        words = " or ".join(repr(choice) for choice in arguments)
    elif origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(describe_type(each) for each in arguments if each is not type(None)))
    elif origin in (list, tuple, set, Sequence):
        words = f"a list, each entry {describe_type(arguments[0])}" if arguments else "a list"
    elif origin in (dict, Mapping):
        words = "a map of names"
    else:
        name = getattr(annotation, "__name__", str(annotation))
        words = _NAMES.get(annotation) or getattr(annotation, "expected", None) or f"a {name}"
    bounds = []
    for key, phrase in _BOUNDS.items():
        bound = next((value for value in (getattr(part, key, None) for part in metadata) if value is not None), None)
        if bound is not None:
            bounds.append(phrase.format(f"{bound:g}" if abs(bound) < 1e6 else bound))
    return " ".join([words, " and ".join(bounds)]).strip()


def format_value(value: Any) -> str:
    """Format a value of a model file, shortened to at most 60 characters."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = printable_line(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def format_text(text: Any) -> str:
    """Format a key or another part of a message, on one line and shortened to at most 100 characters."""
    return printable_line(text, MAX_NAME_CHARACTERS)


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message that `name` is no known name, with the known names and the closest one."""
    names = list(dict.fromkeys(known))
    listed = ", ".join(format_text(each) for each in names[:MAX_LISTED_NAMES])
    more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
    return f"unknown {what}, expected one of {listed}{more}, got {format_value(name)}{suggest(name, names)}"


def unknown_names(what: str, found: Iterable[tuple[Location, str]], known: Iterable[str]) -> list[Problem]:
    """Return a problem for each name that is not known; only those that are reported get the whole message.

    Parameters
    ----------
    what : str
        What the names are of, such as ``key``.
    found : iterable of (location, str)
        The names, each with its place.
    known : iterable of str
    """
    names = list(dict.fromkeys(known))
    return [
        (loc, unknown_name(what, name, names) if number < MAX_REPORTED_PROBLEMS else f"unknown {what}")
        for number, (loc, name) in enumerate(found)
    ]


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that suggests the known name closest to `name`; empty if none is close."""
    if len(name) > MAX_NAME_CHARACTERS:
        return ""
    names = [each for each in islice(known, MAX_LISTED_NAMES) if len(each) <= MAX_NAME_CHARACTERS]
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def find_large_integer(value: Any) -> str:
    """Return the message that a value is, or contains, an integer beyond int64; empty if it does not."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, int) and abs(item) > MAX_INTEGER:
            return f"expected integers of at most {MAX_INTEGER}, got {format_value(item)}"
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return ""
