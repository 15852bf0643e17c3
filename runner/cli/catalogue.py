"""The module types that there are, as plain data: who brings them, their ports and their parameters."""

from __future__ import annotations

import inspect
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from actors.errors import ModuleError
from actors.graph.registry import ModuleType, add_code_directories, find, known_names, module_types, parameters_schema
from actors.messaging.kinds import own_kinds
from actors.module import Module, Port
from runner.config.error_messages import aliases_of, described, did_you_mean, fields_of


def catalogue() -> list[dict[str, Any]]:
    """Return every type that has a short name, as :func:`describe` does; of a broken one ``problem`` says why."""
    return [_entry(found) for found in module_types()]


def describe(type_name: str) -> dict[str, Any]:
    """Return what there is to know of a module type.

    Parameters
    ----------
    type_name : str
        A short name, or ``package.module:Class``, also of a file in the current directory.

    Returns
    -------
    dict
        ``type``, ``target`` (``package.module:Class``), ``origin`` (``built in``, ``plug-in`` or ``file``), ``from``
        (the distribution, or the file), ``version``, ``summary``, ``doc``, ``uses_gpu``, ``ports`` and ``kinds`` (the
        type's own), ``parameters`` (each with ``expected`` and ``default`` or ``required``) and their JSON ``schema``.

    Raises
    ------
    ModuleError
        If there is no such type, or if it is broken.
    """
    found = next((each for each in module_types() if each.name == type_name), None)
    if found is not None:
        entry = _entry(found)
        if "problem" in entry:
            raise ModuleError(entry["problem"])
        return entry
    if ":" in type_name:
        add_code_directories([Path.cwd()])
    try:
        cls = find(type_name)
    except ModuleError as error:
        raise ModuleError(f"{error}{did_you_mean(type_name, known_names())}") from error
    file = inspect.getsourcefile(cls) or "?"
    return {"type": type_name, "target": type_name, "origin": "file", "from": file, "version": "", **_contents(cls)}


def _entry(found: ModuleType) -> dict[str, Any]:
    head = {
        "type": found.name,
        "target": found.target,
        "origin": "built in" if found.built_in else "plug-in",
        "from": found.distribution,
        "version": found.version,
    }
    if found.clash:
        return {**head, "problem": found.clash}
    try:
        return {**head, **_contents(find(found.name))}
    except ModuleError as error:
        return {**head, "problem": str(error)}


def _contents(cls: type[Module[Any]]) -> dict[str, Any]:
    doc = inspect.cleandoc(cls.__doc__ or "")
    kinds = {kind.name: str(kind) for kind in own_kinds(port.kind for port in cls.ports)}
    return {
        "summary": " ".join(doc.partition("\n\n")[0].split()),
        "doc": doc,
        "uses_gpu": cls.uses_gpu,
        "ports": [_port(port) for port in cls.ports],
        "kinds": kinds,
        "parameters": _parameters(cls.Parameters),
        "schema": parameters_schema(cls),
    }


def _port(port: Port) -> dict[str, Any]:
    """Return a port as plain data; its pass is called ``path`` there, as in earlier versions."""
    return {{"pass_": "path"}.get(name, name): value for name, value in vars(port).items()}


def _parameters(cls: type[Any]) -> list[dict[str, Any]]:
    fields = fields_of(cls)
    aliases = aliases_of(fields)
    listed: list[dict[str, Any]] = []
    for field in dataclass_fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if isinstance(default, FieldInfo):  # of a plain dataclass too, a default may be a pydantic field
            default = MISSING if default.is_required() else default.get_default(call_default_factory=True)
        listed.append(
            {
                "name": field.name,
                "aliases": [alias for alias, name in aliases.items() if name == field.name],
                "expected": described(fields[field.name]),
                **({"required": True} if default is MISSING else {"default": default}),
            }
        )
    return listed
