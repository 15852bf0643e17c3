"""What is left of a run: actors, which a resumed run ends, and files, which ``serket run --overwrite`` deletes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from actors.errors import StorageError
from actors.graph.graph import Graph
from actors.storage.claims import CLAIM, read_claim
from actors.storage.filesystem import storage_at
from runner.cluster.errors import UnprovenError
from runner.config.run_config import RunConfig
from runner.report.printable import format_bytes, printable_line
from runner.runs.directory import RunDirectory, RunDirectoryError, check_run_name
from runner.runs.listing import is_run, read_outline
from runner.runs.run_files import RunFiles
from runner.runs.state import is_known_storage, read_record, remove_record

FORMER_RUN_SECONDS = 20.0
"""Seconds to wait until a cluster has ended the actors of a driver that ended."""

_PART = r"(\.[^/]*\.part)?"
"""The end of the temporary name of a file that was being written when its process was killed."""

_OWN = re.compile(
    rf"""
    (config\.yaml | (claim|environment|imported|live|merged|mlflow|result)\.json | metrics\.csv | events\.jsonl | \.lock
     | (report|comparison)\.html | error\.txt | scales\.safetensors){_PART}
    | (class_means|confusion|generated|latents|predicted|progress|states|transitions)(_[^/]*)?\.(png|pdf|svg){_PART}
    | (data|code|tensorboard)(/.*)?
    | module[0-9]{{3,}}_[^/]+
    | module[0-9]{{3,}}_[^/]+/[^/]+_(learn|recog)
    | rows_(learn|recog)\.csv{_PART}
    | module[0-9]{{3,}}_[^/]+/[^/]+_(learn|recog)(\.(txt|npy|csv)|/[0-9]+\.npy){_PART}
    | module[0-9]{{3,}}_[^/]+/(loss\.(txt|npy)|model\.safetensors){_PART}
    | checkpoints(/(round-[^/]+|failure|unread_events|unheard|claim|probe)(/[^/]+)?)?
    """,
    re.VERBOSE,
)
"""The paths that this software makes in the directory of a run."""


def end_former_run(directory: RunDirectory, address: str | None) -> None:
    """Raise an error if the run is still running; otherwise end its actors that are left on a cluster.

    A cluster that was started by the run's driver outlives a killed driver by some seconds; wait for its end. A run of
    which the user's state has no record counts as not running.
    """
    record = read_record(directory.path)
    if record is None or not record.address:  # it ran in its driver's process, which does not hold the lock any more
        return
    from runner.runs.connect import await_end_of_cluster, connect_to_run  # import Ray

    if record.detached:
        named = address if address == record.address else None
        # A cluster without the proof has taken the place of the run's own.
        with suppress(UnprovenError), connect_to_run(directory, locked=True, address=named) as client:
            ended = client.ended() if client else "not running"
            if ended in ("", "done"):
                what = "is done" if ended else "is still running"
                raise RunDirectoryError(
                    f"{directory.path}: the run {what}; see it with serket attach {directory.cli_name}"
                )
            if client:
                client.stop()
                remove_record(directory.path)
    await_end_of_cluster(record, FORMER_RUN_SECONDS)


class _Entry(NamedTuple):
    """A file or directory below a run's directory."""

    path: str
    mode: int
    size: int


