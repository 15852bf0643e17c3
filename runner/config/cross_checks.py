"""What is checked across the sections of a model file: names, connections, and parameters against module types.

These checks see the file before its sections are made, so anything may stand anywhere; what a section itself refuses
they pass over.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from itertools import pairwise
from typing import Any, TypeAlias

from pydantic import ValidationError

from actors.errors import ModuleError
from actors.graph.registry import find, known_names, make_parameters
from runner.config.error_messages import Fault, aliases_of, did_you_mean, explain, fields_of, shown, unknown
from runner.config.sections import DataConfig

DATA = "data"
"""What the observation of a model file with one source is called: the module that no model file lists."""

Location: TypeAlias = tuple[Any, ...]
"""Where something stands in a model file."""

RUN_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
"""What a run may be called: a plain directory name."""

_RESERVED = {DATA: "the observation's name", "coordinator": "the coordinator's name"}
_MODULE_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,99}"


def check_parameters(
    type_name: str, given: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, known: Sequence[str] = ()
) -> tuple[dict[str, Any], list[Fault]]:
    """Check parameters against a module type.

    Parameters
    ----------
    type_name : str
    given : mapping
        Under their own names or aliases.
    base : mapping, optional
        The module's own parameters, which `given` changes for a step.
    known : sequence of str
        Further keys to suggest.

    Returns
    -------
    dict
        Valid values under the parameters' own names: of all of them, or (with `base`) of those in `given`.
    list of Fault
        What is wrong with `given`.
    """
    try:
        cls = find(type_name)
    except ModuleError as error:
        return {}, [(("type",), f"{error}{did_you_mean(type_name, known_names())}")]
    fields = fields_of(cls.Parameters)
    aliases = aliases_of(fields)
    written: dict[str, str] = {}
    faults: list[Fault] = []
    for key in map(str, given):
        name = aliases.get(key, key)
        if name in written:
            faults.append(((key,), f"is the same parameter as {written[name]!r}; give one of them"))
        elif name not in fields:
            faults.append(((key,), unknown(f"parameter of module type {type_name}", key, [*fields, *aliases, *known])))
        else:
            written[name] = key
    chosen = {name: given[key] for name, key in written.items()}
    try:
        made = make_parameters(cls, {**(base or {}), **chosen})
    except ValidationError as error:
        found = explain(error, fields, chosen)
        mine = [(loc, text) for loc, text in found if base is None or not loc or loc[0] in chosen]
        return {}, faults + [((written.get(str(loc[0]), loc[0]), *loc[1:]) if loc else (), text) for loc, text in mine]
    wanted = [field.name for field in dataclass_fields(made) if base is None or field.name in chosen]
    return {name: getattr(made, name) for name in wanted}, faults


def check_steps(
    where: Location,
    steps: list[Any],
    modules: Mapping[Any, Any],
    sources: Collection[str],
    keys: Collection[str],
) -> tuple[list[Any], list[Fault]]:
    """Return the steps, in blocks too, with their parameters checked against their modules', and what is wrong.

    Parameters
    ----------
    where : tuple
        Where the steps stand in the model file.
    steps, modules
        As they stand there.
    sources : collection of str
        Names of the observations.
    keys : collection of str
        A module's keys that are no parameters.
    """
    checked: list[Any] = []
    faults: list[Fault] = []
    for index, step in enumerate(steps):
        if isinstance(step, dict) and "module" not in step and isinstance(step.get("steps"), list):
            inner, found = check_steps((*where, index, "steps"), step["steps"], modules, sources, keys)
            step = {**step, "steps": inner}
        else:
            step, found = _check_step((*where, index), step, modules, sources, keys)
        checked.append(step)
        faults += found
    return checked, faults


def _check_step(
    where: Location, step: Any, modules: Mapping[Any, Any], sources: Collection[str], keys: Collection[str]
) -> tuple[Any, list[Fault]]:
    name = step.get("module") if isinstance(step, dict) else step
    if not isinstance(name, str):
        return step, []  # the step's own section says so
    if name in sources:
        return step, [(where, f"{name!r} gives observations and learns nothing; leave it out")]
    if name not in modules:
        return step, [(where, unknown("module", name, [str(module) for module in modules]))]
    changes = step.get("set") if isinstance(step, dict) else None
    module = as_map(modules.get(name))
    if not changes or not isinstance(changes, dict) or not isinstance(module.get("type"), str):
        return step, []
    own = {key: value for key, value in module.items() if key not in keys}
    base, wrong = check_parameters(module["type"], own)
    values, faults = check_parameters(module["type"], changes, base={} if wrong else base)
    if wrong and any(loc == ("type",) for loc, _ in wrong):
        return step, []  # the module's own section says so
    return {**step, "set": values}, [((*where, "set", *loc), text) for loc, text in faults]


def check_names(given: Mapping[str, Any]) -> list[Fault]:
    """Say what is wrong with the names of the run, its sources and its modules."""
    faults: list[Fault] = []
    name = given.get("name")
    if isinstance(name, str) and not re.fullmatch(RUN_NAME, name):
        expected = "expected a plain directory name of letters, digits, '.', '_' and '-'"
        faults.append((("name",), f"{expected}, got {shown(name)}"))
    sources = sources_in(given.get("data"))
    for module in as_map(given.get("modules")):
        taken = _RESERVED.get(module) or ("a source's name" if module in sources else "")
        if taken:
            faults.append((("modules", module), f"is {taken}; choose another for this module"))
    named = [(("modules", module), module) for module in as_map(given.get("modules"))]
    for place, name in [*named, *((place, source) for source, (place, _) in sources.items())]:
        if not re.fullmatch(_MODULE_NAME, str(name)):
            faults.append((place, "expected a name of letters, digits, '_' and '-', first a letter"))
        elif name == "coordinator" and place[0] == "data":
            faults.append((place, f"is {_RESERVED[name]}; choose another for this source"))
    return faults


def are_several(data: Any) -> bool:
    """Whether a model file's ``data`` is a map of named sources, and not one source."""
    given = data if isinstance(data, dict) else {}
    return bool(given) and not set(given) & set(DataConfig.model_fields) and any(map(_is_source, given.values()))


