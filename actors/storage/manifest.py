"""The manifest: which files belong to a commit, and the JSON document that stores this.

The document ends with a digest of the rest of itself, and only the exact bytes that were written are accepted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.errors import CheckpointError
from actors.limits import (
    MAX_COMMIT_FILE_BYTES,
    MAX_JSON_VALUES,
    MAX_MANIFEST_ENTRIES,
    MAX_ROUND,
)
from actors.storage.field_checks import check_flag, check_integer, check_mapping, check_number, check_text, printable
from actors.storage.safe_files import is_safe_name, parse_json
from actors.storage.status_files import SavedEvent, unpack_event

SCHEMA = 2
MANIFEST = "manifest.json"
COMMIT_NAME = re.compile(r"round-(\d{1,9})(?:-step-(\d{1,9}))?", re.ASCII)
"""Pattern of the name of a commit, which is the name of its directory."""


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
        By label: ``state``, ``outputs``, ``message:<slot>``; of outputs and messages in parts ``outputs#<part>``,
        ``message:<slot>#<part>``, and ``parts`` (:mod:`actors.storage.parts`).
    metrics : mapping of str to float
    """

    round: int
    files: Mapping[str, FileRecord]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the messages that the module had sent."""
        slots = (split_label(label)[0].removeprefix("message:") for label in self.files if label.startswith("message:"))
        return tuple(dict.fromkeys(slots))

    @property
    def has_outputs(self) -> bool:
        """Whether there are outputs, in one file or in parts."""
        return any(split_label(label)[0] == "outputs" for label in self.files)

    def parts_of(self, label: str) -> list[FileRecord]:
        """Return the files of the parts of the outputs, or of a message; none if they are one file."""
        found = {n: file for name, file in self.files.items() for base, n in [split_label(name)] if base == label}
        numbers = sorted(number for number in found if number is not None)
        return [found[number] for number in numbers] if None not in found else []


def split_label(label: str) -> tuple[str, int | None]:
    """Return the label of a file without the number of its part, and that number, if it has one."""
    match = re.fullmatch(r"(.+)#(\d{1,6})", label, re.ASCII | re.DOTALL)
    return (label, None) if match is None else (match[1], int(match[2]))


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
    events : tuple of SavedEvent
        The events up to this commit, its own included, that no driver had fetched for certain; so none is lost with the
        coordinator. Left out of the JSON document if there are none.
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
    events: tuple[SavedEvent, ...] = ()

    def evidence(self, modules: Iterable[str]) -> float | None:
        """Return the evidence that the last of `modules` with one reports: in order of connection, the most abstract.

        What a module calls its evidence may be a text, which is no evidence.
        """
        reported = [self.modules[name].metrics.get("evidence") for name in modules if name in self.modules]
        last = next((value for value in reversed(reported) if value is not None), None)
        return last if isinstance(last, int | float) else None


_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_SEED = 2**128
_CONVERGED_KEY = "settled"
"""JSON key of the field ``converged``; fixed by schema 2."""


def pack_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as a JSON document that ends with the SHA-256 digest of the rest of it."""
    fields = {_CONVERGED_KEY if name == "converged" else name: value for name, value in asdict(manifest).items()}
    if not manifest.events:
        del fields["events"]
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
        content = parse_json(data)
        digest, schema = content.pop("digest", None), content["schema"]
        # The digest covers the parsed values only; comparing the bytes also detects another spelling of them.
        intact = (
            hashlib.sha256(_to_json(content)).hexdigest() == digest and _to_json({**content, "digest": digest}) == data
        )
        if schema != SCHEMA:
            raise CheckpointError(f"{location}: has schema {reprlib.repr(schema)}, expected schema {SCHEMA}")
        if not intact:
            raise CheckpointError(f"{location}: damaged, the contents do not match the digest")
        _check_fields(content)
        modules = {module: _unpack_record(record, module) for module, record in content.pop("modules").items()}
        events = tuple(unpack_event(*event) for event in content.pop("events", ()))
        manifest = Manifest(modules=modules, converged=content.pop(_CONVERGED_KEY, False), **content, events=events)
        order = (manifest.round, math.inf if manifest.step is None else manifest.step - 1)  # a name counts from 0
        if commit_order(manifest.name) != order:
            raise ValueError(f"round {manifest.round} and step {manifest.step} are not those of {manifest.name}")
        listed = [file.path for record in modules.values() for file in record.files.values()]
        if len(set(listed)) < len(listed):
            raise ValueError("a file is listed twice")
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{location}: the manifest is not readable ({printable(error)})") from error


def _check_fields(content: Mapping[str, Any]) -> None:
    """Check type and range of each field of a manifest that is there.

    Raises
    ------
    ValueError
        If one is not valid; names it.
    """
    checks: dict[str, Callable[[Any, str], Any]] = {
        "name": lambda value, where: commit_order(check_text(value, where)),
        "run": check_text,
        "seed": lambda value, where: check_integer(value, where, high=_MAX_SEED),
        "round": lambda value, where: check_integer(value, where, high=MAX_ROUND),
        "sequence": check_integer,
        "modules": lambda value, where: check_mapping(value, where, MAX_MANIFEST_ENTRIES),
        "module_seconds": _check_numbers,
        "score": lambda value, where: None if value is None else check_number(value, where, finite=False),
        "step": lambda value, where: None if value is None else check_integer(value, where, high=MAX_ROUND),
        _CONVERGED_KEY: check_flag,
        "seconds": check_number,
        "config": lambda value, where: check_mapping(value, where, MAX_JSON_VALUES),
        "schema": check_integer,
    }
    for name, check in checks.items():
        if name in content:
            check(content[name], name)


def _unpack_record(given: Any, module: str) -> ModuleRecord:
    """Return the record of a module, each value of which is checked."""
    if not is_safe_name(module):
        raise ValueError(f"{reprlib.repr(module)} is not the name of a module")
    record = dict(check_mapping(given, module, MAX_MANIFEST_ENTRIES))
    check_integer(record["round"], f"{module}.round", high=MAX_ROUND)
    _check_numbers(record.get("metrics", {}), f"{module}.metrics")
    files = check_mapping(record.pop("files"), f"{module}.files", MAX_MANIFEST_ENTRIES)
    return ModuleRecord(
        files={label: _unpack_file(file, label, f"{module}.files.{label}") for label, file in files.items()}, **record
    )


def _unpack_file(given: Any, label: str, where: str) -> FileRecord:
    base, part = split_label(label)
    kind, separator, slot = base.partition(":")
    known = ("state", "outputs", "parts") if part is None else ("outputs",)
    if not (base in known or (kind == "message" and separator and is_safe_name(slot))):
        raise ValueError(f"{where}: expected a file called state, outputs, parts or message:<slot>")
    file = FileRecord(**check_mapping(given, where, MAX_MANIFEST_ENTRIES))
    check_integer(file.size, f"{where}.size", high=MAX_COMMIT_FILE_BYTES)
    directory, _, name = check_text(file.path, f"{where}.path").partition("/")
    commit_order(directory)
    if not is_safe_name(name) or name == MANIFEST:
        raise ValueError(f"{file.path!r} is not a file of a commit")
    if not _DIGEST.fullmatch(check_text(file.digest, f"{where}.digest")):
        raise ValueError(f"{where}.digest: expected 64 hexadecimal digits, got {file.digest[:70]!r}")
    return file


def _check_numbers(value: Any, where: str) -> None:
    for name, number in check_mapping(value, where, MAX_MANIFEST_ENTRIES).items():
        check_number(number, f"{where}.{name}")


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
