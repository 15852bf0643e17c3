"""The registry of module types: built-in and plug-in types by short name, all others by ``package.module:Class``.

A plug-in is an installed distribution with entry points of the group ``serket_actors.modules``, each a short name and
the location of its class. Listing the types imports none of them, and finding one imports only that one.

Parameters are validated once: :func:`validated_parameters` marks its result, which :func:`make_module` then uses as
it is.
"""

from __future__ import annotations

import copy
import importlib
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, distributions, version
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import AliasChoices, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import InitErrorDetails

from actors.errors import KindError, ModuleError, shorten_text
from actors.limits import MAX_FIELD_CHARACTERS, MAX_NAME_CHARACTERS, MAX_TYPE_CHARACTERS
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
    "labels": "actors.modules.labels:Labels",
    "ar_gmm": "actors.modules.mixture.ar_gmm:ARGMM",
    "switching_markov": "actors.modules.switching_markov:SwitchingMarkov",
}
"""Short name → location of the class. A string, so that nothing is imported before it is needed (torch above all)."""

RESERVED = frozenset({"type", "threads", "resources", "workers", "chunk", "sample_rows"})
"""Keys of a module in a model file that are not parameters."""

GROUP = "serket_actors.modules"
"""The group of plug-ins' entry points: name = ``package.module:Class``."""

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
        The distribution that provides it.
    conflict : str
        Why the name does not refer to this type: another distribution uses the same name. Empty if there is no
        conflict.
    """

    name: str
    target: str
    distribution: str
    version: str
    conflict: str = ""

    @property
    def built_in(self) -> bool:
        """Whether the type is part of this package."""
        return BUILT_IN.get(self.name) == self.target

    @property
    def origin(self) -> str:
        """Name and version of the distribution that provides it."""
        return f"{self.distribution} {self.version}".strip()


def module_types() -> list[ModuleType]:
    """Return all types that have a short name, built-in types first; imports none of them."""
    own = [ModuleType(name, target, DISTRIBUTION, _version()) for name, target in BUILT_IN.items()]
    return [*own, *_plug_ins(tuple(sys.path), tuple(BUILT_IN))]


def known_names() -> list[str]:
    """Return the short names that :func:`find` knows."""
    return list(dict.fromkeys(each.name for each in module_types()))


def add_code_directories(directories: Iterable[str | Path]) -> None:
    """Append `directories` to ``sys.path``, so that installed packages take precedence over files in them."""
    for directory in map(str, directories):
        if directory not in sys.path:
            sys.path.append(directory)
            importlib.invalidate_caches()


def find(type_name: str) -> type[Module[Any]]:
    """Return the module class of a type and register its message kinds.

    Parameters
    ----------
    type_name : str
        A key of :data:`BUILT_IN`, the name of a plug-in's entry point, or ``package.module:Class``. A name that both
        a built-in module and a plug-in have refers to the built-in module, and a warning is logged.

    Raises
    ------
    ModuleError
        If there is no such class, if two plug-ins have the name, or if the class is not a valid module; names type,
        plug-in and reason.
    """
    if len(type_name) > MAX_TYPE_CHARACTERS:
        shown = f"{type_name[:MAX_NAME_CHARACTERS]!r}…"
        raise ModuleError(f"unknown module type {shown}: its name has more than {MAX_TYPE_CHARACTERS} characters")
    if ":" in type_name:
        return _import_class(type_name, f"module type {type_name!r}")
    candidates = [each for each in module_types() if each.name == type_name]
    if not candidates:
        raise ModuleError(
            f"unknown module type {type_name!r}: one of {', '.join(known_names())}, or package.module:Class"
        )
    first, *others = candidates
    if first.built_in:
        for other in others:
            _warn_once(other.conflict)
        return _import_class(first.target, f"module type {type_name!r}")
    if first.conflict:
        raise ModuleError(first.conflict)
    return _import_class(first.target, f"module type {type_name!r} ({first.target} of {first.origin})")


class ValidatedParameters(dict[str, Any]):
    """Parameters that were validated against a module type: all of them, under their own names.

    Made by :func:`validated_parameters`. A copy with changes (``{**parameters, …}``) is a plain dict again and is
    validated before use.
    """

    @classmethod
    def of(cls, parameters: Any) -> ValidatedParameters:
        """Return the field values of an instance of a module's ``Parameters``."""
        return cls({field.name: getattr(parameters, field.name) for field in fields(parameters) if field.init})


def make_parameters(cls: type[Module[Any]], given: Mapping[str, Any]) -> Any:
    """Validate `given` against `cls`'s ``Parameters`` dataclass (types, bounds, aliases) and return an instance of it.

    Raises
    ------
    pydantic.ValidationError
        Lists the parameter and the expected value for each error.
    """
    try:
        made = _adapter(cls).validate_python(dict(given))
    except ValidationError:
        raise
    except (Exception, SystemExit) as error:  # checks of a user's own may raise anything
        reason = shorten_text(f"{type(error).__name__}: {error}", MAX_FIELD_CHARACTERS)
        raise ModuleError(f"module {cls.__name__}: its parameters cannot be checked: {reason}") from error
    retyped = [problem for key, value in given.items() if (problem := _find_retyped(cls, key, value, made))]
    if retyped:
        raise ValidationError.from_exception_data(cls.Parameters.__name__, retyped)
    return made