def _is_source(given: Any) -> bool:
    return isinstance(given, dict | DataConfig)


def sources_in(data: Any) -> dict[str, tuple[Location, dict[Any, Any]]]:
    """Return the sources of a model file's ``data`` by name: where each stands there, and what stands there."""
    if not are_several(data):
        return {DATA: (("data",), as_map(data))}
    return {str(name): (("data", name), as_map(source)) for name, source in data.items()}


def cut_chains(connections: list[Any], names: Sequence[str]) -> tuple[list[str], list[Fault]]:
    """Cut chains of connections into single ones."""
    pairs: list[str] = []
    faults: list[Fault] = []
    for index, text in enumerate(connections):
        chain = [part.strip() for part in text.split("->")] if isinstance(text, str) else []
        if len(chain) < 2 or not all(chain):
            faults.append((("connections", index), f"expected 'a -> b', the names of two modules, got {shown(text)}"))
            continue
        strangers = [name for name in dict.fromkeys(chain) if name not in names]
        faults += [(("connections", index), unknown("module", name, names)) for name in strangers]
        for lower, upper in pairwise(chain):
            pair = f"{lower} -> {upper}"
            if pair in pairs:
                faults.append((("connections", index), f"{pair} stands here twice; leave one out"))
            pairs.append(pair)
    return pairs, faults


def check_cluster(given: Mapping[Any, Any], names: Sequence[str]) -> list[Fault]:
    """Say which modules of the section ``cluster`` are none, or are to be in two places."""
    faults: list[Fault] = [
        (("cluster", "modules", name), unknown("module", str(name), names))
        for name in as_map(given.get("modules"))
        if str(name) not in names
    ]
    groups = given.get("together")
    seen: list[Any] = []
    for index, group in enumerate(groups if isinstance(groups, list) else []):
        for name in group if isinstance(group, list) else []:
            if name not in names:
                faults.append((("cluster", "together", index), unknown("module", str(name), names)))
            elif name in seen:
                faults.append((("cluster", "together", index), f"{name!r} stands there twice; put all into one list"))
            seen.append(name)
    return faults


def as_map(value: Any) -> dict[Any, Any]:
    """Return a map as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}
