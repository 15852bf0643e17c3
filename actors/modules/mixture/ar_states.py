"""The learnt classes of an autoregressive mixture, and the names of their arrays in a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from actors.kernels.mixture.autoregression import Classes, MNIWPosterior, MNIWPrior, Prior
from actors.kernels.mixture.columns import Columns
from actors.kernels.mixture.niw import NIWPosterior
from actors.modules.mixture import class_states
from actors.types import FloatArray, State


class Units(NamedTuple):
    """What internal rows are: those of columns, less a centre (D',)."""

    columns: Columns
    centre: FloatArray

    def internal(self, rows: FloatArray) -> FloatArray:
        """Return internal rows (N, D') of rows (N, D)."""
        X: FloatArray = self.columns.internal(rows) - self.centre
        return X

    def same_as(self, other: Units) -> bool:
        """Return whether internal rows are the same."""
        own, others = (*self.columns, self.centre), (*other.columns, other.centre)
        return self is other or all(np.array_equal(a, b) for a, b in zip(own, others, strict=True))

    def translation(self, other: Units) -> tuple[FloatArray, FloatArray]:
        """Return factor and shift (M,) that make other internal rows of these, of the columns that both have."""
        both = self.columns.kept & other.columns.kept
        of_own, of_others = both[self.columns.kept], both[other.columns.kept]
        own, unit = self.columns.exponent[both], other.columns.exponent[both]
        factor = np.ldexp(1.0, own - unit)
        shift = np.ldexp(self.columns.centre[both], -unit) - np.ldexp(other.columns.centre[both], -unit)
        return factor, shift + factor * self.centre[of_own] - other.centre[of_others]


class LearntClasses(NamedTuple):
    """Learnt classes and their prior, which refer to internal rows, and what defines these."""

    factors: Classes
    prior: Prior
    columns: Columns

    @property
    def units(self) -> Units:
        """What internal rows are."""
        return Units(self.columns, self.prior.centre)


def pack(classes: LearntClasses) -> State:
    """Return the classes as entries of a state, in copies."""
    factors, prior, columns = classes
    return {
        **{name: value.copy() for name, value in factors.dynamics._asdict().items()},
        **{f"initial_{name}": value.copy() for name, value in factors.initial._asdict().items()},
        "mean": factors.mean.copy(),
        **pack_prior(prior, columns),
    }


def pack_prior(prior: Prior, columns: Columns) -> State:
    """Return prior and columns as entries of a state."""
    return {
        "centre": prior.centre.copy(),
        "prior_coefficients": prior.dynamics.mean.copy(),
        "prior_precision": prior.dynamics.precision.copy(),
        "prior_noise": prior.dynamics.scale.copy(),
        **class_states.pack_prior(prior.initial, columns),
    }


def unpack(state: Mapping[str, Any]) -> LearntClasses:
    """Return the classes of a state."""
    dynamics = MNIWPosterior(*(np.array(state[name]) for name in MNIWPosterior._fields))
    initial = NIWPosterior(*(np.array(state[f"initial_{name}"]) for name in NIWPosterior._fields))
    return LearntClasses(Classes(dynamics, initial, np.array(state["mean"])), *unpack_prior(state))


def unpack_prior(state: Mapping[str, Any]) -> tuple[Prior, Columns]:
    """Return prior and columns of a state."""
    prior, columns = class_states.unpack_prior(state)
    names = ("prior_coefficients", "prior_precision", "prior_noise", "centre")
    mean, precision, scale, centre = (np.array(state[name]) for name in names)
    return Prior(MNIWPrior(mean, precision, prior.nu0, scale), prior, centre), columns
