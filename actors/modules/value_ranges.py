"""Checks of the range of observations, for modules that compute in float32 or with probabilities."""

from __future__ import annotations

import logging

import numpy as np

from actors.errors import ModuleError, RowError
from actors.types import Array

_log = logging.getLogger(__name__)

MAX_DEVIATION = 100.0
"""Root mean square from which networks, whose weights and steps do not follow the data, learn a column slowly."""

ROUNDING = float(np.finfo(np.float32).eps)
"""One rounding error of float32 at 1, by which values may leave [0, 1]; they are clipped then."""


def check_unit_interval(values: Array, what: str, user: str) -> None:
    """Raise RowError for values (N, …) outside [0, 1] by more than :data:`ROUNDING`; names the bound and the row."""
    flat = values.reshape(len(values), -1)
    low, high = float(flat.min()), float(flat.max())
    if low < -ROUNDING:
        row, bound = int(flat.min(axis=1).argmin()), f"{low:.9g} is below 0"
    elif high > 1 + ROUNDING:
        row, bound = int(flat.max(axis=1).argmax()), f"{high:.9g} is above 1"
    else:
        return
    pixels = "divide them by 255 (divide_by: 255)" if low >= 0 and 1 < high <= 255 and high > 2 else "scale them"
    raise RowError(
        row,
        f"{what} span {low:g} to {high:g}, but {user} is for values in [0, 1], and {bound} (row {{row}}); "
        f"{pixels}, or use 'mse'",
    )


def check_float32(values: Array, what: str) -> None:
    """Raise ModuleError for values (N, …) that float32 does not hold: too large, or a whole column too small."""
    if values.dtype == np.float32:
        return
    flat = np.abs(values.reshape(len(values), -1))
    largest, limits = flat.max(axis=0), np.finfo(np.float32)
    if (largest > limits.max).any():
        column = int(largest.argmax())
        raise ModuleError(
            f"{what} reach {largest[column]:g} in column {column + 1}, above {limits.max:g}, the largest number of "
            "float32; use another unit"
        )
    small = (largest > 0) & (largest < limits.tiny)
    if small.any():
        column = int(small.argmax())
        raise ModuleError(
            f"{what} are at most {largest[column]:g} in column {column + 1}, below {limits.tiny:g}, the least normal "
            "number of float32; use another unit"
        )


def report_units(values: Array, what: str, user: str, cost: float) -> None:
    """Log a warning if a Gaussian likelihood of variance 1 does not fit the unit of values (N, …).

    Parameters
    ----------
    values : ndarray, shape (N, …)
    what, user : str
        What the values are, and what assumes the variance 1.
    cost : float
        Least total variance, the sum over columns, of which something can be learnt. For a VAE it is β, the weight of
        the KL divergence: a linear VAE's latent vectors do not depend on the rows if no eigenvalue of the rows'
        covariance exceeds β times the variance of the likelihood (Lucas et al. 2019, "Don't Blame the ELBO!", section
        4), and the eigenvalues sum to the total variance.
    """
    flat = np.asarray(values.reshape(len(values), -1), dtype=np.float64)
    if len(flat) < 2 or not flat.any():
        return
    total, largest = float(flat.var(axis=0).sum()), float(np.sqrt(np.square(flat).mean(axis=0).max()))
    if 0 < total <= cost:
        _log.warning(
            "%s: the variances of all columns sum to %.3g, but %s assumes a variance of 1 for each column, so that "
            "nothing can be learnt from them; use another unit (divide_by: %.1g)",
            *(what, total, user, np.sqrt(total / flat.shape[1])),
        )
    elif largest > MAX_DEVIATION:
        _log.warning(
            "%s: the root mean square of a column is %.3g, but %s assumes a variance of 1 for each column, and is slow "
            "to learn such values; use another unit (divide_by: %.1g)",
            *(what, largest, user, largest),
        )
