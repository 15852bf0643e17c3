"""The manifest: which files belong to a commit, and the JSON document that stores this.

The document ends with a digest of the rest of itself, and only the exact bytes that were written are accepted.
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
COMMIT_NAME = re.compile(r"round-(\d+)(?:-step-(\d+))?", re.ASCII)
"""Pattern of the name of a commit, which is the name of its directory."""
MAX_BYTES = 16 << 20
"""Largest size of a manifest; larger files are not read."""


@dataclass(frozen=True)
class FileRecord:
    """A file of a commit: its path below the checkpoints' root, its size in bytes and its SHA-256 digest."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class ModuleRecord:
    """The files and metrics of one module in a commit.

    Parameters
    ----------
    round : int
        The round of the module's last update.
    files : mapping of str to FileRecord
        By label: ``state``, ``outputs``, ``message:<slot>``.
    metrics : mapping of str to float
    """

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
        Its directory: ``round-003`` after a complete round, ``round-003-step-01`` within one.
    run : str
    seed, round, sequence : int
        The run's seed, the round, and the number of updates so far.
    modules : mapping of str to ModuleRecord
    module_seconds : mapping of str to float
        Seconds spent inside each module since the run began.
    score : float, optional
        The score of the last complete round, by which rounds are compared; None if the modules report none.
    step : int, optional
        The number of completed steps of the round; None if all were completed.
    converged : bool
        Whether the run ended with this round because the score no longer rose. Its JSON key is ``settled``.
    seconds : float
        Duration of the run so far, without interruptions.
    config : mapping
        Data of the run's driver; stored and returned without interpretation.
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
    converged: bool = False
    seconds: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


_CONVERGED_KEY = "settled"
"""JSON key of the field ``converged``; fixed by schema 2."""


def pack_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as a JSON document that ends with the SHA-256 digest of the rest of it."""
    fields = {_CONVERGED_KEY if name == "converged" else name: value for name, value in asdict(manifest).items()}
    content = json.loads(json.dumps(fields))  # as the parser will see it: tuples as lists, keys as text
    return _to_json({**content, "digest": hashlib.sha256(_to_json(content)).hexdigest()})


def unpack_manifest(data: bytes, location: str) -> Manifest:
    """Parse a document that :func:`pack_manifest` wrote.

    Parameters
    ----------
    data : bytes
    location : str
        Name of the file, for error messages.

    Raises
    ------
    CheckpointError
        If the bytes are not such a document, were changed in any way, or have another schema.
    """
    try:
        content = json.loads(data)
        digest, schema = content.pop("digest", None), content["schema"]
        # The digest covers the parsed values only; comparing the bytes also detects another spelling of them.
        intact = (
            hashlib.sha256(_to_json(content)).hexdigest() == digest and _to_json({**content, "digest": digest}) == data
        )
        if schema != SCHEMA:
            raise CheckpointError(f"{location}: has schema {schema}, expected schema {SCHEMA}")
        if not intact:
            raise CheckpointError(f"{location}: damaged, the contents do not match the digest")
        modules = {
            module: ModuleRecord(
                **{**record, "files": {label: FileRecord(**file) for label, file in record["files"].items()}}
            )
            for module, record in content.pop("modules").items()
        }
        manifest = Manifest(modules=modules, converged=content.pop(_CONVERGED_KEY, False), **content)
        for path in files_of(manifest):
            directory, _, file = path.partition("/")
            commit_order(directory)
            if "/" in file:
                raise ValueError(f"{path!r} is not a file of a commit")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{location}: the manifest is not readable ({error})") from error


def _to_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def commit_order(name: str) -> tuple[int, float]:
    """Return the sort key of a commit: its round and step, where a complete round comes after its steps.

    Raises
    ------
    ValueError
        If `name` is not the name of a commit.
    """
    match = COMMIT_NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a commit, expected one like round-003 or round-003-step-01")
    return int(match[1]), math.inf if match[2] is None else int(match[2])


def commit_names(files: Iterable[str]) -> list[str]:
    """Return the names of the commits whose manifests are among `files`, oldest first."""
    parts = (path.partition("/") for path in files)
    names = [directory for directory, _, file in parts if file == MANIFEST and COMMIT_NAME.fullmatch(directory)]
    return sorted(names, key=commit_order)


def files_of(manifest: Manifest) -> dict[str, FileRecord]:
    """Return the files that a manifest lists, by path."""
    return {file.path: file for record in manifest.modules.values() for file in record.files.values()}