def _find_retyped(cls: type[Module[Any]], key: str, value: Any, made: Any) -> InitErrorDetails | None:
    """Return the error of a truth value or text that was taken for a number, or the reverse; None without one.

    Validation itself converts them, so that ``true`` would be a learning rate of 1.
    """
    hints = _hints(cls)
    name = key if key in hints else next((name for name, hint in hints.items() if key in _aliases_of(hint)), None)
    if name is None or not (found := _first_retyped(value, getattr(made, name, value))):
        return None
    try:  # a parameter may define the conversion from texts by a validator of its own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an alias has no meaning here
            TypeAdapter(hints[name]).validate_python(value, strict=True)
    except ValidationError:
        place, inner, kind = found
        return InitErrorDetails(type=kind, loc=(key, *place), input=inner)
    return None


def _aliases_of(hint: Any) -> tuple[Any, ...]:
    """Return the other names of an annotated parameter."""
    aliases = [getattr(part, "validation_alias", None) for part in getattr(hint, "__metadata__", ())]
    return tuple(name for each in aliases for name in (each.choices if isinstance(each, AliasChoices) else [each]))


def _first_retyped(given: Any, made: Any) -> tuple[tuple[Any, ...], Any, str] | None:
    """Return place, value and the type of error of the first scalar that changed between truth, number and text."""
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        pairs = [(key, given[key], made[key]) for key in given if key in made]
    elif isinstance(given, list | tuple) and isinstance(made, list | tuple) and len(given) == len(made):
        pairs = [(index, *pair) for index, pair in enumerate(zip(given, made, strict=True))]
    else:
        kinds = _scalar_kind(given), _scalar_kind(made)
        if "" in kinds or kinds[0] == kinds[1] or (kinds[0] == "text" and _QUOTED[kinds[1]].fullmatch(given)):
            return None
        error = {"truth": "bool_type", "number": "int_type" if isinstance(made, int) else "float_type"}
        return (), given, error.get(kinds[1], "string_type")
    found = ((key, _first_retyped(*pair)) for key, *pair in pairs)
    return next((((key, *inner[0]), *inner[1:]) for key, inner in found if inner), None)


_QUOTED = {
    "number": re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"),
    "truth": re.compile("true|false"),
}
"""Texts that are read as values: those that would be values in YAML 1.2 if they were not quoted."""


def _scalar_kind(value: Any) -> str:
    """Return truth, number, text or, of other values, nothing."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")  # of numpy's scalars
    if isinstance(value, bool) or kind == "b":
        return "truth"
    if isinstance(value, str):
        return "text"
    return "number" if isinstance(value, int | float) or kind in tuple("iuf") else ""


def parameters_schema(cls: type[Module[Any]]) -> dict[str, Any]:
    """Return the JSON schema of `cls`'s parameters; empty if they have types that JSON cannot represent."""
    try:
        return _adapter(cls).json_schema(by_alias=False)
    except PydanticInvalidForJsonSchema:
        return {}


def validated_parameters(type_name: str, given: Mapping[str, Any]) -> ValidatedParameters:
    """Validate `given` and return all parameters of a module type, under their own names (``itr`` is ``epochs``).

    Raises
    ------
    ModuleError
        If there is no such type or a parameter is not valid.
    """
    return ValidatedParameters.of(_validate(type_name, find(type_name), given))


def make_module(type_name: str, parameters: Mapping[str, Any]) -> Module[Any]:
    """Return a new module of type `type_name`.

    Parameters
    ----------
    type_name : str
    parameters : mapping
        Validated here unless they are :class:`ValidatedParameters`.

    Raises
    ------
    ModuleError
        If there is no such type or a parameter is not valid.
    """
    cls = find(type_name)
    if isinstance(parameters, ValidatedParameters):
        # Copied as validation copies lists and maps: modules made from the same parameters must not share them.
        return cls(cls.Parameters(**copy.deepcopy(dict(parameters))))
    return cls(_validate(type_name, cls, parameters))


def _validate(type_name: str, cls: type[Module[Any]], given: Mapping[str, Any]) -> Any:
    try:
        return make_parameters(cls, given)
    except ValidationError as error:
        first = error.errors()[0]
        path = "".join(f"{part}." for part in first["loc"])[:-1] or "parameters"
        reason = shorten_text(f"{path}: {first['msg']}", MAX_FIELD_CHARACTERS)
        raise ModuleError(f"module type {type_name!r}: {reason}") from error


