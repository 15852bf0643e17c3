"""Model files: YAML with the run's seed, data, modules, connections and schedule, validated as a whole.

Every section collects its problems instead of stopping at the first, so that all of them are reported at once, each
with its key path, what was expected and what was found. Checks across sections are in
:mod:`runner.config.cross_checks`, error messages in :mod:`runner.config.error_messages`, and YAML in
:mod:`runner.config.yaml_io`.

A value is read once: a module's parameters are validated when its section is made, the graph is built when the whole
file is valid, and both are handed on as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
)

from actors.backends.step_parameters import sharing_problems
from actors.errors import GraphError, ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import ValidatedParameters, add_code_directories, find
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.limits import MAX_MODULES, MAX_REPORTED_PROBLEMS, MAX_WORKERS
from actors.types import Array
from runner.config.cross_checks import (
    DATA,
    TypedParameters,
    as_map,
    check_cluster,
    check_module_parameters,
    check_names,
    check_parameters,
    check_steps,
    find_sources,
    has_named_sources,
    split_chains,
)
from runner.config.error_messages import (
    ConfigError,
    ConfigErrors,
    Problem,
    describe_errors,
    get_fields,
    suggest,
    unknown_names,
)
from runner.config.sections import (
    CheckpointsConfig,
    ClusterConfig,
    DataConfig,
    RecoveryConfig,
    ResourcesConfig,
    Section,
    TrackerConfig,
)
from runner.config.user_code import find_code_directories
from runner.config.yaml_io import check_size, dump, parse, read_config_text, set_at, split_override
from runner.data.datasets import Dataset
from runner.data.scaling import is_scaled
from runner.data.shards import Converter
from runner.data.sources import Data, convert_sources, load_categories_by_module, load_sources

__all__ = [
    "DATA",
    "ConfigError",
    "DataConfig",
    "ModuleConfig",
    "ResourcesConfig",
    "RunConfig",
    "ScheduleConfig",
    "StepConfig",
    "load_config",
]


_SHARING_KEYS = ("workers", "chunk", "sample_rows")


def shares_rows(section: Mapping[str, Any]) -> bool:
    """Return whether the section of a module, as written, says how workers share its rows."""
    return any(section.get(key) is not None for key in _SHARING_KEYS)


class ModuleConfig(Section):
    """A module: its type, threads, resources and, as further keys, its parameters."""

    model_config = ConfigDict(extra="allow")
    expected: ClassVar[str] = "a map with the module's type and parameters"

    type: str
    threads: Annotated[int, Field(ge=1)] = 1
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    workers: Annotated[int, Field(ge=1, le=MAX_WORKERS)] | Literal["auto"] | None = None
    chunk: Annotated[int, Field(ge=1)] | None = None
    sample_rows: Annotated[int, Field(ge=1)] | None = None

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if key not in _SHARING_KEYS or value is not None}

    @property
    def sharing(self) -> Sharing | None:
        """How workers share the module's rows; None if the model says nothing of it."""
        given = {key: value for key in _SHARING_KEYS if (value := getattr(self, key)) is not None}
        return Sharing(**given) if given else None

    @property
    def parameters(self) -> ValidatedParameters:
        """All of the module's parameters, under their own names, with defaults."""
        return ValidatedParameters(self.model_extra or {})

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Problem]]:  # noqa: ARG003
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        parameters = {key: value for key, value in given.items() if key not in own}
        if not isinstance(given.get("type"), str):  # its parameters are unknown, but a misspelt key can be reported
            misspelt = [key for key in islice(parameters, MAX_REPORTED_PROBLEMS) if suggest(key, cls.model_fields)]
            return own, unknown_names("key", [((key,), key) for key in misspelt], cls.model_fields)
        values, problems = check_parameters(own["type"], parameters, known=tuple(cls.model_fields))
        return {**own, **values}, problems


class StepConfig(Section):
    """A step of a round: a module, and parameters that are set for this step only."""

    expected: ClassVar[str] = "a module's name, or {module: name, set: {parameter: value}}"

    module: str
    set: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def _expand(cls, given: Any) -> Any:
        return {"module": given} if isinstance(given, str) else given

    @model_serializer
    def _abbreviate(self) -> Any:
        return {"module": self.module, "set": self.set} if self.set else self.module

    def to_model(self) -> Step:
        """Return the step of the schedule."""
        return Step(self.module, dict(self.set))


