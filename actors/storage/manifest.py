"""The manifest: what a commit holds, and the document that says it.

The document guards itself: it ends with a digest of the rest of it, and no other bytes than those once written are
accepted as the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.errors import CheckpointError

SCHEMA = 2
MANIFEST = "manifest.json"
NAME = re.compile(r"round-(\d+)(?:-step-(\d+))?", re.ASCII)
"""What the directory of a commit is called."""
MAX_BYTES = 16 << 20
"""Of a manifest; more is not read."""


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

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the messages that the module had sent."""
        return tuple(label.removeprefix("message:") for label in self.files if label.startswith("message:"))


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


def pack_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as JSON that ends with the SHA-256 digest of the rest of it."""
    content = json.loads(json.dumps(asdict(manifest)))  # as it will be read: lists, and names that are text
    return _document({**content, "digest": hashlib.sha256(_document(content)).hexdigest()})


def unpack_manifest(data: bytes, where: str) -> Manifest:
    """Read what :func:`pack_manifest` wrote, to the byte.

    Raises
    ------
    CheckpointError
        If the bytes are no such document, were changed in any way, or are of another schema.
    """
    try:
        content = json.loads(data)
        digest, schema = content.pop("digest", None), content["schema"]
        # The same values written otherwise would pass the digest: the bytes themselves have to be those once written.
        whole = (
            hashlib.sha256(_document(content)).hexdigest() == digest
            and _document({**content, "digest": digest}) == data
        )
        if schema != SCHEMA:
            raise CheckpointError(f"{where}: written with schema {schema}, schema {SCHEMA} is read here")
        if not whole:
            raise CheckpointError(f"{where}: damaged, its contents do not have the digest that it gives")
        modules = {
            module: ModuleRecord(
                **{**record, "files": {label: FileRecord(**file) for label, file in record["files"].items()}}
            )
            for module, record in content.pop("modules").items()
        }
        manifest = Manifest(modules=modules, **content)
        for path in needed(manifest):
            directory, _, file = path.partition("/")
            position(directory)
            if "/" in file:
                raise ValueError(f"{path!r} is no file of a commit")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{where}: no readable manifest ({error})") from error


def _document(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def position(name: str) -> tuple[int, float]:
    """Return what commits are sorted by: the round and the step, a whole round being later than its steps."""
    found = NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is no commit's name: round-003 or round-003-step-01 would be")
    return int(found[1]), math.inf if found[2] is None else int(found[2])


def commits_among(files: Iterable[str]) -> list[str]:
    """Return the names of the commits whose manifests are among `files`, oldest first."""
    found = (path.partition("/") for path in files)
    names = [directory for directory, _, file in found if file == MANIFEST and NAME.fullmatch(directory)]
    return sorted(names, key=position)


def needed(manifest: Manifest) -> dict[str, FileRecord]:
    """Return the files that a manifest names, by path."""
    return {file.path: file for record in manifest.modules.values() for file in record.files.values()}
