"""The files of one module in a commit: saved and loaded by the process that hosts the module."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.limits import MAX_COMMIT_FILE_BYTES
from actors.messaging.codec import encode, pack_header, unpack_header
from actors.messaging.message import Message
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import Storage, storage_at
from actors.storage.manifest import FileRecord, ModuleRecord
from actors.storage.state_codec import pack_state


@dataclass(frozen=True)
class SaveRequest:
    """A request to write a module's files.

    The objects that go with it are the module's state, its outputs, and the arrays of one message for each header.

    Parameters
    ----------
    root : str
        Path or URL of the checkpoints.
    directory : str
        The commit's directory below `root`.
    module : str
    slots : tuple of str
        The slots from which the messages were sent.
    headers : tuple of bytes
        The packed header of each slot's message.
    """

    root: str
    directory: str
    module: str
    slots: tuple[str, ...] = ()
    headers: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LoadRequest:
    """A request to read a module's files.

    Parameters
    ----------
    root : str
        Path or URL of the checkpoints.
    module : str
    record : ModuleRecord
        The module's record in the commit.
    """

    root: str
    module: str
    record: ModuleRecord


def save_module_files(
    request: SaveRequest, objects: Sequence[Any], storage: Storage | None = None
) -> dict[str, FileRecord]:
    """Write a module's files; repeating the call, in another process too, gives the same files.

    Parameters
    ----------
    request : SaveRequest
    objects : sequence
    storage : Storage, optional
        That of the request's root, if it was opened before.

    Returns
    -------
    dict of str to FileRecord
        By label.

    Raises
    ------
    OSError
        If a file cannot be written; names it.
    """
    state, outputs, *messages = objects
    stem = request.module
    files = {"state": (f"{stem}.state.safetensors", pack_state(state))}
    files["outputs"] = (f"{stem}.outputs.safetensors", pack_state(outputs))
    for slot, header, arrays in zip(request.slots, request.headers, messages, strict=True):
        files[f"message:{slot}"] = (f"{stem}.{slot}.message", encode(Message(unpack_header(header), arrays)))
    storage, records = storage or storage_at(request.root), {}
    for label, (name, data) in files.items():
        if len(data) > MAX_COMMIT_FILE_BYTES:
            reason = f"it would have {len(data)} bytes, at most {MAX_COMMIT_FILE_BYTES} are read back"
            raise OSError(errno.EFBIG, reason, storage.location(f"{request.directory}/{name}"))
        records[label] = FileRecord(f"{request.directory}/{name}", len(data), hashlib.sha256(data).hexdigest())
        storage.write(records[label].path, data)
    return records


def load_module_files(request: LoadRequest) -> tuple[Any, ...]:
    """Read a module's files, as :func:`save_module_files` wrote them.

    Returns
    -------
    headers : tuple of bytes
        The packed header of each slot's message.
    state, outputs : dict
    *messages : dict of str to ndarray
        The arrays of each slot's message.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged; names it.
    """
    checkpoints, record = Checkpoints(request.root), request.record
    messages = [checkpoints.message(record, slot) for slot in record.slots]
    headers = tuple(pack_header(message.header) for message in messages)
    state, outputs = (checkpoints.load(record, label) for label in ("state", "outputs"))
    return (headers, state, outputs, *(message.arrays for message in messages))
