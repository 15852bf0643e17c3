"""Checks across the sections of a model file: names, connections, and parameters against module types.

These checks run on the parsed file before its sections are made, so any value may be anywhere in it. They ignore
values that a section itself rejects.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from itertools import pairwise
from typing import Any, TypeAlias

from pydantic import ValidationError

from actors.errors import ModuleError
from actors.graph.registry import ValidatedParameters, find, known_names, make_parameters
from actors.limits import MAX_CONNECTIONS, MAX_NAME_CHARACTERS, MAX_REPORTED_PROBLEMS
from runner.config.error_messages import (
    Location,
    Problem,
    describe_errors,
    find_large_integer,
    format_text,
    format_value,
    get_aliases,
    get_fields,
    suggest,
    unknown_name,
    unknown_names,
)
from runner.config.sections import DataConfig

DATA = "data"
"""Name of the observation of a model file with one source; ``modules`` does not list it."""

RUN_NAME = rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_NAME_CHARACTERS - 1}}}"
"""Names that a run may have: plain directory names."""

TypedParameters: TypeAlias = tuple[str, Mapping[str, Any]]
"""A module's type and its parameters."""

_RESERVED = {DATA: "the observation's name", "coordinator": "the coordinator's name"}
_MODULE_NAME = rf"[A-Za-z][A-Za-z0-9_-]{{0,{MAX_NAME_CHARACTERS - 1}}}"


