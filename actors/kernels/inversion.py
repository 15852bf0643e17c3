"""Draw classes by inversion: a number between 0 and 1 is looked up in the cumulative weights."""

from __future__ import annotations

import numpy as np

from actors.kernels.types import FloatArray, IntArray


def draw_class(cumulative: FloatArray, uniform: float) -> int:
    """Return the class that one number between 0 and 1 means, by cumulative weights (K,); one of weight zero never."""
    whole = cumulative[-1]
    # The product may be rounded up to the sum, beyond the last class that is possible.
    level = min(uniform * whole, np.nextafter(whole, 0.0))
    return int(np.searchsorted(cumulative, level, side="right"))


def draw_rows(cumulative: FloatArray, uniforms: FloatArray) -> IntArray:
    """Return a class (N,) for each row of cumulative weights (N, K), as :func:`draw_class` does."""
    whole = cumulative[:, -1]
    level = np.minimum(uniforms * whole, np.nextafter(whole, 0.0))
    # The first class whose cumulative weight is above the level: it has added something to it.
    drawn: IntArray = (cumulative <= level[:, None]).sum(axis=1)
    return drawn


def draw_chain(
    first: FloatArray, transition_prob: FloatArray, uniforms: FloatArray, regimes: IntArray | None = None
) -> IntArray:
    """Return the classes (N,) of a Markov chain, from numbers (N,) between 0 and 1.

    Parameters
    ----------
    first : ndarray (K,)
        Distribution of the first class.
    transition_prob : ndarray (K, K) or (R, K, K)
    uniforms : ndarray (N,)
    regimes : ndarray of int (N,), optional
        Of matrices of several regimes, that of each row, by which it follows from the row before it.
    """
    cumulative = np.cumsum(transition_prob, axis=-1)
    classes = np.empty(len(uniforms), np.int64)
    for t, uniform in enumerate(uniforms):
        matrix = cumulative if regimes is None else cumulative[regimes[t]]
        classes[t] = draw_class(np.cumsum(first) if t == 0 else matrix[classes[t - 1]], uniform)
    return classes
