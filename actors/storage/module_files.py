"""The files of one module in a commit: saved and loaded by the process that hosts the module."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actors.limits import MAX_COMMIT_FILE_BYTES
from actors.messaging.codec import describe, encode, pack_header, unpack_header
from actors.messaging.message import Message
from actors.sharing.chunks import whole_arrays
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import Storage, storage_at
from actors.storage.manifest import FileRecord, ModuleRecord
from actors.storage.parts import PartIndex, assemble, split_objects, split_record
from actors.storage.state_codec import pack_state
from actors.types import State


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
    part : int, optional
        The number of the part that the objects are; those that are not written with it are None.
    index : State, optional
        Where parts begin (:class:`actors.storage.parts.PartIndex`), which is written too.
    """

    root: str
    directory: str
    module: str
    slots: tuple[str, ...] = ()
    headers: tuple[bytes, ...] = ()
    part: int | None = None
    index: State | None = None

    def split(self, objects: Sequence[Any]) -> list[tuple[SaveRequest, list[Any]]]:
        """Return a request for what is one file each, and one for each part of what is in parts, with their objects."""
        index, groups = split_objects(self.slots, self.headers, objects)
        if index is None:
            return [(self, list(objects))]
        known, requests = dict(zip(self.slots, self.headers, strict=True)), list[tuple[SaveRequest, list[Any]]]()
        for number, group in enumerate(groups):
            slots = tuple(slot for slot in self.slots if f"message:{slot}" in group)
            own = replace(
                self,
                slots=slots,
                headers=tuple(known[slot] for slot in slots),
                part=number - 1 if number else None,
                index=None if number else index.pack(),
            )
            sent = [group.get("state"), group.get("outputs"), *(group[f"message:{slot}"] for slot in slots)]
            requests.append((own, sent))
        return requests


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
    partial : bool
        Whether the record has some of the files only (:func:`actors.storage.parts.split_record`).
    """

    root: str
    module: str
    record: ModuleRecord
    partial: bool = False

    def split(self) -> list[LoadRequest]:
        """Return a request for what is one file each, and one for each part; only this one if there are no parts."""
        if "parts" not in self.record.files:
            return [self]
        return [replace(self, record=each, partial=True) for each in split_record(self.record)]


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
    storage, records = storage or storage_at(request.root), dict[str, FileRecord]()

    def packed() -> Iterator[tuple[str, bytes]]:
        for label, name, pack in _files(request, objects):
            data = pack()
            if len(data) > MAX_COMMIT_FILE_BYTES:
                reason = f"it would have {len(data)} bytes, at most {MAX_COMMIT_FILE_BYTES} are read back"
                raise OSError(errno.EFBIG, reason, storage.location(f"{request.directory}/{name}"))
            records[label] = FileRecord(f"{request.directory}/{name}", len(data), hashlib.sha256(data).hexdigest())
            yield records[label].path, data

    storage.write_all(packed())
    return records


def _files(request: SaveRequest, objects: Sequence[Any]) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Yield the label and the name of each file, and what returns its contents."""
    state, outputs, *messages = objects
    stem, mark = request.module, "" if request.part is None else f"#{request.part}"
    number = "" if request.part is None else f".{request.part:06d}"
    if state is not None:
        yield "state", f"{stem}.state.safetensors", lambda: pack_state(state)
    if outputs is not None:
        yield f"outputs{mark}", f"{stem}.outputs{number}.safetensors", lambda: pack_state(dict(outputs))
    for slot, packed, arrays in zip(request.slots, request.headers, messages, strict=True):

        def message(packed: bytes = packed, arrays: Any = arrays) -> bytes:
            header = unpack_header(packed)
            whole = whole_arrays(header.kind, arrays)
            if request.part is not None:
                header = replace(header, arrays=describe(whole))
            return encode(Message(header, whole))

        yield f"message:{slot}{mark}", f"{stem}.{slot}{number}.message", message
    if request.index is not None:
        index = request.index
        yield "parts", f"{stem}.parts.safetensors", lambda: pack_state(index)


def load_module_files(request: LoadRequest) -> tuple[Any, ...]:
    """Read a module's files, as :func:`save_module_files` wrote them.

    Returns
    -------
    headers : tuple of bytes
        The packed header of each slot's message.
    state, outputs : dict
    *messages : dict of str to ndarray
        The arrays of each slot's message. Outputs and messages in parts stay so.

    Raises
    ------
    CheckpointError
        If a file is missing or damaged; names it.
    """
    checkpoints = Checkpoints(request.root)
    whole, *parts = [_load(checkpoints, each) for each in request.split()]
    if "parts" not in request.record.files:
        return whole
    return assemble(request.record, load_index(request), whole, parts)


def load_index(request: LoadRequest) -> PartIndex:
    """Return where the parts of a module's outputs and messages begin.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged; names it.
    """
    return Checkpoints(request.root).index(request.record)


def _load(checkpoints: Checkpoints, request: LoadRequest) -> tuple[Any, ...]:
    record = request.record
    messages = [checkpoints.message(record, slot) for slot in record.slots]
    headers = tuple(pack_header(message.header) for message in messages)
    state, outputs = (
        None if request.partial and label not in record.files else checkpoints.load(record, label)
        for label in ("state", "outputs")
    )
    return (headers, state, outputs, *(message.arrays for message in messages))
