"""Message kinds: the arrays that a message of each kind contains, and the registration of further kinds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from actors.errors import KindError
from actors.limits import MAX_ARRAYS, MAX_DIMENSIONS, MAX_NAME_CHARACTERS

Semantics = Literal["real", "log", "log_distribution", "distribution", "counts", "lengths", "mask"]


@dataclass(frozen=True)
class ArraySpec:
    """The specification of one array of a message kind.

    Parameters
    ----------
    name : str
    dims : tuple of str
        One letter for each dimension; equal letters are equal sizes within a message. N is the number of rows and S
        the number of sequences; ``...``, at the end, stands for further dimensions.
    semantics : str
        ``real`` and ``log`` are finite; ``counts`` are finite and not negative; the rows of ``log_distribution`` and
        ``distribution`` (two dimensions) sum to one, in the log domain or as they are; ``lengths`` are positive and
        sum to N; ``mask`` is true where a row is missing or, of the shape of the values, where a value is.
    optional : bool
        Whether messages may lack the array.
    """

    name: str
    dims: tuple[str, ...]
    semantics: Semantics = "real"
    optional: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that this array may have, as numpy's little-endian codes."""
        special = {"lengths": ("<i8",), "mask": ("|b1",), "counts": ("<f4", "<f8", "<i8")}
        return special.get(self.semantics, ("<f4", "<f8"))

    def __str__(self) -> str:
        return f"{self.name} ({'×'.join(self.dims)}, {self.semantics}{', optional' if self.optional else ''})"


# Messages of every kind may contain the lengths of sequences and the mask of missing rows.
_ROWS = (ArraySpec("lengths", ("S",), "lengths", True), ArraySpec("mask", ("N",), "mask", True))

# Observations may lack values in part of a row: the mask then has the shape of the values.
_ROWS_OF_OBSERVATIONS = (_ROWS[0], ArraySpec("mask", ("N", "..."), "mask", True))


def _row_specs(kind: str) -> tuple[ArraySpec, ...]:
    return _ROWS_OF_OBSERVATIONS if kind == "observations" else _ROWS


@dataclass(frozen=True)
class Kind:
    """A kind of message.

    Parameters
    ----------
    name : str
    arrays : tuple of ArraySpec
        At least one required array has N as its first dimension. ``lengths`` and ``mask`` belong to every kind and
        need not be listed.
    multiplies : bool
        Whether the messages of several senders on one port are multiplied; the kind then needs an array ``log_prob``
        of log-distributions.
    """

    name: str
    arrays: tuple[ArraySpec, ...]
    multiplies: bool = False

    def __post_init__(self) -> None:
        given = {spec.name for spec in self.arrays}
        further = (spec for spec in _row_specs(self.name) if spec.name not in given)
        object.__setattr__(self, "arrays", (*self.arrays, *further))

    def __str__(self) -> str:
        own = [str(spec) for spec in self.arrays if spec.semantics not in ("lengths", "mask")]
        return f"{', '.join(own) or 'no arrays'}{'; multiplies' if self.multiplies else ''}"

    def spec(self, name: str) -> ArraySpec | None:
        """Return the specification of the array called `name`, or None."""
        return next((spec for spec in self.arrays if spec.name == name), None)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("observations", (ArraySpec("values", ("N", "...")), *_ROWS_OF_OBSERVATIONS)),
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
            (
                ArraySpec("means", ("K", "D")),
                ArraySpec("responsibilities", ("N", "K"), "distribution"),
                ArraySpec("drawn", ("N", "D"), optional=True),  # at generation with noise: latent vectors of the rows
                *_ROWS,
            ),
        ),
        Kind("latent_means", (ArraySpec("mean", ("N", "D")), *_ROWS)),
        Kind("transition_prior", (ArraySpec("log_prob", ("N", "K"), "log_distribution"), *_ROWS), multiplies=True),
        Kind("reconstructions", (ArraySpec("values", ("N", "...")), *_ROWS)),
    )
}
"""All kinds registered in this process, by name; :func:`register_kind` adds to them."""

