"""The DP-GMM: a Gaussian mixture that finds how many classes there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AliasChoices, Field
from scipy.special import logsumexp

from actors.errors import ModuleError
from actors.kernels.mixture.crp import chinese_restaurant, compile_kernels, expected_classes, log_weights, with_empty
from actors.kernels.mixture.niw import Factors, log_predictive_loo
from actors.kernels.mixture.sequence_init import STARTS, counted_labels_from_sequence
from actors.module import Context, Inbox, Outbox
from actors.modules.mixture.base import Mixture
from actors.modules.mixture.engines import Assignment, Fit, Task, first_assignment
from actors.types import Array, BoolArray, FloatArray, State


@dataclass(frozen=True)
class DPGMMParameters:
    """See :class:`DPGMM`."""

    most: Annotated[int, Field(ge=1)] = 30
    iterations: Annotated[int, Field(ge=0, validation_alias=AliasChoices("iterations", "itr"))] = 100
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    learn_alpha: bool = False
    split_merge: Annotated[int, Field(ge=0)] = 20
    prior_count: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    degrees: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    prior_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["data"] = 0.1
    burn_in: Annotated[int, Field(ge=0)] = 0
    start: Literal["one", "random", "kmeans", "sequence"] = "one"
    calibrate: bool = False


class DPGMM(Mixture[DPGMMParameters]):
    """A Dirichlet-process mixture of Gaussians, learnt by collapsed Gibbs sampling (:mod:`actors.kernels.mixture.crp`).

    In all but the number of its classes it is :class:`actors.modules.mixture.gmm.GMM` with ``rule: extrinsic``, and
    takes its place.
    A class keeps its number for as long as it holds rows, and messages have a column for every place, so that a module
    above goes on with what it knows when classes come and go. The likelihood of an empty class is the prior's. From a
    prior that came the occupied classes have what it says of them; the empty ones share what the process gives to a new
    class (:func:`actors.kernels.mixture.crp.with_empty`).

    Metrics: ``occupied``, how many classes hold sampled rows, and ``classes``, how many of them are the best of any row
    (output ``class``): the sample has a few rows in small classes at any moment.

    Parameters
    ----------
    parameters : DPGMMParameters
        most : int
            K, places for classes: the most that there are at once.
        iterations (or itr) : int
            Sweeps an update. With 0 nothing is learnt, as in the GMM.
        alpha : float
            Concentration: of n rows α / (n + α) is the share of a class not seen yet, all places together.
        learn_alpha : bool
            Whether α is drawn anew after each sweep, under a Gamma(1, 1) prior; it starts at `alpha`.
        split_merge : int
            Proposals after each sweep to split a class or to merge two (:mod:`actors.kernels.mixture.split_merge`).
        prior_count, degrees : float
            As in the GMM.
        prior_scale : float or "data"
            S0 is so many times the identity; ``data`` takes the variances of the data times M^(-2/D), the size of a
            class if as many classes share the volume as the process expects beforehand of so many rows,
            M = Σ_{i < N} α / (α + i).
        burn_in : int
            Further sweeps in the very first update.
        start : {"one", "random", "kmeans", "sequence"}
            Labels of the very first update: all alike; drawn uniformly, or by k-means, among all places; or by what
            each row shares with its neighbours in the sequence, which says how many classes to start with, too
            (:func:`actors.kernels.mixture.sequence_init.counted_labels_from_sequence`); of several chains each looks
            in another way.
        calibrate : bool
            As in the GMM.
    """

    Parameters: ClassVar[type[Any]] = DPGMMParameters
    called = "DP-GMM"

    def __init__(self, parameters: DPGMMParameters) -> None:
        super().__init__(parameters)
        self._alpha: float | None = None  # where it is learnt

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def state(self) -> State:
        """Return what a mixture has, and α where it is learnt."""
        state = super().state()
        return state if self._alpha is None or not state else {**state, "alpha": self._alpha}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a mixture that has learnt nothing.

        Raises
        ------
        ModuleError
            If it has another number of places.
        """
        super().load_state(state)
        self._alpha = float(state["alpha"]) if "alpha" in state else None

    @property
    def classes(self) -> int:
        """K, the number of places."""
        return self.parameters.most

    def _at(self, context: Context) -> DPGMMParameters:
        parameters = self.at(context)
        if parameters.most != self.parameters.most:
            raise ModuleError("the most classes cannot be set for a step: labels are carried over")
        return parameters

    def _concentration(self, parameters: DPGMMParameters) -> float:
        return self._alpha if parameters.learn_alpha and self._alpha is not None else parameters.alpha

    def _first(self, rows: FloatArray, lengths: Array | None, context: Context) -> Assignment:
        start, most = self.parameters.start, min(self.parameters.most, len(rows))
        if start == "one" or len(rows) < 2:
            return Assignment(np.zeros(len(rows), np.int64))
        if start == "sequence":
            window, products = STARTS[context.chain % len(STARTS)]
            return Assignment(
                counted_labels_from_sequence(
                    rows, most, context.generator, window=window, products=products, lengths=lengths
                )
            )
        return first_assignment(start, rows, most, lengths, context)

    def _learn(self, task: Task, start: Assignment, context: Context) -> Fit:
        parameters = self._at(context)
        found = chinese_restaurant(
            task.rows,
            start.labels,
            task.classes,
            task.prior,
            self._concentration(parameters),
            task.iterations,
            context.generator,
            log_prior=task.log_prior,
            temperature=task.temperature,
            mask=task.missing,
            proposals=parameters.split_merge,
            learn_alpha=parameters.learn_alpha,
            on_sweep=lambda done, moved: context.report(done, task.iterations, moved=float(moved)),
        )
        left_out = log_predictive_loo(task.rows, found.labels, found.factors, task.prior)
        metrics = {"occupied": float((found.factors.counts > 0).sum())}
        if parameters.learn_alpha:
            self._alpha = metrics["alpha"] = found.alpha
        return Fit(Assignment(found.labels), found.factors, left_out, metrics)

    def _log_weights(self, factors: Factors, parameters: DPGMMParameters) -> FloatArray:
        return log_weights(factors.counts, self._concentration(parameters))

    def _heard(self, log_prior: FloatArray, factors: Factors, parameters: DPGMMParameters) -> FloatArray:
        return with_empty(log_prior, factors.counts, self._concentration(parameters))

    def _judge(self, left_out: FloatArray, weights: FloatArray, log_prior: FloatArray) -> tuple[float, float]:
        # Empty classes are alike, so that one column can stand for all of them: of thirty some twelve are left.
        assert self._factors is not None
        empty = self._factors.counts == 0
        if empty.any():
            left_out = np.hstack([left_out[:, ~empty], left_out[:, empty][:, :1]])
            weights = np.append(weights[~empty], weights[empty].sum())
            log_prior = np.hstack([log_prior[:, ~empty], logsumexp(log_prior[:, empty], axis=1, keepdims=True)])
        return super()._judge(left_out, weights, log_prior)

    def _sharing(self, rows: int, parameters: DPGMMParameters) -> float:
        return expected_classes(rows, parameters.alpha)

    def _outbox(
        self,
        inbox: Inbox,
        context: Context,
        likelihood: FloatArray,
        missing: BoolArray,
        metrics: dict[str, float],
    ) -> Outbox:
        outbox = super()._outbox(inbox, context, likelihood, missing, metrics)
        found = len(np.unique(outbox.outputs["class"][~missing]))
        return Outbox(outbox.messages, {**outbox.metrics, "classes": float(found)}, outbox.outputs)
