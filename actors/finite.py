"""What is not a number stops an update: figures, states and outputs are held against one rule.

Figures (metrics, what is reported) are finite. Arrays hold neither NaN nor +∞; −∞ is the logarithm of zero and may
stand in them. Messages are held against their kinds (:mod:`actors.messages`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from actors.module import Context, NonFiniteError

Floats: TypeAlias = npt.NDArray[np.float64]

LARGEST = 1e140
"""The squares of larger values, summed over many rows, overflow float64."""


def check_figures(context: Context, figures: Mapping[str, float]) -> None:
    """Refuse figures that are not finite.

    Parameters
    ----------
    context : Context
        Of the update or answer that they belong to.
    figures : mapping of str to float

    Raises
    ------
    NonFiniteError
        Names module, round, step and figure.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"{context.where}: {name} is {value:g}")


def check_arrays(context: Context, what: str, arrays: Mapping[str, Any]) -> None:
    """Refuse arrays and scalars with NaN or +∞.

    Parameters
    ----------
    context : Context
    what : str
        ``state`` or ``output``, for people.
    arrays : mapping of str to array or scalar

    Raises
    ------
    NonFiniteError
        Names module, round, step, array and the place of the first such value.
    """
    for name, value in arrays.items():
        if isinstance(value, float):
            most = value
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
            most = float(value.max())  # one pass without a copy; NaN comes through
        else:
            continue
        if math.isnan(most) or most == math.inf:
            raise NonFiniteError(f"{context.where}: {what} {name!r} is {most:g}{_place(value)}")


def check_range(context: Context, what: str, values: Floats) -> None:
    """Refuse values whose squares, summed over rows, are no numbers any more.

    Parameters
    ----------
    context : Context
    what : str
        What they are, for people.
    values : ndarray of float64

    Raises
    ------
    NonFiniteError
        Names module, round, step and the largest value.
    """
    most = float(np.abs(values).max(initial=0.0))
    if most > LARGEST:
        raise NonFiniteError(
            f"{context.where}: the {what} reach {most:.3g}, and their covariance overflows beyond {LARGEST:g}; "
            "bring the data into a smaller range"
        )


def _place(value: Any) -> str:
    """Return where in an array the first such value is."""
    bad = np.isnan(value) | (np.asarray(value) == np.inf)
    return f" at {tuple(int(i) for i in np.argwhere(bad)[0])}" if np.ndim(value) else ""