BUILT_IN = frozenset(KINDS)
_DECLARED_BY: dict[str, str] = {}
"""Name of each registered kind → the class that declared it."""


def register_kind(kind: Kind, declared_by: str = "") -> None:
    """Register a message kind in this process, so that ports can have it and its messages are validated.

    The kinds that a module class lists in ``kinds`` are registered when the class is loaded; in a run, the coordinator
    and the process of each module register all kinds of the model. Registering an equal kind again has no effect.

    Parameters
    ----------
    kind : Kind
    declared_by : str
        The class that declares the kind, for error messages.

    Raises
    ------
    KindError
        If the kind is not valid, or if a different kind of this name is registered; names both.
    """
    if not isinstance(kind, Kind):
        raise KindError(f"expected a message kind (actors.Kind), got {kind!r}")
    name = f"kind {kind.name!r}{f' of {declared_by}' if declared_by else ''}"
    if problem := _kind_error(kind):
        raise KindError(f"{name} {problem}")
    if kind.name in KINDS and KINDS[kind.name] != kind:
        other = _DECLARED_BY.get(kind.name)
        of_other = "built-in kind" if kind.name in BUILT_IN else f"kind of {other}" if other else "registered kind"
        raise KindError(
            f"{name} has {kind}, but the {of_other} with this name has {KINDS[kind.name]}; choose another name"
        )
    if kind.name not in KINDS:
        KINDS[kind.name], _DECLARED_BY[kind.name] = kind, declared_by


def custom_kinds(names: Iterable[str]) -> tuple[Kind, ...]:
    """Return the kinds called `names` that are registered but not built in, for processes that lack them."""
    return tuple(KINDS[name] for name in sorted(set(names)) if name in KINDS and name not in BUILT_IN)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and len(name) <= MAX_NAME_CHARACTERS


def _kind_error(kind: Kind) -> str | None:
    """Return why a kind is not valid, or None."""
    names = [spec.name for spec in kind.arrays]
    if not all(_is_name(name) for name in (kind.name, *names)):
        expected = f"use letters, digits and '_', at most {MAX_NAME_CHARACTERS} characters"
        return f"or one of its arrays {names} has an invalid name: {expected}"
    if len(set(names)) < len(names):
        return f"has two arrays of the same name: {', '.join(names)}"
    if len(names) > MAX_ARRAYS:
        return f"has {len(names)} arrays including lengths and mask, at most {MAX_ARRAYS} are allowed"
    for spec in kind.arrays:
        if problem := _spec_error(kind.name, spec):
            return f"has an invalid array {spec.name}: {problem}"
    if not any(spec.dims[0] == "N" and not spec.optional for spec in kind.arrays):
        return f"has {kind}; it needs an array that is not optional and has N, the rows, as its first dimension"
    log_prob = kind.spec("log_prob")
    rows = log_prob and (log_prob.dims[0], log_prob.semantics, log_prob.optional) == ("N", "log_distribution", False)
    if kind.multiplies and not rows:
        return "multiplies, but has no array log_prob (N×K, log_distribution) that is not optional"
    return None


def _spec_error(kind: str, spec: ArraySpec) -> str | None:
    """Return why an array specification is not valid, or None."""
    dims = spec.dims
    row_specs = {row.name: row for row in _row_specs(kind)}
    if spec.semantics not in get_args(Semantics):
        return f"expected semantics to be one of {', '.join(get_args(Semantics))}"
    if not isinstance(dims, tuple) or not all(isinstance(dim, str) and dim for dim in dims):
        return "expected dims to be a tuple of letters"
    if not 1 <= len(dims) <= MAX_DIMENSIONS or "..." in (dims[0], *dims[:-1]):
        return f"expected one to {MAX_DIMENSIONS} dimensions, where '...' may only be the last and not the first"
    if spec.name in row_specs or spec.semantics in row_specs:
        return None if spec == row_specs.get(spec.name) else "lengths and mask are the same in every kind"
    if spec.semantics.endswith("distribution") and (len(dims) != 2 or dims[-1] == "..."):
        return f"expected two dimensions for a {spec.semantics}, whose rows sum to one"
    return None
