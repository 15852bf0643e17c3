"""What can be said: the message kinds, what their arrays must hold, and how kinds of one's own are made known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from actors.errors import KindError

Semantics = Literal["real", "log", "log_distribution", "distribution", "counts", "lengths", "mask"]

MAX_ARRAYS = 15
MAX_DIMENSIONS = 8
"""What a message's header has room for, ``lengths`` and ``mask`` among the arrays."""


@dataclass(frozen=True)
class ArraySpec:
    """What one array of a message kind must look like.

    Parameters
    ----------
    name : str
    dims : tuple of str
        A letter a dimension, equal letters being equal sizes within the message: N rows, S sequences, and any others;
        ``...`` stands for any further ones.
    semantics : str
        ``real`` and ``log`` are finite, ``counts`` are finite and not negative; rows of ``log_distribution`` and
        ``distribution`` (two dimensions) sum to one; ``lengths`` are positive and add up to N; ``mask`` is true where
        a row is missing.
    optional : bool
    """

    name: str
    dims: tuple[str, ...]
    semantics: Semantics = "real"
    optional: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes that this array may have, as numpy's little-endian codes."""
        special = {"lengths": ("<i8",), "mask": ("|b1",), "counts": ("<f4", "<f8", "<i8")}
        return special.get(self.semantics, ("<f4", "<f8"))

    def __str__(self) -> str:
        return f"{self.name} ({'×'.join(self.dims)}, {self.semantics}{', optional' if self.optional else ''})"


# Lengths of sequences and the mask of missing rows may accompany the rows of any kind.
_ROWS = (ArraySpec("lengths", ("S",), "lengths", True), ArraySpec("mask", ("N",), "mask", True))


@dataclass(frozen=True)
class Kind:
    """A kind of message.

    Parameters
    ----------
    name : str
    arrays : tuple of ArraySpec
        At least one that is always there has rows, N of them. ``lengths`` and ``mask`` belong to every kind; they need
        not be listed.
    multiplies : bool
        Several senders on one port multiply; the kind then has an array ``log_prob`` of log-distributions.
    """

    name: str
    arrays: tuple[ArraySpec, ...]
    multiplies: bool = False

    def __post_init__(self) -> None:
        given = {spec.name for spec in self.arrays}
        object.__setattr__(self, "arrays", (*self.arrays, *(spec for spec in _ROWS if spec.name not in given)))

    def __str__(self) -> str:
        own = [str(spec) for spec in self.arrays if spec not in _ROWS]
        return f"{', '.join(own) or 'no arrays'}{'; multiplies' if self.multiplies else ''}"

    def spec(self, name: str) -> ArraySpec | None:
        """Return the spec of the array called `name`, or None."""
        return next((spec for spec in self.arrays if spec.name == name), None)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("observations", (ArraySpec("values", ("N", "...")), *_ROWS)),
        Kind(
            "latent_vectors", (ArraySpec("mean", ("N", "D")), ArraySpec("variance", ("N", "D"), optional=True), *_ROWS)
        ),
        Kind(
            "class_posteriors",
            (ArraySpec("log_prob", ("N", "K"), "log_distribution"), ArraySpec("log_norm", ("N",), "log"), *_ROWS),
            multiplies=True,
        ),
        Kind(
            "class_means",
            (ArraySpec("means", ("K", "D")), ArraySpec("responsibilities", ("N", "K"), "distribution"), *_ROWS),
        ),
        Kind("latent_means", (ArraySpec("mean", ("N", "D")), *_ROWS)),
        Kind("transition_prior", (ArraySpec("log_prob", ("N", "K"), "log_distribution"), *_ROWS), multiplies=True),
        Kind("reconstructions", (ArraySpec("values", ("N", "...")), *_ROWS)),
    )
}
"""All kinds that this process knows, by name; :func:`register` adds to them."""

BUILT_IN = frozenset(KINDS)
_WHOSE: dict[str, str] = {}
"""Kinds that were added → who did."""


def register_kind(kind: Kind, whose: str = "") -> None:
    """Make a kind known to this process, such that ports may speak it and messages of it are held against it.

    A module class that lists its kinds in ``kinds`` need not do it: whoever loads the class does. Of a run, the
    coordinator and every module's process learn of all kinds of the model. What is known already may come again.

    Parameters
    ----------
    kind : Kind
    whose : str
        Who speaks it, for people.

    Raises
    ------
    KindError
        If the kind cannot be, or if another one of this name is known; names both.
    """
    if not isinstance(kind, Kind):
        raise KindError(f"a kind of message is an actors.messaging.kinds.Kind, {kind!r} is none")
    if said := _kind_error(kind):
        raise KindError(f"kind {kind.name!r}{f' of {whose}' if whose else ''} {said}")
    if kind.name in KINDS and KINDS[kind.name] != kind:
        known = "built in" if kind.name in BUILT_IN else f"that of {_WHOSE.get(kind.name) or 'somebody else'}"
        raise KindError(
            f"kind {kind.name!r} of {whose or 'somebody'} has {kind}; the one of this name that is {known} "
            f"has {KINDS[kind.name]}: choose another name"
        )
    if kind.name not in KINDS:
        KINDS[kind.name], _WHOSE[kind.name] = kind, whose


def own_kinds(names: Iterable[str]) -> tuple[Kind, ...]:
    """Return those of the kinds called `names` that are not built in, for a process that does not know them yet."""
    return tuple(KINDS[name] for name in sorted(set(names)) if name in KINDS and name not in BUILT_IN)


def _kind_error(kind: Kind) -> str | None:
    """Say why there can be no such kind, or None."""
    names = [spec.name for spec in kind.arrays]
    if not all(isinstance(name, str) and name.isidentifier() and len(name) <= 100 for name in (kind.name, *names)):
        return f"and its arrays {names} need names of letters, digits and '_', of at most 100 characters"
    if len(set(names)) < len(names):
        return f"names an array twice: {', '.join(names)}"
    if len(names) > MAX_ARRAYS:
        return f"has {len(names)} arrays with lengths and mask, at most {MAX_ARRAYS} are possible"
    for spec in kind.arrays:
        if said := _spec_error(spec):
            return f"cannot have the array {spec.name}: {said}"
    if not any(spec.dims[0] == "N" and not spec.optional for spec in kind.arrays):
        return f"has {kind}; it needs an array that is always there and whose first dimension is N, the rows"
    log_prob = kind.spec("log_prob")
    rows = log_prob and (log_prob.dims[0], log_prob.semantics, log_prob.optional) == ("N", "log_distribution", False)
    if kind.multiplies and not rows:
        return "multiplies; so it needs an array log_prob (N×K, log_distribution) that is always there"
    return None


def _spec_error(spec: ArraySpec) -> str | None:
    dims, said = spec.dims, None
    of_rows = {row.name: row for row in _ROWS}
    if spec.semantics not in get_args(Semantics):
        said = f"its semantics are one of {', '.join(get_args(Semantics))}"
    elif not isinstance(dims, tuple) or not all(isinstance(dim, str) and dim for dim in dims):
        said = "its dimensions are a tuple of letters"
    elif not 1 <= len(dims) <= MAX_DIMENSIONS or "..." in (dims[0], *dims[:-1]):
        said = f"it has one to {MAX_DIMENSIONS} dimensions, and only the last, not the only one, may be '...'"
    elif spec.name in of_rows or spec.semantics in of_rows:
        said = None if spec == of_rows.get(spec.name) else "lengths and mask say the same in every kind"
    elif spec.semantics.endswith("distribution") and (len(dims) != 2 or dims[-1] == "..."):
        said = "what sums to one are the rows of two dimensions"
    return said
