"""Describe the available module types as plain data: their distributions, ports and parameters."""

from __future__ import annotations

import inspect
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from actors.errors import ModuleError
from actors.graph.registry import ModuleType, add_code_directories, find, known_names, module_types, parameters_schema
from actors.messaging.kinds import custom_kinds
from actors.module import Module, Port
from runner.config.error_messages import describe_type, get_aliases, get_fields, suggest


def describe_module_types() -> list[dict[str, Any]]:
    """Describe every registered type as :func:`describe_module_type` does; a broken type has the key ``problem``."""
    return [_describe_entry(entry) for entry in module_types()]


def describe_module_type(type_name: str) -> dict[str, Any]:
    """Describe a module type as plain data.

    Parameters
    ----------
    type_name : str
        A short name, or ``package.module:Class``, which may be a file in the current directory.

    Returns
    -------
    dict
        ``type``, ``target`` (``package.module:Class``), ``origin`` (``built in``, ``plug-in`` or ``file``), ``from``
        (the distribution, or the file), ``version``, ``summary``, ``doc``, ``uses_gpu``, ``ports``, ``kinds`` (those
        that the type defines), ``parameters`` (each with ``expected`` and ``default`` or ``required``) and their JSON
        ``schema``.

    Raises
    ------
    ModuleError
        If the type does not exist or is broken.
    """
    registered = next((entry for entry in module_types() if entry.name == type_name), None)
    if registered is not None:
        described = _describe_entry(registered)
        if "problem" in described:
            raise ModuleError(described["problem"])
        return described
    if ":" in type_name:
        add_code_directories([Path.cwd()])
    try:
        cls = find(type_name)
    except ModuleError as error:
        raise ModuleError(f"{error}{suggest(type_name, known_names())}") from error
    file = inspect.getsourcefile(cls) or "?"
    return {
        "type": type_name,
        "target": type_name,
        "origin": "file",
        "from": file,
        "version": "",
        **_describe_class(cls),
    }


def _describe_entry(entry: ModuleType) -> dict[str, Any]:
    head = {
        "type": entry.name,
        "target": entry.target,
        "origin": "built in" if entry.built_in else "plug-in",
        "from": entry.distribution,
        "version": entry.version,
    }
    if entry.conflict:
        return {**head, "problem": entry.conflict}
    try:
        return {**head, **_describe_class(find(entry.name))}
    except ModuleError as error:
        return {**head, "problem": str(error)}


def _describe_class(cls: type[Module[Any]]) -> dict[str, Any]:
    doc = inspect.cleandoc(cls.__doc__ or "")
    kinds = {kind.name: str(kind) for kind in custom_kinds(port.kind for port in cls.ports)}
    return {
        "summary": " ".join(doc.partition("\n\n")[0].split()),
        "doc": doc,
        "uses_gpu": cls.uses_gpu,
        "ports": [_describe_port(port) for port in cls.ports],
        "kinds": kinds,
        "parameters": _describe_parameters(cls.Parameters),
        "schema": parameters_schema(cls),
    }


def _describe_port(port: Port) -> dict[str, Any]:
    """Return a port as plain data, with its pass under the key ``path``, as in earlier versions."""
    return {{"pass_": "path"}.get(name, name): value for name, value in vars(port).items()}


def _describe_parameters(cls: type[Any]) -> list[dict[str, Any]]:
    fields = get_fields(cls)
    aliases = get_aliases(fields)
    parameters: list[dict[str, Any]] = []
    for field in dataclass_fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if isinstance(default, FieldInfo):  # also possible in a standard dataclass
            default = MISSING if default.is_required() else default.get_default(call_default_factory=True)
        parameters.append(
            {
                "name": field.name,
                "aliases": [alias for alias, name in aliases.items() if name == field.name],
                "expected": describe_type(fields[field.name]),
                **({"required": True} if default is MISSING else {"default": default}),
            }
        )
    return parameters
