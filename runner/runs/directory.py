"""The run directory: a run's config, log, metrics, outputs and models, derived from its commits.

The driver computes all readable files (text outputs, metrics by round, accuracy) from the checkpoints. Labels are used
here only: neither modules nor the coordinator receive them.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from actors.coordination.events import TimedEvent
from actors.errors import CheckpointError, ModuleError, StorageError
from actors.graph.graph import Graph
from actors.graph.registry import find
from actors.limits import MAX_RUN_FILE_BYTES, MAX_WHOLE_ROWS
from actors.storage.checkpoints import Checkpoints
from actors.storage.claims import ClaimedError, claim_storage, is_claimed, probe_storage, release_storage
from actors.storage.manifest import Manifest, ModuleRecord
from actors.storage.parts import POSTERIOR, CommittedOutputs
from actors.storage.safe_files import open_file, open_root
from actors.storage.status_files import SavedEvent
from actors.types import Array, State
from runner.config.cross_checks import RUN_NAME, run_name_problem
from runner.config.model_files import setting_from_here
from runner.config.run_config import Override, RunConfig, load_config
from runner.report.clustering_metrics import Scores, matched_classes, score
from runner.report.printable import printable_line
from runner.report.reliability import reliability
from runner.runs.environment import current_environment, describe_changes
from runner.runs.event_log import EventLog, LogPosition, parse_checked_event
from runner.runs.levels import modules_of_regimes
from runner.runs.outputs import TEXT_COLUMNS, TEXT_ROWS, read_array, write_arrays
from runner.runs.records import MetricsFile, RoundScores
from runner.runs.run_files import RunDirectoryError, RunFiles
from runner.runs.scales import MAX_SCALES_BYTES, SCALES, unpack_scales
from runner.runs.tables import class_table, read_class_table, row_table

__all__ = ["OpenedRun", "RunDirectory", "RunDirectoryError", "find_run", "open_run"]

IMPORTED = "imported.json"
"""The file of an imported run: its name where it was exported, whether it has the rows, and how many sequences."""

_CLAIM = "claim.json"
_log = logging.getLogger(__name__)


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
    numbers : mapping of str to int
        The number of each module in the names of the output directories; by default that of the graph.
    recognizing : frozenset of str
        Modules that recognize at each update: their outputs are written as those of recognition.
    reports : bool
        Whether a report is written at the end of the run.

    Attributes
    ----------
    rows_without_categories : set of str
        A sentence for each module whose rows are not those of the categories.
    said : set of str
        What was logged about outputs, each once.
    """

    path: Path
    graph: Graph
    categories: Mapping[str, Array] = field(default_factory=dict)
    outputs: Path | None = None
    storage: str | None = None
    numbers: Mapping[str, int] = field(default_factory=dict)
    recognizing: frozenset[str] = frozenset()
    reports: bool = True
    rows_without_categories: set[str] = field(default_factory=set, init=False)
    said: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _directories: dict[Path, RunFiles] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def create(
        cls, runs: Path, name: str, graph: Graph, *, exact: bool = False, remedy: str = "", **kwargs: Any
    ) -> RunDirectory:
        """Create the directory of a new run in `runs`: `name`, or `name`-2, -3, … if that exists.

        `remedy` is what else can be done, besides choosing another name, if `exact` and the name is taken.

        Raises
        ------
        RunDirectoryError
            If the name is not valid, if `exact` and it exists, or if the directory cannot be created.
        """
        check_run_name(name)
        for attempt in range(1, 10_000):
            path = runs / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError as error:
                if exact:
                    raise RunDirectoryError(
                        f"{path}: there is a run of this name; choose another --name{remedy}"
                    ) from error
                continue
            except OSError as error:
                raise RunDirectoryError(f"{path}: cannot be created ({error.strerror}); choose other --runs") from error
            created = cls(path, graph, **kwargs)
            try:
                is_free = created._take_storage()
            except BaseException:
                created.delete_unstarted()
                raise
            if is_free:
                return created
            created.delete_unstarted()
            if exact:
                raise RunDirectoryError(
                    f"{created.checkpoints.root}: there are commits or a claim of a run of this name; "
                    "choose another --name"
                )
        raise RunDirectoryError(f"{runs}: there are too many runs called {name}; choose another --name")

    def _take_storage(self) -> bool:
        """Probe and claim the storage of a new run; return False if another run has commits or a claim there.

        Raises
        ------
        StorageError
            If the storage cannot be used.
        """
        if not self.storage:
            return True
        root = str(self.checkpoints.root)
        try:
            if self.checkpoints.names() or is_claimed(root):
                return False
        except (CheckpointError, OSError) as error:
            raise StorageError(f"{root}: the storage of the run cannot be read ({error})") from error
        probe_storage(root)
        try:
            self.claim()
        except ClaimedError:
            return False
        return True

    def claim(self) -> None:
        """Claim the storage of the commits for this run, if it is not in the run's directory.

        Raises
        ------
        StorageError
            If another run has claimed it, or if the claim cannot be written.
        """
        if not self.storage:
            return
        root = str(self.checkpoints.root)
        token = self.claim_token()
        if not token:
            token = uuid.uuid4().hex
            self.write_json(_CLAIM, {"token": token, "storage": root})
        claim_storage(root, self.name, token)

    def claim_token(self) -> str:
        """Return the token of this run's claim, empty if there is none."""
        return str(self.read_json(_CLAIM).get("token", "")) if self._files.exists(_CLAIM) else ""

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
        modules = self.graph.modules if self.graph else None
        return Checkpoints(self.commits_location, modules=modules or None)

    @property
    def commits_location(self) -> Path | str:
        """Where the commits lie, a path or a URL; nothing is opened."""
        if self.storage:
            return f"{self.storage.rstrip('/')}/{self.name}"
        return self._files.root / "checkpoints"  # it must not be a link itself

    @property
    def _files(self) -> RunFiles:
        """The files of this directory, which is refused if it is replaced while this process uses it."""
        return self._opened(self.path)

    def _opened(self, path: Path) -> RunFiles:
        return self._directories.setdefault(path, RunFiles(path))

    @property
    def metrics_file(self) -> MetricsFile:
        """The metrics of each round, in ``metrics.csv``."""
        return MetricsFile(self.path / "metrics.csv", self._files)

    @property
    def log(self) -> EventLog:
        """The event log, in ``events.jsonl``."""
        return EventLog(self.path / "events.jsonl", self.name, self._files)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory against other processes that write into it.

        Raises
        ------
        RunDirectoryError
            If another process holds the lock, or if the directory is not writable.
        """
        try:
            lock = self._make_lock()
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

    def _make_lock(self, timeout: float = -1) -> FileLock:
        """Return the lock, whose file is created if it does not exist.

        Raises
        ------
        OSError
            If there is a link, a file with other names, or anything but a file in its place.
        """
        path = self.path.resolve() / ".lock"
        directory = open_root(path.parent)
        try:
            descriptor = open_file(directory, path.name, os.O_RDWR | os.O_CREAT)
            links = os.fstat(descriptor).st_nlink
            os.close(descriptor)
        finally:
            os.close(directory)
        if links > 1:  # filelock empties the file
            raise OSError(errno.EMLINK, f"{path.name} has {links} names; delete it")
        return FileLock(path, timeout=timeout)

    def wait_for_lock(self) -> None:
        """Wait until no other process holds the lock."""
        with self._make_lock():
            return

    def is_locked(self) -> bool:
        """Return whether a process holds the lock; True if that cannot be determined."""
        try:
            with self._make_lock(timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def delete_unstarted(self) -> None:
        """Delete the directory of a run that could not start; other files in it are kept."""
        with suppress(RunDirectoryError):
            if self.storage and (token := self.claim_token()):
                release_storage(self.checkpoints.root, token)
        with suppress(OSError):
            self._files.delete(["config.yaml", "environment.json", _CLAIM, ".lock"])
            self.path.rmdir()

    def module_directory(self, module: str) -> Path:
        """Return the directory of a module's outputs, ``module001_vae`` for the first above the observation."""
        return (self.outputs or self.path) / self._module_directory_name(module)

    def names_of_classes(self, module: str) -> dict[int, str]:
        """Return the category to which each class of a module was matched, by its name; empty if that is not known."""
        try:
            name = f"{self._module_directory_name(module)}/classes_learn.csv"
            return read_class_table(self._output_files.read_bounded(name, MAX_RUN_FILE_BYTES).decode())
        except (RunDirectoryError, ValueError):
            return {}

    def _module_directory_name(self, module: str) -> str:
        number = self.numbers[module] if module in self.numbers else self.graph.number(module)
        return f"module{number:03d}_{module}"

    @property
    def _output_files(self) -> RunFiles:
        """The files of the parent of the modules' directories."""
        return self._opened(self.outputs or self.path)

    def write_config(self, config: RunConfig) -> None:
        """Write ``config.yaml`` durably: the run cannot be resumed without it."""
        self._write("config.yaml", config.to_yaml(self.path))

    def _write(self, name: str, text: str) -> None:
        self._files.write(name, text.encode())

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

    def config_text(self) -> str:
        """Return the text of ``config.yaml``; empty if there is none."""
        return self._files.read_config() if self._files.exists("config.yaml") else ""

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file into the run's directory, atomically and durably."""
        self._write(name, json.dumps(content, indent=1, allow_nan=True) + "\n")

    def environment(self) -> dict[str, Any]:
        """Read ``environment.json``; empty if the run ended before it was written."""
        return self.read_json("environment.json") if self._files.exists("environment.json") else {}

    def imported(self) -> dict[str, Any]:
        """Read ``imported.json``: where an imported run is from, and what of it is here; empty if it is no such run."""
        return self.read_json(IMPORTED) if self._files.exists(IMPORTED) else {}

    def scales(self, sources: Sequence[str]) -> dict[str, State]:
        """Return how the columns of `sources` are scaled, of an imported run without rows.

        Raises
        ------
        RunDirectoryError
            If that is not known.
        """
        try:
            return unpack_scales(self._files.read_bounded(SCALES, MAX_SCALES_BYTES), sources)
        except ValueError as error:
            raise RunDirectoryError(f"{self.path}: how its rows are scaled is not known: {error}") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run's directory.

        Raises
        ------
        RunDirectoryError
            If it does not exist, is not JSON, or has values that are not valid.
        """
        return self._files.read_object(name)

    def record(self, commit: str) -> RoundScores:
        """Write the outputs of the modules that were updated in a commit's round, and its line of ``metrics.csv``."""
        manifest, outputs = self._open_commit(commit)
        for module in manifest.modules:
            if module not in self.graph.sources and manifest.modules[module].round == manifest.round:
                self.write_outputs(module, outputs(module), "recog" if module in self.recognizing else "learn")
        scores = self._compute_scores(manifest, outputs)
        self.metrics_file.append(scores)
        return scores

    def _unsent(self, module: str) -> dict[str, str]:
        """Return a sentence for each message that a module with many rows does not send because nothing reads it."""
        return {
            slot.name: f"{module}: {slot.port} of more than {MAX_WHOLE_ROWS:,} rows are not sent: no module reads them"
            for slot in self.graph.slots(module)
            if slot.unread
        }

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

    def import_saved_events(self, received: LogPosition | None = None) -> list[TimedEvent]:
        """Append to the log the events that a coordinator saved beside and in its commits, and that the log lacks.

        The directory must be locked by this process.

        Parameters
        ----------
        received : LogPosition, optional
            Up to which events are known to be in the log, which is read only if some are not.

        Returns
        -------
        list of TimedEvent
            The appended events.
        """
        in_commit: Sequence[SavedEvent] = ()
        with suppress(CheckpointError):  # a damaged commit is reported by those who need it
            # It is read before the files, as it lacks what the coordinator has written into them before.
            newest = self.checkpoints.latest()
            in_commit = newest.events if newest else ()
        files, new = self.checkpoints.status_files, []
        saved = [each for event in (*files.read_events(), *in_commit) if (each := _timed_event(*event))]
        if not all(received and each.incarnation and not received.is_new(each) for each in saved):
            self.log.repair()  # a driver that was killed may have left an incomplete line
            known, imported = self.log.position(), set()
            for each in saved:
                identity = (each.incarnation, each.number)
                if known.is_new(each) and not (each.incarnation and identity in imported):
                    imported.add(identity)
                    new.append(each)
            self.log.append(new)
        files.clear_events()
        return new

    def unrecorded_commits(self, until: float = math.inf) -> list[str]:
        """Return the commits of complete rounds up to `until` without a line in ``metrics.csv``, oldest first."""
        last = self.metrics_file.last_round()
        matches = {name: re.fullmatch(r"round-(\d+)", name) for name in self.checkpoints.names()}
        return [name for name, match in matches.items() if match and last < int(match.group(1)) <= until]

    def _compute_scores(self, manifest: Manifest, outputs: Callable[[str], Mapping[str, Array]]) -> RoundScores:
        """Return the metrics of a commit; `outputs` returns the outputs of a module."""
        by_module: dict[str, Scores] = {}
        for module in self.graph.modules:  # the values of the last one, the most abstract, are kept
            record = manifest.modules.get(module)
            if record is None:
                continue
            if self.categories_of(module) is not None and record.has_outputs:
                classes = outputs(module).get("class")
                labels = None if classes is None else self.categories_of(module, len(classes))
                if classes is not None and labels is None:
                    self.rows_without_categories.add(
                        f"{module} has classes of {len(classes)} rows, the categories are those of other rows: its "
                        f"accuracy is not computed; give categories of its own, by module"
                    )
                elif classes is not None and labels is not None:
                    by_module[module] = compare(module, outputs(module), labels)
        agreement = list(by_module.values())[-1] if by_module else None
        return RoundScores(manifest.round, manifest.evidence(self.graph.modules), agreement, manifest.score, by_module)

    def categories_of(self, module: str, rows: int | None = None) -> Array | None:
        """Return the labels with which the classes of `module` are compared.

        If it has `rows` of its own, the labels that are common to all modules are those of other rows, and of a module
        whose classes are regimes of one below they are those of other classes.
        """
        common = None if module in modules_of_regimes(self.graph) else self.categories.get("")
        if common is not None and rows is not None and len(common) != rows:
            common = None
        return self.categories.get(module, common)

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
        directory = self._module_directory_name(module)
        sentences = write_arrays(self._output_files, module, directory, outputs, phase)
        self._say(directory, {**sentences, **(self._unsent(module) if "long" in sentences else {})})
        if "class" not in outputs:
            return
        classes = outputs["class"]
        if categories is None and (phase == "learn" or module in self.recognizing):
            categories = self.categories_of(module, len(classes))
        elif categories is not None and len(categories) != len(classes):
            categories = None  # they are those of the data, and the module has rows of its own
        if categories is not None:
            accuracy = compare(module, outputs, categories).accuracy
            with self._output_files.create(f"{directory}/acc_{phase}.txt") as file:
                file.write(f"{accuracy:.6f}\n".encode())
            matched = {"class_matched": matched_classes(classes, categories)}
            write_arrays(self._output_files, module, directory, matched, phase)
            with self._output_files.create(f"{directory}/classes_{phase}.csv") as file:
                file.write(class_table(classes, categories).encode())

    def delete_outputs(self, module: str, phase: str) -> None:
        """Delete the files of a module's outputs in a phase, so that none stays beside those of other rows."""
        files, directory = self._output_files, self._module_directory_name(module)
        delete = [
            f"{directory}/{name}" for name in files.names_in(directory) if re.search(rf"_{phase}\.(txt|npy|csv)$", name)
        ]
        for folder in files.directories_in(directory):  # of many rows
            if folder.endswith(f"_{phase}"):
                delete += [f"{directory}/{folder}/{name}" for name in files.names_in(f"{directory}/{folder}")]
        if delete:
            files.delete(delete)
        for parent in sorted({path.rpartition("/")[0] for path in delete} - {directory}):
            files.delete_directory(parent)

    def _say(self, directory: str, sentences: Mapping[str, str]) -> None:
        """Log what the files of a module's outputs are, once for each kind of them."""
        for kind, sentence in sentences.items():
            if f"{directory}/{kind}" not in self.said:
                self.said.add(f"{directory}/{kind}")
                _log.warning("%s", sentence)

    def write_sequences(self, module: str, columns: Mapping[str, Array], phase: str) -> None:
        """Write a table with a line for each sequence as ``sequences_<phase>.txt``; without columns, delete the file.

        Its first line, a comment, has the names of the columns.
        """
        files, path = self._output_files, f"{self._module_directory_name(module)}/sequences_{phase}.txt"
        if not columns:
            with suppress(OSError):
                files.delete([path])
            return
        whole = [array.dtype.kind in "iu" for array in columns.values()]
        with files.create(path) as file:
            table = np.column_stack([array.astype(np.float64) for array in columns.values()])
            np.savetxt(file, table, fmt=["%d" if each else "%.8g" for each in whole], header=" ".join(columns))

    def read_output(self, module: str, name: str, phase: str) -> Array | None:
        """Return an output that :meth:`write_outputs` wrote, or None if there is none."""
        return read_array(self._output_files, self._module_directory_name(module), name, phase)

    def write_models(self) -> None:
        """Copy each module's last state to its output directory, as ``model.safetensors``.

        Covariances of classes are written as text beside it: ``covariances_learn.txt``, D lines for each class.
        """
        manifest = self.checkpoints.latest()
        for module, record in manifest.modules.items() if manifest else ():
            if module not in self.graph.sources and module not in self.recognizing:
                path = f"{self._module_directory_name(module)}/model.safetensors"
                with self._output_files.create(path) as file:
                    file.write(self.checkpoints.read_label(record, "state"))
                self._write_covariances(record, module)

    def _write_covariances(self, record: ModuleRecord, module: str) -> None:
        """Write the expected covariance of each class of a Gaussian mixture, if they are not too many for a text."""
        covariances_in = getattr(find(self.graph.modules[module].type), "covariances_in", None)
        found = None if covariances_in is None else covariances_in(self.checkpoints.load(record, "state"))
        if found is not None and found.shape[1] <= TEXT_COLUMNS:
            with self._output_files.create(f"{self._module_directory_name(module)}/covariances_learn.txt") as file:
                header = "{} classes, {} lines of {} numbers for each".format(*found.shape)
                np.savetxt(file, found.reshape(-1, found.shape[1]), fmt="%.8g", header=header)

    def write_rows(
        self, phase: str, lengths: Array | None, classes: Mapping[str, Array], categories: Array | None
    ) -> None:
        """Write ``rows_<phase>.csv``, what is known of each row, unless there are too many rows.

        Modules that have rows of their own, in another number than the first, are left out.
        """
        rows = next((len(each) for each in classes.values()), 0)
        if 0 < rows <= TEXT_ROWS:
            alike = {module: each for module, each in classes.items() if len(each) == rows}
            with self._output_files.create(f"rows_{phase}.csv") as file:
                file.write(row_table(rows, lengths, alike, categories).encode())

    @contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Open a file of this directory for writing; it gets its name at the end of the block."""
        with self._files.create(name) as file:
            yield file

    def delete_file(self, name: str) -> None:
        """Delete a file of this directory, if it is there and can be deleted."""
        with suppress(OSError):
            self._files.delete([name])


def confidence_of(outputs: Mapping[str, Array]) -> Array | None:
    """Return the largest class probability (N,) of each row; None of outputs without a posterior."""
    if isinstance(outputs, CommittedOutputs):  # of many rows no process needs all posteriors
        return outputs.confidence
    return outputs[POSTERIOR].max(axis=1) if POSTERIOR in outputs else None


def compare(module: str, outputs: Mapping[str, Array], categories: Array) -> Scores:
    """Return the agreement of a module's classes and probabilities with the categories.

    Parameters
    ----------
    module : str
    outputs : mapping of str to ndarray
        With ``class``; without ``Pdz`` no calibration error is known.
    categories : ndarray (N,)

    Raises
    ------
    ModuleError
        If they cannot be compared.
    """
    try:
        classes, confidence = outputs["class"], confidence_of(outputs)
        scores = score(classes, categories)
        if confidence is None:
            return scores
        return replace(scores, ece=reliability(confidence, classes, categories).ece)
    except (ValueError, TypeError, OverflowError) as error:
        raise ModuleError(f"module {module!r}: its classes cannot be compared with the categories: {error}") from error


def _timed_event(
    name: str, time: float, fields: Mapping[str, Any], number: int = -1, incarnation: str = ""
) -> TimedEvent | None:
    """Return an event of the status files; None if it is of no known kind."""
    event = parse_checked_event(name, fields)
    return None if event is None else TimedEvent(time, event, number, incarnation)


def check_run_name(name: str) -> None:
    """Raise RunDirectoryError if a text cannot be the name of a run, and so of its directory."""
    if not re.fullmatch(RUN_NAME, name):
        raise RunDirectoryError(f"{printable_line(name, 40)!r} cannot be a run's name: {run_name_problem(name)}")


class OpenedRun(NamedTuple):
    """The config and the directory of a run; the config is read once per command."""

    config: RunConfig
    directory: RunDirectory


def open_run(path: Path, settings: Sequence[Override] = ()) -> OpenedRun:
    """Read the config of the run in `path`, overridden by `settings`; the directory has no categories yet."""
    typed = [setting_from_here(each, path.absolute()) for each in settings]
    config = load_config(path / "config.yaml", typed, text=RunFiles(path).read_config())
    directory = RunDirectory(path, config.graph, storage=config.checkpoints.storage, reports=config.report)
    return OpenedRun(config, directory)


LATEST = "latest"
"""Stands for the run that was begun last, if none is called so."""


def find_run(run: str, runs: Path) -> Path:
    """Return the directory of `run`: a path, a name below `runs`, or ``latest``, the one begun last.

    Raises
    ------
    RunDirectoryError
        If there is none; names the existing runs.
    """
    for path in (Path(run), runs / run):
        if os.path.lexists(path / "config.yaml"):  # reading it reports what is no regular file
            return path if path.name not in ("", "..") else path.resolve()
    configs = list(runs.glob("*/config.yaml"))
    if run == LATEST and configs:
        return max(configs, key=lambda path: path.lstat().st_mtime_ns).parent
    existing = sorted(path.parent.name for path in configs)
    hint = f"the runs in {runs} are {', '.join(existing)}" if existing else f"there are none in {runs}"
    raise RunDirectoryError(f"{run}: no such run; {hint}")
