"""The two ways in which the GMM learns its classes: sampling their rows' labels, or approximating their posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from actors.kernels.mixture.gibbs import gibbs
from actors.kernels.mixture.niw import Factors, Prior, log_predictive_loo
from actors.kernels.mixture.sequence_init import STARTS, labels_from_sequence
from actors.kernels.mixture.variational import (
    labels_of,
    responsibilities_of,
    soft_log_predictive_loo,
    variational_bayes,
)
from actors.module import Context
from actors.types import BoolArray, FloatArray, IntArray

Engine = Literal["gibbs", "vb"]
Start = Literal["random", "kmeans", "sequence"]


class Settings(Protocol):
    """The parameters that every mixture has; see :class:`actors.modules.mixture.gmm.GMM`."""

    @property
    def iterations(self) -> int:
        """Sweeps an update."""

    @property
    def alpha(self) -> float:
        """What a class counts beside its rows."""

    @property
    def prior_count(self) -> float:
        """Rows that the prior mean counts for."""

    @property
    def degrees(self) -> float | None:
        """Degrees of freedom."""

    @property
    def prior_scale(self) -> float | Literal["data"]:
        """The prior's scale."""

    @property
    def burn_in(self) -> int:
        """Further sweeps in the first update."""

    @property
    def calibrate(self) -> bool:
        """Whether the likelihood is calibrated."""


class Assignment(NamedTuple):
    """Which rows are in which class.

    Attributes
    ----------
    labels : ndarray of int64, shape (N,)
        -1 for a row that is in none.
    responsibilities : ndarray of float64, shape (N, K), or None
        By which shares, where an engine knows them; the labels are their argmax.
    """

    labels: IntArray
    responsibilities: FloatArray | None = None


@dataclass(frozen=True)
class Task:
    """What an update is to learn from, N rows of dimension D, and how; the parameters are those of the GMM.

    Parameters
    ----------
    rows : ndarray (N, D) float64
    missing : ndarray (N,) of bool
    log_prior : ndarray (N, K) float64, optional
        The product of the priors that came.
    prior : Prior
    classes : int
    alpha : float
    iterations : int
    use_counts : bool
        Whether the classes' weights count.
    temperature : float
    """

    rows: FloatArray
    missing: BoolArray
    log_prior: FloatArray | None
    prior: Prior
    classes: int
    alpha: float
    iterations: int
    use_counts: bool
    temperature: float


class Fit(NamedTuple):
    """What was learnt: factors of the assignment, the leave-one-out log-likelihood (N, K), and figures."""

    assignment: Assignment
    factors: Factors
    left_out: FloatArray
    metrics: Mapping[str, float]


def first_assignment(
    start: Start, rows: FloatArray, classes: int, lengths: npt.ArrayLike | None, context: Context
) -> Assignment:
    """Return what the very first update starts from.

    Parameters
    ----------
    start : {"random", "kmeans", "sequence"}
        As in :class:`actors.modules.mixture.gmm.GMM`.
    rows : ndarray (N, D) float64
        Finite.
    classes : int
    lengths : array_like of int (S,), optional
        Lengths of the sequences.
    context : Context

    Raises
    ------
    ValueError
        If there are too few rows for this start.
    """
    if start == "random":
        return Assignment(context.generator.integers(0, classes, len(rows)))
    if len(rows) < classes:
        raise ValueError(f"{len(rows)} rows cannot start {classes} classes")
    if start == "kmeans":
        _, labels = kmeans2(rows, classes, minit="++", rng=context.generator)
        return Assignment(np.asarray(labels, np.int64))
    # Chains look at the sequence in different ways.
    window, products = STARTS[context.chain % len(STARTS)]
    return Assignment(
        labels_from_sequence(rows, classes, context.generator, window=window, products=products, lengths=lengths)
    )


def sample(task: Task, start: Assignment, context: Context) -> Fit:
    """Learn by collapsed Gibbs sampling (:mod:`actors.kernels.mixture.gibbs`).

    Raises
    ------
    ValueError
        If the kernel refuses what it is given.
    """
    labels, factors = gibbs(
        task.rows,
        start.labels,
        task.classes,
        task.prior,
        task.alpha,
        task.iterations,
        context.generator,
        log_bias=task.log_prior,
        use_counts=task.use_counts,
        temperature=task.temperature,
        mask=task.missing,
        on_sweep=lambda done, moved: context.report(done, task.iterations, moved=float(moved)),
    )
    return Fit(Assignment(labels), factors, log_predictive_loo(task.rows, labels, factors, task.prior), {})


def approximate(task: Task, start: Assignment, context: Context) -> Fit:
    """Learn by variational Bayes (:mod:`actors.kernels.mixture.variational`), where weights count if no prior came.

    Raises
    ------
    ValueError
        If the kernel refuses what it is given.
    """
    given = start.responsibilities
    responsibilities, factors, bound = variational_bayes(
        task.rows,
        responsibilities_of(start.labels, task.classes) if given is None else given,
        task.prior,
        task.alpha,
        task.iterations,
        log_bias=task.log_prior,
        temperature=task.temperature,
        mask=task.missing,
        on_iteration=lambda done, objective: context.report(done, task.iterations, objective=objective),
    )
    left_out = soft_log_predictive_loo(task.rows, responsibilities, factors, task.prior)
    # Without an iteration a row stays where its prior may forbid it: a bound of -inf says nothing, and is no fault.
    metrics = {} if bound == -np.inf else {"bound": bound}
    return Fit(Assignment(labels_of(responsibilities), responsibilities), factors, left_out, metrics)


Learn: TypeAlias = Callable[[Task, Assignment, Context], Fit]
ENGINES: Mapping[Engine, Learn] = {"gibbs": sample, "vb": approximate}
