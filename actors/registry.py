"""How modules are found: built in by a short name, anybody's by ``package.module:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from actors.module import Module, ModuleError

BUILT_IN: dict[str, str] = {
    "observation": "actors.observation:Observation",
    "vae": "actors.vae:VAE",
    "gmm": "actors.gmm:GMM",
    "markov": "actors.markov:MarkovModel",
    "product": "actors.product:Product",
    "pca": "actors.pca:PCA",
    "network": "actors.network:Network",
}
"""Short name → where the class is. Dotted, so that nothing is imported before it is needed (torch above all)."""


def find(type_name: str) -> type[Module[Any]]:
    """Return the module class that a model file calls `type_name`.

    Parameters
    ----------
    type_name : str
        A key of :data:`BUILT_IN` or ``package.module:Class``.

    Raises
    ------
    ModuleError
        If there is no such class or it is no module.
    """
    target = BUILT_IN.get(type_name, type_name)
    package, colon, name = target.partition(":")
    if not colon:
        raise ModuleError(f"unknown module type {type_name!r}: one of {', '.join(BUILT_IN)}, or package.module:Class")
    try:
        found = getattr(importlib.import_module(package), name)
    except (Exception, SystemExit) as error:  # whatever the import of somebody's file raises, from its syntax on
        what = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ModuleError(f"module type {type_name!r} cannot be loaded: {what}") from error
    if not (isinstance(found, type) and issubclass(found, Module)):
        raise ModuleError(f"module type {type_name!r} is no subclass of actors.module.Module")
    if found.__abstractmethods__:
        raise ModuleError(f"module type {type_name!r} does not define {', '.join(sorted(found.__abstractmethods__))}")
    if not is_dataclass(getattr(found, "Parameters", None)):
        raise ModuleError(f"module type {type_name!r} has no dataclass called Parameters")
    return found


def make_parameters(cls: type[Module[Any]], given: Mapping[str, Any]) -> Any:
    """Return `cls`'s parameters made of `given`, checked against the dataclass's types and bounds.

    Raises
    ------
    pydantic.ValidationError
        Says for each fault which parameter and what was expected.
    """
    return _adapter(cls).validate_python(dict(given))


def canonical_parameters(type_name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a module type, as `given` sets them, under their own names (``itr`` is ``epochs``).

    Raises
    ------
    ModuleError
        If there is no such type or a parameter is wrong.
    """
    made = _checked(type_name, find(type_name), given)
    return {parameter.name: getattr(made, parameter.name) for parameter in fields(made)}


def make(type_name: str, given: Mapping[str, Any]) -> Module[Any]:
    """Return a new module of type `type_name` with the parameters `given`.

    Raises
    ------
    ModuleError
        If there is no such type or a parameter is wrong.
    """
    cls = find(type_name)
    return cls(_checked(type_name, cls, given))


def _checked(type_name: str, cls: type[Module[Any]], given: Mapping[str, Any]) -> Any:
    try:
        return make_parameters(cls, given)
    except ValidationError as error:
        fault = error.errors()[0]
        path = "".join(f"{part}." for part in fault["loc"])[:-1] or "parameters"
        raise ModuleError(f"module type {type_name!r}: {path}: {fault['msg']}") from error


@cache
def _adapter(cls: type[Module[Any]]) -> TypeAdapter[Any]:
    # Forbidding unknown names here keeps pydantic out of the contract: Parameters stays a plain dataclass.
    if not hasattr(cls.Parameters, "__pydantic_config__"):
        cls.Parameters.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(cls.Parameters)
