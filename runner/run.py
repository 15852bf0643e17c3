"""A run from config to result: data in, actors up, rounds driven, everything written down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from actors.graph import Graph
from actors.module import State
from runner import collect
from runner.cluster import Event, RunningModel, cluster
from runner.config import RunConfig
from runner.datasets import Dataset
from runner.progress import Progress
from runner.rundir import RoundScores, RunDirectory, result_of


@dataclass
class Clock:
    """Where the time of a run goes, in seconds.

    Parameters
    ----------
    started : float
        ``time.time()`` when the process began.
    """

    started: float
    marks: dict[str, float] = field(default_factory=dict)
    _last: float | None = None

    def mark(self, name: str) -> None:
        """Note that what is called `name` took from the last mark (or the start) until now."""
        now = time.time()
        self.marks[name] = round(now - (self._last or self.started), 3)
        self._last = now


class Follower:
    """Takes in what the coordinator tells: shows it, writes it down, and scores every commit.

    Parameters
    ----------
    directory : RunDirectory
    progress : Progress
    """

    def __init__(self, directory: RunDirectory, progress: Progress) -> None:
        self.directory = directory
        self.progress = progress
        self.scores = RoundScores(0, None, None)
        self.module_seconds: dict[str, float] = {}
        self.first_update: float | None = None
        self.last_commit: float | None = None

    def follow(self, stream: Iterable[tuple[list[Event], dict[str, Any]]]) -> None:
        """Take in a stream of events and statuses until it ends."""
        for events, status in stream:
            self.directory.append_events(events)
            for name, when, fields in events:
                self._take(name, when, fields)
            self.module_seconds = dict(status["module_seconds"])
            self.progress.status(status)

    def _take(self, name: str, when: float, fields: Mapping[str, Any]) -> None:
        self.progress.event(name, fields)
        if name == "update" and fields["round"] > 0 and self.first_update is None:
            self.first_update = when
        if name == "commit":
            self.last_commit = when
            if fields["round"] > 0:
                self.scores = self.directory.record(fields["name"])
                self.directory.append_events([("scores", time.time(), self.scores.fields())])
                self.progress.event("scores", self.scores.fields())

    def overhead_share(self, sources: Iterable[str]) -> float | None:
        """Return the share of the time from the first update to the last commit not spent inside modules.

        Below zero where modules learnt at the same time.
        """
        if self.first_update is None or self.last_commit is None or self.last_commit <= self.first_update:
            return None
        inside = sum(seconds for name, seconds in self.module_seconds.items() if name not in set(sources))
        return 1.0 - inside / (self.last_commit - self.first_update)


def source_states(graph: Graph, data: Dataset) -> dict[str, State]:
    """Return what the model's sources start from: the data and their sequences' lengths."""
    state: State = {"values": data.observations}
    if data.lengths is not None:
        state["lengths"] = np.asarray(data.lengths, np.int64)
    return dict.fromkeys(graph.sources, state)


def run(
    config: RunConfig,
    *,
    clock: Clock,
    progress: Progress,
    runs: Path = Path("runs"),
    name: str | None = None,
    address: str | None = None,
) -> tuple[RunDirectory, dict[str, Any]]:
    """Train the model of `config` on a cluster.

    Parameters
    ----------
    config : RunConfig
    clock : Clock
    progress : Progress
    runs : Path
        Where run directories lie.
    name : str, optional
        The run's name; by default the config's, numbered where it is taken.
    address : str, optional
        A Ray cluster's; by default one is started on this machine.

    Returns
    -------
    RunDirectory, dict
        Where everything lies, and the contents of ``result.json``.
    """
    graph = config.graph()
    data = config.load_data()
    clock.mark("data")
    categories = config.categories(data)
    with cluster(address) as joined:
        clock.mark("ray")
        directory = RunDirectory.create(runs, name or config.name, graph, exact=name is not None, categories=categories)
        (directory.path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        directory.write_environment(joined)
        follower = Follower(directory, progress)
        model = RunningModel.launch(graph, directory.name, config.seed, str(directory.checkpoints.root))
        try:
            follower.follow(model.start(source_states(graph, data)))
            clock.mark("actors")
            follower.follow(model.run_rounds())
            clock.mark("rounds")
            _write_generated(model, directory)
        finally:
            model.stop()
    clock.mark("stop")
    directory.write_models()
    try:
        collect.draw(directory)
    except (ValueError, OSError) as error:  # a picture that cannot be drawn must not cost a finished run
        progress.event("log", {"message": f"not every picture could be drawn: {error}"})
    clock.mark("pictures")
    result = result_of(follower.scores, directory.name, time.time() - clock.started, follower.module_seconds)
    result["overhead_share"] = follower.overhead_share(graph.sources)
    result["phases"] = clock.marks
    directory.write_json("result.json", result)
    return directory, result


def _write_generated(model: RunningModel, directory: RunDirectory) -> None:
    """Write what the modules' last messages look like further down; a module in no step has learnt nothing to show."""
    committed = directory.checkpoints.latest()
    for module in committed.modules if committed else ():
        if module not in directory.graph.sources:
            directory.write_outputs(module, model.generate(module), "learn")
