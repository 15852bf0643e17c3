"""Model files: YAML with the run's seed, data, modules, connections and schedule, checked as a whole.

Every section collects its faults instead of stopping at the first, so that a person sees all of them at once, each
with its key path, what was expected there and what was there. Below the sections stand, in this order: what is checked
across sections, how faults are worded, and how YAML is read.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from dataclasses import fields as dataclass_fields
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy.typing as npt
import yaml
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from actors.graph import Connection, Graph, GraphError, ModuleSpec, Resources, Schedule, Step
from actors.module import ModuleError
from actors.registry import BUILT_IN, find, make_parameters
from runner import datasets

DATA = "data"
"""The module that every model has and no model file lists: the observation."""

_RESERVED = {DATA: "the observation's name", "coordinator": "the coordinator's name"}
_Fault: TypeAlias = tuple[tuple[Any, ...], str]
_BLOCK = {"steps", "repeat", "anneal", "chains", "moves", "select"}


class ConfigError(ValueError):
    """A model file that cannot be used; lists each fault on a line of its own, with its key path."""


class _Section(BaseModel):
    """A part of a model file that gathers all its faults."""

    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")
    expected: ClassVar[str] = "a map"

    @model_validator(mode="wrap")
    @classmethod
    def _gather(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if isinstance(given, cls):
            return given
        plain = cls._from_short(given)
        if not isinstance(plain, dict):
            raise _Faults([((), f"expected {cls.expected}, got {_shown(given)}")])
        root = (info.context or {}).get("root", Path.cwd())
        plain, faults = cls._prepare(plain, root)
        try:
            made = handler(plain)
        except ValidationError as error:
            raise _Faults([*faults, *_explain(error, _fields_of(cls), plain)]) from error
        faults = faults or made._finish()
        if faults:
            raise _Faults(faults)
        return made

    @classmethod
    def _from_short(cls, given: Any) -> Any:
        """Return the map that a section's short form stands for."""
        return given

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[_Fault]]:  # noqa: ARG003
        """Return the section with everything resolved that depends on more than one key, and what is wrong."""
        return given, []

    def _finish(self) -> list[_Fault]:
        """Check what can only be checked on a section without other faults."""
        return []


class DataConfig(_Section):
    """What to learn from; the arguments of :func:`runner.datasets.load`."""

    source: Literal["mnist", "digits", "cycle", "files"]
    count: Annotated[int, Field(ge=1)] | None = None
    offset: Annotated[int, Field(ge=0)] = 0
    order: Literal["cyclic", "given", "shuffled"] = "given"
    observations: Path | None = None
    categories: Path | dict[str, Path] | None = None
    lengths: Path | list[Annotated[int, Field(ge=1)]] | None = None

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[_Fault]]:
        plain = dict(given)
        for key in ("observations", "categories", "lengths"):
            value = plain.get(key)
            if isinstance(value, dict) and key == "categories":
                plain[key] = {name: _resolved(path, root) for name, path in value.items()}
            elif value is not None:
                plain[key] = _resolved(value, root)
        return plain, []

    def _finish(self) -> list[_Fault]:
        faults: list[_Fault] = []
        files = [key for key in ("observations", "categories", "lengths") if getattr(self, key) is not None]
        if self.source != "files":
            return [((key,), f"goes with source 'files', the source is {self.source!r}") for key in files]
        if self.observations is None:
            faults.append((("observations",), "is missing: source 'files' needs the path of a file of observations"))
        if self.order == "cyclic" and not isinstance(self.categories, Path):
            faults.append((("order",), "'cyclic' goes by category: give one file of categories, or order 'given'"))
        if self.lengths is not None and self.order != "given":
            faults.append((("lengths",), f"order {self.order!r} would mix the sequences; use order 'given'"))
        return faults


class ResourcesConfig(_Section):
    """What a module's actor reserves; ``num_gpus: auto`` is a GPU if the cluster has one."""

    num_cpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    num_gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = 0.0


class ModuleConfig(_Section):
    """A module: its type, what it may use and, as further keys, its parameters."""

    model_config = ConfigDict(extra="allow")
    expected: ClassVar[str] = "a map with the module's type and parameters"

    type: str
    threads: Annotated[int, Field(ge=1)] = 1
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)

    @property
    def parameters(self) -> dict[str, Any]:
        """All of the module's parameters, under their own names, with defaults."""
        return dict(self.model_extra or {})

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[_Fault]]:  # noqa: ARG003
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        parameters = {key: value for key, value in given.items() if key not in own}
        if not isinstance(given.get("type"), str):  # so nobody knows its parameters, but a slip in a key shows
            slips = [key for key in parameters if difflib.get_close_matches(key, cls.model_fields)]
            return own, [((key,), _unknown("key", key, cls.model_fields)) for key in slips]
        values, faults = _check_parameters(own["type"], parameters, known=tuple(cls.model_fields))
        return {**own, **values}, faults


