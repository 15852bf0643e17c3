"""What every module that classifies rows by densities of classes has in common, whatever the classes are.

It chooses units of columns, calibrates the likelihood, combines it with priors from above and labels, and composes the
messages. The subclasses define the classes and how they are learnt.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from actors.errors import ModuleError
from actors.kernels.mixture.calibration import calibrate, calibrated_posterior, scaled_likelihood
from actors.kernels.mixture.columns import Columns, choose_columns
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior
from actors.kernels.sequences import boundaries
from actors.limits import MAX_LISTED_NAMES
from actors.messaging.message import Message, rows_of
from actors.messaging.validation import check_range
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import (
    combine_priors,
    joint_prior,
    known_classes,
    label_prior,
    normalise_rows,
    normalise_with_norms,
)
from actors.modules.mixture.engines import Assignment, MixtureParameters
from actors.types import Array, BoolArray, FloatArray, IntArray, State

_log = logging.getLogger(__name__)

MIN_SCALE_RATIO = 2.0**-40
"""Smallest scale of the prior, relative to the variance of its column: below, a class of few rows gets singular."""

PRIOR = "transition_prior"

NO_ROWS = "every row of the latent vectors is missing: there is nothing to learn from"

INITIAL_LAPSE = 0.01
"""Lapse rate of the likelihood until a prior has come that it can be calibrated against."""


P = TypeVar("P", bound=MixtureParameters)


@dataclass(frozen=True)
class Calibration:
    """Temperature and lapse rate of the likelihood, and the mean posterior (K,) of the training rows under them."""

    temperature: float
    lapse: float
    mean: FloatArray


class ClassModule(Module[P]):
    """Classify rows by the densities of learnt classes; abstract.

    What is learnt, ``_factors``, is a posterior of the classes with ``counts`` (K,).
    """

    display_name: ClassVar[str]
    """Name of the module type in error messages."""
    ports: ClassVar[tuple[Port, ...]] = (
        Port("latent_vectors", "in", "forward", "latent_vectors", optional=True),
        Port("observations", "in", "forward", "observations", optional=True),
        Port(PRIOR, "in", "backward", "transition_prior", optional=True),
        Port("class_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("class_means", "out", "backward", "class_means"),
    )

    def __init__(self, parameters: P) -> None:
        super().__init__(parameters)
        self._assignment: Assignment | None = None
        self._factors: Any = None
        self._calibration: Calibration | None = None
        self._columns: Columns | None = None  # of the rows of the last update; what is learnt refers to internal rows

    # --- what a subclass defines ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def classes(self) -> int:
        """K, the number of columns of every message."""

    @abstractmethod
    def _log_weights(self, factors: Any, parameters: P) -> FloatArray:
        """Return the log-weights of the classes, (K,); the weights sum to one."""

    @abstractmethod
    def _expected_class_count(self, rows: int, parameters: P) -> float:
        """Return the number of classes that share the volume of N rows (for ``prior_scale: data``)."""

    @abstractmethod
    def _class_means(self) -> FloatArray:
        """Return the class means (K, D) in the units of the rows."""

    def _weights_multiply_prior(self, parameters: P) -> bool:  # noqa: ARG002 (only the GMM's tutorial rule does)
        """Return whether the weights multiply a prior from above instead of being replaced by it."""
        return False

    def _adjust_prior(self, log_prior: FloatArray, factors: Any, parameters: P) -> FloatArray:  # noqa: ARG002
        """Return a prior (N, K) from above, adjusted to the classes that these factors describe."""
        return log_prior

    def _select_trust(
        self, loo_log_likelihood: FloatArray, weights: FloatArray, log_prior: FloatArray
    ) -> tuple[float, float]:
        """Return temperature and lapse rate (:func:`actors.kernels.mixture.calibration.calibrate`)."""
        return calibrate(loo_log_likelihood, weights, log_prior)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _state_of_rows(self) -> State:
        """Return the entries of a state that :meth:`_restore_rows` reads, in copies."""
        trust = self._calibration
        calibration = (
            {}
            if trust is None
            else {"temperature": trust.temperature, "lapse": trust.lapse, "mean_posterior": trust.mean.copy()}
        )
        assignment = {} if self._assignment is None else self._assignment._asdict()
        return {**calibration, **{name: value.copy() for name, value in assignment.items() if value is not None}}

    def _restore_rows(self, state: Mapping[str, Any]) -> None:
        """Restore what a state has of rows: their assignment, and the calibration by them."""
        if "labels" in state:
            soft = np.array(state["responsibilities"]) if "responsibilities" in state else None
            self._assignment = Assignment(np.array(state["labels"], dtype=np.int64), soft)
        if "temperature" in state:
            mean = np.array(state["mean_posterior"])
            self._calibration = Calibration(float(state["temperature"]), float(state["lapse"]), mean)

    def _step_parameters(self, context: Context) -> P:
        """Return the parameters for this step."""
        return self.at(context)

    def _combined_prior(self, inbox: Inbox, rows: int, parameters: P, without: str | None = None) -> FloatArray | None:
        """Return the adjusted product of the priors (N, K) from above, `without` left out, and labels; None without."""
        assert self._factors is not None
        above = combine_priors(inbox, PRIOR, (rows, self.classes), without)
        above = None if above is None else self._adjust_prior(above, self._factors, parameters)
        return joint_prior(above, label_prior(inbox, (rows, self.classes)))

    def _prior_of_rows(self, above: FloatArray | None, told: FloatArray | None, parameters: P) -> FloatArray | None:
        """Return the prior (N, K) of the rows' classes after learning: from above, from labels and the weights."""
        assert self._factors is not None
        if above is not None:
            return joint_prior(self._adjust_prior(above, self._factors, parameters), told)
        if told is None:
            return None
        return normalise_rows(told + self._log_weights(self._factors, parameters))  # the weights multiply labels

    def _choose_columns(self, present: FloatArray, message: Message, context: Context) -> Columns:
        """Return the conversion of the rows (M, D) that are not missing; log which columns are left out."""
        if len(present) == 0:
            raise ModuleError(NO_ROWS)
        columns = choose_columns(present, row_values(message).dtype)
        log_left_out(columns, self._columns, context)
        return columns

    def _internal_rows(self, rows: FloatArray, missing: BoolArray, context: Context) -> FloatArray:
        """Return the internal rows of rows (N, D) to recognize."""
        assert self._columns is not None
        columns = self._columns
        if rows.shape[1] != columns.kept.size:
            raise ModuleError(
                f"module {context.module!r}: rows must have the shape (N, {columns.kept.size}), but have {rows.shape}; "
                "give rows like those that were learnt from"
            )
        X = columns.internal(rows)
        check_range(context.where, "observations or latent vectors", X[~missing])
        return X

    def _log_differing(self, differing: IntArray, context: Context) -> None:
        """Log which left-out columns of rows to recognize differ from training."""
        if len(differing):
            _log.warning(
                "module %r: %s had one value in every row that was learnt from, and has others now; it is ignored",
                *(context.module, _list_columns(differing)),
            )

    def _prior_from(
        self, mean: FloatArray, variance: FloatArray, rows: int, columns: Columns, parameters: P
    ) -> NIWPrior:
        """Return the normal-inverse-Wishart prior for internal rows of this mean and variance (D,).

        With ``prior_scale: data``, S0 = var(x) K^(-2/D) for each column, the variance of one of K classes that share
        the volume. A number is the scale in the units of the rows, but at most var(x): no class is expected to be wider
        than all rows together. In a column of smaller variance v, S0 would outweigh the rows, and dividing a class of n
        rows in two would cost n/2 log((2 S0 + n v) / (S0 + n v)) nats, whatever the other columns say. The tutorial's
        rule is defined with the number, and has no such limit.
        """
        D = mean.size
        # Zero only where no column varies: then any scale gives the same classes.
        variance = np.where(variance == 0.0, 1.0, variance)
        if parameters.prior_scale == "data":
            scale = variance * self._expected_class_count(rows, parameters) ** (-2.0 / D)
        else:
            # 4^-exponent overflows or underflows where variances lie beyond 1e±300: the limits hold then.
            with np.errstate(over="ignore"):
                scale = np.ldexp(parameters.prior_scale, -2 * columns.exponent[columns.kept])
            largest = np.inf if self._weights_multiply_prior(parameters) else variance
            scale = np.clip(scale, MIN_SCALE_RATIO * variance, largest)
        degrees = D + 2.0 if parameters.degrees is None else parameters.degrees
        try:
            return NIWPrior(mean, parameters.prior_count, degrees, scale)
        except ValueError as error:
            raise ModuleError(f"the prior of {D} latent dimensions is not possible: {error}") from error

    def _fit_calibration(
        self,
        loo_log_likelihood: FloatArray,
        factors: NIWPosterior,
        parameters: P,
        log_prior: FloatArray | None,
        missing: BoolArray,
    ) -> Calibration:
        """Return the calibration from the rows (M, K) that are not missing; close to none without a prior."""
        weights = np.exp(self._log_weights(factors, parameters))
        trust, lapse = (
            (1.0, INITIAL_LAPSE)
            if log_prior is None
            else self._select_trust(loo_log_likelihood, weights, log_prior[~missing])
        )
        mean = calibrated_posterior(loo_log_likelihood, weights, trust, lapse).mean(axis=0)
        return Calibration(trust, lapse, mean)

    def _calibrated_likelihood(self, likelihood: FloatArray, factors: Any, parameters: P) -> FloatArray:
        """Return the calibrated log-likelihood (N, K), relative to the rows' density."""
        trust = self._calibration
        assert trust is not None
        weights = np.exp(self._log_weights(factors, parameters))
        posterior = calibrated_posterior(likelihood, weights, trust.temperature, trust.lapse)
        return scaled_likelihood(posterior, trust.mean)

    def _class_posterior(self, inbox: Inbox, likelihood: FloatArray, parameters: P) -> tuple[FloatArray, FloatArray]:
        """Return log p(class k | row), (N, K), and the log-normalisers (N,).

        p(k | x) ∝ p(x | k) · prior_k; the prior is the one that came from above, the mixture's weights where none came,
        or both where they multiply.
        """
        assert self._factors is not None
        log_prior = self._combined_prior(inbox, len(likelihood), parameters)
        scores = likelihood if log_prior is None else likelihood + log_prior
        if not inbox.all(PRIOR) or self._weights_multiply_prior(parameters):
            scores = scores + self._log_weights(self._factors, parameters)
        return normalise_with_norms(scores)

    def _evidences(self, loo: FloatArray, log_prior: FloatArray | None, context: Context) -> dict[str, float]:
        """Return evidence, score and calibration of internal rows, from leave-one-out log-likelihoods (N, K).

        These are 0 where a row is missing.
        """
        assert self._factors is not None
        parameters = self._step_parameters(context)
        # Both the weights and a prior sum to one, so that the evidence is a log density with either.
        log_weights = self._log_weights(self._factors, parameters)
        evidence = normalise_with_norms(loo + (log_weights if log_prior is None else log_prior))[1].sum()
        metrics = {"evidence": float(evidence)}
        if parameters.calibrate and context.receivers.get("class_posteriors"):
            # A calibrated message is relative to the rows' density, which the evidence of the receiver thus lacks.
            metrics["score"] = float(normalise_with_norms(loo + log_weights)[1].sum())
        return {**metrics, **self._calibration_metrics()}

    def _calibration_metrics(self) -> dict[str, float]:
        """Return what the likelihood was calibrated with, if it was."""
        if self._calibration is None:
            return {}
        return {"likelihood_temperature": self._calibration.temperature, "lapse_rate": self._calibration.lapse}

    def _with_log_evidence(
        self,
        outbox: Outbox,
        inbox: Inbox,
        context: Context,
        likelihood: FloatArray,
        missing: BoolArray,
        log_volume: float | FloatArray,
    ) -> Outbox:
        """Return a recognition's outbox with the output ``log_evidence`` (S,), where that is a density."""
        if context.receivers.get("class_posteriors") or self._calibration is not None:
            return outbox
        by_row = normalise_with_norms(likelihood + self._log_weights(self._factors, self._step_parameters(context)))[1]
        by_row = np.where(missing, 0.0, by_row - log_volume)
        starts = boundaries(len(by_row), rows_of(data_message(inbox)).get("lengths"))
        return replace(outbox, outputs={**outbox.outputs, "log_evidence": np.add.reduceat(by_row, starts[:-1])})

    def _compose_outbox(
        self,
        inbox: Inbox,
        context: Context,
        likelihood: FloatArray,
        missing: BoolArray,
        metrics: dict[str, float],
        log_volume: float | FloatArray,
    ) -> Outbox:
        """Combine `likelihood` (N, K), 0 where rows are missing, with the priors; return messages and outputs.

        `log_volume`, a number or (N,), converts its densities to the units of the rows; it is the same for all classes.
        """
        assert self._factors is not None
        parameters, of_rows = self._step_parameters(context), rows_of(data_message(inbox))
        told = label_prior(inbox, (len(likelihood), self.classes))
        if told is not None and "mask" in of_rows:  # a missing row that has a label says something
            of_rows["mask"] = of_rows["mask"] & (known_classes(told) < 0)
        multiplies = self._weights_multiply_prior(parameters)
        rows, classes = likelihood.shape
        log_posterior, log_norm = self._class_posterior(inbox, likelihood, parameters)
        posterior = np.exp(log_posterior)
        best = log_posterior.argmax(axis=1)
        responsibilities = posterior
        messages = []
        for receiver in context.receivers.get("class_posteriors", ()):
            if not multiplies:
                # Extrinsic message: the receiver's own prior is left out, since it would count twice there.
                others = self._combined_prior(inbox, rows, parameters, without=receiver)
                up, up_norm = normalise_with_norms(likelihood if others is None else likelihood + others)
            else:
                up, up_norm = log_posterior.copy(), log_norm.copy()
                up[missing] = -np.log(classes)
            up_norm -= log_volume
            up_norm[missing] = 0.0  # a missing row has density 1
            messages.append(
                OutgoingMessage("class_posteriors", {"log_prob": up, "log_norm": up_norm, **of_rows}, receiver)
            )
        if multiplies:
            responsibilities = np.eye(classes)[best]
        means = self._class_means()
        messages.append(
            OutgoingMessage("class_means", {"means": means, "responsibilities": responsibilities, **of_rows})
        )
        outputs: dict[str, Array] = {"class": best, "Pdz": posterior, "mu": means}
        return Outbox(messages=messages, metrics=metrics, outputs=outputs)


