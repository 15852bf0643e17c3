"""Outputs and messages of many rows in a commit: a file for each part of the rows, so that no process needs all.

The file ``parts`` of the module says where the parts begin, and what outputs are joined to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actors.errors import CheckpointError
from actors.limits import STRETCH_ROWS
from actors.messaging.codec import pack_header, unpack_header
from actors.messaging.message import Header
from actors.sharing.chunks import (
    OutputNames,
    ShardedArrays,
    ShardedOutputs,
    join_headers,
    row_count_of,
    rows_of_kind,
)
from actors.storage.manifest import FileRecord, ModuleRecord, split_label
from actors.storage.safe_files import parse_json
from actors.types import Array, State

KEPT_OUTPUT = "class"
"""The output that is kept once all parts were read: the measures of a run need it after the files are written."""

POSTERIOR = "Pdz"
"""The output with the class posteriors of the rows."""

_NAMES = ("rows", "sequences", "samples")


@dataclass(frozen=True)
class PartIndex:
    """Where the parts of a module's outputs and messages begin.

    Parameters
    ----------
    first_rows : mapping of str to tuple of int
        By label of a file: the number of each part's first row.
    continued : mapping of str to tuple of bool
        By label: whether a part's first row continues a sequence of the part before.
    names : OutputNames
    total : int
        Number of all rows of the outputs.
    """

    first_rows: Mapping[str, tuple[int, ...]]
    continued: Mapping[str, tuple[bool, ...]]
    names: OutputNames = field(default_factory=OutputNames)
    total: int = 0

    def pack(self) -> State:
        """Return the index as a state."""
        names = {key: json.dumps(getattr(self.names, key)) for key in _NAMES}
        rows: State = {f"first_rows {label}": np.array(each, np.int64) for label, each in self.first_rows.items()}
        follow: State = {f"continued {label}": np.array(each, np.bool_) for label, each in self.continued.items()}
        return {**rows, **follow, **names, "total": self.total}

    @classmethod
    def unpack(cls, state: State) -> PartIndex:
        """Return the index that was packed.

        Raises
        ------
        CheckpointError
            If the state is not one of an index.
        """
        try:
            names = OutputNames(*(tuple(map(str, parse_json(state[key].encode()))) for key in _NAMES))
            of_kind = [
                {name.partition(" ")[2]: each.tolist() for name, each in state.items() if name.startswith(kind)}
                for kind in ("first_rows ", "continued ")
            ]
            rows, follow = ({label: tuple(each) for label, each in own.items()} for own in of_kind)
            for label, each in rows.items():
                if not each or each[0] != 0 or sorted(set(each)) != list(each) or len(follow[label]) != len(each):
                    raise ValueError(label)
            return cls(rows, follow, names, int(state["total"]))
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CheckpointError("the index of the parts of a commit is not valid") from error

    def sharded(self, label: str, parts: Sequence[Any]) -> ShardedArrays:
        """Return what stands for the outputs, or for the arrays of a message, whose parts are given.

        Raises
        ------
        CheckpointError
            If there are more or fewer than the index says.
        """
        rows = self.first_rows.get(label, ())
        if len(rows) != len(parts):
            raise CheckpointError(f"a commit has {len(parts)} parts of {label}, its index says {len(rows)}")
        if label == "outputs":
            return ShardedOutputs(tuple(parts), rows, self.continued[label], self.names, self.total)
        return ShardedArrays(tuple(parts), rows, self.continued[label])


def split_objects(
    slots: Sequence[str], headers: Sequence[bytes], objects: Sequence[Any]
) -> tuple[PartIndex | None, list[dict[str, Any]]]:
    """Return the objects of a commit by label: first those that are one file each, then those of each part.

    The index is None if none is in parts: of few rows, a process can join them.
    """
    state, outputs, *messages = objects
    rows = {f"message:{slot}": row_count_of(unpack_header(header)) for slot, header in zip(slots, headers, strict=True)}
    given: dict[str, Any] = {"outputs": outputs, **dict(zip(rows, messages, strict=True))}
    if isinstance(outputs, ShardedOutputs):
        rows["outputs"] = outputs.total
    parted = {
        label: each
        for label, each in given.items()
        if isinstance(each, ShardedArrays) and len(each.parts) > 1 and rows[label] > STRETCH_ROWS
    }
    whole = {"state": state, **{label: each for label, each in given.items() if label not in parted}}
    if not parted:
        return None, [whole]
    names, total = (outputs.names, outputs.total) if isinstance(outputs, ShardedOutputs) else (OutputNames(), 0)
    index = PartIndex(
        {label: each.first_rows for label, each in parted.items()},
        {label: each.continued for label, each in parted.items()},
        names,
        total,
    )
    count = max(len(each.parts) for each in parted.values())
    return index, [
        whole,
        *({label: each.parts[n] for label, each in parted.items() if n < len(each.parts)} for n in range(count)),
    ]


def split_record(record: ModuleRecord) -> list[ModuleRecord]:
    """Return the record of the files that are whole, and then one for each part, in which they are called alike."""
    labels = {label: split_label(label) for label in record.files}
    numbers = sorted({part for _, part in labels.values() if part is not None})
    records = []
    for number in (None, *numbers):
        files = {base: record.files[label] for label, (base, part) in labels.items() if part == number}
        records.append(replace(record, files=files))
    return records


def assemble(
    record: ModuleRecord, index: PartIndex, whole: Sequence[Any], parts: Sequence[Sequence[Any]]
) -> tuple[Any, ...]:
    """Return the headers, state, outputs and messages of a commit, from those of the records of :func:`split_record`.

    Each is a sequence of packed headers by slot, the state, the outputs, and one object for each slot; the objects may
    be references.

    Raises
    ------
    CheckpointError
        If the parts do not fit the index.
    """
    own, *of_parts = split_record(record)
    headers, state, outputs, *messages = whole
    found_headers, found = dict(zip(own.slots, headers, strict=True)), dict(zip(own.slots, messages, strict=True))
    if record.parts_of("outputs"):
        outputs = index.sharded("outputs", [part[2] for part in parts if part[2] is not None])
    for slot in record.slots:
        if slot in found:
            continue
        at = [(part, each.slots.index(slot)) for part, each in zip(parts, of_parts, strict=True) if slot in each.slots]
        joined = index.sharded(f"message:{slot}", [part[3 + n] for part, n in at])
        header = joined_header(slot, [unpack_header(part[0][n]) for part, n in at], joined)
        found[slot], found_headers[slot] = joined, pack_header(header)
    slots = record.slots
    return tuple(found_headers[slot] for slot in slots), state, outputs, *(found[slot] for slot in slots)


def joined_header(slot: str, headers: Sequence[Header], sharded: ShardedArrays) -> Header:
    """Return the header of a message from those of its parts.

    Raises
    ------
    CheckpointError
        If the parts are not alike, or do not begin where the index says.
    """
    rows = [row_count_of(header) for header in headers]
    named = rows_of_kind(headers[0].kind)

    def form(header: Header) -> tuple[Any, ...]:
        arrays = ((a.name, a.dtype, a.shape[1:] if a.name in named else a.shape) for a in header.arrays)
        return header.kind, *(each[:2] if each[0] == "lengths" else each for each in arrays)

    if any(form(header) != form(headers[0]) for header in headers):
        raise CheckpointError(f"the parts of the message {slot} in a commit differ in their arrays")
    if np.any(np.diff(sharded.first_rows) != rows[:-1]):
        raise CheckpointError(f"the parts of the message {slot} in a commit do not begin where its index says")
    return join_headers(headers, sharded.continued)


class CommittedOutputs(Mapping[str, Any]):
    """The outputs of a module in a commit, in parts that are read one after the other.

    As a mapping, it reads all parts for each output that is asked for.

    Parameters
    ----------
    read : callable
        Returns the outputs in a file.
    files : sequence of FileRecord
        Those of the parts, in the order of the rows.
    index : PartIndex
    """

    def __init__(
        self, read: Callable[[FileRecord], Mapping[str, Any]], files: Sequence[FileRecord], index: PartIndex
    ) -> None:
        self._read = read
        self._sharded = index.sharded("outputs", files)
        self._forms: dict[str, Any] | None = None
        self._kept: dict[str, Any] = {}
        self._confidence: Array | None = None
        self.names = index.names
        self.total = index.total

    def by_part(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the number of each part's first row, and its outputs, read now.

        Raises
        ------
        CheckpointError
            If a part cannot be read, or if it does not fit the others.
        """
        kept: list[Array] = []
        largest: list[Array] = []
        ends = (*self._sharded.first_rows[1:], self.total)
        for file, first, end in zip(self._sharded.parts, self._sharded.first_rows, ends, strict=True):
            outputs = self._read(file)
            forms = {name: self._form(name, outputs[name], end - first) for name in sorted(outputs)}
            self._forms = self._forms or forms
            if forms != self._forms or "" in forms.values():
                raise CheckpointError(f"{file.path}: has other outputs or rows than its index says")
            if KEPT_OUTPUT in outputs:
                kept.append(outputs[KEPT_OUTPUT])
            if POSTERIOR in outputs:
                largest.append(outputs[POSTERIOR].max(axis=1))
            yield first, outputs
        if kept:
            self._kept = {KEPT_OUTPUT: self.names.join(KEPT_OUTPUT, kept)}
        if largest:
            self._confidence = np.concatenate(largest)

    @property
    def confidence(self) -> Array | None:
        """The largest class probability (N,) of each row, None without a posterior; kept once all parts were read."""
        if self._confidence is None and POSTERIOR in self:
            for _ in self.by_part():
                pass
        return self._confidence

    def _form(self, name: str, value: Any, rows: int) -> Any:
        """Return what is the same in all parts of an output; empty for one that cannot be in a part of `rows` rows."""
        if name not in (*self.names.rows, *self.names.sequences, *self.names.samples):
            return "whole"
        if not isinstance(value, np.ndarray) or not value.ndim or (name in self.names.rows and len(value) != rows):
            return ""
        if name in self.names.sequences and value.shape[1:] != (2,):
            return ""
        return value.dtype.str, value.shape[1:]

    def __getitem__(self, name: str) -> Any:
        if name not in self._names():
            raise KeyError(name)
        if name not in self._kept:
            one_each = name in (*self.names.rows, *self.names.sequences, *self.names.samples)
            if not one_each:
                return next(outputs[name] for _, outputs in self.by_part())
            return self.names.join(name, [outputs[name] for _, outputs in self.by_part()])
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> tuple[str, ...]:
        if self._forms is None:
            next(self.by_part())
        assert self._forms is not None
        return tuple(self._forms)
