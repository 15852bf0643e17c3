"""How modules are found: built in or brought by a plug-in under a short name, anybody's by ``package.module:Class``.

A plug-in is an installed distribution with entry points of the group ``serket_actors.modules``, each a short name and
where its class is. To list the types imports none of them, and to find one imports that one alone.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, distributions, version
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from actors.errors import KindError, ModuleError
from actors.messaging.kinds import KINDS, register_kind
from actors.module import Module, Port

BUILT_IN: dict[str, str] = {
    "observation": "actors.modules.observation:Observation",
    "vae": "actors.modules.vae:VAE",
    "gmm": "actors.modules.mixture.gmm:GMM",
    "markov": "actors.modules.markov:MarkovModel",
    "product": "actors.modules.product:Product",
    "pca": "actors.modules.pca:PCA",
    "network": "actors.modules.network.network:Network",
    "mlda": "actors.modules.mlda.mlda:MLDA",
    "dp_gmm": "actors.modules.mixture.dp_gmm:DPGMM",
}
"""Short name → where the class is. Dotted, so that nothing is imported before it is needed (torch above all)."""

RESERVED = frozenset({"type", "threads", "resources"})
"""What stands beside a module's parameters in a model file."""

GROUP = "serket_actors.modules"
"""The group of the entry points that plug-ins declare: name = ``package.module:Class``."""

DISTRIBUTION = "serket-actors"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModuleType:
    """A module type that has a short name.

    Parameters
    ----------
    name : str
    target : str
        ``package.module:Class``.
    distribution, version : str
        Who brings it.
    clash : str
        Why its name does not lead to it: somebody else's is the same. Empty where it does.
    """

    name: str
    target: str
    distribution: str
    version: str
    clash: str = ""

    @property
    def built_in(self) -> bool:
        """Whether it comes with this package."""
        return BUILT_IN.get(self.name) == self.target

    @property
    def origin(self) -> str:
        """Who brings it, for people."""
        return f"{self.distribution} {self.version}".strip()


def module_types() -> list[ModuleType]:
    """Return all types that have a short name, built-in ones first; imports none of them."""
    own = [ModuleType(name, target, DISTRIBUTION, _version()) for name, target in BUILT_IN.items()]
    return [*own, *_plug_ins(tuple(sys.path), tuple(BUILT_IN))]


def known_names() -> list[str]:
    """Return the short names under which :func:`find` finds something."""
    return list(dict.fromkeys(found.name for found in module_types()))


def add_code_directories(directories: Iterable[str | Path]) -> None:
    """Let Python files in `directories` be found too, after all that is installed."""
    for directory in map(str, directories):
        if directory not in sys.path:
            sys.path.append(directory)
            importlib.invalidate_caches()


def find(type_name: str) -> type[Module[Any]]:
    """Return the module class that a model file calls `type_name`, and make its kinds of messages known.

    Parameters
    ----------
    type_name : str
        A key of :data:`BUILT_IN`, the name of a plug-in's entry point, or ``package.module:Class``. Where a plug-in
        has taken the name of a built-in module, that is the built-in one, and a warning says so.

    Raises
    ------
    ModuleError
        If there is no such class, if two plug-ins have the name, or if it is no module; names type, plug-in and reason.
    """
    if ":" in type_name:
        return _load(type_name, f"module type {type_name!r}")
    named = [found for found in module_types() if found.name == type_name]
    if not named:
        raise ModuleError(
            f"unknown module type {type_name!r}: one of {', '.join(known_names())}, or package.module:Class"
        )
    found, *others = named
    if found.built_in:
        for other in others:
            _warn_once(other.clash)
        return _load(found.target, f"module type {type_name!r}")
    if found.clash:
        raise ModuleError(found.clash)
    return _load(found.target, f"module type {type_name!r} ({found.target} of {found.origin})")


def make_parameters(cls: type[Module[Any]], given: Mapping[str, Any]) -> Any:
    """Return `cls`'s parameters made of `given`, checked against the dataclass's types and bounds.

    Raises
    ------
    pydantic.ValidationError
        Says for each fault which parameter and what was expected.
    """
    return _adapter(cls).validate_python(dict(given))


def parameters_schema(cls: type[Module[Any]]) -> dict[str, Any]:
    """Return the JSON schema of `cls`'s parameters; an empty one where they are of types that JSON does not have."""
    try:
        return _adapter(cls).json_schema(by_alias=False)
    except PydanticInvalidForJsonSchema:
        return {}


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