class BlockConfig(Section):
    """Steps that are repeated within a round; see :class:`actors.graph.schedule.Block`."""

    expected: ClassVar[str] = "a map with steps, repeat, anneal, tolerance, chains, moves and select"

    steps: Annotated[list[ItemConfig], Field(min_length=1)]
    repeat: Annotated[int, Field(ge=1)] = 1
    anneal: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)] = [1.0, 1.0]  # noqa: RUF012 (pydantic copies it)
    tolerance: Annotated[float, Field(gt=0)] | None = None
    chains: Annotated[int, Field(ge=0)] = 0
    moves: Annotated[int, Field(ge=0)] = 0
    select: Literal["evidence"] = "evidence"

    def to_model(self) -> Block:
        """Return the block of the schedule."""
        steps = tuple(step.to_model() for step in self.steps)
        return Block(steps, self.repeat, (self.anneal[0], self.anneal[1]), self.tolerance, self.chains, self.moves)


def _step_or_block(given: Any) -> str:
    block = isinstance(given, BlockConfig) or (isinstance(given, dict) and "module" not in given and "steps" in given)
    return "block" if block else "step"


ItemConfig: TypeAlias = Annotated[
    Annotated[StepConfig, Tag("step")] | Annotated[BlockConfig, Tag("block")], Discriminator(_step_or_block)
]


SourcesConfig: TypeAlias = Annotated[
    Annotated[DataConfig, Tag("one source")] | Annotated[dict[str, DataConfig], Tag("several sources")],
    Discriminator(lambda given: "several sources" if has_named_sources(given) else "one source"),
]


class ScheduleConfig(Section):
    """The number of rounds, and the steps of a round; by default one for every module, in order of connection.

    See :class:`actors.graph.schedule.Schedule`.
    """

    rounds: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    steps: Annotated[list[ItemConfig], Field(min_length=1)] = Field(default_factory=list)

    def to_model(self) -> Schedule:
        """Return the schedule."""
        return Schedule(self.rounds, tuple(step.to_model() for step in self.steps), self.tolerance)


