"""The DP-GMM module: a Gaussian mixture whose number of classes is inferred, by a Dirichlet process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.kernels.mixture.crp import (
    compile_kernels,
    crp_log_weights,
    expected_class_count,
    prior_with_empty_classes,
    sample_crp_mixture,
)
from actors.kernels.mixture.incomplete import log_predictive_loo_observed
from actors.kernels.mixture.niw import NIWPosterior
from actors.kernels.mixture.sequence_init import STARTS, counted_labels_from_sequence
from actors.kernels.special import logsumexp
from actors.module import Context, Inbox, Outbox, Port
from actors.modules.class_posteriors import LABELS
from actors.modules.mixture.base import Mixture
from actors.modules.mixture.engines import Assignment, FitProblem, FitResult, initial_assignment
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
    """Classify rows by a Dirichlet-process Gaussian mixture, which infers the number of classes.

    It is learnt by collapsed Gibbs sampling (:mod:`actors.kernels.mixture.crp`). Apart from the number of classes the
    module is :class:`actors.modules.mixture.gmm.GMM` with ``rule: extrinsic``, and can replace it in a model.

    The number of columns K of all messages is fixed. A class keeps its column for as long as it contains rows, so that
    what a module above has learnt stays valid when classes appear or vanish. An empty class has the likelihood of the
    prior. A prior from above applies to the occupied classes; the empty ones share the mass that the process gives to a
    new class (:func:`actors.kernels.mixture.crp.prior_with_empty_classes`).

    Labels of some rows name columns: a labelled row is in the column of its label, or in another one with the
    probability that the label is wrong. There are no proposals to split and merge classes then, which would exchange
    columns.

    Metrics: ``occupied``, the number of classes that contain sampled rows, and ``classes``, the number of classes that
    are the most probable one of any row (output ``class``). A sample usually has a few rows in small classes.

    Parameters
    ----------
    parameters : DPGMMParameters
        most : int
            K, the maximum number of classes.
        iterations (or itr) : int
            Sweeps per update. With 0 nothing is learnt, as in the GMM.
        alpha : float
            Concentration: after n rows, all empty classes together have the probability α / (n + α).
        learn_alpha : bool
            Whether α is sampled after each sweep, under a Gamma(1, 1) prior; it starts at `alpha`.
        split_merge : int
            Proposals per sweep to split a class or to merge two (:mod:`actors.kernels.mixture.split_merge`).
        prior_count, degrees : float
            As in the GMM.
        prior_scale : float or "data"
            S0 is this multiple of the identity; ``data`` takes the variances of the data times M^(-2/D), the variance
            of one class if the number of classes that the process expects a priori for N rows share the volume,
            M = Σ_{i < N} α / (α + i).
        burn_in : int
            Additional sweeps in the first update.
        start : {"one", "random", "kmeans", "sequence"}
            Initial labels: a single class; uniformly random, or by k-means, among all K classes; or from the directions
            that each row shares with its neighbours in the sequence, which also give the initial number of classes
            (:func:`actors.kernels.mixture.sequence_init.counted_labels_from_sequence`), with other settings in each of
            several chains. Where rows lack some of their values, ``one`` is ``kmeans``.
        calibrate : bool
            As in the GMM.
    """

    Parameters: ClassVar[type[Any]] = DPGMMParameters
    learning_parameters = ("iterations", "burn_in", "start", "split_merge")
    fixed_parameters = ("most",)
    display_name = "DP-GMM"
    ports = (
        *Mixture.ports,
        Port(LABELS, "in", "forward", "transition_prior", optional=True, several=True, beside=True),
    )

    def __init__(self, parameters: DPGMMParameters) -> None:
        super().__init__(parameters)
        self._alpha: float | None = None  # with learn_alpha

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def state(self) -> State:
        """Return the state of a mixture, and α where it is learnt."""
        state = super().state()
        return state if self._alpha is None or not state else {**state, "alpha": self._alpha}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a mixture that has learnt nothing.

        Raises
        ------
        ModuleError
            If the state has another maximum number of classes.
        """
        super().load_state(state)
        self._alpha = float(state["alpha"]) if "alpha" in state else None

    @property
    def classes(self) -> int:
        """K, the maximum number of classes."""
        return self.parameters.most

    def _step_parameters(self, context: Context) -> DPGMMParameters:
        parameters = self.at(context)
        if parameters.most != self.parameters.most:
            raise ModuleError("the maximum number of classes cannot be set for a step: labels are carried over")
        return parameters

    def _concentration(self, parameters: DPGMMParameters) -> float:
        """Return α, the learnt one where there is one."""
        return self._alpha if parameters.learn_alpha and self._alpha is not None else parameters.alpha

    def _initial_assignment(
        self, rows: FloatArray, lengths: Array | None, context: Context, *, lacking: bool = False
    ) -> Assignment:
        start, most = self._step_parameters(context).start, min(self.parameters.most, len(rows))
        if start == "one" and lacking:
            start = "kmeans"  # a single class draws values between the classes, which hides these
        if start == "one" or len(rows) < 2:
            return Assignment(np.zeros(len(rows), np.int64))
        if start == "sequence":
            window, products = STARTS[context.chain % len(STARTS)]
            return Assignment(
                counted_labels_from_sequence(
                    rows, most, context.generator, window=window, products=products, lengths=lengths
                )
            )
        return initial_assignment(start, rows, most, lengths, context)

    def _fit(self, problem: FitProblem, start: Assignment, context: Context) -> FitResult:
        parameters = self._step_parameters(context)
        result = sample_crp_mixture(
            problem.rows,
            start.labels,
            problem.classes,
            problem.prior,
            self._concentration(parameters),
            problem.iterations,
            context.generator,
            log_prior=problem.above,
            log_labels=problem.told,
            temperature=problem.temperature,
            mask=problem.missing,
            incomplete=problem.incomplete,
            proposals=parameters.split_merge,
            learn_alpha=parameters.learn_alpha,
            on_sweep=lambda done, moved: context.report(done, problem.iterations, moved=float(moved)),
        )
        loo_log_likelihood = log_predictive_loo_observed(
            problem.rows, result.labels, problem.incomplete, result.posterior, problem.prior
        )
        metrics = {"occupied": float((result.posterior.counts > 0).sum())}
        if parameters.learn_alpha:
            self._alpha = metrics["alpha"] = result.alpha
        return FitResult(Assignment(result.labels), result.posterior, loo_log_likelihood, metrics)

    def _log_weights(self, factors: NIWPosterior, parameters: DPGMMParameters) -> FloatArray:
        return crp_log_weights(factors.counts, self._concentration(parameters))

    def _adjust_prior(self, log_prior: FloatArray, factors: NIWPosterior, parameters: DPGMMParameters) -> FloatArray:
        return prior_with_empty_classes(log_prior, factors.counts, self._concentration(parameters))

    def _select_trust(
        self, loo_log_likelihood: FloatArray, weights: FloatArray, log_prior: FloatArray
    ) -> tuple[float, float]:
        # All empty classes have the same likelihood, so that one column with their total weight is exact and faster.
        assert self._factors is not None
        empty = self._factors.counts == 0
        if empty.any():
            loo_log_likelihood = np.hstack([loo_log_likelihood[:, ~empty], loo_log_likelihood[:, empty][:, :1]])
            weights = np.append(weights[~empty], weights[empty].sum())
            log_prior = np.hstack([log_prior[:, ~empty], logsumexp(log_prior[:, empty], axis=1, keepdims=True)])
        return super()._select_trust(loo_log_likelihood, weights, log_prior)

    def _expected_class_count(self, rows: int, parameters: DPGMMParameters) -> float:
        return expected_class_count(rows, parameters.alpha)

    def _compose_outbox(
        self,
        inbox: Inbox,
        context: Context,
        likelihood: FloatArray,
        missing: BoolArray,
        metrics: dict[str, float],
        log_volume: float | FloatArray,
    ) -> Outbox:
        outbox = super()._compose_outbox(inbox, context, likelihood, missing, metrics, log_volume)
        classes = len(np.unique(outbox.outputs["class"][~missing]))
        return Outbox(outbox.messages, {**outbox.metrics, "classes": float(classes)}, outbox.outputs)
