"""The message: a header with its kind, its route and its place in the run, and the arrays.

:data:`actors.messaging.kinds.KINDS` lists the kinds of message, :mod:`actors.messaging.validation` checks a message
against its kind, and :mod:`actors.messaging.codec` packs and parses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from actors.errors import escape_controls
from actors.messaging.stored_rows import StoredRows, read_array
from actors.types import Array, IntArray

SCHEMA = 1
"""Version of the header's fields; messages of another version are refused."""


@dataclass(frozen=True)
class ArrayHeader:
    """Name, dtype (numpy's little-endian code) and shape of one array."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes; a Python integer, which no declared shape can overflow."""
        size = np.dtype(self.dtype).itemsize
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Header:
    """The kind, the route, the place in the run and the array headers of a message.

    Parameters
    ----------
    kind : str
        A key of :data:`actors.messaging.kinds.KINDS`.
    sender : str
        Name of the sending module.
    port : str
        The sender's output port; in an inbox, the receiver's input port (:meth:`addressed`).
    receiver : str
        Name of the receiving module; empty if the same message goes to every receiver of the port.
    run : str
    round, step, sequence : int
        The position in the run when it was sent; ``sequence`` counts the calls of modules since the run began.
    arrays : tuple of ArrayHeader
    schema : int
    """

    kind: str
    sender: str
    port: str
    receiver: str = ""
    run: str = ""
    round: int = 0
    step: int = 0
    sequence: int = 0
    arrays: tuple[ArrayHeader, ...] = ()
    schema: int = SCHEMA

    def addressed(self, receiver: str, port: str) -> Header:
        """Return this header as the inbox of `receiver` contains it, on its `port`."""
        return replace(self, receiver=receiver, port=port)

    @property
    def route(self) -> str:
        """The route of the message, for error messages: ``sender -> receiver.port (kind)``."""
        sender, receiver, port, kind = (
            escape_controls(name) or "?" for name in (self.sender, self.receiver, self.port, self.kind)
        )
        return f"{sender} -> {receiver}.{port} ({kind})"

    @property
    def nbytes(self) -> int:
        """Total size of the arrays in bytes."""
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class Message:
    """A header and its arrays by name; in an inbox the arrays are read-only.

    Observations may be on disk (:class:`actors.messaging.stored_rows.StoredRows`); they are read each time that they
    are asked for.
    """

    header: Header
    arrays: Mapping[str, Array | StoredRows] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return read_array(self.arrays[name])

    def get(self, name: str) -> Array | None:
        """Return the array called `name`, or None."""
        return self[name] if name in self.arrays else None

    def take(self, name: str, rows: IntArray) -> Array:
        """Return some rows of the array called `name`; of observations on disk, no others are kept in memory."""
        array = self.arrays[name]
        return array.take(rows) if isinstance(array, StoredRows) else array[rows]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the array called `name`, without reading it."""
        return self.arrays[name].shape

    @property
    def lengths(self) -> Array | None:
        """Lengths of the sequences, (S,) int64; None if all rows are one sequence."""
        return self.get("lengths")

    @property
    def mask(self) -> Array | None:
        """Mask of missing rows, (N,) bool, true where a row is missing; it may be None if no row is.

        A row is missing if all its values are.
        """
        return missing_rows(self.get("mask"))

    @property
    def missing_values(self) -> Array | None:
        """Mask of missing values, (N, D) bool with the values of a row in C order; None if no row lacks some only.

        Only observations may have one, and only modules that say so get one
        (:attr:`actors.module.Module.missing_values`).
        """
        mask = self.get("mask")
        return None if mask is None or mask.ndim == 1 else mask.reshape(len(mask), -1)


def missing_rows(mask: Array | None) -> Array | None:
    """Return which rows are missing, (N,) bool, by a mask of rows or of values; None without a mask.

    There is one where no row is missing, too: all chunks of the rows then have one.
    """
    if mask is None or mask.ndim == 1:
        return mask
    return np.asarray(mask.reshape(len(mask), -1).all(axis=1))


def rows_of(message: Message) -> dict[str, Array]:
    """Return the ``lengths`` and ``mask`` of a message, to be sent with arrays that were computed from its rows."""
    arrays = {"lengths": message.lengths, "mask": message.mask}
    return {name: array for name, array in arrays.items() if array is not None}
