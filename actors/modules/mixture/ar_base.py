"""What the autoregressive mixture does with all rows in one process: it learns, recognizes and generates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.kernels.mixture.autoregression import (
    Classes,
    MNIWPrior,
    Prior,
    Series,
    draw_parameters,
    expected_rows,
    series,
    simulate,
)
from actors.kernels.mixture.autoregression_engines import (
    blocked_gibbs,
    compile_kernels,
    responsibilities_given,
    variational_bayes,
)
from actors.kernels.mixture.columns import Columns
from actors.kernels.mixture.incomplete import with_column_means
from actors.kernels.mixture.incomplete_series import (
    Values,
    find_gaps,
    log_predictive_observed,
    values_by_one_class,
)
from actors.kernels.mixture.known_labels import named_as_known
from actors.kernels.mixture.niw import NIWPosterior
from actors.kernels.mixture.segment_start import consensus_of_segments
from actors.kernels.mixture.sequence_init import kmeans_labels, motion_features
from actors.kernels.mixture.variational import expected_log_scores, most_probable_labels, one_hot_responsibilities
from actors.kernels.sequences import boundaries
from actors.messaging.message import Message, rows_of
from actors.module import Context, Inbox, Outbox, OutgoingMessage
from actors.modules.class_posteriors import (
    combine_priors,
    joint_prior,
    known_classes,
    label_prior,
)
from actors.modules.mixture.ar_states import LearntClasses, pack, unpack
from actors.modules.mixture.base import filled_with_seen
from actors.modules.mixture.class_module import (
    PRIOR,
    ClassModule,
    data_message,
    log_volumes,
    rows_and_mask,
)
from actors.modules.mixture.engines import KMEANS_RESTARTS, Assignment
from actors.types import Array, BoolArray, FloatArray, IntArray, State

WINDOWS = (15, 7, 31, 3)
"""Rows on both sides of a row that a start by k-means looks at, per chain in turn: none fits all data."""

SEGMENTS = (1.0, 1.5, 2.0, 3.0)
"""Rows of a segment for each column, per chain in turn: fewer do not determine a covariance."""

MIN_SEGMENT = 8
"""Rows of a segment, however few columns there are."""


@dataclass(frozen=True)
class ARGMMParameters:
    """See :class:`actors.modules.mixture.ar_gmm.ARGMM`."""

    classes: Annotated[int, Field(ge=1)] = 10
    order: Annotated[int, Field(ge=1, le=100)] = 1
    iterations: Annotated[int, Field(ge=0)] = 20
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    prior_count: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    degrees: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    prior_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["data"] = "data"
    prior_mean: Literal["persistence", "zero"] = "persistence"
    burn_in: Annotated[int, Field(ge=0)] = 0
    start: Literal["kmeans", "segments", "random"] = "kmeans"
    calibrate: bool = False
    engine: Literal["vb", "blocked-gibbs"] = "vb"


class ARMixture(ClassModule[ARGMMParameters]):
    """A mixture of autoregressions that learns from all rows in one process; abstract."""

    missing_values = True

    def __init__(self, parameters: ARGMMParameters) -> None:
        super().__init__(parameters)
        self._priors_of_classes: Prior | None = None

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    @property
    def classes(self) -> int:
        """K."""
        return self.parameters.classes

    @classmethod
    def check_observations(cls, parameters: ARGMMParameters, values: Array, source: str, learns: bool) -> None:  # noqa: ARG003
        """Raise ModuleError if there are fewer rows to learn from than classes."""
        if learns and (problem := _row_count_problem(len(values), parameters)):
            raise ModuleError(problem)

    # --- the contract ---------------------------------------------------------------------------------------------

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the classes; send class posteriors upwards, and what the classes expect of each row downwards.

        Raises
        ------
        ModuleError
            If the messages do not fit the parameters or the labels of the last update.
        """
        parameters = self._step_parameters(context)
        message = data_message(inbox)
        X, missing, seen, columns = self._rows_to_learn_from(message, context)
        above = combine_priors(inbox, PRIOR, (len(X), self.classes))
        told = label_prior(inbox, (len(X), self.classes))
        try:
            starts = boundaries(len(X), message.lengths)
            prior, variance = self._priors(X, seen, missing, starts, columns, parameters)
            data = series(X - prior.centre, missing, starts, parameters.order)
            gaps = find_gaps(seen, missing, parameters.order)
            values = values_by_one_class(data, gaps, prior, variance)
            if self._factors is None or self._assignment is not None:
                filled = values.data.rows + prior.centre
                start = self._start(filled, missing, message.lengths, told, (values.data, prior), context)
            else:  # workers shared the rows of the last update
                start = self._assignment_by_classes(message, above, told, context)
            learnt, loo, metrics = self._learn(values, start, prior, (above, joint_prior(above, told)), context)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        self._assignment, self._factors, self._priors_of_classes, self._columns = *learnt, prior, columns
        log_prior = self._prior_of_rows(above, told, parameters)
        self._calibration = (
            self._fit_calibration(
                loo[~missing], self._factors, parameters, None if above is None else log_prior, missing
            )
            if parameters.calibrate
            else None  # an earlier update may have fitted one
        )
        metrics = {**self._evidences(loo, log_prior, context), **metrics}
        log_volume = log_volumes(columns, None if gaps is None else seen)
        # Densities of the rows in the units that they came in.
        volume = np.broadcast_to(log_volume, len(X))[~missing].sum()
        metrics |= {name: metrics[name] - volume for name in ("evidence", "score", "bound") if name in metrics}
        return self._answer(inbox, context, values.data, loo, metrics, log_volume)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Classify new rows by the learnt classes; rows without an order are sequences of one row each.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages do not fit.
        """
        if self._factors is None or self._priors_of_classes is None or self._columns is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        message = data_message(inbox)
        rows, missing, seen, differing = self._read_new_rows(message, context)
        self._log_differing(differing, context)
        starts = boundaries(len(rows), message.lengths) if context.ordered else np.arange(len(rows) + 1)
        values = self._new_values(rows, missing, seen, starts)
        try:
            likelihood = self._predictive(values, inbox, context)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        log_volume = log_volumes(self._columns, None if values.gaps is None else seen)
        outbox = self._answer(inbox, context, values.data, likelihood, {}, log_volume)
        return self._with_log_evidence(outbox, inbox, context, likelihood, missing, log_volume)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Draw one sequence of rows: each row's class from the prior, then the row given those before it.

        Outputs are ``class`` (N,) and, where no module below decodes them, the rows ``x`` (N, D). The parameters of the
        classes are drawn once, from their posterior.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._factors is None or self._priors_of_classes is None or self._columns is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        prior, parameters = self._priors_of_classes, self._step_parameters(context)
        log_prior = combine_priors(inbox, PRIOR, (context.rows, self.classes))
        if log_prior is None:
            weights = np.exp(self._log_weights(self._factors, parameters))
            labels = context.generator.choice(len(weights), context.rows, p=weights)
        else:
            labels = log_prior.argmax(axis=1)
        drawn = draw_parameters(self._factors, prior, context.generator)
        normal = context.generator.standard_normal((context.rows, prior.centre.size))
        rows = self._columns.external(simulate(labels, *drawn, normal) + prior.centre)
        means = {"means": self._class_means(), "responsibilities": np.eye(self.classes)[labels]}
        messages = [OutgoingMessage("class_means", means), OutgoingMessage("latent_means", {"mean": rows})]
        below = context.receivers.get("class_means") or context.receivers.get("latent_means")
        return Outbox(messages, outputs={"class": labels} if below else {"class": labels, "x": rows})

    def state(self) -> State:
        """Return copies of labels (and responsibilities), classes, their prior and the calibration.

        All refer to internal rows (:mod:`actors.kernels.mixture.columns`) less ``centre``.
        """
        if self._factors is None or self._priors_of_classes is None or self._columns is None:
            return {}
        learnt = LearntClasses(self._factors, self._priors_of_classes, self._columns)
        return {**self._state_of_rows(), **pack(learnt)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a mixture that has learnt nothing.

        Raises
        ------
        ModuleError
            If the state has another number of classes, or classes of another order.
        """
        self._assignment, self._factors, self._priors_of_classes, self._calibration, self._columns = (None,) * 5
        if not state:
            return
        learnt = unpack(state)
        K, D, Q = learnt.factors.dynamics.coefficients.shape
        order = (Q - 1) // D
        if (K, order) != (self.classes, self.parameters.order):
            raise ModuleError(
                f"the state has {K} classes of order {order}, this {self.display_name} has {self.classes} of order "
                f"{self.parameters.order}"
            )
        self._factors, self._priors_of_classes, self._columns = learnt
        self._restore_rows(state)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _initial_assignment(
        self, rows: FloatArray, lengths: Array | None, given: tuple[Series, Prior], context: Context
    ) -> Assignment:
        parameters = self._step_parameters(context)
        if problem := _row_count_problem(len(rows), parameters):
            raise ValueError(problem)  # the caller names the module
        if parameters.start == "random":
            return Assignment(context.generator.integers(0, self.classes, len(rows)))
        if parameters.start == "segments":
            factor = SEGMENTS[context.chain % len(SEGMENTS)]
            length = max(MIN_SEGMENT, round(factor * rows.shape[1]))
            data, prior = given
            return Assignment(
                consensus_of_segments(data, boundaries(len(rows), lengths), self.classes, length, prior.dynamics)
            )
        features = motion_features(rows, window=WINDOWS[context.chain % len(WINDOWS)], lengths=lengths)
        return Assignment(kmeans_labels(features, self.classes, context.generator, restarts=KMEANS_RESTARTS))

    def _read_new_rows(self, message: Message, context: Context) -> tuple[FloatArray, BoolArray, BoolArray, IntArray]:
        """Return new rows (N, D') as the classes know them, which are missing, which values are not.

        And which of the left-out columns have other values than all rows that were learnt from.
        """
        assert self._priors_of_classes is not None
        assert self._columns is not None
        (rows, missing), absent, centre = rows_and_mask(message), message.missing_values, self._priors_of_classes.centre
        seen = np.ones((len(rows), self._columns.kept.sum()), dtype=np.bool_)
        if absent is not None and absent.shape[1] == self._columns.kept.size:
            rows = np.where(absent, self._columns.external(centre[None]), rows)
            seen = ~absent[:, self._columns.kept]
            missing = missing | ~seen.any(axis=1)
        X = self._internal_rows(rows, missing, context)
        return X - centre, missing, seen, self._columns.differing(rows[~missing])

    def _new_values(self, rows: FloatArray, missing: BoolArray, seen: BoolArray, starts: IntArray) -> Values:
        """Return new rows, as the classes know them, with their regressors."""
        order = self.parameters.order
        return Values(series(rows, missing, starts, order), find_gaps(seen, missing, order))

    def _assignment_by_classes(
        self, message: Message, above: FloatArray | None, told: FloatArray | None, context: Context
    ) -> Assignment:
        """Return the assignment of rows by what was learnt, where none of them has a label."""
        assert self._factors is not None
        assert self._priors_of_classes is not None
        rows, missing, seen, _ = self._read_new_rows(message, context)
        values = self._new_values(rows, missing, seen, boundaries(len(rows), message.lengths))
        parameters, prior = self._step_parameters(context), joint_prior(above, told)
        scores = expected_log_scores(self._factors.counts, parameters.alpha, prior, use_weights=above is None)
        scores = np.broadcast_to(scores, (len(rows), self.classes))
        trust = 1.0 if self._calibration is None else self._calibration.temperature
        temperature = 1.0 if above is None else context.temperature * trust
        soft = responsibilities_given(values, self._factors, self._priors_of_classes, scores, temperature)
        return Assignment(most_probable_labels(soft), soft if parameters.engine == "vb" else None)

    def _start(
        self,
        X: FloatArray,
        missing: BoolArray,
        lengths: Array | None,
        told: FloatArray | None,
        given: tuple[Series, Prior],
        context: Context,
    ) -> Assignment:
        """Return the assignment of the last update, or the initial one, for internal rows (N, D)."""
        if self._assignment is None or self._factors is None:
            # Missing rows take the mean of the others, where they influence the start least.
            filled = np.where(missing[:, None], X[~missing].mean(axis=0), X)
            first = self._initial_assignment(filled, lengths, given, context)
            if told is None:
                return first
            return Assignment(named_as_known(first.labels, known_classes(told), self.classes))
        before = self._factors.mean.shape[1]
        if (len(self._assignment.labels), before) != X.shape:
            raise ModuleError(
                f"module {context.module!r} has labels of {len(self._assignment.labels)} rows of {before} dimensions, "
                f"{len(X)} rows of {X.shape[1]} came: start a new run"
            )
        return self._assignment

    def _rows_to_learn_from(
        self, message: Message, context: Context
    ) -> tuple[FloatArray, BoolArray, BoolArray, Columns]:
        """Return internal rows (N, D), which of them are missing, which values are not, and their columns.

        Where values are missing, rows have the mean of the column. A row that has values of left-out columns only is
        missing.
        """
        (rows, missing), absent = rows_and_mask(message), message.missing_values
        if absent is None:
            columns = self._choose_columns(rows[~missing], message, context)
            X = columns.internal(rows)
            return X, missing, np.broadcast_to(~missing[:, None], X.shape), columns
        columns = self._choose_columns(filled_with_seen(rows, absent)[~missing], message, context)
        seen = ~absent[:, columns.kept]
        return with_column_means(columns.internal(rows), seen), missing | ~seen.any(axis=1), seen, columns

    def _priors(
        self,
        X: FloatArray,
        seen: BoolArray,
        missing: BoolArray,
        starts: IntArray,
        columns: Columns,
        parameters: ARGMMParameters,
    ) -> tuple[Prior, FloatArray]:
        """Return the prior for internal rows (N, D), of which values are `seen`, and their variance (D,)."""
        present = X[~missing]
        observed = True if seen[~missing].all() else seen[~missing]  # a mask changes the last bits
        centre, variance = present.mean(axis=0, where=observed), present.var(axis=0, where=observed)
        data, mean = series(X - centre, missing, starts, parameters.order), _prior_mean(centre.size, parameters)
        unexplained = variance
        if data.follows.any():
            known = seen[data.follows]
            if parameters.prior_mean == "persistence":
                known = known & seen[np.flatnonzero(data.follows) - 1]
            left = np.square(data.following - data.regressors @ mean.T)
            means = left.mean(axis=0) if known.all() else _means_where(left, known)
            unexplained = np.where(known.any(axis=0), means, variance)
        return self._priors_from((centre, variance, unexplained), len(present), columns, parameters), variance

    def _priors_from(
        self,
        moments: tuple[FloatArray, FloatArray, FloatArray],
        rows: int,
        columns: Columns,
        parameters: ARGMMParameters,
    ) -> Prior:
        """Return the prior for internal rows, of their mean, variance, and unexplained variance, each (D,)."""
        centre, variance, unexplained = moments
        D = centre.size
        initial = self._prior_from(np.zeros(D), variance, rows, columns, parameters)
        noise = self._prior_from(np.zeros(D), unexplained, rows, columns, parameters)
        # A coefficient's prior mean counts for r0 rows of the variance that its column has.
        spread = np.where(variance == 0.0, 1.0, variance)
        precision = parameters.prior_count * np.append(np.tile(spread, parameters.order), 1.0)
        dynamics = MNIWPrior(_prior_mean(D, parameters), precision, noise.nu0, noise.scale)
        return Prior(dynamics, initial, centre)

    def _learn(
        self,
        values: Values,
        start: Assignment,
        prior: Prior,
        priors: tuple[FloatArray | None, FloatArray | None],
        context: Context,
    ) -> tuple[tuple[Assignment, Classes], FloatArray, dict[str, float]]:
        """Return assignment and classes, the leave-one-out log-likelihood (N, K), and metrics.

        `priors` are that of the modules above, and its product with labels.
        """
        above, log_prior = priors
        parameters, K = self._step_parameters(context), self.classes
        iterations = parameters.iterations + (parameters.burn_in if self._factors is None else 0)
        iterations = iterations if context.learn else 0
        # Tempering balances the likelihood against a prior. Without one it only blurs the classes, for good.
        trust = 1.0 if self._calibration is None else self._calibration.temperature
        temperature = 1.0 if above is None else context.temperature * trust
        if parameters.engine == "vb":
            soft = (
                one_hot_responsibilities(start.labels, K) if start.responsibilities is None else start.responsibilities
            )
            soft, classes, bound = variational_bayes(
                *(values.data, soft, prior, parameters.alpha, iterations),
                values=values,
                log_prior=log_prior,
                use_weights=above is None,
                temperature=temperature,
                on_iteration=lambda done, objective: context.report(done, iterations, objective=objective),
            )
            assignment = Assignment(most_probable_labels(soft), soft)
            # Without an iteration a row can stay in a class that its prior excludes: the bound is -inf, no metric.
            metrics = {} if bound == -np.inf else {"bound": bound}
        else:
            labels, classes = blocked_gibbs(
                *(values.data, start.labels, prior, parameters.alpha, iterations, context.generator),
                values=values,
                log_prior=log_prior,
                use_weights=above is None,
                temperature=temperature,
                on_sweep=lambda done, moved: context.report(done, iterations, moved=float(moved)),
                K=K,
            )
            assignment, soft, metrics = Assignment(labels), one_hot_responsibilities(labels, K), {}
        loo = log_predictive_observed(values, soft, classes, prior, left_out=True)
        return (assignment, classes), loo, metrics

    def _predictive(self, values: Values, inbox: Inbox, context: Context) -> FloatArray:
        """Return the log predictive density (N, K) of new rows; `values` get what is expected of missing ones."""
        assert self._factors is not None
        assert self._priors_of_classes is not None
        N, parameters, factors = len(values.data.rows), self._step_parameters(context), self._factors
        responsibilities = np.empty((N, self.classes))
        if values.gaps is not None:
            scores = self._combined_prior(inbox, N, parameters)
            if scores is None or not inbox.all(PRIOR):  # the weights multiply labels
                scores = (0.0 if scores is None else scores) + self._log_weights(factors, parameters)
            scores = np.broadcast_to(scores, responsibilities.shape)
            responsibilities = responsibilities_given(values, factors, self._priors_of_classes, scores)
        return log_predictive_observed(values, responsibilities, factors, self._priors_of_classes, left_out=False)

    def _answer(
        self,
        inbox: Inbox,
        context: Context,
        data: Series,
        likelihood: FloatArray,
        metrics: dict[str, float],
        log_volume: float | FloatArray,
    ) -> Outbox:
        """Return messages and outputs for rows with this log-likelihood (N, K), 0 where they are missing.

        `log_volume`, a number or (N,), converts densities to the units of the rows.
        """
        assert self._factors is not None
        assert self._priors_of_classes is not None
        assert self._columns is not None
        missing = ~data.present
        if self._calibration is not None:
            likelihood = self._calibrated_likelihood(likelihood, self._factors, self._step_parameters(context))
            likelihood[missing], log_volume = 0.0, 0.0
        outbox = self._compose_outbox(inbox, context, likelihood, missing, metrics, log_volume)
        return self._with_expected_rows(outbox, inbox, data, context)

    def _with_expected_rows(self, outbox: Outbox, inbox: Inbox, data: Series, context: Context) -> Outbox:
        """Return an outbox with what the classes expect of each row, if a module below accepts it."""
        if not context.receivers.get("latent_means"):
            return outbox
        assert self._factors is not None
        assert self._priors_of_classes is not None
        assert self._columns is not None
        expected = expected_rows(data, outbox.outputs["Pdz"], self._factors) + self._priors_of_classes.centre
        of_rows = rows_of(data_message(inbox))
        below = OutgoingMessage("latent_means", {"mean": self._columns.external(expected), **of_rows})
        # Not both: they would be two priors of the same latent vectors.
        kept = [message for message in outbox.messages if message.port != "class_means"]
        return replace(outbox, messages=[*kept, below])

    def _class_means(self) -> FloatArray:
        """Return the mean (K, D) of each class's rows, in their units."""
        assert self._factors is not None
        assert self._priors_of_classes is not None
        assert self._columns is not None
        return self._columns.external(self._factors.mean + self._priors_of_classes.centre)

    def _log_weights(self, factors: NIWPosterior | Classes, parameters: ARGMMParameters) -> FloatArray:
        """Return log((N_k + alpha) / (N + K alpha)), (K,)."""
        weights = factors.counts + parameters.alpha
        log_weights: FloatArray = np.log(weights / weights.sum())
        return log_weights

    def _expected_class_count(self, rows: int, parameters: ARGMMParameters) -> float:  # noqa: ARG002 (always K)
        return parameters.classes


def _prior_mean(dimensions: int, parameters: ARGMMParameters) -> FloatArray:
    """Return the expected coefficients (D, D L + 1)."""
    mean = np.zeros((dimensions, dimensions * parameters.order + 1))
    if parameters.prior_mean == "persistence":
        mean[:, :dimensions] = np.eye(dimensions)
    return mean


def _means_where(values: FloatArray, known: BoolArray) -> FloatArray:
    """Return the mean of each column (D,) of those values (M, D) that are known; 0 where none is."""
    return np.asarray((values * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


def _row_count_problem(rows: int, parameters: ARGMMParameters) -> str | None:
    """Return a sentence if there are fewer rows than classes."""
    if rows >= parameters.classes:
        return None
    return f"{rows} row{'s' * (rows != 1)} cannot start {parameters.classes} classes: use at most {rows}"
