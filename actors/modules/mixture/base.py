"""The common base of the Gaussian mixtures `gmm` and `dp_gmm`.

Input are latent vectors or observations, and priors over each row's class from above; output are class posteriors
upwards and class means downwards. The subclasses define how the classes are learnt and what their weights are.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from actors.errors import ModuleError, NonFiniteError
from actors.kernels.mixture.class_components import class_densities, component_labels
from actors.kernels.mixture.columns import Columns
from actors.kernels.mixture.gibbs import compile_kernels
from actors.kernels.mixture.incomplete import (
    fill_by_one_gaussian,
    find_incomplete,
    log_predictive_observed,
    with_column_means,
)
from actors.kernels.mixture.known_labels import named_as_known, seeded_kmeans
from actors.kernels.mixture.niw import NIWPrior, sample_predictive
from actors.kernels.mixture.sums import responsibilities_given
from actors.kernels.mixture.variational import expected_log_scores, most_probable_labels
from actors.messaging.message import Message
from actors.module import Context, Inbox, Outbox, OutgoingMessage
from actors.modules.class_posteriors import combine_priors, joint_prior, known_classes, label_prior
from actors.modules.mixture.class_module import (
    PRIOR,
    ClassModule,
    data_message,
    log_volumes,
    rows_and_mask,
)
from actors.modules.mixture.class_states import Classes, expected_covariances, pack, unpack
from actors.modules.mixture.engines import Assignment, FitProblem, FitResult, MixtureParameters
from actors.types import Array, BoolArray, FloatArray, IntArray, State

_log = logging.getLogger(__name__)

P = TypeVar("P", bound=MixtureParameters)


class Mixture(ClassModule[P]):
    """A mixture of Gaussians with a normal-inverse-Wishart prior; abstract.

    Values that are missing in part of a row are integrated out (:mod:`actors.kernels.mixture.incomplete`).
    """

    missing_values = True

    def __init__(self, parameters: P) -> None:
        super().__init__(parameters)
        self._prior: NIWPrior | None = None

    # --- what a subclass defines ----------------------------------------------------------------------------------

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

    def _log_shares(self) -> FloatArray | None:
        """Return the log-shares (K·m,) of the components within each class; None if each class is one Gaussian."""
        return None

    @property
    def _components(self) -> int:
        """m, the number of Gaussians of each class."""
        return 1

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
            components=self._components,
            above=above,
            told=told,
        )
        try:
            start = self._current_assignment(problem, rows, columns, message.lengths, context)
            assignment, factors, loo, metrics, log_within = self._fit(problem, start, context)
            likelihood = loo
            if self._weights_multiply_prior(parameters):
                likelihood = log_predictive_observed(X, incomplete, factors, prior)
        except NonFiniteError:  # names the module already
            raise
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        self._assignment, self._factors, self._prior, self._columns = assignment, factors, prior, columns
        log_prior = self._prior_of_rows(above, told, parameters)
        loo[missing] = 0.0
        likelihood[missing] = 0.0
        if not parameters.calibrate:
            self._calibration = None  # an earlier update may have fitted one
        else:
            told_from_above = None if above is None else log_prior
            self._calibration = self._fit_calibration(loo[~missing], factors, parameters, told_from_above, missing)
            likelihood = self._calibrated_likelihood(likelihood, factors, parameters)
            likelihood[missing] = 0.0
        by_row = log_volumes(columns, seen)
        metrics = _in_given_units({**self._evidences(loo, log_prior, context), **metrics}, by_row, missing)
        log_volume = 0.0 if parameters.calibrate else by_row
        outbox = self._compose_outbox(inbox, context, likelihood, missing, metrics, log_volume)
        return self._with_component_means(outbox, log_within, missing)

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
        X, missing, seen, differing = self._read_new_rows(data_message(inbox), context)
        self._log_differing(differing, context)
        likelihood, log_volume, log_within = self._new_likelihood(X, missing, context, seen)
        outbox = self._compose_outbox(inbox, context, likelihood, missing, {}, log_volume)
        outbox = self._with_component_means(outbox, log_within, missing)
        return self._with_log_evidence(outbox, inbox, context, likelihood, missing, log_volume)

    def _read_new_rows(
        self, message: Message, context: Context
    ) -> tuple[FloatArray, BoolArray, BoolArray | None, IntArray]:
        """Return new internal rows (N, D'), which are missing, which values are not, and which columns differ.

        The latter are those of the left-out columns that have other values than all rows that were learnt from.
        """
        assert self._prior is not None
        assert self._columns is not None
        (rows, missing), absent, seen = rows_and_mask(message), message.missing_values, None
        if absent is not None and absent.shape[1] == self._columns.kept.size:
            rows = np.where(absent, self._columns.external(self._prior.mean[None]), rows)
            seen = ~absent[:, self._columns.kept]
            missing = missing | ~seen.any(axis=1)
        X = self._internal_rows(rows, missing, context)
        return X, missing, seen, self._columns.differing(rows[~missing])

    def _new_likelihood(
        self, X: FloatArray, missing: BoolArray, context: Context, seen: BoolArray | None = None
    ) -> tuple[FloatArray, float | FloatArray, FloatArray | None]:
        """Return log p(row | class) of new internal rows, (N, K), and what converts it to the units of the rows.

        The third is log p(component | class, row), (N, K·m), where classes have components. `seen` (N, D) is false
        where a value is missing.
        """
        assert self._factors is not None
        assert self._prior is not None
        assert self._columns is not None
        try:
            incomplete = None if seen is None else find_incomplete(~seen, missing)
            likelihood = log_predictive_observed(X, incomplete, self._factors, self._prior)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        log_within, shares = None, self._log_shares()
        if shares is not None:
            likelihood, log_within = class_densities(likelihood + shares, self._components)
        if self._calibration is not None:
            likelihood = self._calibrated_likelihood(likelihood, self._factors, self._step_parameters(context))
        likelihood[missing] = 0.0
        return likelihood, log_volumes(self._columns, seen) if self._calibration is None else 0.0, log_within

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Send class means for classes from the prior, or drawn by the weights without one; output ``class`` (N,).

        Where no module below decodes class means, the output ``x`` (N, D) has a row drawn from each class; where one
        does, it is sent such draws if ``context.noise`` asks for them.

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
        arrays: dict[str, Array] = {"means": self._class_means(), "responsibilities": responsibilities}
        outputs: dict[str, Array] = {"class": responsibilities.argmax(axis=1)}
        is_decoded = bool(context.receivers.get("class_means"))
        if context.noise or not is_decoded:
            drawn = self._draw_components(outputs["class"], context.generator)
            rows = self._columns.external(sample_predictive(drawn, self._factors, self._prior, context.generator))
            (arrays if is_decoded else outputs)["drawn" if is_decoded else "x"] = rows
        return Outbox([OutgoingMessage("class_means", arrays)], outputs=outputs)

    def state(self) -> State:
        """Return copies of the labels (and responsibilities), the factors, their prior and the calibration.

        Factors and prior refer to internal rows (:mod:`actors.kernels.mixture.columns`). The arrays ``columns_kept``,
        ``columns_centre`` and ``columns_exponent`` define these; they are absent where internal rows are the rows.
        There are no labels where workers shared the rows.
        """
        if self._factors is None or self._prior is None or self._columns is None:
            return {}
        return {
            **self._state_of_rows(),
            **pack(Classes(self._factors, self._prior, self._columns)),
        }

    @staticmethod
    def covariances_in(state: Mapping[str, Any]) -> FloatArray | None:
        """Return the expected covariance of each class (K, D, D) of a state; None if it has no classes."""
        return expected_covariances(state)

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
        if factors.counts.size != self.classes * self._components:
            own = f"{self.classes}" if self._components == 1 else f"{self.classes} of {self._components} components"
            held = f"{factors.counts.size} {'classes' if self._components == 1 else 'components in all'}"
            raise ModuleError(f"the state has {held}, this {self.display_name} has {own}")
        self._factors, self._prior, self._columns = factors, prior, columns
        self._restore_rows(state)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _current_assignment(
        self, problem: FitProblem, rows: FloatArray, columns: Columns, lengths: Array | None, context: Context
    ) -> Assignment:
        """Return the assignment of the last update, or the initial one in the first update.

        Where workers shared the rows of the last update there is none: it follows from the classes that they learnt.
        `rows` (N, D) are in the units in which they came.
        """
        if self._factors is None:
            first = self._first_assignment(problem.rows, problem.missing, lengths, context, problem)
            if problem.components == 1:
                return first
            labels, settings = np.where(problem.missing, -1, first.labels), (problem.classes, problem.components)
            return Assignment(component_labels(problem.rows, labels, *settings, context.generator))
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
        scores = expected_log_scores(
            self._factors.counts,
            problem.alpha,
            problem.log_prior,
            use_weights=problem.use_counts,
            components=problem.components,
        )
        soft = responsibilities_given(
            self._columns.internal(rows),
            self._factors,
            self._prior,
            log_weights=scores if problem.log_prior is None else None,
            log_prior=None if problem.log_prior is None else scores,
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

    def _with_component_means(self, outbox: Outbox, log_within: FloatArray | None, missing: BoolArray) -> Outbox:
        """Return the outbox with the means of the components, not of the classes, in the message downwards.

        A row's expected mean is then that of its components (`log_within`, (N, K·m)), where classes have several.
        """
        if log_within is None:
            return outbox
        assert self._factors is not None
        assert self._columns is not None
        shares = self._log_shares()
        assert shares is not None
        within = np.exp(np.where(missing[:, None], shares, log_within))
        of_rows = np.repeat(outbox.outputs["Pdz"], self._components, axis=1) * within
        of_rows /= of_rows.sum(axis=1, keepdims=True)
        own = {"means": self._columns.external(self._factors.mean), "responsibilities": of_rows}
        messages = [
            replace(message, arrays={**message.arrays, **own}) if message.port == "class_means" else message
            for message in outbox.messages
        ]
        return replace(outbox, messages=messages)

    def _draw_components(self, classes: IntArray, generator: np.random.Generator) -> IntArray:
        """Return a component (N,) of each row's class, drawn by the shares; the class where it is one Gaussian."""
        shares = self._log_shares()
        if shares is None:
            return classes
        of_class = np.exp(shares).reshape(self.classes, -1).cumsum(axis=1)[:, :-1]
        drawn = (generator.random(len(classes))[:, None] > of_class[classes]).sum(axis=1)
        return np.asarray(classes * self._components + drawn, dtype=np.int64)

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


def filled_with_seen(rows: FloatArray, absent: BoolArray) -> FloatArray:
    """Return rows (N, D) with the column's first value in the place of missing ones: the range stays what it is."""
    first = rows[absent.argmin(axis=0), np.arange(rows.shape[1])]
    return np.where(absent, first, rows)


def _in_given_units(
    metrics: Mapping[str, float], log_volumes: float | FloatArray, missing: BoolArray
) -> dict[str, float]:
    """Return metrics whose log-densities are those of the rows in the units that they came in.

    `log_volumes` are the logarithms of the volumes by which each row (N,) was scaled, or that of all rows.
    """
    present = ~missing
    volume = present.sum() * log_volumes if isinstance(log_volumes, float) else log_volumes[present].sum()
    densities = ("evidence", "score", "bound")
    return {name: value - float(volume) if name in densities else value for name, value in metrics.items()}
