"""Slopes of measured series with their uncertainty, to tell growth from noise."""

from typing import NamedTuple

import numpy as np
from scipy import stats

BLOCKS = 40
"""Means of so many parts of a series enter the fit; neighbouring samples depend on each other more than these do."""

MIN_FREEDOM = 5.0
"""Fewest degrees of freedom of a slope's error, however correlated the residuals are."""


class Slope(NamedTuple):
    """A slope and its standard error, and the degrees of freedom of the latter."""

    value: float
    error: float
    freedom: float

    def bounds(self, level=0.95):
        """Return the two-sided confidence interval."""
        half = self.error * stats.t.ppf(0.5 + level / 2, self.freedom)
        return self.value - half, self.value + half


def fit_slope(x, y):
    """Fit a line to block means by least squares; return its slope.

    Residuals of neighbouring blocks that are still correlated, with coefficient r, make the error larger by
    sqrt((1 + r) / (1 - r)) and the degrees of freedom fewer by the square of it (Quenouille's effective sample size,
    https://doi.org/10.2307/2332420, for a first-order autoregression).
    """
    parts = np.array_split(np.argsort(x), min(BLOCKS, len(x)))
    x, y = (np.array([np.mean(np.asarray(values, float)[part]) for part in parts]) for values in (x, y))
    count, centred = len(x), x - x.mean()
    value = centred @ y / (centred @ centred)
    residuals = y - y.mean() - value * centred
    square = residuals @ residuals
    r = min(max(residuals[1:] @ residuals[:-1] / square, 0.0), 0.9) if square > 0 else 0.0
    inflation = (1 + r) / (1 - r)
    error = np.sqrt(square / (count - 2) / (centred @ centred) * inflation)
    return Slope(float(value), float(error), max(count / inflation - 2, MIN_FREEDOM))
