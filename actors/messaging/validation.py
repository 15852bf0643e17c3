"""What is not a number stops an update: figures, states, outputs and messages are held against one rule.

Figures (metrics, what is reported) are finite. Arrays hold neither NaN nor +∞; −∞ is the logarithm of zero and may
stand in them. A state's plain scalars may be infinite, which is how a best loss begins, but not NaN. Messages are held
against their kinds (:mod:`actors.messaging.message`), which say more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from actors.messaging.kinds import KINDS, Array
from actors.module import NonFiniteError

Floats: TypeAlias = npt.NDArray[np.float64]

LARGEST = 1e140
"""The squares of larger values, summed over many rows, overflow float64."""


def check_figures(where: str, figures: Mapping[str, float]) -> None:
    """Refuse figures that are not finite.

    Parameters
    ----------
    where : str
        Whose they are and of when (:attr:`actors.module.Context.where`), for people.
    figures : mapping of str to float

    Raises
    ------
    NonFiniteError
        Names module, round, step and figure.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"{where}: {name} is {value:g}")


def check_arrays(where: str, what: str, values: Mapping[str, Any]) -> None:
    """Refuse arrays with NaN or +∞, and scalars that are NaN.

    Parameters
    ----------
    where : str
    what : str
        ``state`` or ``output``, for people.
    values : mapping of str to array or scalar
        Of other types than floats, anything.

    Raises
    ------
    NonFiniteError
        Names module, round, step, the array, and the first such value with its place.
    """
    for name, value in values.items():
        if isinstance(value, float | np.floating):
            if math.isnan(value):
                raise NonFiniteError(f"{where}: {what} {name!r} is nan")
        elif isinstance(value, np.ndarray) and _exceeds(value):
            place, odd = _first(value)
            raise NonFiniteError(f"{where}: {what} {name!r} is {odd:g}{place}")


def check_range(where: str, what: str, values: Floats) -> None:
    """Refuse values whose squares, summed over rows, are no numbers any more.

    Parameters
    ----------
    where : str
    what : str
        What they are, for people.
    values : ndarray of float64

    Raises
    ------
    NonFiniteError
        Names module, round, step and the largest value.
    """
    most = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if most > LARGEST:
        raise NonFiniteError(
            f"{where}: the {what} reach {most:.3g}, and their covariance overflows beyond {LARGEST:g}; "
            "bring the data into a smaller range"
        )


def is_no_number(kind: str, arrays: Mapping[str, npt.ArrayLike]) -> bool:
    """Say whether a message that was refused holds what no message of `kind` may: NaN, an infinity, a row of −∞."""
    for name, given in arrays.items():
        array, spec = np.atleast_1d(given), KINDS[kind].spec(name)
        if array.dtype.kind != "f" or not array.size:
            continue
        # The largest of a row of log-probabilities is not finite just where one is NaN or +∞, or all are −∞.
        held = array.max(axis=-1) if spec is not None and spec.semantics == "log_distribution" else array
        if not np.isfinite(held).all():
            return True
    return False


def _exceeds(array: Array) -> bool:
    """Say whether there is NaN or +∞ in the array: NaN comes through its largest value, found without a copy."""
    return array.dtype.kind == "f" and array.size > 0 and not array.max() < np.inf


def _first(array: Array) -> tuple[str, float]:
    """Return where the first value that is NaN or +∞ is, in words, and the value."""
    at = np.unravel_index(int(np.argmax(~(array < np.inf))), array.shape)
    return (f" at {tuple(int(i) for i in at)}" if at else ""), float(array[at])
