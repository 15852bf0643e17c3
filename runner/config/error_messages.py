"""How faults of a model file are worded: the place, what was expected there and what was there.

:func:`explain` puts what pydantic found into words; the other functions word one thing each.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

Fault: TypeAlias = tuple[tuple[Any, ...], str]
"""A place, as the keys on the way to it, and a sentence."""


class ConfigError(ValueError):
    """A model file that cannot be used; lists each fault on a line of its own, with its key path."""


class Faults(ValueError):  # noqa: N818 (a collection of them)
    """What is wrong: places and sentences."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(f"{'.'.join(map(str, loc)) or 'the model file'}: {text}" for loc, text in faults))


def explain(error: ValidationError, fields: Mapping[str, FieldInfo], given: Any) -> list[Fault]:
    """Word what pydantic found in `given`, one fault a place."""
    faults: dict[tuple[Any, ...], str] = {}
    for found in error.errors(include_url=False):
        loc = found["loc"]
        cause = found.get("ctx", {}).get("error")
        field = fields.get(str(loc[0])) if loc else None
        if isinstance(cause, Faults):
            faults.update({(*(loc and _place(loc, given)), *inner): text for inner, text in cause.faults})
        elif found["type"] == "missing":
            faults[loc] = f"is missing, expected {described(field)}"
        elif found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            faults[loc] = unknown("key", str(loc[-1]), fields)
        elif cause is not None:
            faults[loc] = f"{cause}, got {shown(found['input'])}" if loc else str(cause)
        else:
            place = _place(loc, given)
            expected = described(field) if len(place) == 1 else found["msg"].removeprefix("Input should be ")
            faults[place] = f"expected {expected}, got {shown(found['input'])}"
    # Each branch of a union reports for itself; the deepest place is the one that a person meant.
    return [
        (loc, text) for loc, text in faults.items() if not any(loc == other[: len(loc)] != other for other in faults)
    ]


def _place(loc: tuple[Any, ...], given: Any) -> tuple[Any, ...]:
    """Return `loc` without the parts that name branches of a union."""
    place: list[Any] = []
    for part in loc:
        inside = part in given if isinstance(given, dict) else isinstance(given, list) and isinstance(part, int)
        if inside:
            given = given[part]
            place.append(part)
    return tuple(place) or loc


def fields_of(cls: type[Any]) -> dict[str, FieldInfo]:
    """Return the fields of a section or of a module's parameters."""
    if issubclass(cls, BaseModel):
        return dict(cls.model_fields)
    hints = get_type_hints(cls, include_extras=True)
    return {
        field.name: FieldInfo.from_annotation(hints[field.name])
        if field.default is MISSING
        else FieldInfo.from_annotated_attribute(hints[field.name], field.default)
        for field in dataclass_fields(cls)
    }


def aliases_of(fields: Mapping[str, FieldInfo]) -> dict[str, str]:
    """Return the other names under which parameters may be given, with their own."""
    found: dict[str, str] = {}
    for name, field in fields.items():
        other = field.validation_alias
        others = other.choices if isinstance(other, AliasChoices) else [other, field.alias]
        found.update({alias: name for alias in others if isinstance(alias, str) and alias != name})
    return found


_NAMES: dict[Any, str] = {
    int: "an integer", float: "a number", str: "a text", bool: "true or false", Path: "a path", type(None): "nothing",
    Any: "anything",
}  # fmt: skip
_BOUNDS = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}


def described(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Say in words what an annotation allows: ``an integer of at least 0``."""
    if isinstance(annotation, FieldInfo):
        return described(annotation.annotation, annotation.metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for extra in arguments[1:] for part in getattr(extra, "metadata", [extra])]
        return described(arguments[0], [*inner, *metadata])
    if origin is Literal:
        words = " or ".join(repr(choice) for choice in arguments)
    elif origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(described(argument) for argument in arguments if argument is not type(None)))
    elif origin in (list, tuple, set, Sequence):
        words = f"a list, each entry {described(arguments[0])}" if arguments else "a list"
    elif origin in (dict, Mapping):
        words = "a map of names"
    else:
        words = _NAMES.get(annotation) or getattr(annotation, "expected", None) or f"a {_name_of(annotation)}"
    bounds = [
        phrase.format(f"{bound:g}" if abs(bound) < 1e6 else bound)
        for key, phrase in _BOUNDS.items()
        for bound in [next((b for b in (getattr(part, key, None) for part in metadata) if b is not None), None)]
        if bound is not None
    ]
    return " ".join([words, " and ".join(bounds)]).strip()


def _name_of(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))


def shown(value: Any) -> str:
    """Return what was there, short enough for a line."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = str(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such thing, and what was perhaps meant."""
    names = list(dict.fromkeys(known))
    return f"unknown {what}, expected one of {', '.join(names)}, got {name!r}{did_you_mean(name, names)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known name, if one is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
