"""The learnt classes of a mixture, and the names of their arrays in a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from actors.kernels.mixture.columns import Columns, identity
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior
from actors.types import FloatArray, State


class Classes(NamedTuple):
    """Learnt classes: their factors and the prior of these, which refer to internal rows, and what defines these."""

    factors: NIWPosterior
    prior: NIWPrior
    columns: Columns


def pack(classes: Classes) -> State:
    """Return the classes as entries of a state, in copies; without columns where internal rows are the rows."""
    factors, prior, columns = classes
    return {
        **{name: value.copy() for name, value in factors._asdict().items()},
        **pack_prior(prior, columns),
    }


def pack_prior(prior: NIWPrior, columns: Columns, before: str = "") -> State:
    """Return prior and columns as entries of a state, whose names begin with `before`."""
    own = {} if columns.unchanged else {f"columns_{name}": value.copy() for name, value in columns._asdict().items()}
    entries = {
        **own,
        "prior_mean": prior.mean.copy(),
        "prior_scale": prior.scale.copy(),
        "prior_count": prior.r0,
        "degrees": prior.nu0,
    }
    return {before + name: value for name, value in entries.items()}


def unpack(state: Mapping[str, Any]) -> Classes:
    """Return the classes of a state."""
    factors = NIWPosterior(*(np.array(state[name]) for name in NIWPosterior._fields))
    return Classes(factors, *unpack_prior(state))


def unpack_prior(state: Mapping[str, Any], before: str = "") -> tuple[NIWPrior, Columns]:
    """Return prior and columns of a state, the names of whose entries begin with `before`."""
    values = (state[before + name] for name in ("prior_mean", "prior_count", "degrees", "prior_scale"))
    prior = NIWPrior(*values)
    names = [f"{before}columns_{name}" for name in Columns._fields]
    known = names[0] in state
    return prior, Columns(*(np.array(state[n]) for n in names)) if known else identity(prior.mean.size)


def expected_covariances(state: Mapping[str, Any]) -> FloatArray | None:
    """Return the posterior mean of each class's covariance (K, D, D), in the units of the rows.

    It is S / (nu - D - 1), NaN for a class of which it does not exist; 0 for columns without variance, which are left
    out of the classes. None for a state without classes.
    """
    if "chol" not in state:
        return None
    factors, prior, columns = unpack(state)
    classes, width = factors.mean.shape
    degrees = prior.nu0 + np.asarray(factors.counts, dtype=np.float64) - width - 1.0
    lower = np.tril(factors.chol)  # the sampler keeps one half of the scale alone
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.where(degrees > 0.0, 1.0 / degrees, np.nan)[:, None, None] * (lower @ lower.transpose(0, 2, 1))
    if columns.unchanged:
        return within
    exponent = columns.exponent[columns.kept]
    full = np.zeros((classes, len(columns.kept), len(columns.kept)))
    kept = np.flatnonzero(columns.kept)
    with np.errstate(over="ignore"):  # values beyond 1e154 have variances beyond float64, which are infinite
        full[:, kept[:, None], kept] = np.ldexp(np.ldexp(within, exponent[:, None]), exponent)
    return full
