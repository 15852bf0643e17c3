"""The storage of a new run: a probe from another process, and the claim that no other run commits there.

A claim is a file beside the commits with a token that the run's directory has too. On a local file system it is created
exclusively. In an object store it is created exclusively where the service can (S3's ``If-None-Match``), and read back
after :data:`actors.limits.CLAIM_SETTLE_SECONDS` anyway: of two claims that were written within that time one is left,
as long as the store returns what was written last.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.errors import StorageError
from actors.limits import CLAIM_SETTLE_SECONDS, MAX_RUN_FILE_BYTES, PROBE_SECONDS
from actors.storage.field_checks import check_mapping, check_text
from actors.storage.filesystem import LocalStorage, Storage, storage_at
from actors.storage.safe_files import parse_json

CLAIM = "claim/claim.json"
_PROBE = "probe"

_REMEDY = (
    "set checkpoints.storage to a directory that every machine of the run has, or to object storage such as s3://…"
)

_READ_BACK = """
import sys
location, expected = sys.argv[1:]
if "://" in location:
    import fsspec.core
    files, path = fsspec.core.url_to_fs(location)
    try:
        found = files.cat_file(path)
    except FileNotFoundError:
        sys.exit("it does not exist there")
else:
    try:
        with open(location, "rb") as file:
            found = file.read()
    except FileNotFoundError:
        sys.exit("it does not exist there")
sys.exit(0 if found == expected.encode() else "it has other contents there")
"""


def probe_storage(root: str) -> None:
    """Check that a file that this process writes is found by another process, and can be deleted.

    Raises
    ------
    StorageError
        If not, so that a run would lose its commits; says why.
    """
    storage, name, contents = storage_at(root), f"{_PROBE}/{uuid.uuid4().hex}", uuid.uuid4().hex
    try:
        storage.write(name, contents.encode())
    except OSError as error:
        raise StorageError(f"{root}: nothing can be written there ({error.strerror}); {_REMEDY}") from error
    try:
        reason = _read_in_another_process(storage.location(name), contents)
    finally:
        try:
            storage.delete([name])
            storage.delete_directory(_PROBE)
        except OSError as error:
            raise StorageError(f"{root}: nothing can be deleted there ({error.strerror}); {_REMEDY}") from error
    if reason:
        raise StorageError(
            f"{root}: a file that was written there is not found by another process ({reason}), so that the run would "
            f"lose its commits; {_REMEDY}"
        )


def _read_in_another_process(location: str, contents: str) -> str:
    """Return why another process does not read `contents` at `location`, empty if it does."""
    # -P: files in the working directory must not replace the packages that it imports.
    command = [sys.executable, "-P", "-c", _READ_BACK, location, contents]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=PROBE_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"it has not answered within {PROBE_SECONDS:g} s"
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
    return lines[-1][:300] if done.returncode else ""


def claim_storage(root: str | Path, run: str, token: str) -> None:
    """Claim the storage of a run's commits with a token; does nothing if it is claimed with this token.

    Raises
    ------
    StorageError
        If another run has claimed it, or if the claim cannot be written or read.
    """
    storage = storage_at(root)
    document = json.dumps({"token": token, "run": run, "time": time.time()}).encode()
    try:
        try:
            storage.write_new(CLAIM, document)
        except FileExistsError:
            pass
        else:
            if not isinstance(storage, LocalStorage):
                time.sleep(CLAIM_SETTLE_SECONDS)
        found = read_claim(storage)
    except OSError as error:
        raise StorageError(
            f"{error.filename or root}: the claim cannot be written or read ({error.strerror})"
        ) from error
    if found.get("token") != token:
        raise ClaimedError(
            f"{root}: another run commits there; choose another --name, or if no run does any more, delete "
            f"{storage.location(CLAIM)}"
        )


class ClaimedError(StorageError):
    """Another run commits to a storage."""


def read_claim(storage: Storage) -> Mapping[str, Any]:
    """Return the contents of the claim of a storage; empty if it is not valid.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    try:
        content = check_mapping(parse_json(storage.read(CLAIM, MAX_RUN_FILE_BYTES)), CLAIM, 100)
        check_text(content.get("token"), "token")
    except ValueError:
        return {}
    return content


def is_claimed(root: str | Path) -> bool:
    """Return whether a run has claimed a storage.

    Raises
    ------
    OSError
        If that cannot be read.
    """
    try:
        read_claim(storage_at(root))
    except FileNotFoundError:
        return False
    return True


def release_storage(root: str | Path, token: str) -> None:
    """Delete the claim of a storage if it was made with this token."""
    storage = storage_at(root)
    try:
        if read_claim(storage).get("token") == token:
            storage.delete([CLAIM])
            storage.delete_directory(CLAIM.partition("/")[0])
    except OSError:
        return