def data_message(inbox: Inbox) -> Message:
    """Return the message with the rows to classify: latent vectors, or observations without a sender of these."""
    return inbox.first("latent_vectors") or inbox.require("observations")


def row_values(message: Message) -> Array:
    """Return the message's array of rows."""
    return message[rows_name(message)]


def rows_name(message: Message) -> str:
    """Return the name of the message's array of rows."""
    return "mean" if message.header.kind == "latent_vectors" else "values"


def rows_and_mask(message: Message) -> tuple[FloatArray, BoolArray]:
    """Return the rows (N, D) as float64, and the mask (N,) of the missing ones."""
    X = np.asarray(values := row_values(message), dtype=np.float64).reshape(len(values), -1)
    return X, np.zeros(len(X), dtype=np.bool_) if message.mask is None else np.array(message.mask)


def log_left_out(columns: Columns, before: Columns | None, context: Context) -> None:
    """Log which columns are left out, unless they were the same `before`."""
    left_out = np.flatnonzero(~columns.kept)
    if len(left_out) and (before is None or not np.array_equal(columns.kept, before.kept)):
        _log.warning(
            "module %r: %s of %d without variance left out: the same value in every row says nothing about classes",
            *(context.module, _list_columns(left_out), columns.kept.size),
        )


def _list_columns(indices: IntArray) -> str:
    """Return the numbers of columns, counted from 1, for a message."""
    more = f" and {len(indices) - MAX_LISTED_NAMES} more" if len(indices) > MAX_LISTED_NAMES else ""
    numbers = ", ".join(str(index + 1) for index in indices[:MAX_LISTED_NAMES])
    return f"{'columns' if len(indices) > 1 else 'column'} {numbers}{more}"


def log_volumes(columns: Columns, seen: BoolArray | None) -> float | FloatArray:
    """Return :attr:`Columns.log_volume`; of rows that lack values, that of the columns seen (N, D') in each, (N,)."""
    if seen is None:
        return columns.log_volume
    return np.asarray(seen @ columns.exponent[columns.kept].astype(np.float64) * np.log(2.0))