def _load(target: str, who: str) -> type[Module[Any]]:
    """Import the class at `target` and check that it is a module; `who` says in errors what it was meant to be."""
    package, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(package), name)
    except (Exception, SystemExit) as error:  # whatever the import of somebody's file raises, from its syntax on
        what = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        raise ModuleError(f"{who} cannot be loaded: {what}") from error
    if not (isinstance(found, type) and issubclass(found, Module)):
        raise ModuleError(f"{who} is no subclass of actors.module.Module")
    if found.__abstractmethods__:
        raise ModuleError(f"{who} does not define {', '.join(sorted(found.__abstractmethods__))}")
    if not is_dataclass(getattr(found, "Parameters", None)):
        raise ModuleError(f"{who} has no dataclass called Parameters")
    taken = [parameter.name for parameter in fields(found.Parameters) if parameter.name in RESERVED]
    if taken:
        raise ModuleError(f"{who}: a parameter cannot be called {taken[0]!r}, which every module of a model file has")
    try:
        _adapter(found)
    except Exception as error:  # pydantic's, or what evaluating an annotation raises
        reason = str(error).partition("\n")[0]
        raise ModuleError(f"{who}: its parameters cannot be checked ({type(error).__name__}: {reason})") from error
    if not isinstance(found.kinds, tuple):
        raise ModuleError(f"{who}: kinds is {found.kinds!r}, expected a tuple of actors.messaging.kinds.Kind")
    try:
        for kind in found.kinds:
            register_kind(kind, f"{found.__module__}:{found.__qualname__}")
    except KindError as error:
        raise ModuleError(f"{who}: {error}") from error
    if said := _ports_fault(found.ports):
        raise ModuleError(f"{who}: {said}")
    return found


def _ports_fault(ports: Any) -> str | None:
    """Say what is wrong with what a class declares as its ports, or None."""
    if not (isinstance(ports, tuple) and all(isinstance(port, Port) for port in ports)):
        return f"ports is {ports!r}, expected a tuple of actors.module.Port"
    names = [port.name for port in ports]
    for port in ports:
        if names.count(port.name) > 1:
            return f"two ports are called {port.name!r}"
        if (port.direction, port.pass_) not in product(("in", "out"), ("forward", "backward")):
            return (
                f"port {port.name!r} is {port.direction!r} and {port.pass_!r}, expected in or out, forward or backward"
            )
        if port.kind not in KINDS:
            known = ", ".join(KINDS)
            return (
                f"port {port.name!r} is of unknown kind {port.kind!r}: one of {known}, or list it in the class's kinds"
            )
    return None


@lru_cache(maxsize=4)
def _plug_ins(_path: tuple[str, ...], taken: tuple[str, ...]) -> tuple[ModuleType, ...]:
    """Return what installed distributions bring, by name; `_path` is where they are looked for, ``sys.path``."""
    brought: dict[str, list[ModuleType]] = {}
    met: set[str] = set()
    for distribution in distributions():
        try:
            entries = distribution.entry_points.select(group=GROUP)
            if not entries:
                continue
            whose, number = str(distribution.metadata["Name"]), str(distribution.version)
        except Exception as error:  # whatever half an installation holds; it must not cost the others
            where = getattr(distribution, "_path", "a distribution")
            _log.warning("%s: cannot be read, so no module types come from there (%s)", where, error)
            continue
        same = whose.lower().replace("_", "-")
        if same not in met:  # of two installations under one name, Python imports the one that it meets first
            for entry in dict.fromkeys(entries):
                brought.setdefault(entry.name, []).append(ModuleType(entry.name, entry.value, whose, number))
        met.add(same)
    return tuple(
        replace(one, clash=_clash(one, taken, brought[name])) for name in sorted(brought) for one in brought[name]
    )


def _clash(one: ModuleType, taken: tuple[str, ...], brought: list[ModuleType]) -> str:
    """Say with whom a plug-in's type shares its name, and how to reach it, or nothing."""
    if one.name in taken:
        return (
            f"module type {one.name!r} is the one built into {DISTRIBUTION} {_version()}; "
            f"the one that {one.origin} brings under this name is reached by type: {one.target}"
        )
    if len(brought) == 1:
        return ""
    whose = " and ".join(f"{each.origin} ({each.target})" for each in brought)
    return f"module type {one.name!r} is brought by {whose}: say which one by type: {brought[0].target}, for instance"


@cache
def _warn_once(sentence: str) -> None:
    _log.warning(sentence)


@cache
def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # it runs from its source and is installed nowhere
        return ""


@cache
def _adapter(cls: type[Module[Any]]) -> TypeAdapter[Any]:
    # Forbidding unknown names here keeps pydantic out of the contract: Parameters stays a plain dataclass.
    if not hasattr(cls.Parameters, "__pydantic_config__"):
        cls.Parameters.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(cls.Parameters)
