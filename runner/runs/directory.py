"""The run directory: what a run leaves behind, derived from its commits.

Everything that a person reads (text files, figures by round, accuracy) is made from the checkpoints by the driver.
Labels stay here: no module and no coordinator ever sees them.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import Manifest
from actors.graph.graph import Graph
from actors.types import Array
from actors.storage.filesystem import storage_at
from runner.config.cross_checks import RUN_NAME
from runner.config.run_config import RunConfig, load_config
from runner.runs.environment import changes, environment
from runner.runs.event_log import EventLog, lines
from runner.report.clustering_metrics import Scores, score

TEXT_COLUMNS = 200
"""Wider arrays are written as .npy, narrower ones as text that ``numpy.loadtxt`` reads."""

METRICS = ("round", "evidence", "score", "accuracy", "ari", "nmi")


class RunDirectoryError(ValueError):
    """A run directory that is not there, not a run's, or in the way; says which and what to do."""


@dataclass(frozen=True)
class RoundScores:
    """What a commit amounts to.

    Parameters
    ----------
    round : int
    evidence : float or None
        Of the most abstract module that reports one.
    scores : Scores or None
        None without categories.
    score : float or None
        What the run's rounds are compared by.
    """

    round: int
    evidence: float | None
    scores: Scores | None
    score: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return round, evidence, score, accuracy, ari and nmi; None where unknown."""
        found: dict[str, Any] = {"round": self.round, "evidence": self.evidence, "score": self.score}
        found.update({name: getattr(self.scores, name, None) for name in ("accuracy", "ari", "nmi")})
        return found


@dataclass
class RunDirectory:
    """One run's directory.

    Parameters
    ----------
    path : Path
    graph : Graph
    categories : mapping of str to ndarray
        Labels by module, for measuring alone; ``""`` stands for all modules.
    outputs : Path, optional
        Where the ``moduleNNN_name`` directories go; by default into the run's directory.
    storage : str, optional
        A path or URL below which the commits lie; by default in the run's directory.
    """

    path: Path
    graph: Graph
    categories: Mapping[str, Array] = field(default_factory=dict)
    outputs: Path | None = None
    storage: str | None = None

    @classmethod
    def create(cls, runs: Path, name: str, graph: Graph, *, exact: bool = False, **kwargs: Any) -> RunDirectory:
        """Make the directory of a new run below `runs`: `name`, or `name`-2, -3, … where that is taken.

        Raises
        ------
        RunDirectoryError
            If the name is none for a directory, if `exact` and it is taken, or if nothing can be written there.
        """
        if not re.fullmatch(RUN_NAME, name):
            raise RunDirectoryError(f"{name!r} cannot be a run's name: use letters, digits, '.', '_' and '-'")
        for attempt in range(1, 10_000):
            path = runs / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError as error:
                if exact:
                    raise RunDirectoryError(f"{path}: there is a run of this name; choose another --name") from error
                continue
            except OSError as error:
                raise RunDirectoryError(f"{path}: cannot be made ({error.strerror}); choose other --runs") from error
            made = cls(path, graph, **kwargs)
            taken = made.storage and made.checkpoints.names()
            if not taken:
                return made
            path.rmdir()
            if exact:
                raise RunDirectoryError(
                    f"{made.checkpoints.root}: there are commits of a run of this name; choose another --name"
                )
        raise RunDirectoryError(f"{runs}: there are too many runs called {name}; choose another --name")

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def handle(self) -> str:
        """What a person calls the run on the command line."""
        return self.name if self.path.parent == Path("runs") else str(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's commits."""
        if self.storage:
            return Checkpoints(f"{self.storage.rstrip('/')}/{self.name}")
        return Checkpoints((self.path / "checkpoints").resolve())

    @property
    def log(self) -> EventLog:
        """What happened, in ``events.jsonl``."""
        return EventLog(self.path / "events.jsonl", self.name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing into the directory.

        Raises
        ------
        RunDirectoryError
            If another process writes into it.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunDirectoryError(
                f"{self.path}: another process drives this run; wait for it, or end it with serket stop {self.handle}"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                f"{self.path}: nothing can be written there ({error.strerror}); make it writable, or copy it elsewhere "
                "and name the copy"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def wait_for_lock(self) -> None:
        """Wait until no other process writes into the directory."""
        with FileLock(self.path / ".lock"):
            return

    def driven(self) -> bool:
        """Whether a process writes into the directory; where that cannot be tried, perhaps."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def discard(self) -> None:
        """Delete the directory of a run that could not begin; what else lies there stays."""
        for name in ("config.yaml", "environment.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def module_directory(self, module: str) -> Path:
        """Return where the outputs of `module` lie, ``module001_vae`` for the first above the observation."""
        return (self.outputs or self.path) / f"module{self.graph.number(module):03d}_{module}"

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.yaml``, without which the run cannot be resumed; it survives a power cut."""
        self._write("config.yaml", config.to_yaml())

    def _write(self, name: str, text: str) -> None:
        storage_at(self.path.parent.resolve()).write(f"{self.name}/{name}", text.encode())

    def write_environment(self, address: str, *, detached: bool = False, own: bool = False) -> list[str]:
        """Write ``environment.json``: versions and machine, and where the cluster is while the run lasts.

        Parameters
        ----------
        address : str
        detached : bool
            Whether the run outlives this process.
        own : bool
            Whether the cluster ends with this process.

        Returns
        -------
        list of str
            What was otherwise when the run was last driven, and may change its bits.
        """
        found = {**environment(), "address": address, "pid": os.getpid(), "detached": detached, "own": own}
        before = self.environment() or found
        self.write_json("environment.json", found)
        return changes(before, found)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the run's directory, whole or not at all."""
        self._write(name, json.dumps(content, indent=1, allow_nan=True) + "\n")

    def environment(self) -> dict[str, Any]:
        """Return ``environment.json``; nothing of a run that was ended before it was written."""
        return self.read_json("environment.json") if (self.path / "environment.json").exists() else {}

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run's directory.

        Raises
        ------
        RunDirectoryError
            If it is not there or not JSON.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path / name}: cannot be read; is {self.path} a run's directory?") from error
        return content

    def record(self, commit: str) -> RoundScores:
        """Write what a person looks for after a commit: the modules' outputs, and a line of ``metrics.csv``."""
        manifest, outputs = self._opened(commit)
        for module in manifest.modules:
            if module not in self.graph.sources and manifest.modules[module].round == manifest.round:
                self.write_outputs(module, outputs(module), "learn")
        scores = self._scores(manifest, outputs)
        with (self.path / "metrics.csv").open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS)
            if not file.tell():
                writer.writeheader()
            writer.writerow(scores.fields())
        return scores

    def scores(self, commit: str) -> RoundScores:
        """Return what a commit amounts to."""
        return self._scores(*self._opened(commit))

    def _opened(self, commit: str) -> tuple[Manifest, Callable[[str], Mapping[str, Array]]]:
        """Return a commit, and what gives the outputs of a module in it (each read and digested once)."""
        manifest = self.checkpoints.manifest(commit)
        return manifest, cache(lambda module: self.checkpoints.outputs(manifest, module))

    def mend(self) -> None:
        """Take out what a process that was killed, or a disk that was full, has left unfinished."""
        self.log.mend()
        self.rewind()

    def hear(self) -> None:
        """Write down what a coordinator that is gone has left word of, and nobody has written down."""
        notes, last = self.checkpoints.notes, self.log.last()
        if told := notes.events():
            self.log.append([event for event in told if event[1] > last])
            notes.forget_events()

    def rewind(self, round: float = math.inf) -> None:
        """Take the lines after `round` out of ``metrics.csv``, and any that are unfinished."""
        path = self.path / "metrics.csv"
        if path.exists():
            whole = [line for line in lines(path)[1:] if line.endswith("\n") and line.count(",") == len(METRICS) - 1]
            kept = [line for line in whole if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= round]
            self._write("metrics.csv", "".join([",".join(METRICS) + "\r\n", *kept]))

    def last_recorded(self) -> float:
        """Return the last round that has a line in ``metrics.csv``; 0 where none has."""
        rows = self.metrics() if (self.path / "metrics.csv").exists() else []
        return max((row["round"] for row in rows if row["round"] is not None), default=0.0)

    def unrecorded(self, until: float = math.inf) -> list[str]:
        """Return the commits of whole rounds up to `until` that have no line in ``metrics.csv`` yet, oldest first."""
        last = self.last_recorded()
        rounds = {name: re.fullmatch(r"round-(\d+)", name) for name in self.checkpoints.names()}
        return [name for name, found in rounds.items() if found and last < int(found.group(1)) <= until]

    def _scores(self, manifest: Manifest, outputs: Callable[[str], Mapping[str, Array]]) -> RoundScores:
        """Return what a commit amounts to, `outputs` giving those of a module."""
        evidence = None
        classes: Scores | None = None
        for module in self.graph.modules:  # the last one, the most abstract, has the say
            record = manifest.modules.get(module)
            if record is None:
                continue
            evidence = record.metrics.get("evidence", evidence)
            categories = self.categories_of(module)
            if categories is not None and "outputs" in record.files:
                found = outputs(module).get("class")
                classes = score(found, categories) if found is not None else classes
        return RoundScores(manifest.round, evidence, classes, manifest.score)

    def categories_of(self, module: str) -> Array | None:
        """Return the labels that the classes of `module` are measured by."""
        return self.categories.get(module, self.categories.get(""))

    def write_outputs(
        self, module: str, outputs: Mapping[str, Array], phase: str, categories: Array | None = None
    ) -> None:
        """Write a module's outputs as ``<name>_<phase>.txt`` (or .npy), its classes' accuracy beside them.

        Parameters
        ----------
        module : str
        outputs : mapping of str to ndarray
        phase : {"learn", "recog"}
        categories : ndarray (N,), optional
            Labels; by default the run's own when learning.
        """
        directory = self.module_directory(module)
        directory.mkdir(parents=True, exist_ok=True)
        for name, array in outputs.items():
            # The curve of a quantity over the training belongs to no phase; the tutorial's users know it as loss.txt.
            stem = name if name == "loss" else f"{name}_{phase}"
            if array.ndim > 2 or (array.ndim == 2 and array.shape[1] > TEXT_COLUMNS):
                np.save(directory / f"{stem}.npy", array)
            else:
                np.savetxt(directory / f"{stem}.txt", array, fmt="%d" if array.dtype.kind in "iub" else "%.8g")
        labels = self.categories_of(module) if categories is None and phase == "learn" else categories
        if labels is not None and "class" in outputs:
            accuracy = score(outputs["class"], labels).accuracy
            (directory / f"acc_{phase}.txt").write_text(f"{accuracy:.6f}\n", encoding="utf-8")

    def read_output(self, module: str, name: str, phase: str) -> Array | None:
        """Return an output that :meth:`write_outputs` wrote, or None where there is none."""
        stem = self.module_directory(module) / f"{name}_{phase}"
        if stem.with_suffix(".npy").exists():
            array: Array = np.load(stem.with_suffix(".npy"))
            return array
        return np.loadtxt(stem.with_suffix(".txt"), ndmin=2) if stem.with_suffix(".txt").exists() else None

    def write_models(self) -> None:
        """Copy each module's last state beside its outputs, as ``model.safetensors``."""
        manifest = self.checkpoints.latest()
        for module, record in manifest.modules.items() if manifest else ():
            if module not in self.graph.sources:
                data = self.checkpoints.read(record.files["state"])
                self.module_directory(module).mkdir(parents=True, exist_ok=True)
                (self.module_directory(module) / "model.safetensors").write_bytes(data)

    def metrics(self) -> list[dict[str, float | None]]:
        """Return ``metrics.csv``, a dict a line, None where a figure is unknown."""
        with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]


def open_run(path: Path, settings: Sequence[str] = ()) -> tuple[RunConfig, RunDirectory]:
    """Return the config of a run, with `settings` on top, and its directory; without categories."""
    config = load_config(path / "config.yaml", settings)
    return config, RunDirectory(path, config.graph(), storage=config.checkpoints.storage)


def find_run(run: str, runs: Path) -> Path:
    """Return the directory of `run`: a path, or a name below `runs`.

    Raises
    ------
    RunDirectoryError
        If there is none; names those that there are.
    """
    for path in (Path(run), runs / run):
        if (path / "config.yaml").is_file():
            return path if path.name not in ("", "..") else path.resolve()
    there = sorted(path.parent.name for path in runs.glob("*/config.yaml"))
    known = f"the runs in {runs} are {', '.join(there)}" if there else f"there are none in {runs}"
    raise RunDirectoryError(f"{run}: no such run; {known}")
