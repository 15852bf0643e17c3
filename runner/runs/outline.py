"""The outline of a run, read from its config without importing the code of its modules: for ``serket inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from actors.graph.graph import Graph
from actors.storage.manifest import Manifest
from runner.config.cross_checks import as_map, find_sources
from runner.config.error_messages import ConfigError
from runner.config.sections import CheckpointsConfig
from runner.config.yaml_io import parse
from runner.runs.directory import RunDirectory
from runner.runs.run_files import RunFiles


class RunOutline(NamedTuple):
    """What a run's config tells without its graph.

    Parameters
    ----------
    directory : RunDirectory
        Its graph is empty.
    rounds : int
    modules : list of str
        Sources and modules, in order of connection.
    content : mapping
        The config as it is written.
    """

    directory: RunDirectory
    rounds: int
    modules: list[str]
    content: Mapping[str, Any] = {}

    @property
    def types(self) -> dict[str, str]:
        """The type of each module, in order of connection."""
        given = as_map(self.content.get("modules"))
        return {name: str(as_map(given.get(name)).get("type", "observation")) for name in self.modules}

    @property
    def connections(self) -> list[tuple[str, str]]:
        """The connected modules, the lower one first."""
        given = self.content.get("connections")
        pairs = [str(pair).partition(" -> ") for pair in given] if isinstance(given, list) else []
        return [(lower, upper) for lower, arrow, upper in pairs if arrow]

    def is_done(self, manifest: Manifest) -> bool:
        """Return whether a commit is the last one of the run."""
        return manifest.step is None and (manifest.converged or manifest.round >= self.rounds)


def read_outline(run: Path) -> RunOutline:
    """Read the outline of the run in the directory `run`.

    Raises
    ------
    ConfigError
        If its config is not valid.
    """
    path = run / "config.yaml"
    content = as_map(parse(RunFiles(run).read_config(), str(path)))
    rounds = as_map(content.get("schedule")).get("rounds")
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise ConfigError(f"{path}: schedule.rounds: expected a positive whole number")
    try:
        storage = CheckpointsConfig.model_validate(
            as_map(content.get("checkpoints")), context={"root": run.absolute()}
        ).storage
    except ValidationError:
        raise ConfigError(f"{path}: checkpoints: expected the storage and the number of kept commits") from None
    return RunOutline(RunDirectory(run, Graph([], []), storage=storage), rounds, _module_names(content), content)


def _module_names(content: dict[Any, Any]) -> list[str]:
    """Return the names of a config's modules, in order of connection where that is valid."""
    names = [*map(str, find_sources(content.get("data"))), *map(str, as_map(content.get("modules")))]
    connections = content.get("connections")
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(names, ()))
    for pair in connections if isinstance(connections, list) else ():
        lower, arrow, upper = str(pair).partition(" -> ")
        if arrow and lower in names and upper in names:
            sorter.add(upper, lower)
    try:
        return list(sorter.static_order())
    except CycleError:
        return names
