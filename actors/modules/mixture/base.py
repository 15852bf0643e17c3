"""The common base of the Gaussian mixtures `gmm` and `dp_gmm`.

Input are latent vectors or observations, and priors over each row's class from above; output are class posteriors
upwards and class means downwards. The subclasses define how the classes are learnt and what their weights are.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from actors.errors import ModuleError, NonFiniteError
from actors.kernels.mixture.calibration import calibrate, calibrated_posterior, scaled_likelihood
from actors.kernels.mixture.columns import Columns, choose_columns
from actors.kernels.mixture.gibbs import compile_kernels
from actors.kernels.mixture.incomplete import (
    fill_by_one_gaussian,
    find_incomplete,
    log_predictive_observed,
    with_column_means,
)
from actors.kernels.mixture.known_labels import named_as_known, seeded_kmeans
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, sample_predictive
from actors.kernels.mixture.sums import responsibilities_given
from actors.kernels.mixture.variational import expected_log_weights, most_probable_labels
from actors.kernels.sequences import boundaries
from actors.limits import MAX_LISTED_NAMES
from actors.messaging.message import Message, rows_of
from actors.messaging.validation import check_range
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import combine_priors, normalise_rows, normalise_with_norms
from actors.modules.mixture.class_states import Classes, pack, unpack
from actors.modules.mixture.engines import Assignment, FitProblem, FitResult, MixtureParameters
from actors.types import Array, BoolArray, FloatArray, IntArray, State

_log = logging.getLogger(__name__)

MIN_SCALE_RATIO = 2.0**-40
"""Smallest scale of the prior, relative to the variance of its column: below, a class of few rows gets singular."""

PRIOR = "transition_prior"

LABELS = "labels"
"""Port of what is known of the classes of some rows."""

NO_ROWS = "every row of the latent vectors is missing: there is nothing to learn from"

INITIAL_LAPSE = 0.01
"""Lapse rate of the likelihood until a prior has come that it can be calibrated against."""


P = TypeVar("P", bound=MixtureParameters)


@dataclass(frozen=True)
class _Calibration:
    """Temperature and lapse rate of the likelihood, and the mean posterior (K,) of the training rows under them."""

    temperature: float
    lapse: float
    mean: FloatArray


class Mixture(Module[P]):
    """A mixture of Gaussians with a normal-inverse-Wishart prior; abstract.

    Values that are missing in part of a row are integrated out (:mod:`actors.kernels.mixture.incomplete`).
    """

    missing_values = True
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
        self._factors: Any = None  # NIWPosterior, or another posterior of classes with counts (K,)
        self._prior: NIWPrior | None = None
        self._calibration: _Calibration | None = None
        self._columns: Columns | None = None  # of the rows of the last update; what is learnt refers to internal rows

    # --- what a subclass defines ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def classes(self) -> int:
        """K, the number of columns of every message."""

    @abstractmethod
    def _initial_assignment(
        self, rows: FloatArray, lengths: Array | None, context: Context, *, lacking: bool = False
    ) -> Assignment:
        """Return the assignment that the first update of `rows` (N, D), all finite, starts from.

        `lacking` says that missing values have been filled in.

        Raises
        ------
        ValueError
            If there are too few rows for this start.
        """

    @abstractmethod
    def _fit(self, problem: FitProblem, start: Assignment, context: Context) -> FitResult:
        """Learn the classes.

        Raises
        ------
        ValueError or LinAlgError
            If the data do not allow it.
        """

    @abstractmethod
    def _log_weights(self, factors: NIWPosterior, parameters: P) -> FloatArray:
        """Return the log-weights of the classes, (K,); the weights sum to one."""

    @abstractmethod
    def _expected_class_count(self, rows: int, parameters: P) -> float:
        """Return the number of classes that share the volume of N rows (for ``prior_scale: data``)."""

    def _weights_multiply_prior(self, parameters: P) -> bool:  # noqa: ARG002 (only the GMM's tutorial rule does)
        """Return whether the weights multiply a prior from above instead of being replaced by it."""
        return False

    def _adjust_prior(self, log_prior: FloatArray, factors: NIWPosterior, parameters: P) -> FloatArray:  # noqa: ARG002
        """Return a prior (N, K) from above, adjusted to the classes that these factors describe."""
        return log_prior

    def _select_trust(
        self, loo_log_likelihood: FloatArray, weights: FloatArray, log_prior: FloatArray
    ) -> tuple[float, float]:
        """Return temperature and lapse rate (:func:`actors.kernels.mixture.calibration.calibrate`)."""
        return calibrate(loo_log_likelihood, weights, log_prior)

    # --- the contract ---------------------------------------------------------------------------------------------

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the classes; send class posteriors upwards, class means and responsibilities downwards.

        Raises
        ------
        ModuleError
            If the messages do not fit the parameters or the labels of the last update.
        """
        parameters = self._step_parameters(context)
        message = data_message(inbox)
        rows, missing = rows_and_mask(message)
        X, columns, missing, seen = self._rows_to_learn_from(message, rows, missing, context)
        incomplete = None if seen is None else find_incomplete(~seen, missing)
        present = X[~missing]
        above = combine_priors(inbox, PRIOR, (len(X), self.classes))
        told = label_prior(inbox, (len(X), self.classes))
        log_prior = joint_prior(above, told)
        prior = self._make_prior(present, columns, parameters, None if seen is None else seen[~missing])
        iterations = parameters.iterations + (parameters.burn_in if self._factors is None else 0)
        # Tempering balances the likelihood against a prior. Without one it only blurs the classes, for good.
        trust = 1.0 if self._calibration is None else self._calibration.temperature
        problem = FitProblem(
            rows=X,
            missing=missing,
            log_prior=log_prior,
            prior=prior,
            classes=self.classes,
            alpha=parameters.alpha,
            iterations=iterations if context.learn else 0,
            use_counts=above is None or self._weights_multiply_prior(parameters),
            temperature=1.0 if above is None else context.temperature * trust,
            incomplete=incomplete,
            known=None if told is None else known_classes(told),
        )
        try:
            start = self._current_assignment(problem, rows, columns, message.lengths, context)
            assignment, factors, loo, metrics = self._fit(problem, start, context)
            likelihood = loo
            if self._weights_multiply_prior(parameters):
                likelihood = log_predictive_observed(X, incomplete, factors, prior)
        except NonFiniteError:  # names the module already
            raise
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        self._assignment, self._factors, self._prior, self._columns = assignment, factors, prior, columns
        if above is not None and log_prior is not None:
            log_prior = self._adjust_prior(log_prior, factors, parameters)
        elif log_prior is not None:  # the weights multiply labels
            log_prior = normalise_rows(log_prior + self._log_weights(factors, parameters))
        loo[missing] = 0.0
        likelihood[missing] = 0.0
        if not parameters.calibrate:
            self._calibration = None  # an earlier update may have fitted one
        else:
            told_from_above = None if above is None else log_prior
            self._calibration = self._fit_calibration(loo[~missing], factors, parameters, told_from_above, missing)
            likelihood = self._calibrated_likelihood(likelihood, factors, parameters)
            likelihood[missing] = 0.0
        metrics = {**self._evidences(loo, log_prior, context), **metrics}
        by_row = log_volumes(columns, seen)
        # These are log densities of the rows in the units that they came in.
        volume = len(present) * by_row if isinstance(by_row, float) else float(by_row[~missing].sum())
        metrics |= {name: metrics[name] - volume for name in ("evidence", "score", "bound") if name in metrics}
        log_volume = 0.0 if parameters.calibrate else by_row
        return self._compose_outbox(inbox, context, likelihood, missing, metrics, log_volume)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Classify new rows by the learnt factors.

        Where no module above combines the classes, the output ``log_evidence`` (S,) is the log-density of each sequence
        by the weights of the classes; of a calibrated mixture, whose likelihood is no density, there is none.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages do not fit.
        """
        if self._factors is None or self._prior is None or self._columns is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        rows, missing = rows_and_mask(data_message(inbox))
        absent = data_message(inbox).missing_values
        seen = None
        if absent is not None and absent.shape[1] == self._columns.kept.size:
            rows = np.where(absent, self._columns.external(self._prior.mean[None]), rows)
            seen = ~absent[:, self._columns.kept]
            missing = missing | ~seen.any(axis=1)
        X = self._internal_rows(rows, missing, context)
        self._log_differing(self._columns.differing(rows[~missing]), context)
        likelihood, log_volume = self._new_likelihood(X, missing, context, seen)
        outbox = self._compose_outbox(inbox, context, likelihood, missing, {}, log_volume)
        if context.receivers.get("class_posteriors") or self._calibration is not None:
            return outbox
        by_row = normalise_with_norms(likelihood + self._log_weights(self._factors, self._step_parameters(context)))[1]
        by_row = np.where(missing, 0.0, by_row - log_volume)
        starts = boundaries(len(by_row), rows_of(data_message(inbox)).get("lengths"))
        return replace(outbox, outputs={**outbox.outputs, "log_evidence": np.add.reduceat(by_row, starts[:-1])})

    def _recognized(self, inbox: Inbox, X: FloatArray, missing: BoolArray, context: Context) -> Outbox:
        """Return the answer for new internal rows."""
        likelihood, log_volume = self._new_likelihood(X, missing, context)
        return self._compose_outbox(inbox, context, likelihood, missing, {}, log_volume)

    def _new_likelihood(
        self, X: FloatArray, missing: BoolArray, context: Context, seen: BoolArray | None = None
    ) -> tuple[FloatArray, float | FloatArray]:
        """Return log p(row | class) of new internal rows, (N, K), and what converts it to the units of the rows.

        `seen` (N, D) is false where a value is missing.
        """
        assert self._factors is not None
        assert self._prior is not None
        assert self._columns is not None
        try:
            incomplete = None if seen is None else find_incomplete(~seen, missing)
            likelihood = log_predictive_observed(X, incomplete, self._factors, self._prior)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        if self._calibration is not None:
            likelihood = self._calibrated_likelihood(likelihood, self._factors, self._step_parameters(context))
        likelihood[missing] = 0.0
        return likelihood, log_volumes(self._columns, seen) if self._calibration is None else 0.0

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Send class means for classes from the prior, or drawn by the weights without one; output ``class`` (N,).

        Where no module below decodes class means, the output ``x`` (N, D) has a row drawn from each class.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._factors is None or self._prior is None or self._columns is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        log_prior = combine_priors(inbox, PRIOR, (context.rows, self.classes))
        if log_prior is None:
            weights = np.exp(self._log_weights(self._factors, self._step_parameters(context)))
            drawn = context.generator.choice(len(weights), context.rows, p=weights)
            responsibilities = np.eye(len(weights))[drawn]
        else:
            responsibilities = np.exp(log_prior)
        arrays = {"means": self._class_means(), "responsibilities": responsibilities}
        outputs: dict[str, Array] = {"class": responsibilities.argmax(axis=1)}
        if not context.receivers.get("class_means"):
            rows = sample_predictive(outputs["class"], self._factors, self._prior, context.generator)
            outputs["x"] = self._columns.external(rows)
        return Outbox([OutgoingMessage("class_means", arrays)], outputs=outputs)

    def state(self) -> State:
        """Return copies of the labels (and responsibilities), the factors, their prior and the calibration.

        Factors and prior refer to internal rows (:mod:`actors.kernels.mixture.columns`). The arrays ``columns_kept``,
        ``columns_centre`` and ``columns_exponent`` define these; they are absent where internal rows are the rows.
        There are no labels where workers shared the rows.
        """
        if self._factors is None or self._prior is None or self._columns is None:
            return {}
        trust = self._calibration
        calibration = (
            {}
            if trust is None
            else {"temperature": trust.temperature, "lapse": trust.lapse, "mean_posterior": trust.mean.copy()}
        )
        assignment = {} if self._assignment is None else self._assignment._asdict()
        return {
            **calibration,
            **{name: value.copy() for name, value in assignment.items() if value is not None},
            **pack(Classes(self._factors, self._prior, self._columns)),
        }

    def state_without_rows(self) -> State:
        """Return the state without the labels and responsibilities of rows; the factors are sums over rows."""
        return {name: value for name, value in self.state().items() if name not in Assignment._fields}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a mixture that has learnt nothing.

        Raises
        ------
        ModuleError
            If the state has another number of classes.
        """
        self._assignment, self._factors, self._prior, self._calibration, self._columns = None, None, None, None, None
        if not state:
            return
        factors, prior, columns = unpack(state)
        if factors.counts.size != self.classes:
            raise ModuleError(
                f"the state has {factors.counts.size} classes, this {self.display_name} has {self.classes}"
            )
        self._factors, self._prior, self._columns = factors, prior, columns
        self._restore_rows(state)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _restore_rows(self, state: Mapping[str, Any]) -> None:
        """Restore what a state has of rows: their assignment, and the calibration by them."""
        if "labels" in state:
            soft = np.array(state["responsibilities"]) if "responsibilities" in state else None
            self._assignment = Assignment(np.array(state["labels"], dtype=np.int64), soft)
        if "temperature" in state:
            mean = np.array(state["mean_posterior"])
            self._calibration = _Calibration(float(state["temperature"]), float(state["lapse"]), mean)

    def _step_parameters(self, context: Context) -> P:
        """Return the parameters for this step."""
        return self.at(context)

    def _combined_prior(self, inbox: Inbox, rows: int, parameters: P, without: str | None = None) -> FloatArray | None:
        """Return the adjusted product of the priors (N, K) from above, `without` left out, and labels; None without."""
        assert self._factors is not None
        above = combine_priors(inbox, PRIOR, (rows, self.classes), without)
        above = None if above is None else self._adjust_prior(above, self._factors, parameters)
        return joint_prior(above, label_prior(inbox, (rows, self.classes)))

    def _current_assignment(
        self, problem: FitProblem, rows: FloatArray, columns: Columns, lengths: Array | None, context: Context
    ) -> Assignment:
        """Return the assignment of the last update, or the initial one in the first update.

        Where workers shared the rows of the last update there is none: it follows from the classes that they learnt.
        `rows` (N, D) are in the units in which they came.
        """
        if self._factors is None:
            return self._first_assignment(problem.rows, problem.missing, lengths, context, problem)
        assert self._prior is not None
        assert self._columns is not None
        carried = self._assignment
        if carried is not None and len(carried.labels) != len(rows):
            raise ModuleError(
                f"module {context.module!r} has labels of {len(carried.labels)} rows, {len(rows)} rows came: "
                "start a new run"
            )
        learnt, received = self._columns.kept.size, columns.kept.size
        if learnt != received:
            of = "labels of rows" if carried is not None else "learnt from rows"
            raise ModuleError(
                f"module {context.module!r} has {of} with {learnt} dimensions, rows with {received} came: "
                "start a new run"
            )
        if carried is not None:
            return carried
        if problem.incomplete is not None:
            filled = fill_by_one_gaussian(problem.rows, problem.missing, problem.incomplete, problem.prior)
            rows = columns.external(filled)
        soft = responsibilities_given(
            self._columns.internal(rows),
            self._factors,
            self._prior,
            log_weights=expected_log_weights(self._factors.counts, problem.alpha),
            log_prior=problem.log_prior,
            temperature=problem.temperature,
            mask=problem.missing,
        )
        return Assignment(most_probable_labels(soft), soft)

    def _first_assignment(
        self,
        X: FloatArray,
        missing: BoolArray,
        lengths: Array | None,
        context: Context,
        problem: FitProblem | None = None,
    ) -> Assignment:
        """Return the assignment that the first update of internal rows (N, D) starts from."""
        lacking = problem is not None and problem.incomplete is not None
        if problem is not None and problem.incomplete is not None:
            X = fill_by_one_gaussian(X, missing, problem.incomplete, problem.prior)
        # Missing rows take the mean of the others, where they influence the start least.
        filled = np.where(missing[:, None], X[~missing].mean(axis=0), X)
        if self._step_parameters(context).prior_scale == "data":  # the columns may have different units
            filled = filled / np.where(deviation := X[~missing].std(axis=0), deviation, 1.0)
        first = self._initial_assignment(filled, lengths, context, lacking=lacking)
        if problem is None or problem.known is None:
            return first
        labels = named_as_known(first.labels, problem.known, self.classes)
        ordered = context.order_above and getattr(self._step_parameters(context), "start", "") != "kmeans"
        return Assignment(labels if ordered else seeded_kmeans(filled, labels, problem.known, self.classes))

    def _choose_columns(self, present: FloatArray, message: Message, context: Context) -> Columns:
        """Return the conversion of the rows (M, D) that are not missing; log which columns are left out."""
        if len(present) == 0:
            raise ModuleError(NO_ROWS)
        columns = choose_columns(present, row_values(message).dtype)
        log_left_out(columns, self._columns, context)
        return columns

    def _rows_to_learn_from(
        self, message: Message, rows: FloatArray, missing: BoolArray, context: Context
    ) -> tuple[FloatArray, Columns, BoolArray, BoolArray | None]:
        """Return internal rows, their columns, which rows are missing, and which values (N, D') are not, if some are.

        A row that has values of left-out columns only is missing.
        """
        absent = message.missing_values
        if absent is None:
            columns = self._choose_columns(rows[~missing], message, context)
            return columns.internal(rows), columns, missing, None
        columns = self._choose_columns(filled_with_seen(rows, absent)[~missing], message, context)
        seen: BoolArray = ~absent[:, columns.kept]
        return with_column_means(columns.internal(rows), seen), columns, missing | ~seen.any(axis=1), seen

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

    def _class_means(self) -> FloatArray:
        """Return the class means (K, D) in the units of the rows."""
        assert self._factors is not None
        assert self._columns is not None
        return self._columns.external(self._factors.mean)

    def _make_prior(
        self, present: FloatArray, columns: Columns, parameters: P, seen: BoolArray | None = None
    ) -> NIWPrior:
        """Return the prior for the internal rows (M, D) that are not missing; `seen` is false where values are."""
        if seen is None:
            return self._prior_from(present.mean(axis=0), present.var(axis=0), len(present), columns, parameters)
        mean, variance = present.mean(axis=0, where=seen), present.var(axis=0, where=seen)
        return self._prior_from(mean, variance, len(present), columns, parameters)

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
    ) -> _Calibration:
        """Return the calibration from the rows (M, K) that are not missing; close to none without a prior."""
        weights = np.exp(self._log_weights(factors, parameters))
        trust, lapse = (
            (1.0, INITIAL_LAPSE)
            if log_prior is None
            else self._select_trust(loo_log_likelihood, weights, log_prior[~missing])
        )
        mean = calibrated_posterior(loo_log_likelihood, weights, trust, lapse).mean(axis=0)
        return _Calibration(trust, lapse, mean)

    def _calibrated_likelihood(self, likelihood: FloatArray, factors: NIWPosterior, parameters: P) -> FloatArray:
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
        """Return evidence and score of internal rows, from leave-one-out log-likelihoods (N, K), 0 where missing."""
        assert self._factors is not None
        parameters = self._step_parameters(context)
        # Both the weights and a prior sum to one, so that the evidence is a log density with either.
        log_weights = self._log_weights(self._factors, parameters)
        evidence = normalise_with_norms(loo + (log_weights if log_prior is None else log_prior))[1].sum()
        metrics = {"evidence": float(evidence)}
        if parameters.calibrate and context.receivers.get("class_posteriors"):
            # A calibrated message is relative to the rows' density, which the evidence of the receiver thus lacks.
            metrics["score"] = float(normalise_with_norms(loo + log_weights)[1].sum())
        return metrics

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
    return message["mean" if message.header.kind == "latent_vectors" else "values"]


