"""The runs below a directory, from small files alone: ``serket list``.

Nothing is written, no link is followed, no code is imported that a config names, and no cluster is asked. A run that
cannot be read is listed with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from actors.errors import CheckpointError
from actors.limits import (
    MAX_CONFIG_DEPTH,
    MAX_CONFIG_NODES,
    MAX_LISTED_DEPTH,
    MAX_LISTED_ENTRIES,
    MAX_LISTED_RUNS,
    MAX_RUN_FILE_BYTES,
)
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import commit_order
from runner.report.printable import printable_line
from runner.runs.records import MetricsFile
from runner.runs.run_files import RunDirectoryError, RunFiles
from runner.runs.state import RunRecord, read_record

_SIGNS = frozenset(["checkpoints", "environment.json", "events.jsonl", "result.json"])
"""What is beside ``config.yaml`` in the directory of a run, one of it at least."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class ListedRun:
    """What is known of a run from its small files.

    Parameters
    ----------
    name : str
        Its path below the directory that was searched.
    path : str
    model : str
        The name in its config; empty if that cannot be read.
    state : {"running", "done", "failed", "stopped", "damaged"}
    detached : bool
        Whether it was left to its cluster: it is running as far as is known here.
    round, rounds : int or None
        The last committed round, and how many there will be.
    accuracy, evidence : float or None
        Of the last round.
    changed : float
        When one of its files was last written, in Unix time.
    size : int
        Bytes of its files; at least, if there are very many.
    problem : str
        Why it cannot be read; empty if it can.
    """

    name: str
    path: str
    model: str = ""
    state: str = "damaged"
    detached: bool = False
    round: int | None = None
    rounds: int | None = None
    accuracy: float | None = None
    evidence: float | None = None
    changed: float = 0.0
    size: int = 0
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def list_runs(directory: Path) -> list[ListedRun]:
    """Return the runs in a directory and in those below it, the one that was changed last first.

    Raises
    ------
    RunDirectoryError
        If there is no such directory, or if it cannot be read.
    """
    try:
        paths = list(_find_runs(directory, 0))
    except NotADirectoryError:
        raise RunDirectoryError(f"{directory}: is a file; give the directory that holds the runs") from None
    except OSError as error:
        raise RunDirectoryError(
            f"{directory}: cannot be read ({error.strerror}); give the directory that holds the runs"
        ) from None
    if len(paths) > MAX_LISTED_RUNS:
        raise RunDirectoryError(
            f"{directory}: there are more than {MAX_LISTED_RUNS:,} runs below it; give one of the directories in it"
        )
    return sorted((_list_run(path, directory) for path in paths), key=lambda run: (-run.changed, run.name))


def is_run(directory: Path) -> bool:
    """Return whether a directory has the files by which that of a run is known."""
    with suppress(OSError), os.scandir(directory) as entries:
        return _has_signs({entry.name for entry in entries})
    return False


def _has_signs(names: Collection[str]) -> bool:
    return "config.yaml" in names and not _SIGNS.isdisjoint(names)


def _find_runs(directory: Path, depth: int) -> Iterator[Path]:
    """Yield the run directories below a directory, or itself; at most one more than may be listed."""
    with os.scandir(directory) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    if _has_signs(found):
        yield directory
        return
    if depth == MAX_LISTED_DEPTH:
        return
    number = 0
    for name in sorted(name for name, is_directory in found.items() if is_directory and not name.startswith(".")):
        with suppress(OSError):  # of another user, or deleted meanwhile
            for path in _find_runs(directory / name, depth + 1):
                yield path
                number += 1
                if number > MAX_LISTED_RUNS:
                    return