class StepConfig(_Section):
    """A step of a round: a module, and parameters set for this step alone."""

    expected: ClassVar[str] = "a module's name, or {module: name, set: {parameter: value}}"

    module: str
    set: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def _from_short(cls, given: Any) -> Any:
        return {"module": given} if isinstance(given, str) else given

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[_Fault]]:  # noqa: ARG003
        if "module" not in given and (block := [key for key in given if key in _BLOCK]):
            raise _Faults([((), f"blocks of steps ({', '.join(block)}) are not known yet; expected {cls.expected}")])
        return given, []

    @model_serializer
    def _short(self) -> Any:
        return {"module": self.module, "set": self.set} if self.set else self.module


class ScheduleConfig(_Section):
    """How many rounds, and the steps of a round; by default every module in order of connection."""

    rounds: Annotated[int, Field(ge=1)]
    steps: Annotated[list[StepConfig], Field(min_length=1)] = Field(default_factory=list)


class RunConfig(_Section):
    """A whole model file."""

    expected: ClassVar[str] = "a map with name, data, modules, connections and schedule"

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig
    modules: Annotated[dict[str, ModuleConfig], Field(min_length=1)]
    connections: list[str]
    schedule: ScheduleConfig

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[_Fault]]:  # noqa: ARG003
        plain = dict(given)
        faults = _check_names(plain)
        modules = _map(plain.get("modules"))
        names = [DATA, *(str(name) for name in modules)]
        if isinstance(plain.get("connections"), list):
            plain["connections"], found = _pairs(plain["connections"], names)
            faults += found
        schedule = _map(plain.get("schedule"))
        if isinstance(schedule.get("steps"), list):
            checked = [_check_step(index, step, modules) for index, step in enumerate(schedule["steps"])]
            plain["schedule"] = {**schedule, "steps": [step for step, _ in checked]}
            faults += [fault for _, found in checked for fault in found]
        categories = _map(_map(plain.get(DATA)).get("categories"))
        faults += [
            ((DATA, "categories", name), _unknown("module", str(name), names))
            for name in categories
            if str(name) not in names
        ]
        return plain, faults

    def _finish(self) -> list[_Fault]:
        try:
            graph = Graph(self._specs(), self._connections())
        except (GraphError, ModuleError) as error:
            return [(("connections",), str(error))]
        if not self.schedule.steps:
            self.schedule.steps = [StepConfig(module=step.module) for step in graph.schedule.steps]
        return [
            (("schedule", "steps", index), f"{step.module!r} gives observations and learns nothing; leave it out")
            for index, step in enumerate(self.schedule.steps)
            if step.module in graph.sources
        ]

    def graph(self) -> Graph:
        """Return the model, resolved."""
        steps = tuple(Step(step.module, dict(step.set)) for step in self.schedule.steps)
        return Graph(self._specs(), self._connections(), Schedule(self.schedule.rounds, steps))

    def load_data(
        self, *, count: int | None = None, offset: int | None = None, order: str | None = None
    ) -> datasets.Dataset:
        """Load the data; with arguments, other rows of the same source.

        Raises
        ------
        DataError
            If the files or the choice of rows are wrong.
        """
        categories = self.data.categories if isinstance(self.data.categories, Path) else None
        return self._load(categories, count=count, offset=offset, order=order)

    def categories(
        self,
        data: datasets.Dataset,
        *,
        count: int | None = None,
        offset: int | None = None,
        order: str | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the true categories of `data`'s rows by module, under ``""`` those that hold for all.

        Parameters
        ----------
        data : Dataset
            What :meth:`load_data` gave.
        count, offset, order
            What :meth:`load_data` was given.
        """
        if not isinstance(self.data.categories, dict):
            return {} if data.categories is None else {"": data.categories}
        found = {
            name: self._load(path, count=count, offset=offset, order=order).categories
            for name, path in self.data.categories.items()
        }
        return {name: labels for name, labels in found.items() if labels is not None}

    def to_yaml(self) -> str:
        """Return the config as resolved: :func:`load_config` makes an equal one of it, wherever it lies."""
        plain = self.model_dump(mode="json")
        return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)

    def _load(self, categories: Path | None, **rows: Any) -> datasets.Dataset:
        given = self.data
        chosen = {"count": given.count, "offset": given.offset, "order": given.order}
        chosen.update({key: value for key, value in rows.items() if value is not None})
        files = {"observations": given.observations, "categories": categories, "lengths": given.lengths}
        return datasets.load(given.source, seed=self.seed, **chosen, **files)  # type: ignore[arg-type]

    def _specs(self) -> list[ModuleSpec]:
        specs = [ModuleSpec(DATA, "observation")]
        for name, module in self.modules.items():
            resources = Resources(module.resources.num_cpus, module.resources.num_gpus)
            specs.append(ModuleSpec(name, module.type, module.parameters, module.threads, resources))
        return specs

    def _connections(self) -> list[Connection]:
        return [Connection(*pair.split(" -> ")) for pair in self.connections]


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a model file and check it as a whole.

    Parameters
    ----------
    path : Path
        Paths in the file are relative to the directory that it is in.
    overrides : sequence of str
        ``key.path=value``, the value in YAML; a number in the path is a place in a list.

    Raises
    ------
    ConfigError
        Lists every fault that was found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error})") from None
    raw = _parse(text, str(path))
    faults: list[_Fault] = []
    for override in overrides:
        keys, value = _split(override)
        try:
            raw = _set(raw, keys, value)
        except _Faults as found:
            faults += found.faults
    try:
        config = RunConfig.model_validate(raw, context={"root": Path(os.path.abspath(path.parent))})  # noqa: PTH100
    except ValidationError as error:
        faults += _explain(error, {}, raw)
    if faults:
        raise ConfigError(str(_Faults(faults)))
    return config


def _check_parameters(
    type_name: str, given: Mapping[str, Any], *, base: Mapping[str, Any] | None = None, known: Sequence[str] = ()
) -> tuple[dict[str, Any], list[_Fault]]:
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
        return {}, [(("type",), f"{error}{_did_you_mean(type_name, BUILT_IN)}")]
    fields = _fields_of(cls.Parameters)
    aliases = _aliases_of(fields)
    written: dict[str, str] = {}
    faults: list[_Fault] = []
    for key in map(str, given):
        name = aliases.get(key, key)
        if name in written:
            faults.append(((key,), f"is the same parameter as {written[name]!r}; give one of them"))
        elif name not in fields:
            faults.append(((key,), _unknown(f"parameter of module type {type_name}", key, [*fields, *aliases, *known])))
        else:
            written[name] = key
    chosen = {name: given[key] for name, key in written.items()}
    try:
        made = make_parameters(cls, {**(base or {}), **chosen})
    except ValidationError as error:
        found = _explain(error, fields, chosen)
        mine = [(loc, text) for loc, text in found if base is None or not loc or loc[0] in chosen]
        return {}, faults + [((written.get(str(loc[0]), loc[0]), *loc[1:]) if loc else (), text) for loc, text in mine]
    wanted = [field.name for field in dataclass_fields(made) if base is None or field.name in chosen]
    return {name: getattr(made, name) for name in wanted}, faults


def _check_step(index: int, step: Any, modules: Mapping[Any, Any]) -> tuple[Any, list[_Fault]]:
    """Return the step with its parameters checked against its module's, and what is wrong."""
    name = step.get("module") if isinstance(step, dict) else step
    if not isinstance(name, str):
        return step, []  # the step's own section says so
    where = ("schedule", "steps", index)
    if name != DATA and name not in modules:
        return step, [(where, _unknown("module", name, [str(module) for module in modules]))]
    changes = step.get("set") if isinstance(step, dict) else None
    module = _map(modules.get(name))
    if not changes or not isinstance(changes, dict) or not isinstance(module.get("type"), str):
        return step, []
    own = {key: value for key, value in module.items() if key not in ModuleConfig.model_fields}
    base, wrong = _check_parameters(module["type"], own)
    values, faults = _check_parameters(module["type"], changes, base={} if wrong else base)
    if wrong and any(loc == ("type",) for loc, _ in wrong):
        return step, []  # the module's own section says so
    return {**step, "set": values}, [((*where, "set", *loc), text) for loc, text in faults]


def _check_names(given: Mapping[str, Any]) -> list[_Fault]:
    faults: list[_Fault] = []
    name = given.get("name")
    if isinstance(name, str) and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        expected = "expected a plain directory name of letters, digits, '.', '_' and '-'"
        faults.append((("name",), f"{expected}, got {_shown(name)}"))
    for module in _map(given.get("modules")):
        if module in _RESERVED:
            faults.append((("modules", module), f"is {_RESERVED[module]}; choose another for this module"))
        elif not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,99}", str(module)):
            faults.append((("modules", module), "expected a name of letters, digits, '_' and '-', first a letter"))
    return faults


