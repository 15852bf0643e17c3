"""What the workers of a module send each other, in fewer bytes, and bit for bit what it was.

Of symmetric and triangular matrices one triangle is sent. Of the parameters those arrays are sent that the workers do
not have: many are the same from pass to pass, and those with which an update begins are those with which the one before
ended. The first worker makes the parameters. It knows which of them all workers have, since the sums that it gets from
them name the parameters that they were made from.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.errors import StaleIncarnationError, WorkerConnectionError
from actors.limits import MAX_KEPT_PARAMETER_BYTES
from actors.types import Array, FloatArray, State

_MIN_SIZE, _MIN_BYTES = 4, 512
"""Smaller matrices and arrays are sent as they are: what names them would take as much."""


_LARGE, _ATTEMPTS = 1 << 16, 4
"""Size of an array from which on it is compared no more, after it differed this often in turn."""


@dataclass(frozen=True)
class Triangle:
    """The lower triangles (…, n (n + 1) / 2) of matrices (…, n, n) that are symmetric, or zero above the diagonal."""

    lower: FloatArray
    size: int
    symmetric: bool


@dataclass(frozen=True)
class Known:
    """Stands for an array that the receiver has."""

    digest: bytes


@dataclass(frozen=True)
class SentParameters:
    """Parameters on their way to all workers."""

    token: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Repeated:
    """Stands for the parameters that the worker received last, where a call sends them again."""


@dataclass(frozen=True)
class SentSums:
    """Sums on their way to the first worker, and the parameters that they were made from; its own do not say."""

    token: str
    value: Any


class Exchange:
    """One worker's side of what is sent between the workers of its group.

    Attributes
    ----------
    first : bool
        Whether it is that of the first worker, which has all parameters that it has made.
    """

    def __init__(self) -> None:
        self.first = False
        self._made: dict[str, dict[bytes, Array]] = {}  # parameters by their token, the newest last
        self._received: dict[str, dict[bytes, Array]] = {}
        self._last: State = {}
        self._common = ""  # the token of parameters that all workers have

    def forget(self) -> None:
        """Send all parameters again: a worker is new."""
        self._common = ""

    def send_parameters(self, learnt: State) -> SentParameters:
        """Return parameters as the first worker sends them."""
        token, arrays, values = uuid.uuid4().hex, dict[bytes, Array](), dict[str, Any]()
        common = self._made.get(self._common, {})
        small = sum(value.nbytes for value in learnt.values() if isinstance(value, np.ndarray)) <= (
            MAX_KEPT_PARAMETER_BYTES
        )
        for name, value in learnt.items():
            if not small or not isinstance(value, np.ndarray) or value.nbytes < _MIN_BYTES:
                values[name] = value
                continue
            digest = _digest(value)
            arrays[digest] = common[digest] if digest in common else _copy(value)
            values[name] = Known(digest) if digest in common else pack_triangles(value)
        self._made[token] = arrays
        for old in list(self._made)[:-3]:
            if old != self._common:
                del self._made[old]
        return SentParameters(token, values)

    def send_sums(self, value: Any) -> SentSums:
        """Return sums as a worker sends them to the first one."""
        return SentSums("" if self.first else next(reversed(self._received), ""), pack_triangles(value))

    def receive(self, values: Sequence[Any]) -> list[Any]:
        """Return values that were sent, those that were sent as they are among them.

        Raises
        ------
        StaleIncarnationError
            If parameters are not there that the sender took for known; the call is repeated then.
        """
        tokens = {value.token for value in values if isinstance(value, SentSums)} - {""}
        if len(tokens) == 1 and (common := next(iter(tokens))) in self._made:
            self._common = common
        return [self._value_of(value) for value in values]

    def _value_of(self, sent: Any) -> Any:
        if isinstance(sent, SentSums):
            return unpack_triangles(sent.value)
        if isinstance(sent, Repeated):
            return self._last
        if not isinstance(sent, SentParameters):
            return sent
        known = {
            digest: array
            for held in (self._made, self._received)
            for of in held.values()
            for digest, array in of.items()
        }
        arrays, learnt = dict[bytes, Array](), dict[str, Any]()
        for name, value in sent.values.items():
            if isinstance(value, Known):
                if value.digest not in known:
                    raise StaleIncarnationError(f"the parameters {name} are not in this process")
                learnt[name] = arrays[value.digest] = known[value.digest]
                continue
            learnt[name] = unpack_triangles(value)
            if isinstance(learnt[name], np.ndarray) and learnt[name].nbytes >= _MIN_BYTES:
                arrays[_digest(learnt[name])] = learnt[name]
        self._received.pop(sent.token, None)
        self._received[sent.token] = arrays
        for old in list(self._received)[:-2]:
            del self._received[old]
        self._last = learnt
        return learnt


class SentChanges:
    """Those of the parameters that the receivers do not have, where all of them arrive in turn.

    Arrays are compared with copies of those sent before, by whatever name: the module may go on to use an array. Those
    that are large and differ every time, as weights of networks do, are soon compared no more.
    """

    def __init__(self) -> None:
        self._sent: dict[str, Array] = {}  # what each name stood for last
        self._differed: dict[str, int] = {}  # how often in turn, by name

    def of(self, learnt: State) -> tuple[list[str], list[str], list[Any]]:
        """Return the names of parameters, by which name each was sent before ("" for new ones), and the new values."""
        arrays = {name: value for name, value in learnt.items() if isinstance(value, np.ndarray)}
        if sum(array.nbytes for array in arrays.values()) > MAX_KEPT_PARAMETER_BYTES:
            arrays = {}
        before, self._sent = self._sent, {name: each for name, each in self._sent.items() if name not in learnt}
        known, values = list[str](), list[Any]()
        for name, value in learnt.items():
            as_before = _name_of(value, name, before) if name in arrays else ""
            known.append(as_before)
            if not as_before:
                values.append(pack_triangles(value))
            if name in arrays:
                self._differed[name] = 0 if as_before else self._differed.get(name, 0) + 1
                if value.nbytes < _LARGE or self._differed[name] < _ATTEMPTS:
                    self._sent[name] = before[as_before] if as_before else _copy(value)
        if sum(array.nbytes for array in self._sent.values()) > 2 * MAX_KEPT_PARAMETER_BYTES:
            self.forget_others(learnt)
        return list(learnt), known, values

    def forget_others(self, learnt: State) -> None:
        """Send what these parameters lack again."""
        self._sent = {name: each for name, each in self._sent.items() if name in learnt}

    @staticmethod
    def applied(before: State, names: Sequence[str], known: Sequence[str], values: Sequence[Any]) -> State:
        """Return the parameters that :meth:`of` was given.

        Raises
        ------
        WorkerConnectionError
            If they do not follow from those before.
        """
        learnt, new = dict[str, Any](), iter(values)
        try:
            for name, as_before in zip(names, known, strict=True):
                learnt[name] = before[as_before] if as_before else unpack_triangles(next(new))
        except (KeyError, TypeError, ValueError, StopIteration):
            raise WorkerConnectionError("another worker sent changes to parameters that are not here") from None
        return learnt


def _name_of(value: Array, name: str, before: Mapping[str, Array]) -> str:
    """Return the name of an array that was sent before, its own if possible; "" if there is none."""
    if name in before and _same(before[name], value):
        return name
    shape = value.shape
    return next((other for other, array in before.items() if array.shape == shape and _same(array, value)), "")


def _same(before: Array, now: Array) -> bool:
    """Return whether two arrays are the same, bit for bit."""
    if before.dtype != now.dtype or before.shape != now.shape or before.strides != now.strides:
        return False
    old, new = (array.reshape(-1, order="A").view(np.uint8) for array in (before, now))
    return np.array_equal(old[:64], new[:64]) and np.array_equal(old, new)


def pack_triangles(value: Any) -> Any:
    """Return a value in which matrices that are symmetric or triangular are replaced by their lower triangles."""
    if type(value) is dict:
        return {name: pack_triangles(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(pack_triangles(each) for each in value)
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.ndim < 2:
        return value
    size = value.shape[-1]
    if value.shape[-2] != size or size < _MIN_SIZE or not value.size:
        return value
    bits = np.ascontiguousarray(value).view(np.int64)  # zeros differ in their sign
    first = bits.reshape(-1, size, size)[0]
    if first[0, 1:].any() and not np.array_equal(first[0], first[:, 0]):  # without a look at all of a large one
        return value
    symmetric = np.array_equal(bits, bits.swapaxes(-1, -2))
    if not symmetric and np.triu(bits, 1).any():
        return value
    rows, columns = np.tril_indices(size)
    return Triangle(value[..., rows, columns], size, symmetric)


def unpack_triangles(value: Any) -> Any:
    """Return the value that :func:`pack_triangles` was given."""
    if type(value) is dict:
        return {name: unpack_triangles(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(unpack_triangles(each) for each in value)
    if not isinstance(value, Triangle):
        return value
    rows, columns = np.tril_indices(value.size)
    matrices = np.zeros((*value.lower.shape[:-1], value.size, value.size))
    matrices[..., rows, columns] = value.lower
    if value.symmetric:
        matrices[..., columns, rows] = value.lower
    return matrices


def _copy(array: Array) -> Array:
    """Return a copy that nothing can change: the module may go on to use the array."""
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


def _digest(array: Array) -> bytes:
    digest = hashlib.blake2b(repr((array.dtype.str, array.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.digest()