def rows_and_mask(message: Message) -> tuple[FloatArray, BoolArray]:
    """Return the rows (N, D) as float64, and the mask (N,) of the missing ones."""
    X = np.asarray(values := row_values(message), dtype=np.float64).reshape(len(values), -1)
    return X, np.zeros(len(X), dtype=np.bool_) if message.mask is None else np.array(message.mask)


def label_prior(inbox: Inbox, shape: tuple[int, int]) -> FloatArray | None:
    """Return log p(label | class), (N, K), the product over all sources; 0 for rows without. None if no labels came.

    Raises
    ------
    ModuleError
        If labels are not of `shape`, or contradict each other.
    """
    messages = inbox.all(LABELS)
    if not messages:
        return None
    combine_priors(inbox, LABELS, shape)  # checks
    total = np.zeros(shape)
    for message in messages.values():
        log_prob = np.asarray(message["log_prob"], np.float64)
        total += log_prob if message.mask is None else np.where(message.mask[:, None], 0.0, log_prob)
    return total


def known_classes(told: FloatArray) -> IntArray:
    """Return the most probable class (N,) by labels alone (N, K), -1 for rows without a label."""
    return np.where(np.ptp(np.exp(told), axis=1) > 0.0, told.argmax(axis=1), -1).astype(np.int64)


def joint_prior(above: FloatArray | None, told: FloatArray | None) -> FloatArray | None:
    """Return the product of a prior from above and labels (N, K), as log-distributions if both are there.

    Raises
    ------
    ModuleError
        If they exclude each other in a row.
    """
    if above is None or told is None:
        return told if above is None else above
    product = above + told
    excluded = np.flatnonzero(product.max(axis=1) == -np.inf)
    if len(excluded):
        raise ModuleError(
            f"the prior from above excludes the label of row {excluded[0] + 1}; give labels a confidence below 1"
        )
    return normalise_rows(product)


def log_volumes(columns: Columns, seen: BoolArray | None) -> float | FloatArray:
    """Return :attr:`Columns.log_volume`; of rows that lack values, that of the columns seen (N, D') in each, (N,)."""
    if seen is None:
        return columns.log_volume
    return np.asarray(seen @ columns.exponent[columns.kept].astype(np.float64) * np.log(2.0))


def filled_with_seen(rows: FloatArray, absent: BoolArray) -> FloatArray:
    """Return rows (N, D) with the column's first value in the place of missing ones: the range stays what it is."""
    first = rows[absent.argmin(axis=0), np.arange(rows.shape[1])]
    return np.where(absent, first, rows)


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