def _pairs(connections: list[Any], names: Sequence[str]) -> tuple[list[str], list[_Fault]]:
    """Cut chains of connections into single ones."""
    pairs: list[str] = []
    faults: list[_Fault] = []
    for index, text in enumerate(connections):
        chain = [part.strip() for part in text.split("->")] if isinstance(text, str) else []
        if len(chain) < 2 or not all(chain):
            faults.append((("connections", index), f"expected 'a -> b', the names of two modules, got {_shown(text)}"))
            continue
        strangers = [name for name in dict.fromkeys(chain) if name not in names]
        faults += [(("connections", index), _unknown("module", name, names)) for name in strangers]
        for lower, upper in pairwise(chain):
            pair = f"{lower} -> {upper}"
            if pair in pairs:
                faults.append((("connections", index), f"{pair} stands here twice; leave one out"))
            pairs.append(pair)
    return pairs, faults


def _map(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _resolved(path: Any, root: Path) -> Any:
    """Return a path made absolute; anything else as it is, for the section to refuse."""
    if not isinstance(path, str | Path) or not str(path):
        return path
    return Path(os.path.abspath(root / os.path.expanduser(path)))  # noqa: PTH100, PTH111 (neither follows links nor fails)


class _Faults(ValueError):  # noqa: N818 (a collection of them)
    """What is wrong: places and sentences."""

    def __init__(self, faults: Sequence[_Fault]) -> None:
        self.faults = list(faults)
        super().__init__("\n".join(f"{'.'.join(map(str, loc)) or 'the model file'}: {text}" for loc, text in faults))


def _explain(error: ValidationError, fields: Mapping[str, FieldInfo], given: Any) -> list[_Fault]:
    """Word what pydantic found in `given`, one fault a place."""
    faults: dict[tuple[Any, ...], str] = {}
    for found in error.errors(include_url=False):
        loc = found["loc"]
        cause = found.get("ctx", {}).get("error")
        field = fields.get(str(loc[0])) if loc else None
        if isinstance(cause, _Faults):
            faults.update({(*loc, *inner): text for inner, text in cause.faults})
        elif found["type"] == "missing":
            faults[loc] = f"is missing, expected {_described(field)}"
        elif found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            faults[loc] = _unknown("key", str(loc[-1]), fields)
        elif cause is not None:
            faults[loc] = f"{cause}, got {_shown(found['input'])}" if loc else str(cause)
        else:
            place = _place(loc, given)
            expected = _described(field) if len(place) == 1 else found["msg"].removeprefix("Input should be ")
            faults[place] = f"expected {expected}, got {_shown(found['input'])}"
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


def _fields_of(cls: type[Any]) -> dict[str, FieldInfo]:
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


def _aliases_of(fields: Mapping[str, FieldInfo]) -> dict[str, str]:
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


def _described(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Say in words what an annotation allows: ``an integer of at least 0``."""
    if isinstance(annotation, FieldInfo):
        return _described(annotation.annotation, annotation.metadata)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for extra in arguments[1:] for part in getattr(extra, "metadata", [extra])]
        return _described(arguments[0], [*inner, *metadata])
    if origin is Literal:
        words = " or ".join(repr(choice) for choice in arguments)
    elif origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(_described(argument) for argument in arguments if argument is not type(None)))
    elif origin in (list, tuple, set, Sequence):
        words = f"a list, each entry {_described(arguments[0])}" if arguments else "a list"
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


def _shown(value: Any) -> str:
    """Return what was there, short enough for a line."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = str(value) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such thing, and what was perhaps meant."""
    names = list(dict.fromkeys(known))
    return f"unknown {what}, expected one of {', '.join(names)}, got {name!r}{_did_you_mean(name, names)}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class _Loader(yaml.SafeLoader):
    """Safe, keys are texts and stand once, and with YAML 1.2's floats (``1e-3`` is a number)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                key.tag = "tag:yaml.org,2002:str"  # a module may be called 3 or no
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The loader's counterpart; writes everything out instead of referring to what was written before."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{where}{f', line {mark.line + 1}' if mark else ''}: is not valid YAML: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: is not valid YAML: {error}") from error


def _split(override: str) -> tuple[list[str], Any]:
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected key.path=value, for instance schedule.rounds=3")
    return keys, _parse(value, f"--set {path}")


def _set(node: Any, keys: Sequence[str], value: Any, done: tuple[str, ...] = ()) -> Any:
    """Return `node` with `value` at the path `keys`; copies what changes, for aliases share it."""
    key: Any = keys[0]
    here = (*done, key)
    changed: Any
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise _Faults([(here, f"--set: there is no such place in a list of {len(node)}")])
        changed, key = list(node), int(key)
    elif isinstance(node, dict):
        changed = dict(node)
        if len(keys) > 1 and key not in node and done == ("modules",):
            raise _Faults([(here, f"--set: {_unknown('module', key, [str(name) for name in node])}")])
    else:
        raise _Faults([(done, f"--set: this is {_shown(node)}, which has no {key!r} in it")])
    child = {} if isinstance(changed, dict) and changed.get(key) is None else changed[key]
    changed[key] = value if len(keys) == 1 else _set(child, keys[1:], value, here)
    return changed