def check_parameters(
    type_name: str, given: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, known: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """Validate parameters against a module type.

    Parameters
    ----------
    type_name : str
    given : mapping
        Under the parameters' own names or aliases.
    base : mapping, optional
        The module's own parameters, of which `given` overrides some for a step.
    known : sequence of str
        Further keys to suggest.

    Returns
    -------
    ValidatedParameters or dict
        All parameters, or (with `base`) a dict of those in `given`, under their own names.
    list of Problem
        What is wrong with `given`.
    """
    try:
        cls = find(type_name)
    except ModuleError as error:
        return {}, [(("type",), f"{error}{suggest(type_name, known_names())}")]
    fields = get_fields(cls.Parameters)
    aliases = get_aliases(fields)
    keys: dict[str, str] = {}
    problems: list[Problem] = []
    unknown: list[tuple[Location, str]] = []
    for key in map(str, given):
        name = aliases.get(key, key)
        if name in keys:
            problems.append(((key,), f"is the same parameter as {keys[name]!r}; give one of them"))
        elif name not in fields:
            unknown.append(((key,), key))
        else:
            keys[name] = key
    problems += unknown_names(f"parameter of module type {type_name}", unknown, [*fields, *aliases, *known])
    chosen = {name: given[key] for name, key in keys.items()}
    try:
        made = make_parameters(cls, {**(base or {}), **chosen})
    except ValidationError as error:
        for loc, text in describe_errors(error, fields, chosen):
            if base is None or not loc or loc[0] in chosen:
                problems.append(((keys.get(str(loc[0]), loc[0]), *loc[1:]) if loc else (), text))
        return {}, problems
    problems += [((keys[name],), text) for name in chosen if (text := find_large_integer(getattr(made, name, None)))]
    if base is None:
        return ValidatedParameters.of(made), problems
    return {field.name: getattr(made, field.name) for field in dataclass_fields(made) if field.name in chosen}, problems


def check_module_parameters(module: Any, keys: Collection[str]) -> TypedParameters | None:
    """Validate the parameters of a module whose section has problems, as the base for checks of steps.

    Parameters
    ----------
    module : object
        The module's value in the model file.
    keys : collection of str
        A module's keys that are not parameters.

    Returns
    -------
    TypedParameters or None
        Without parameters if these are not valid; None if the type is unknown.
    """
    given = as_map(module)
    if not isinstance(given.get("type"), str):
        return None
    parameters, problems = check_parameters(given["type"], {key: given[key] for key in given if key not in keys})
    if any(loc == ("type",) for loc, _ in problems):
        return None
    return given["type"], {} if problems else parameters


def check_steps(
    where: Location, steps: list[Any], modules: Mapping[Any, TypedParameters | None], sources: Collection[str]
) -> tuple[list[Any], list[Problem]]:
    """Validate the parameters that steps, also inside blocks, set for their modules.

    Parameters
    ----------
    where : tuple
        Location of the steps in the model file.
    steps : list
        As parsed.
    modules : mapping
        Type and parameters of each module; None where the module's own section reports what is wrong with them.
    sources : collection of str
        Names of the observations.

    Returns
    -------
    list
        The steps with validated parameters, up to the last problem that is reported.
    list of Problem
    """
    checked: list[Any] = []
    problems: list[Problem] = []
    for index, step in enumerate(steps):
        if len(problems) >= MAX_REPORTED_PROBLEMS:
            break
        if isinstance(step, dict) and "module" not in step and isinstance(step.get("steps"), list):
            inner, own = check_steps((*where, index, "steps"), step["steps"], modules, sources)
            step = {**step, "steps": inner}
        else:
            step, own = _check_step((*where, index), step, modules, sources)
        checked.append(step)
        problems += own
    return checked, problems


def _check_step(
    where: Location, step: Any, modules: Mapping[Any, TypedParameters | None], sources: Collection[str]
) -> tuple[Any, list[Problem]]:
    name = step.get("module") if isinstance(step, dict) else step
    if not isinstance(name, str):
        return step, []  # the step's own section reports it
    if name in sources:
        return step, [(where, f"{name!r} gives observations and learns nothing; leave it out")]
    if name not in modules:
        return step, [(where, unknown_name("module", name, [str(module) for module in modules]))]
    changes = step.get("set") if isinstance(step, dict) else None
    module = modules[name]
    if not changes or not isinstance(changes, dict) or module is None:
        return step, []
    type_name, base = module
    values, problems = check_parameters(type_name, changes, base=base)
    fixed = find(type_name).fixed_parameters if values else ()
    remedy = f"cannot be set for a step, as it determines what the module's state contains; set it in modules.{name}"
    problems += [((key,), remedy) for key in values if key in fixed and values[key] != base.get(key)]
    return {**step, "set": values}, [((*where, "set", *loc), text) for loc, text in problems]


def check_names(given: Mapping[str, Any]) -> list[Problem]:
    """Check the names of the run, its sources and its modules."""
    problems: list[Problem] = []
    name = given.get("name")
    if isinstance(name, str) and not re.fullmatch(RUN_NAME, name):
        problems.append((("name",), run_name_problem(name)))
    sources = find_sources(given.get("data"))
    for module in as_map(given.get("modules")):
        reserved = _RESERVED.get(module) or ("a source's name" if module in sources else "")
        if reserved:
            problems.append((("modules", module), f"is {reserved}; choose another for this module"))
    named = [(("modules", module), module) for module in as_map(given.get("modules"))]
    for place, name in [*named, *((place, source) for source, (place, _) in sources.items())]:
        if not re.fullmatch(_MODULE_NAME, str(name)):
            characters = "letters, digits, '_' and '-', first a letter"
            problems.append((place, _name_problem(str(name), "a name", characters, "A-Za-z0-9_-", "0123456789_-")))
        elif name == "coordinator" and place[0] == "data":
            problems.append((place, f"is {_RESERVED[name]}; choose another for this source"))
    return problems


def run_name_problem(name: str) -> str:
    """Return which rule the name of a run breaks, and what was found."""
    return _name_problem(name, "a plain directory name", "letters, digits, '.', '_' and '-'", "A-Za-z0-9._-", ".-")


def _name_problem(name: str, what: str, characters: str, allowed: str, not_first: str) -> str:
    if len(name) > MAX_NAME_CHARACTERS:
        return f"expected {what} of at most {MAX_NAME_CHARACTERS} characters, got {len(name)}"
    found = f"expected {what} of {characters}, got {format_value(name)}"
    wrong = next((character for character in name if not re.fullmatch(f"[{allowed}]", character)), "")
    if wrong:
        return f"{found}, with {wrong!r}"
    return f"{found}, which begins with {name[0]!r}" if name and name[0] in not_first else found


def has_named_sources(data: Any) -> bool:
    """Return whether a model file's ``data`` is a map of named sources instead of one source."""
    given = data if isinstance(data, dict) else {}
    keys = set(DataConfig.model_fields) - {"type", "confidence"}  # of a source, which may have the name of one of these
    return bool(given) and not set(given) & keys and any(map(_is_source, given.values()))


def _is_source(given: Any) -> bool:
    return isinstance(given, dict | DataConfig)


def find_sources(data: Any) -> dict[str, tuple[Location, dict[Any, Any]]]:
    """Return the location and the contents of each source in a model file's ``data``, by name."""
    if not has_named_sources(data):
        return {DATA: (("data",), as_map(data))}
    return {str(name): (("data", name), as_map(source)) for name, source in data.items()}


def split_chains(connections: list[Any], names: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Split chains ``a -> b -> c`` into single connections ``a -> b``."""
    pairs: dict[str, None] = {}
    problems: list[Problem] = []
    unknown: list[tuple[Location, str]] = []
    known = set(names)
    for index, text in enumerate(connections):
        place = ("connections", index)
        chain = [part.strip() for part in text.split("->", MAX_CONNECTIONS + 1)] if isinstance(text, str) else []
        if max(index, len(pairs) + len(chain)) > MAX_CONNECTIONS:
            return [], [(("connections",), f"there are more than {MAX_CONNECTIONS:,}, the limit of a model")]
        if len(chain) < 2 or not all(chain):
            problems.append((place, f"expected 'a -> b', the names of two modules, got {format_value(text)}"))
            continue
        unknown += [(place, name) for name in dict.fromkeys(chain) if name not in known]
        for lower, upper in pairwise(chain):
            pair = f"{lower} -> {upper}"
            if pair in pairs:
                problems.append((place, f"{format_text(pair)} is given twice; leave one out"))
            pairs[pair] = None
    return list(pairs), [*problems, *unknown_names("module", unknown, names)]


def check_cluster(given: Mapping[Any, Any], names: Sequence[str]) -> list[Problem]:
    """Check that the section ``cluster`` names only modules of the model, and none in two groups."""
    known = set(names)
    unknown: list[tuple[Location, str]] = [
        (("cluster", "modules", name), str(name)) for name in as_map(given.get("modules")) if str(name) not in known
    ]
    problems: list[Problem] = []
    groups = given.get("together")
    seen: set[str] = set()
    for index, group in enumerate(groups if isinstance(groups, list) else []):
        place = ("cluster", "together", index)
        for name in group if isinstance(group, list) else []:
            if not isinstance(name, str):
                continue  # the section reports it
            if name not in known:
                unknown.append((place, name))
            elif name in seen:
                problems.append((place, f"{name!r} is in two groups; put all its modules into one list"))
            seen.add(name)
    return [*unknown_names("module", unknown, names), *problems]


def as_map(value: Any) -> dict[Any, Any]:
    """Return `value` if it is a map, otherwise an empty one."""
    return value if isinstance(value, dict) else {}