class RunConfig(Section):
    """A whole model file."""

    expected: ClassVar[str] = "a map with name, data, modules, connections and schedule"

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: SourcesConfig
    modules: Annotated[dict[str, ModuleConfig], Field(min_length=1)]
    connections: list[str]
    schedule: ScheduleConfig
    recovery: RecoveryConfig = Field(default_factory=RecoveryConfig)
    checkpoints: CheckpointsConfig = Field(default_factory=CheckpointsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    code: list[Path] = Field(default_factory=list)
    report: bool = True
    tracking: list[TrackerConfig] = Field(default_factory=list)

    @model_serializer(mode="wrap")
    def _leave_out_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out defaults of keys that earlier versions did not have, so that their configs stay as they are."""
        written: dict[str, Any] = handler(self)
        defaults = {"report": True, "tracking": []}
        return {key: value for key, value in written.items() if key not in defaults or value != defaults[key]}

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Problem]]:
        if len(as_map(given.get("modules"))) + len(find_sources(given.get("data"))) > MAX_MODULES:
            raise ConfigErrors([(("modules",), f"there are more than {MAX_MODULES}; each is a process of its own")])
        if isinstance(given.get("tracking"), str | dict):  # a single one
            given = {**given, "tracking": [given["tracking"]]}
        code, problems = find_code_directories(given, root)
        plain = {**given, "code": [] if code is None else code}
        add_code_directories(code if isinstance(code, list) else ())
        problems += check_names(plain)
        modules: dict[Any, TypedParameters | None] = {}
        if isinstance(plain.get("modules"), dict):
            plain["modules"], modules = _make_modules(plain["modules"], root)
        sources = find_sources(plain.get("data"))
        names = [*sources, *map(str, modules)]
        if isinstance(plain.get("connections"), list):
            plain["connections"], own = split_chains(plain["connections"], names)
            problems += own
        schedule = as_map(plain.get("schedule"))
        if isinstance(schedule.get("steps"), list):
            steps, own = check_steps(("schedule", "steps"), schedule["steps"], modules, sources)
            plain["schedule"] = {**schedule, "steps": steps}
            problems += own
        problems += check_cluster(as_map(plain.get("cluster")), names)
        unknown = [
            ((*place, "categories", name), str(name))
            for place, source in sources.values()
            for name in as_map(source.get("categories"))
            if str(name) not in names
        ]
        problems += unknown_names("module", unknown, names)
        return plain, problems

    def _finish(self) -> list[Problem]:
        try:
            steps = self.graph.schedule.leaves()
        except (GraphError, ModuleError) as error:
            return [(("connections",), str(error))]
        if problems := [(("modules", name, "workers"), text) for name, text in sharing_problems(self.graph).items()]:
            return problems
        if not self.schedule.steps:
            self.schedule.steps = [StepConfig(module=step.module) for step in steps]
        learning = {step.module for step in steps}
        return [
            (("schedule", "steps"), f"{name!r} gives observations and learns nothing; leave it out")
            for name in self.graph.sources
            if name in learning
        ]

    @cached_property
    def graph(self) -> Graph:
        """The resolved model with its schedule; built once, when the model file is checked."""
        return Graph(self._specs(), self._connections(), self.schedule.to_model())

    @property
    def sources(self) -> dict[str, DataConfig]:
        """The sources of data, by the name of the module that sends them; a single one is called ``data``."""
        return self.data if isinstance(self.data, dict) else {DATA: self.data}

    def convert_data(self, address: str | None, report: Callable[[str], None]) -> None:
        """Convert Parquet files and pictures to shards, on the cluster at `address`, if that was not done before.

        Raises
        ------
        DataError
            If they cannot be converted.
        """
        convert_sources(self.sources.values(), Converter(address, report))

    def load_data(self) -> dict[str, Dataset]:
        """Load the data, by source.

        Raises
        ------
        DataError
            If files or the choice of rows are not valid, or the sources do not describe the same rows.
        """
        return load_sources(self.sources, self.seed, self.graph)

    def categories(self, data: Data) -> dict[str, Array]:
        """Return the true categories of the rows of :meth:`load_data` by module, under ``""`` those of all modules."""
        return load_categories_by_module(self.sources, data, self.seed, self.graph)

    def tracking_arguments(self) -> list[dict[str, Any]]:
        """Return ``type`` and arguments of each callback that follows the run."""
        return [{"type": each.type, **(each.model_extra or {})} for each in self.tracking]

    def plain(self, within: Path | None = None) -> dict[str, Any]:
        """Return the resolved config as plain data; paths below the directory `within` are relative to it."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        if within is not None:
            start = os.path.abspath(within) + os.sep  # noqa: PTH100 (follows no links)
            plain |= {key: _relative(plain[key], start) for key in ("data", "code")}
        return plain

    def to_yaml(self, within: Path | None = None) -> str:
        """Return the resolved config as YAML; :func:`load_config` reads it back equal from any directory.

        Paths below the directory `within` are relative to it: the file is to lie there.
        """
        return dump(self.plain(within))

    def _specs(self) -> list[ModuleSpec]:
        scaled = {name for name, source in self.sources.items() if is_scaled(source.scale)}
        specs = [
            ModuleSpec(name, "labels", self._label_parameters(name, source))
            if source.labels
            else ModuleSpec(name, "observation", {"scaled": True} if name in scaled else {})
            for name, source in self.sources.items()
        ]
        for name, module in self.modules.items():
            resources = self.cluster.modules.get(name, module.resources).to_model()
            code = tuple(map(str, self.code))
            parameters, sharing = module.parameters, module.sharing
            specs.append(ModuleSpec(name, module.type, parameters, module.threads, resources, code, sharing))
        return specs

    def _label_parameters(self, name: str, source: DataConfig) -> dict[str, Any]:
        """Return the parameters of a source of labels, whose classes are those of the module that gets them."""
        confidence = {} if source.confidence is None else {"confidence": source.confidence}
        for connection in self._connections():
            if connection.lower == name and (classes := self._classes_of(connection.upper)) is not None:
                return {"classes": classes, **confidence}
        return confidence

    def _classes_of(self, name: str, above: tuple[str, ...] = ()) -> int | None:
        """Return the number of classes of a module, or of those below it that it combines; None if it has none.

        `above` are the modules on whose behalf it is asked, in case that connections, not checked yet, form a cycle.
        """
        if (module := self.modules.get(name)) is None or name in above:
            return None
        parameters = find(module.type).Parameters(**module.parameters)
        for key in ("classes", "most", "topics"):
            if isinstance(classes := getattr(parameters, key, None), int):
                return classes
        below = (self._classes_of(each.lower, (*above, name)) for each in self._connections() if each.upper == name)
        return next((classes for classes in below if classes is not None), None)

    def _connections(self) -> list[Connection]:
        return [Connection(*pair.split(" -> ")) for pair in self.connections]


def _relative(plain: Any, start: str) -> Any:
    """Return plain data in which the texts that begin with `start` are without it."""
    if isinstance(plain, dict):
        return {key: _relative(value, start) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_relative(value, start) for value in plain]
    return plain.removeprefix(start) if isinstance(plain, str) else plain


def _make_modules(given: dict[Any, Any], root: Path) -> tuple[dict[Any, Any], dict[Any, TypedParameters | None]]:
    """Make the sections of the modules, so that steps are checked against validated parameters.

    Returns
    -------
    dict
        `given` with a :class:`ModuleConfig` for each valid module. Others stay as parsed, so that their problems are
        reported with those of the whole file.
    dict
        Type and parameters of each module, None where the type is unknown.

    Raises
    ------
    ConfigErrors
        If there are more problems than are reported.
    """
    made: dict[Any, Any] = {}
    parameters: dict[Any, TypedParameters | None] = {}
    problems: list[Problem] = []
    for name, module in given.items():
        try:
            section = ModuleConfig.model_validate(module, context={"root": root})
        except ValidationError as error:
            described = describe_errors(error, get_fields(ModuleConfig), module)
            problems += [(("modules", name, *loc), text) for loc, text in described]
            if len(problems) >= MAX_REPORTED_PROBLEMS:
                raise ConfigErrors(problems) from error
            made[name] = module
            parameters[name] = check_module_parameters(module, ModuleConfig.model_fields)
        else:
            made[name] = section
            parameters[name] = section.type, section.parameters
    return made, parameters


Override: TypeAlias = str | tuple[Sequence[str], Any]
"""``key.path=value``, the value in YAML, or the keys and the value."""


def load_config(path: Path, overrides: Sequence[Override] = (), *, text: str | None = None) -> RunConfig:
    """Read a model file and validate it as a whole.

    Parameters
    ----------
    path : Path
        Paths in the file are relative to its directory.
    overrides : sequence of str or (sequence of str, object)
        ``key.path=value``, the value in YAML, or the keys and the value; a number among the keys is an index into a
        list.
    text : str, optional
        The contents of the file, if it was read already.

    Raises
    ------
    ConfigError
        Lists every problem that was found.
    """
    path = Path(path)
    raw = parse(read_config_text(path) if text is None else text, str(path))
    return make_config(raw, Path(os.path.abspath(path.parent)), overrides)  # noqa: PTH100 (follows no links)


def make_config(raw: Any, root: Path, overrides: Sequence[Override] = ()) -> RunConfig:
    """Validate what a model file holds.

    Parameters
    ----------
    raw : object
        The parsed file.
    root : Path
        The directory of relative paths.
    overrides : sequence of str or (sequence of str, object)
        As for :func:`load_config`.

    Raises
    ------
    ConfigError
        Lists every problem that was found.
    """
    problems: list[Problem] = []
    for override in overrides:
        keys, value = split_override(override) if isinstance(override, str) else override
        try:
            raw = set_at(raw, keys, value)
        except ConfigErrors as error:
            problems += error.problems
    try:
        config = RunConfig.model_validate(raw, context={"root": root})
    except ValidationError as error:
        problems += describe_errors(error, {}, raw)
    if problems:
        raise ConfigError(str(ConfigErrors(problems)))
    check_size(config.model_dump(mode="json"))
    return config
