"""One module's part of a commit: written and read by the process that hosts the module."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.messaging.codec import encode, pack_header, unpack_header
from actors.messaging.message import Message
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import storage_at
from actors.storage.manifest import FileRecord, ModuleRecord
from actors.storage.state_codec import pack_state


@dataclass(frozen=True)
class SaveRequest:
    """What is to be written of one module: the objects are its state, its outputs, then a message a header.

    `root` is a path or a URL.
    """

    root: str
    directory: str
    module: str
    slots: tuple[str, ...] = ()
    headers: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LoadRequest:
    """What is to be read of one module: its record in a commit below `root`, a path or a URL."""

    root: str
    module: str
    record: ModuleRecord


def save_module_files(request: SaveRequest, objects: Sequence[Any]) -> dict[str, FileRecord]:
    """Write a module's part of a commit; may be done again, by another process too, with the same result.

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
    for slot, head, arrays in zip(request.slots, request.headers, messages, strict=True):
        files[f"message:{slot}"] = (f"{stem}.{slot}.message", encode(Message(unpack_header(head), arrays)))
    storage, records = storage_at(request.root), {}
    for label, (name, data) in files.items():
        records[label] = FileRecord(f"{request.directory}/{name}", len(data), hashlib.sha256(data).hexdigest())
        storage.write(records[label].path, data)
    return records


def load_module_files(request: LoadRequest) -> tuple[Any, ...]:
    """Read what :func:`save_module_files` wrote of a module.

    Returns
    -------
    heads : tuple of bytes
        The messages' headers, one a slot of the request.
    state, outputs : dict
    *messages : dict of str to ndarray
        The arrays of one message a slot.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged; names it.
    """
    checkpoints, record = Checkpoints(request.root), request.record
    sent = [checkpoints.message(record, slot) for slot in record.slots]
    heads = tuple(pack_header(message.header) for message in sent)
    state, outputs = (checkpoints.part(record, label) for label in ("state", "outputs"))
    return (heads, state, outputs, *(message.arrays for message in sent))