def _list_run(path: Path, directory: Path) -> ListedRun:
    name = path.absolute().name if path == directory else str(path.relative_to(directory))
    changed, size = _measure(path)
    known: dict[str, Any] = {"name": printable_line(name), "path": str(path), "changed": changed, "size": size}
    try:
        return ListedRun(**known, **_read(path))
    except (OSError, ValueError, CheckpointError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return ListedRun(**known, problem=printable_line(reason))


def _measure(path: Path) -> tuple[float, int]:
    """Return when a file below a directory was last written, and the bytes of all."""
    changed, size, left, pending = 0.0, 0, MAX_LISTED_ENTRIES, [path]
    while pending and left > 0:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    break
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))
                    continue
                status = entry.stat(follow_symlinks=False)
                size += status.st_size
                if entry.name != ".lock":
                    changed = max(changed, status.st_mtime)
    return changed, size


def _read(path: Path) -> dict[str, Any]:
    """Return the fields of :class:`ListedRun` that files of a run tell.

    Raises
    ------
    OSError, ValueError, CheckpointError, yaml.YAMLError
        If one of them cannot be read, or is not valid.
    """
    files = RunFiles(path)
    outline = read_outline(files.read_config())
    commits = [] if outline.pop("storage") else Checkpoints(files.root / "checkpoints").names()
    last = commit_order(commits[-1]) if commits else None
    known: dict[str, Any] = {**outline, "round": last and last[0] - (last[1] != float("inf"))}
    if known["round"] and known["rounds"] and known["round"] > known["rounds"]:
        known["rounds"] = None  # a script updates as often as it likes
    result = files.read_object("result.json") if files.exists("result.json") else {}
    if result:
        return {**known, "state": "done", "round": result.get("rounds", known["round"]), **_figures(result)}
    if 0 < (files.size("metrics.csv") or 0) <= MAX_RUN_FILE_BYTES:
        rows = MetricsFile(path / "metrics.csv", files).rows()
        known |= _figures(rows[-1]) if rows else {}
    record = read_record(path)
    if record is not None and _is_alive(record):
        return {**known, "state": "running", "detached": record.detached}
    failed = files.exists("checkpoints/failure/reason.txt")
    return {**known, "state": "failed" if failed else "stopped"}


def _figures(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values.get(name) for name in ("accuracy", "evidence")}


def _is_alive(record: RunRecord) -> bool:
    """Return whether the driver of a run is alive; of a detached run, which needs none, True."""
    return record.detached or psutil.pid_exists(record.pid)


def read_outline(text: str) -> dict[str, Any]:
    """Return the name and the rounds in a config, and the storage of its commits, without making objects of it.

    Raises
    ------
    ValueError, yaml.YAMLError
        If it is no YAML map, or too large.
    """
    found: dict[tuple[str, ...], str] = {}
    place: list[str | None] = []  # the key in each map or list around the present event; None: no key yet
    for number, event in enumerate(yaml.parse(text, _Parser)):
        if number > 4 * MAX_CONFIG_NODES or len(place) > MAX_CONFIG_DEPTH:
            raise ValueError("config.yaml: has too many values")
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            _take(getattr(event, "value", ""), place, found)
        elif isinstance(event, yaml.CollectionStartEvent):
            place.append(None if isinstance(event, yaml.MappingStartEvent) else "[]")
        elif isinstance(event, yaml.CollectionEndEvent):
            place.pop()
            if place and place[-1] != "[]":
                place[-1] = None
    rounds = found.get(("schedule", "rounds"), "")
    if ("name",) not in found:
        raise ValueError("config.yaml: has no name; is it the config of a run?")
    storage = found.get(("checkpoints", "storage"), "null")
    return {
        "model": printable_line(found["name",], 100),
        "rounds": int(rounds) if rounds.isdecimal() and len(rounds) < 10 else None,
        "storage": "" if storage in ("null", "~") else storage,
    }


def _take(value: str, place: list[str | None], found: dict[tuple[str, ...], str]) -> None:
    """Take a scalar as the key of the map that contains it, or as the value of that key."""
    if not place or place[-1] == "[]":
        return
    if place[-1] is None:
        place[-1] = value
        return
    found.setdefault(tuple(map(str, place)), value)
    place[-1] = None