def _import_class(target: str, label: str) -> type[Module[Any]]:
    """Import the class at `target` and check that it is a valid module; `label` names it in errors."""
    package, _, name = target.partition(":")
    try:
        cls = getattr(importlib.import_module(package), name)
    except (Exception, SystemExit) as error:  # the import of a user's file may raise anything
        reason = str(error) if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: {error}"
        reason = shorten_text(reason, MAX_FIELD_CHARACTERS)
        remedy = "; correct the name, or install its package" if isinstance(error, ModuleNotFoundError) else ""
        raise ModuleError(f"{label} cannot be loaded: {reason}{remedy}") from error
    if not (isinstance(cls, type) and issubclass(cls, Module)):
        raise ModuleError(f"{label} is no subclass of actors.Module; name a class that is one")
    if cls.__abstractmethods__:
        raise ModuleError(f"{label} does not define {', '.join(sorted(cls.__abstractmethods__))}")
    if not is_dataclass(getattr(cls, "Parameters", None)):
        raise ModuleError(f"{label} has no dataclass called Parameters")
    reserved = [parameter.name for parameter in fields(cls.Parameters) if parameter.name in RESERVED]
    if reserved:
        raise ModuleError(f"{label}: a parameter cannot be called {reserved[0]!r}, a key that every module has")
    try:
        _adapter(cls)
    except Exception as error:  # pydantic's errors, or what evaluating an annotation raises
        reason = str(error).partition("\n")[0]
        raise ModuleError(f"{label}: its parameters cannot be checked ({type(error).__name__}: {reason})") from error
    if not isinstance(cls.kinds, tuple):
        raise ModuleError(f"{label}: kinds is {cls.kinds!r}, expected a tuple of actors.Kind")
    try:
        for kind in cls.kinds:
            register_kind(kind, f"{cls.__module__}:{cls.__qualname__}")
    except KindError as error:
        raise ModuleError(f"{label}: {error}") from error
    if problem := _find_ports_problem(cls.ports):
        raise ModuleError(f"{label}: {problem}")
    return cls


def _find_ports_problem(ports: Any) -> str | None:
    """Return what is wrong with the ports that a class declares, or None."""
    if not (isinstance(ports, tuple) and all(isinstance(port, Port) for port in ports)):
        return f"ports is {ports!r}, expected a tuple of actors.Port"
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
def _plug_ins(_path: tuple[str, ...], built_in: tuple[str, ...]) -> tuple[ModuleType, ...]:
    """Return the types that installed distributions provide, by name.

    `_path` is ``sys.path``, the key of the cache; `built_in` are names that plug-ins cannot have.
    """
    provided: dict[str, list[ModuleType]] = {}
    seen: set[str] = set()
    for distribution in distributions():
        try:
            entries = distribution.entry_points.select(group=GROUP)
            if not entries:
                continue
            name, number = str(distribution.metadata["Name"]), str(distribution.version)
        except Exception as error:  # an incomplete installation may raise anything and must not hide the other plug-ins
            where = getattr(distribution, "_path", "a distribution")
            _log.warning("%s: cannot be read, so no module types are taken from it (%s)", where, error)
            continue
        normalized = name.lower().replace("_", "-")
        if normalized not in seen:  # of two installations under one name, Python imports the first on the path
            for entry in dict.fromkeys(entries):
                provided.setdefault(entry.name, []).append(ModuleType(entry.name, entry.value, name, number))
        seen.add(normalized)
    return tuple(
        replace(each, conflict=_name_conflict(each, built_in, provided[name]))
        for name in sorted(provided)
        for each in provided[name]
    )


def _name_conflict(plug_in: ModuleType, built_in: tuple[str, ...], same_name: list[ModuleType]) -> str:
    """Return which other type has a plug-in's name and how to refer to the plug-in's type; empty if none has."""
    if plug_in.name in built_in:
        return (
            f"module type {plug_in.name!r} is the one built into {DISTRIBUTION} {_version()}; "
            f"refer to the one that {plug_in.origin} provides under this name by type: {plug_in.target}"
        )
    if len(same_name) == 1:
        return ""
    providers = " and ".join(f"{each.origin} ({each.target})" for each in same_name)
    example = same_name[0].target
    return f"module type {plug_in.name!r} is provided by {providers}: select one, for instance by type: {example}"


@cache
def _warn_once(sentence: str) -> None:
    _log.warning(sentence)


@cache
def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from source, not installed
        return ""


@cache
def _hints(cls: type[Module[Any]]) -> dict[str, Any]:
    return get_type_hints(cls.Parameters, include_extras=True)


@cache
def _adapter(cls: type[Module[Any]]) -> TypeAdapter[Any]:
    # Forbidding unknown names here keeps pydantic out of the module contract: Parameters stays a plain dataclass.
    if not hasattr(cls.Parameters, "__pydantic_config__"):
        cls.Parameters.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(cls.Parameters)