def delete_former_run(runs: Path, name: str, config: RunConfig, address: str | None) -> str:
    """Delete the run called `name` in `runs`, and return a sentence that says so; empty if there is none.

    Nothing is deleted unless every file in the directory is one that this software makes there. Links are not followed.

    Parameters
    ----------
    runs : Path
    name : str
    config : RunConfig
        That of the new run.
    address : str, optional
        Address of the cluster of the new run, as the user gave it.

    Raises
    ------
    RunDirectoryError
        If it is no directory of a run, if the run is running, if there is anything else in it, or if its commits lie
        elsewhere and are not known to be its own, or if the new run needs its files.
    """
    check_run_name(name)
    path = runs / name
    if not os.path.lexists(path):
        return ""
    if path.is_symlink() or not path.is_dir() or not is_run(path):
        raise RunDirectoryError(f"{path}: is not the directory of a run, so --overwrite leaves it: choose a --name")
    try:
        outline = read_outline(RunFiles(path).read_config())
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise RunDirectoryError(
            f"{path}: its config.yaml cannot be read ({printable_line(str(error), 200)}), so --overwrite leaves it: "
            "delete it yourself, or choose a --name"
        ) from error
    if any(config.plain(each) != config.plain() for each in (path, path.resolve())):
        raise RunDirectoryError(
            f"{path}: has rows or code of the new run, so --overwrite deletes nothing: choose a --name"
        )
    former = RunDirectory(path, Graph([], []), storage=outline["storage"] or None)
    with former.lock():
        end_former_run(former, address)
        entries = list(_entries(path))
        _check_own(path, entries)
        try:
            elsewhere = _delete_commits_elsewhere(former)
            _delete(path, entries)
        except OSError as error:
            raise RunDirectoryError(
                f"{error.filename or path}: cannot be deleted ({error.strerror}); make it writable, or choose a --name"
            ) from error
        remove_record(path)
    files = [entry for entry in entries if not stat.S_ISDIR(entry.mode)]
    size = format_bytes(sum(entry.size for entry in files))
    return f"{path}: the former run is deleted ({len(files)} files, {size}{elsewhere})"


def _entries(path: Path) -> Iterator[_Entry]:
    """Yield all that is below a directory; no link is followed."""
    for root, folders, files, descriptor in os.fwalk(path, onerror=_raise):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            yield _Entry(str(Path(root, name).relative_to(path)), found.st_mode, found.st_size)


def _raise(error: OSError) -> None:
    raise error


def _check_own(path: Path, entries: list[_Entry]) -> None:
    """Raise RunDirectoryError if anything in a run's directory is not made by this software."""
    for entry in entries:
        plain = stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode)
        if not plain or not _OWN.fullmatch(entry.path):
            what = "a file that no run makes" if plain else "a link or a special file"
            raise RunDirectoryError(
                f"{path}: has {printable_line(entry.path)}, {what}, so --overwrite deletes nothing: move it away, or "
                "choose a --name"
            )


def _delete_commits_elsewhere(former: RunDirectory) -> str:
    """Delete the commits of a run that lie outside its directory; return a clause that says so, or an empty string.

    They are deleted only if this user's state knows the place, and the claim there has the token of the run.
    """
    if not former.storage:
        return ""
    root = str(former.checkpoints.root)
    problem = "no run of this user is known to have commits there" if not is_known_storage(root) else ""
    try:
        storage = storage_at(root)
        token = former.claim_token()
        if not problem and not (token and read_claim(storage).get("token") == token):
            problem = "what is there is not claimed by this run"
        paths = [] if problem else storage.files()
    except FileNotFoundError:  # nothing is there any more
        return ""
    except StorageError as error:
        raise RunDirectoryError(f"{former.path}: {error}") from error
    if problem:
        raise RunDirectoryError(
            f"{former.path}: its commits lie at {printable_line(root)}, and {problem}, so --overwrite deletes nothing: "
            "delete both yourself, or choose a --name"
        )
    _check_own(former.path, [_Entry(f"checkpoints/{each}", stat.S_IFREG, 0) for each in paths])
    storage.delete([each for each in paths if each != CLAIM])
    storage.delete([CLAIM])
    for name in storage.directories():
        storage.delete_directory(name)
    return f", and {len(paths)} at {printable_line(root)}"


def _delete(path: Path, entries: list[_Entry]) -> None:
    """Delete what was listed, and the directory; what makes it known as that of a run goes last."""
    listed = {entry.path for entry in entries}
    for root, folders, files, descriptor in os.fwalk(path, topdown=False, onerror=_raise):
        below = Path(root).relative_to(path)
        for name in sorted(files, key=lambda name: (_LAST.get(name, 0), name)):
            if str(below / name) in listed:
                os.unlink(name, dir_fd=descriptor)
        for name in folders:
            os.rmdir(name, dir_fd=descriptor)
    path.rmdir()


_LAST = {"environment.json": 1, "config.yaml": 2, ".lock": 3}
"""The order in which these are deleted, after all others."""
