"""The run directory: a run's config, log, metrics, outputs and models, derived from its commits.

The driver computes all readable files (text outputs, metrics by round, accuracy) from the checkpoints. Labels are used
here only: neither modules nor the coordinator receive them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from actors.coordination.events import TimedEvent, parse_event
from actors.graph.graph import Graph
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import storage_at
from actors.storage.manifest import Manifest
from actors.types import Array
from runner.config.cross_checks import RUN_NAME
from runner.config.run_config import RunConfig, load_config
from runner.report.clustering_metrics import Scores, score
from runner.runs.environment import current_environment, describe_changes
from runner.runs.event_log import EventLog
from runner.runs.outputs import read_array, write_arrays
from runner.runs.records import MetricsFile, RoundScores


class RunDirectoryError(ValueError):
    """A run directory is missing, invalid or already in use; names the directory and the remedy."""


@dataclass
class RunDirectory:
    """The directory of a run.

    Parameters
    ----------
    path : Path
    graph : Graph
    categories : mapping of str to ndarray
        Labels by module, for evaluation only; ``""`` stands for all modules.
    outputs : Path, optional
        Parent of the ``moduleNNN_name`` directories; by default the run's directory.
    storage : str, optional
        Parent of the commits, a path or URL; by default the run's directory.
    """

    path: Path
    graph: Graph
    categories: Mapping[str, Array] = field(default_factory=dict)
    outputs: Path | None = None
    storage: str | None = None

    @classmethod
    def create(cls, runs: Path, name: str, graph: Graph, *, exact: bool = False, **kwargs: Any) -> RunDirectory:
        """Create the directory of a new run in `runs`: `name`, or `name`-2, -3, … if that exists.

        Raises
        ------
        RunDirectoryError
            If the name is not valid, if `exact` and it exists, or if the directory cannot be created.
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
                raise RunDirectoryError(f"{path}: cannot be created ({error.strerror}); choose other --runs") from error
            created = cls(path, graph, **kwargs)
            has_commits = created.storage and created.checkpoints.names()
            if not has_commits:
                return created
            path.rmdir()
            if exact:
                raise RunDirectoryError(
                    f"{created.checkpoints.root}: there are commits of a run of this name; choose another --name"
                )
        raise RunDirectoryError(f"{runs}: there are too many runs called {name}; choose another --name")

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.name

    @property
    def cli_name(self) -> str:
        """The run's name or path for the command line."""
        return self.name if self.path.parent == Path("runs") else str(self.path)

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        if self.storage:
            return Checkpoints(f"{self.storage.rstrip('/')}/{self.name}")
        return Checkpoints((self.path / "checkpoints").resolve())

    @property
    def metrics_file(self) -> MetricsFile:
        """The metrics of each round, in ``metrics.csv``."""
        return MetricsFile(self.path / "metrics.csv")

    @property
    def log(self) -> EventLog:
        """The event log, in ``events.jsonl``."""
        return EventLog(self.path / "events.jsonl", self.name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory against other processes that write into it.

        Raises
        ------
        RunDirectoryError
            If another process holds the lock, or if the directory is not writable.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunDirectoryError(
                f"{self.path}: another process drives this run; wait for it, or end it with serket stop {self.cli_name}"
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
        """Wait until no other process holds the lock."""
        with FileLock(self.path / ".lock"):
            return

    def is_locked(self) -> bool:
        """Return whether a process holds the lock; True if that cannot be determined."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def delete_unstarted(self) -> None:
        """Delete the directory of a run that could not start; other files in it are kept."""
        for name in ("config.yaml", "environment.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()

    def module_directory(self, module: str) -> Path:
        """Return the directory of a module's outputs, ``module001_vae`` for the first above the observation."""
        return (self.outputs or self.path) / f"module{self.graph.number(module):03d}_{module}"

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.yaml`` durably: the run cannot be resumed without it."""
        self._write("config.yaml", config.to_yaml())

    def _write(self, name: str, text: str) -> None:
        storage_at(self.path.parent.resolve()).write(f"{self.name}/{name}", text.encode())

    def write_environment(self, address: str, *, detached: bool = False, own: bool = False) -> list[str]:
        """Write ``environment.json``: versions, machine, and the cluster of the run.

        Parameters
        ----------
        address : str
            Address of the cluster.
        detached : bool
            Whether the run outlives this process.
        own : bool
            Whether the cluster ends with this process.

        Returns
        -------
        list of str
            The changes since the file was last written that may change the bits of the run.
        """
        now = {**current_environment(), "address": address, "pid": os.getpid(), "detached": detached, "own": own}
        before = self.environment() or now
        self.write_json("environment.json", now)
        return describe_changes(before, now)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the run's directory, atomically and durably."""
        self._write(name, json.dumps(content, indent=1, allow_nan=True) + "\n")

    def environment(self) -> dict[str, Any]:
        """Read ``environment.json``; empty if the run ended before it was written."""
        return self.read_json("environment.json") if (self.path / "environment.json").exists() else {}

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run's directory.

        Raises
        ------
        RunDirectoryError
            If it does not exist or is not JSON.
        """
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{self.path / name}: cannot be read; is {self.path} a run's directory?") from error
        return content

    def record(self, commit: str) -> RoundScores:
        """Write the outputs of the modules that were updated in a commit's round, and its line of ``metrics.csv``."""
        manifest, outputs = self._open_commit(commit)
        for module in manifest.modules:
            if module not in self.graph.sources and manifest.modules[module].round == manifest.round:
                self.write_outputs(module, outputs(module), "learn")
        scores = self._compute_scores(manifest, outputs)
        self.metrics_file.append(scores)
        return scores

    def scores(self, commit: str) -> RoundScores:
        """Return the metrics of a commit."""
        return self._compute_scores(*self._open_commit(commit))

    def _open_commit(self, commit: str) -> tuple[Manifest, Callable[[str], Mapping[str, Array]]]:
        """Return the manifest of a commit, and a function that returns the outputs of a module (each read once)."""
        manifest = self.checkpoints.manifest(commit)
        return manifest, cache(lambda module: self.checkpoints.outputs(manifest, module))

    def repair(self) -> None:
        """Remove incomplete lines of the log and of ``metrics.csv``, left by a killed process or a full disk."""
        self.log.repair()
        self.metrics_file.rewind()

    def import_saved_events(self) -> None:
        """Append to the log the events that an ended coordinator saved beside its commits for the next driver."""
        files, last = self.checkpoints.status_files, self.log.last_time()
        if saved := files.read_events():
            events = [(time, parse_event(name, fields)) for name, time, fields in saved if time > last]
            self.log.append([TimedEvent(time, event) for time, event in events if event is not None])
            files.clear_events()

    def unrecorded_commits(self, until: float = math.inf) -> list[str]:
        """Return the commits of complete rounds up to `until` without a line in ``metrics.csv``, oldest first."""
        last = self.metrics_file.last_round()
        matches = {name: re.fullmatch(r"round-(\d+)", name) for name in self.checkpoints.names()}
        return [name for name, match in matches.items() if match and last < int(match.group(1)) <= until]

    def _compute_scores(self, manifest: Manifest, outputs: Callable[[str], Mapping[str, Array]]) -> RoundScores:
        """Return the metrics of a commit; `outputs` returns the outputs of a module."""
        evidence = None
        agreement: Scores | None = None
        for module in self.graph.modules:  # the values of the last one, the most abstract, are kept
            record = manifest.modules.get(module)
            if record is None:
                continue
            evidence = record.metrics.get("evidence", evidence)
            categories = self.categories_of(module)
            if categories is not None and "outputs" in record.files:
                classes = outputs(module).get("class")
                agreement = score(classes, categories) if classes is not None else agreement
        return RoundScores(manifest.round, evidence, agreement, manifest.score)

    def categories_of(self, module: str) -> Array | None:
        """Return the labels with which the classes of `module` are compared."""
        return self.categories.get(module, self.categories.get(""))

    def write_outputs(
        self, module: str, outputs: Mapping[str, Array], phase: str, categories: Array | None = None
    ) -> None:
        """Write a module's outputs (:func:`runner.runs.outputs.write_arrays`), and the accuracy of its classes.

        Parameters
        ----------
        module : str
        outputs : mapping of str to ndarray
        phase : {"learn", "recog"}
        categories : ndarray (N,), optional
            Labels; by default, in the phase ``learn``, those of the run.
        """
        directory = self.module_directory(module)
        write_arrays(directory, outputs, phase)
        labels = self.categories_of(module) if categories is None and phase == "learn" else categories
        if labels is not None and "class" in outputs:
            accuracy = score(outputs["class"], labels).accuracy
            (directory / f"acc_{phase}.txt").write_text(f"{accuracy:.6f}\n", encoding="utf-8")

    def read_output(self, module: str, name: str, phase: str) -> Array | None:
        """Return an output that :meth:`write_outputs` wrote, or None if there is none."""
        return read_array(self.module_directory(module), name, phase)

    def write_models(self) -> None:
        """Copy each module's last state to its output directory, as ``model.safetensors``."""
        manifest = self.checkpoints.latest()
        for module, record in manifest.modules.items() if manifest else ():
            if module not in self.graph.sources:
                data = self.checkpoints.read(record.files["state"])
                self.module_directory(module).mkdir(parents=True, exist_ok=True)
                (self.module_directory(module) / "model.safetensors").write_bytes(data)


class OpenedRun(NamedTuple):
    """The config and the directory of a run; the config is read once per command."""

    config: RunConfig
    directory: RunDirectory


def open_run(path: Path, settings: Sequence[str] = ()) -> OpenedRun:
    """Read the config of the run in `path`, overridden by `settings`; the directory has no categories yet."""
    config = load_config(path / "config.yaml", settings)
    return OpenedRun(config, RunDirectory(path, config.graph, storage=config.checkpoints.storage))


def find_run(run: str, runs: Path) -> Path:
    """Return the directory of `run`: a path, or a name below `runs`.

    Raises
    ------
    RunDirectoryError
        If there is none; names the existing runs.
    """
    for path in (Path(run), runs / run):
        if (path / "config.yaml").is_file():
            return path if path.name not in ("", "..") else path.resolve()
    existing = sorted(path.parent.name for path in runs.glob("*/config.yaml"))
    hint = f"the runs in {runs} are {', '.join(existing)}" if existing else f"there are none in {runs}"
    raise RunDirectoryError(f"{run}: no such run; {hint}")
