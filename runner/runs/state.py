"""The user's own state directory: where each running run is reached, and the secret that its coordinator proves.

What a run directory says about addresses is never believed, since a run directory may come from a stranger. The driver
of a run writes a record here, in a directory that no other user can enter, and commands that connect to a run read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs

from actors.kernels.path_safety import make_private_directory, why_unsafe
from actors.limits import MAX_RUN_RECORD_BYTES
from actors.variables import ray_address, state_path
from runner.runs.directory import RunDirectoryError


class StateError(RunDirectoryError):
    """The state directory or a record in it cannot be used; names the path and the remedy."""


@dataclass(frozen=True)
class RunRecord:
    """Where a run is reached.

    Parameters
    ----------
    address : str
        Address of its cluster.
    own : bool
        Whether the cluster ends with the driver.
    detached : bool
        Whether the run outlives the driver.
    pid : int
        The driver's process.
    secret : str
        Known to the run's driver and its coordinator alone.
    """

    address: str
    own: bool = False
    detached: bool = False
    pid: int = field(default_factory=os.getpid)
    secret: str = field(default="", repr=False)


def new_secret() -> str:
    """Return a secret for a new run."""
    return secrets.token_hex(32)


def state_directory() -> Path:
    """Return the path of the state directory: ``$SERKET_STATE_DIR``, or ``serket-actors`` in the user's state.

    Raises
    ------
    StateError
        If the user has no home directory.
    """
    try:
        return state_path() or Path(platformdirs.user_state_dir("serket-actors"))
    except RuntimeError as error:  # a user without HOME who is not in the system's list of users
        raise StateError(
            f"the user {os.geteuid()} of this process has no home directory: set HOME to a directory of your own"
        ) from error


def prepare_state_directory() -> Path:
    """Create the state directory with mode 0700, and return it.

    Raises
    ------
    StateError
        If it cannot be created, if it is a link, or if other users could write it.
    """
    path = state_directory()
    try:
        make_private_directory(path)
    except OSError as error:
        raise StateError(
            f"{path}: the state directory cannot be used: {error.strerror or error}; name another one, of your own, "
            "with SERKET_STATE_DIR"
        ) from error
    return path


def state_problem() -> str:
    """Return what is wrong with the state directory, or an empty string; creates nothing."""
    path = state_directory()
    reason = why_unsafe(path)
    if not reason and path.is_symlink():
        reason = f"{path} is a link"
    if not reason and path.exists():
        status = path.lstat()
        if not path.is_dir():
            reason = f"{path} is no directory"
        elif status.st_uid != os.geteuid():
            reason = f"{path} belongs to another user"
    return reason


def read_record(run: Path) -> RunRecord | None:
    """Return the record of the run in the directory `run`; None if there is none.

    Raises
    ------
    StateError
        If other users could have written the record, or if it is not valid.
    """
    path = _record_path(run)
    if problem := state_problem():
        raise StateError(
            f"the state directory cannot be trusted: {problem}; correct that, or name another one with SERKET_STATE_DIR"
        )
    try:
        content = json.loads(_read_private(path))
        record = RunRecord(**content)
        if {name: type(value) for name, value in content.items()} != _TYPES:
            raise ValueError("a field has another type")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StateError(f"{path}: is not a valid record of a run ({reason}); delete it") from error
    return record


_TYPES = {name: type(value) for name, value in asdict(RunRecord("")).items()}


def _read_private(path: Path) -> bytes:
    """Return the contents of a file that belongs to this user alone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ValueError("it is no file that belongs to you alone")
        data = file.read(MAX_RUN_RECORD_BYTES + 1)
    if len(data) > MAX_RUN_RECORD_BYTES:
        raise ValueError(f"it has more than {MAX_RUN_RECORD_BYTES} bytes")
    return data


def write_record(run: Path, record: RunRecord) -> None:
    """Write the record of a run, atomically, readable by this user alone.

    Raises
    ------
    StateError
        If the state directory cannot be used, or the record not be written.
    """
    prepare_state_directory()
    path = _record_path(run)
    part = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(record), file)
                file.flush()
                os.fsync(descriptor)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StateError(
            f"{path}: the record of the run cannot be written ({error.strerror}); name another state directory with "
            "SERKET_STATE_DIR"
        ) from error


def remove_record(run: Path) -> None:
    """Remove the record of a run that has ended."""
    with suppress(OSError):
        _record_path(run).unlink(missing_ok=True)


@contextmanager
def recorded(run: Path, record: RunRecord) -> Iterator[None]:
    """Keep the record of a run in this context; that of a detached run stays unless an error ends the context."""
    write_record(run, record)
    ended = True
    try:
        yield
        ended = not record.detached
    finally:
        if ended:
            remove_record(run)


def note_storage(place: Path | str) -> None:
    """Note that a run of this user has its commits at a URL, so that ``inspect`` may look there."""
    if _is_elsewhere(place):
        with suppress(OSError, StateError):
            prepare_state_directory()
            _storage_path(place).touch(mode=0o600)


def is_known_storage(place: Path | str) -> bool:
    """Return whether commits may be looked for at `place`: on this machine, or at a URL that a run of this user has."""
    return not _is_elsewhere(place) or (not state_problem() and _storage_path(place).is_file())


def _is_elsewhere(place: Path | str) -> bool:
    return "://" in str(place) and not str(place).startswith(("file://", "local://"))


def _storage_path(place: Path | str) -> Path:
    return state_directory() / f"{hashlib.sha256(str(place).encode(errors='surrogatepass')).hexdigest()}.storage"


NO_RECORD = "as far as is known here (if it runs on a cluster, give that cluster's --address)"
"""Said of a run that this user's state does not know, before a statement that it is not running."""


def known_address(record: RunRecord | None, address: str | None) -> str | None:
    """Return where a run is looked for: the address given, else that of its record, else that in RAY_ADDRESS."""
    return address or (record.address if record else None) or ray_address() or None


def _record_path(run: Path) -> Path:
    """Return the path of a run's record, which is named by a digest of the run directory's path."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(run))).hexdigest()
    return state_directory() / f"{name}.json"
