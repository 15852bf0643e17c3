"""Checkpoints: every module's state, outputs and messages on disk, and the manifest that makes them a commit.

A commit's files are written first, each by the process of the module that they belong to; the manifest, which names
them with their digests, is written last and appears in one step (rename). A directory without a manifest is no commit.
Files are safetensors (states and outputs) and message documents; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.numpy import save as pack_arrays

from actors.kinds import Array
from actors.messages import Message, MessageError, decode, encode, pack_header, unpack_header
from actors.module import State

SCHEMA = 2
MANIFEST = "manifest.json"
_SCALARS = "__scalars__"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another version; names the file."""


@dataclass(frozen=True)
class FileRecord:
    """A file of a commit: its path below the checkpoints' root, its size in bytes and its SHA-256."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class ModuleRecord:
    """What a commit holds of one module; ``files`` by label: ``state``, ``outputs``, ``message:<slot>``."""

    round: int
    files: Mapping[str, FileRecord]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A commit.

    Parameters
    ----------
    name : str
        Its directory, ``round-003`` after a whole round, ``round-003-step-01`` within one.
    run : str
    seed, round, sequence : int
        Where the run stood: the round, and the number of updates so far.
    modules : mapping of str to ModuleRecord
    module_seconds : mapping of str to float
        Seconds spent inside each module since the run began.
    score : float, optional
        What rounds are compared by, where modules report it: the last whole round's.
    step : int, optional
        How many steps of the round were done; None where all were.
    settled : bool
        Whether the run ended with this round because the score did not rise any more.
    seconds : float
        How long the run has taken so far, its interruptions left out.
    config : mapping
        What whoever drives the run wants to find again; nobody here looks into it.
    """

    name: str
    run: str
    seed: int
    round: int
    sequence: int
    modules: Mapping[str, ModuleRecord]
    module_seconds: Mapping[str, float] = field(default_factory=dict)
    score: float | None = None
    step: int | None = None
    settled: bool = False
    seconds: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True)
class SaveRequest:
    """What is to be written of one module: the objects are its state, its outputs, then a message a header."""

    root: str
    directory: str
    module: str
    slots: tuple[str, ...] = ()
    headers: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class LoadRequest:
    """What is to be read of one module: its record in a commit below `root`."""

    root: str
    module: str
    record: ModuleRecord

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the messages that the module had sent."""
        return tuple(label.removeprefix("message:") for label in self.record.files if label.startswith("message:"))


def save(request: SaveRequest, objects: Sequence[Any]) -> dict[str, FileRecord]:
    """Write a module's part of a commit; may be done again, by another process too, with the same result.

    Returns
    -------
    dict of str to FileRecord
        By label.
    """
    state, outputs, *messages = objects
    stem = request.module
    files = {"state": (f"{stem}.state.safetensors", pack_state(state))}
    files["outputs"] = (f"{stem}.outputs.safetensors", pack_state(outputs))
    for slot, head, arrays in zip(request.slots, request.headers, messages, strict=True):
        files[f"message:{slot}"] = (f"{stem}.{slot}.message", encode(Message(unpack_header(head), arrays)))
    directory = Path(request.root) / request.directory
    directory.mkdir(parents=True, exist_ok=True)
    records = {}
    for label, (name, data) in files.items():
        _write(directory / name, data)
        records[label] = FileRecord(f"{request.directory}/{name}", len(data), hashlib.sha256(data).hexdigest())
    return records


def load_part(request: LoadRequest) -> tuple[Any, ...]:
    """Read what :func:`save` wrote of a module.

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
    sent = [checkpoints.message(record, slot) for slot in request.slots]
    heads = tuple(pack_header(message.header) for message in sent)
    state, outputs = (checkpoints.part(record, label) for label in ("state", "outputs"))
    return (heads, state, outputs, *(message.arrays for message in sent))


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a flat dict of arrays and plain scalars as a safetensors document (the scalars in its metadata)."""
    # ascontiguousarray makes a row of an array without dimensions.
    arrays = {n: np.ascontiguousarray(v).reshape(v.shape) for n, v in state.items() if isinstance(v, np.ndarray)}
    scalars = {n: v.item() if isinstance(v, np.generic) else v for n, v in state.items() if n not in arrays}
    return bytes(pack_arrays(arrays, metadata={_SCALARS: json.dumps(scalars)}))


def unpack_state(data: bytes, where: str) -> State:
    """Read what :func:`pack_state` wrote.

    Raises
    ------
    CheckpointError
        If the bytes are no such document.
    """
    try:
        arrays: dict[str, Any] = dict(load(data))
        size = int.from_bytes(data[:8], "little")
        scalars = json.loads(json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_SCALARS, "{}"))
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{where}: no readable state ({error})") from error
    return {**arrays, **scalars}


class Checkpoints:
    """The commits of one run.

    Parameters
    ----------
    root : path
        The run's ``checkpoints`` directory.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def commit(self, manifest: Manifest) -> None:
        """Make the files that `manifest` names a commit, in one step."""
        directory = self.root / manifest.name
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())

    def names(self) -> list[str]:
        """Return the names of all commits, oldest first."""
        names = [path.parent.name for path in self.root.glob(f"*/{MANIFEST}")]
        return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def manifest(self, name: str) -> Manifest:
        """Read the manifest of the commit `name`.

        Raises
        ------
        CheckpointError
            If it is missing, unreadable or of another version.
        """
        path = self.root / name / MANIFEST
        try:
            found = json.loads(path.read_bytes())
            modules = {
                module: ModuleRecord(
                    **{**record, "files": {label: FileRecord(**file) for label, file in record["files"].items()}}
                )
                for module, record in found.pop("modules").items()
            }
            manifest = Manifest(modules=modules, **found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: no readable manifest ({error})") from error
        if manifest.schema != SCHEMA:
            raise CheckpointError(f"{path}: written with schema {manifest.schema}, schema {SCHEMA} is read here")
        return manifest

    def latest(self) -> Manifest | None:
        """Return the newest commit, or None where there is none yet."""
        manifests = [self.manifest(name) for name in self.names()]
        return max(manifests, key=lambda manifest: manifest.sequence, default=None)

    def state(self, manifest: Manifest, module: str) -> State:
        """Return the state of `module` in a commit."""
        return self.part(manifest.modules[module], "state")

    def outputs(self, manifest: Manifest, module: str) -> dict[str, Array]:
        """Return the outputs of `module` in a commit."""
        return self.part(manifest.modules[module], "outputs")

    def messages(self, manifest: Manifest, module: str) -> dict[str, Message]:
        """Return the messages that `module` had sent at a commit, by slot."""
        record = manifest.modules[module]
        slots = LoadRequest(str(self.root), module, record).slots
        return {slot: self.message(record, slot) for slot in slots}

    def part(self, record: ModuleRecord, label: str) -> State:
        """Return a module's ``state`` or ``outputs``."""
        file = record.files[label]
        return unpack_state(self._read(file), str(self.root / file.path))

    def message(self, record: ModuleRecord, slot: str) -> Message:
        """Return the message that a module had sent from `slot`."""
        file = record.files[f"message:{slot}"]
        try:
            return decode(self._read(file))
        except MessageError as error:
            raise CheckpointError(f"{self.root / file.path}: {error}") from error

    def _read(self, record: FileRecord) -> bytes:
        path = self.root / record.path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != record.digest:
            raise CheckpointError(f"{path}: damaged, its contents are not what the manifest says")
        return data


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: what carries its final name has reached the disk."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # or the new name may not survive a power cut
    finally:
        os.close(directory)
