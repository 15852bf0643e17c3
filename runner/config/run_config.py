"""Model files: YAML with the run's seed, data, modules, connections and schedule, checked as a whole.

Every section collects its faults instead of stopping at the first, so that a person sees all of them at once, each
with its key path, what was expected there and what was there. What is checked across sections stands in
:mod:`runner.config.cross_checks`, how faults are worded in :mod:`runner.config.error_messages`, and how YAML is read
in :mod:`runner.config.yaml_io`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from actors.graph.spec import Connection, ModuleSpec
from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_serializer,
)

from actors.errors import GraphError, ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import add_code_directories
from actors.graph.schedule import Block, Schedule, Step, leaves
from actors.types import Array
from runner.config.cross_checks import (
    DATA,
    are_several,
    as_map,
    check_cluster,
    check_names,
    check_parameters,
    check_steps,
    cut_chains,
    sources_in,
)
from runner.config.error_messages import ConfigError, Fault, Faults, explain, unknown
from runner.config.sections import (
    CheckpointsConfig,
    ClusterConfig,
    DataConfig,
    RecoveryConfig,
    ResourcesConfig,
    Section,
)
from runner.config.user_code import code_directories
from runner.config.yaml_io import dump, parse, set_at, split_override
from runner.data.datasets import Dataset
from runner.data.sources import Data, categories_of, load_sources

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


class ModuleConfig(Section):
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
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Fault]]:  # noqa: ARG003
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        parameters = {key: value for key, value in given.items() if key not in own}
        if not isinstance(given.get("type"), str):  # so nobody knows its parameters, but a slip in a key shows
            slips = [key for key in parameters if difflib.get_close_matches(key, cls.model_fields)]
            return own, [((key,), unknown("key", key, cls.model_fields)) for key in slips]
        values, faults = check_parameters(own["type"], parameters, known=tuple(cls.model_fields))
        return {**own, **values}, faults


class StepConfig(Section):
    """A step of a round: a module, and parameters set for this step alone."""

    expected: ClassVar[str] = "a module's name, or {module: name, set: {parameter: value}}"

    module: str
    set: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def _from_short(cls, given: Any) -> Any:
        return {"module": given} if isinstance(given, str) else given

    @model_serializer
    def _short(self) -> Any:
        return {"module": self.module, "set": self.set} if self.set else self.module

    def item(self) -> Step:
        """Return what the schedule holds of it."""
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

    def item(self) -> Block:
        """Return what the schedule holds of it."""
        steps = tuple(step.item() for step in self.steps)
        return Block(steps, self.repeat, (self.anneal[0], self.anneal[1]), self.tolerance, self.chains, self.moves)


def _is_block(given: Any) -> str:
    block = isinstance(given, BlockConfig) or (isinstance(given, dict) and "module" not in given and "steps" in given)
    return "block" if block else "step"


ItemConfig: TypeAlias = Annotated[
    Annotated[StepConfig, Tag("step")] | Annotated[BlockConfig, Tag("block")], Discriminator(_is_block)
]


SourcesConfig: TypeAlias = Annotated[
    Annotated[DataConfig, Tag("one source")] | Annotated[dict[str, DataConfig], Tag("several sources")],
    Discriminator(lambda given: "several sources" if are_several(given) else "one source"),
]


class ScheduleConfig(Section):
    """How many rounds, and the steps of a round; by default every module in order of connection.

    See :class:`actors.graph.schedule.Schedule`.
    """

    rounds: Annotated[int, Field(ge=1)]
    tolerance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    steps: Annotated[list[ItemConfig], Field(min_length=1)] = Field(default_factory=list)


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

    @classmethod
    def _prepare(cls, given: dict[str, Any], root: Path) -> tuple[dict[str, Any], list[Fault]]:
        code, faults = code_directories(given, root)
        plain = {**given, "code": [] if code is None else code}
        add_code_directories(code if isinstance(code, list) else ())
        faults += check_names(plain)
        modules = as_map(plain.get("modules"))
        sources = sources_in(plain.get("data"))
        names = [*sources, *(str(name) for name in modules)]
        if isinstance(plain.get("connections"), list):
            plain["connections"], found = cut_chains(plain["connections"], names)
            faults += found
        schedule = as_map(plain.get("schedule"))
        if isinstance(schedule.get("steps"), list):
            steps, found = check_steps(
                ("schedule", "steps"), schedule["steps"], modules, sources, ModuleConfig.model_fields
            )
            plain["schedule"] = {**schedule, "steps": steps}
            faults += found
        faults += check_cluster(as_map(plain.get("cluster")), names)
        for place, source in sources.values():
            faults += [
                ((*place, "categories", name), unknown("module", str(name), names))
                for name in as_map(source.get("categories"))
                if str(name) not in names
            ]
        return plain, faults

    def _finish(self) -> list[Fault]:
        try:
            graph = Graph(self._specs(), self._connections())
        except (GraphError, ModuleError) as error:
            return [(("connections",), str(error))]
        if not self.schedule.steps:
            self.schedule.steps = [StepConfig(module=step.module) for step in graph.schedule.leaves()]
        learning = {step.module for step in leaves(step.item() for step in self.schedule.steps)}
        return [
            (("schedule", "steps"), f"{name!r} gives observations and learns nothing; leave it out")
            for name in graph.sources
            if name in learning
        ]

    def graph(self) -> Graph:
        """Return the model, resolved."""
        steps = tuple(step.item() for step in self.schedule.steps)
        schedule = Schedule(self.schedule.rounds, steps, self.schedule.tolerance)
        return Graph(self._specs(), self._connections(), schedule)

    @property
    def sources(self) -> dict[str, DataConfig]:
        """Where the data come from, by the name of the module that sends them; a single one is called ``data``."""
        return self.data if isinstance(self.data, dict) else {DATA: self.data}

    def load_data(self) -> dict[str, Dataset]:
        """Load the data, by source.

        Raises
        ------
        DataError
            If files or the choice of rows are wrong, or the sources do not describe the same rows.
        """
        return load_sources(self.sources, self.seed)

    def categories(self, data: Data) -> dict[str, Array]:
        """Return the true categories of the rows that :meth:`load_data` gave, by module; ``""`` holds for all."""
        return categories_of(self.sources, data, self.seed)

    def to_yaml(self) -> str:
        """Return the config as resolved: :func:`load_config` makes an equal one of it, wherever it lies."""
        return dump(self.model_dump(mode="json"))

    def _specs(self) -> list[ModuleSpec]:
        specs = [ModuleSpec(name, "observation") for name in self.sources]
        for name, module in self.modules.items():
            resources = self.cluster.modules.get(name, module.resources).item()
            code = tuple(map(str, self.code))
            specs.append(ModuleSpec(name, module.type, module.parameters, module.threads, resources, code))
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
    raw = parse(text, str(path))
    faults: list[Fault] = []
    for override in overrides:
        keys, value = split_override(override)
        try:
            raw = set_at(raw, keys, value)
        except Faults as found:
            faults += found.faults
    try:
        config = RunConfig.model_validate(raw, context={"root": Path(os.path.abspath(path.parent))})  # noqa: PTH100
    except ValidationError as error:
        faults += explain(error, {}, raw)
    if faults:
        raise ConfigError(str(Faults(faults)))
    return config
