"""A Gaussian mixture whose rows workers share: passes over chunks of rows instead of one fit to all of them.

:mod:`actors.modules.mixture.shared_classes` has the kinds of passes. In the pass *expected* the labels of
``blocked-gibbs`` stay, and the classes follow from what they expect of missing values, until they hardly change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from actors.errors import ModuleError
from actors.kernels.mixture import pooling
from actors.kernels.mixture.blocked_gibbs import (
    ClassParameters,
    draw_given_posterior,
    draw_labels,
)
from actors.kernels.mixture.class_components import (
    class_densities,
    component_labels,
    expected_log_shares,
    loo_log_shares,
    of_components,
)
from actors.kernels.mixture.columns import Columns, choose_columns
from actors.kernels.mixture.incomplete import (
    MAX_ITERATIONS,
    Incomplete,
    draw_missing_values,
    expected_by_labels,
    find_incomplete,
    log_density_observed,
    log_predictive_loo_observed,
    soft_loo_observed,
    with_column_means,
)
from actors.kernels.mixture.incomplete import MIN_RISE as MIN_EXPECTED_RISE
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, log_marginal_likelihood, posterior_from_moments
from actors.kernels.mixture.row_moments import (
    MAX_EXPONENT,
    Origin,
    internal_moments,
    origin_at,
)
from actors.kernels.mixture.sums import (
    bound_from_sums,
    class_sums_of_labels,
    expect,
    posterior_from_sums,
    responsibilities_given,
    variational_sums,
)
from actors.kernels.mixture.variational import (
    MIN_RISE,
    expected_log_scores,
    one_hot_responsibilities,
    soft_log_predictive_loo,
)
from actors.module import Context, Inbox, Outbox
from actors.modules.class_posteriors import joint_prior, known_classes, label_prior
from actors.modules.mixture.base import Mixture, filled_with_seen
from actors.modules.mixture.class_module import (
    NO_ROWS,
    data_message,
    log_volumes,
    row_values,
    rows_and_mask,
)
from actors.modules.mixture.class_states import Classes, pack, pack_prior, unpack, unpack_prior
from actors.modules.mixture.engines import FitProblem, MixtureParameters
from actors.modules.mixture.shared_classes import (
    EXPECTED,
    KEPT_NUMBERS,
    MOMENTS,
    LeftOut,
    SharedClassModule,
    all_kept,
    calibration_in,
    check_dimension,
    is_first,
    log_prior_from_above,
    prefixed,
    trust_of,
    with_prefix,
)
from actors.sharing.chunks import Chunk
from actors.sharing.shard import Statistics
from actors.types import BoolArray, FloatArray, IntArray, State

P = TypeVar("P", bound=MixtureParameters)


class _Rows(NamedTuple):
    """The rows of a chunk (N, D), in the units in which they came, the mask of missing ones, and the prior (N, K).

    `seen` (N, D) is false where a value is missing, if any may be. The prior is the product of those from above and of
    labels; `weighted` says that there is none from above, so that the classes have weights. `memo` is that of the
    chunk, or an empty one, where nothing is to be kept (:data:`KEPT_NUMBERS`).
    """

    values: FloatArray
    missing: BoolArray
    seen: BoolArray | None
    log_prior: FloatArray | None
    weighted: bool
    memo: dict[str, Any]

    def within(self, columns: Columns, prior: NIWPrior) -> _InternalRows:
        """Return internal rows; those that have values of left-out columns only are missing."""
        X = columns.internal(self.values)
        if self.seen is None:
            return _InternalRows(X, self.missing, None, None)
        seen = self.seen[:, columns.kept]
        missing = self.missing | ~seen.any(axis=1)
        return _InternalRows(np.where(seen, X, prior.mean), missing, seen, find_incomplete(~seen, missing))


class _InternalRows(NamedTuple):
    """Internal rows (N, D') of a chunk, any finite numbers where values are missing; which rows and values are."""

    X: FloatArray
    missing: BoolArray
    seen: BoolArray | None
    incomplete: Incomplete | None


class _LeftOut(NamedTuple):
    """Log-likelihoods (N, K) of rows left out of the classes, 0 where they are missing; and the rows.

    `log_within` (N, K·m) is log p(component | class, row), if classes have several components.
    """

    likelihood: FloatArray
    log_within: FloatArray | None
    inner: _InternalRows


class _Learnt:
    """Parameters between two passes, unpacked.

    Parameters
    ----------
    learnt : State
    carried : bool
        Whether they are those of an earlier update, of which only the classes and the calibration count.
    """

    def __init__(self, learnt: State, carried: bool) -> None:
        self.source = (learnt, carried)
        self.classes: Classes = unpack(learnt)
        own: State = {} if carried else learnt
        self.target = unpack_prior(own, "target_") if "target_prior_mean" in own else None
        before = with_prefix("before_", own)
        self.before: Classes | None = unpack(before) if before else None
        self.drawn: ClassParameters | None = None
        if "drawn_means" in own:
            names = [name for name in ClassParameters._fields if f"drawn_{name}" in own]
            self.drawn = ClassParameters(**{name: own[f"drawn_{name}"] for name in names})
        self.label_sweep: int | None = own.get("label_sweep")
        self.trust = trust_of(learnt, carried=carried)

    def power(self, with_prior: bool, context: Context) -> float:
        """Return the exponent of the likelihood: below one only against a prior, as in `Mixture.update`."""
        return context.temperature * self.trust if with_prior else 1.0

    @property
    def expecting(self) -> tuple[NIWPosterior, NIWPrior]:
        """The classes by which missing values of the present rows are expected, and their prior."""
        assert self.target is not None
        return (
            self.classes[:2] if _same(self.classes.columns, self.target[1]) else _translated(self.classes, *self.target)
        )

    @property
    def reference(self) -> FloatArray:
        """A point (K, D) near each class, in the units of the present rows."""
        assert self.target is not None
        near = self.classes.factors.mean if self.drawn is None else self.drawn.means
        own, columns = self.classes.columns, self.target[1]
        return near if _same(own, columns) else columns.internal(own.external(near))


class SharedMixture(Mixture[P], SharedClassModule[P]):
    """A mixture that also learns by workers that share its rows; abstract."""

    distance_unit = "standard deviations"

    def __init__(self, parameters: P) -> None:
        super().__init__(parameters)
        self._last: _Learnt | None = None

    # --- the contract ---------------------------------------------------------------------------------------------

    def start(self, inbox: Inbox, context: Context) -> State:
        """Assign the rows of a sample to classes; return moments of these, for which the prior is not known yet.

        Raises
        ------
        ModuleError
            If the sample does not allow it.
        """
        message = data_message(inbox)
        (rows, missing), absent = rows_and_mask(message), message.missing_values
        if missing.all():
            raise ModuleError(
                NO_ROWS if len(rows) == 0 else f"every one of the {len(rows)} rows to start from is missing"
            )
        rows = rows if absent is None else filled_with_seen(rows, absent)
        present = rows[~missing]
        columns = choose_columns(present, row_values(message).dtype)
        with self._named(context):
            problem, missing = self._first_problem(inbox, rows, missing, absent, columns, context)
            first = self._first_assignment(problem.rows, missing, message.lengths, context, problem)
            wide = all_kept(columns, present)
            X, labels, scatter = wide.internal(rows), np.where(missing, -1, first.labels), np.zeros(1)
            gaussians = self.classes * self._components
            if self._components > 1:
                labels = component_labels(problem.rows, labels, self.classes, self._components, context.generator)
            if problem.incomplete is not None:
                X, expected = X.copy(), (problem.rows, labels, gaussians, problem.incomplete, problem.prior)
                X[:, columns.kept], scatter = expected_by_labels(*expected)
        reference = np.tile(X[~missing].mean(axis=0), (gaussians, 1))
        sums = class_sums_of_labels(X, labels, reference)
        reference += sums["first"] / np.maximum(sums["counts"], 1.0)[:, None]
        sums = class_sums_of_labels(X, labels, reference)
        sums["second"][np.ix_(np.arange(gaussians), columns.kept, columns.kept)] += scatter
        return {
            "phase": MOMENTS,
            **prefixed("start_", sums),
            "start_reference": reference,
            "start_centre": wide.centre,
            "start_exponent": wide.exponent,
            **({} if absent is None else {"start_unseen": absent.all(axis=0)}),
            **prefixed("origin_", origin_at(present[0])._asdict()),
        }

    def _first_problem(
        self,
        inbox: Inbox,
        rows: FloatArray,
        missing: BoolArray,
        absent: BoolArray | None,
        columns: Columns,
        context: Context,
    ) -> tuple[FitProblem, BoolArray]:
        """Return what a first assignment of a sample needs, and which of its rows (N, D) are missing."""
        X, parameters, seen = columns.internal(rows), self._step_parameters(context), None
        if absent is not None:
            seen = ~absent[:, columns.kept]
            missing = missing | ~seen.any(axis=1)
            X = with_column_means(X, seen)
            seen = seen | ~seen.any(axis=0)  # a column of which the sample has no value
        told = label_prior(inbox, (len(X), self.classes))
        problem = FitProblem(
            rows=X,
            missing=missing,
            log_prior=None,
            prior=self._make_prior(X[~missing], columns, parameters, None if seen is None else seen[~missing]),
            classes=self.classes,
            alpha=parameters.alpha,
            iterations=0,
            use_counts=True,
            temperature=1.0,
            incomplete=None if seen is None else find_incomplete(~seen, missing),
            known=None if told is None else known_classes(told),
        )
        return problem, missing

    def _fit_sums(self, phase: str, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        known = self._unpacked(learnt, carried=not context.sweep)
        rows = self._rows_of(chunk, known, context)
        with self._named(context, chunk):
            if phase == EXPECTED:
                return self._sums_by_labels(rows, known, context)
            fit = self._expected_sums if self._engine(context) == "vb" else self._drawn_sums
            return fit(rows, known, context)

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """Return the sums of both; of moments also the extremes, and the first row; of runs those in common units."""
        if "varies" in left:
            return {**pooling.pool(left, right), "rows": left["rows"] + right["rows"]}
        return super().merge(left, right)

    def _left_out(self, chunk: Chunk, learnt: State, context: Context, *, keep: bool) -> LeftOut:
        known = self._unpacked(learnt, carried=not context.sweep)
        rows = self._rows_of(chunk, known, context)
        with self._named(context, chunk):
            likelihood, log_within, inner = self._leave_one_out(rows, known, context)
        if keep:
            rows.memo["leave one out"] = likelihood, log_within
        log_volume = log_volumes(known.classes.columns, inner.seen)
        return LeftOut(likelihood, inner.missing, rows.log_prior, rows.weighted, log_volume, log_within)

    def _completed(self, outbox: Outbox, chunk: Chunk, found: LeftOut, context: Context) -> Outbox:  # noqa: ARG002
        return self._with_component_means(outbox, found.rest, found.missing)

    # --- runs that are merged -------------------------------------------------------------------------------------

    def learnt_from(self, statistics: Statistics) -> State:
        """Return the classes of the rows of all runs, with the units and the prior of all rows.

        Raises
        ------
        ModuleError
            If the sums do not allow it.
        """
        columns = pooling.pooled_columns(statistics)
        inside, mean, variance = pooling.internal_sums(statistics, columns)
        prior = self._prior_from(mean, variance, round(float(statistics["rows"][0])), columns, self.parameters)
        try:
            return pack(Classes(pooling.pooled_posterior(inside, prior), prior, columns))
        except ValueError as error:
            raise ModuleError(str(error)) from error

    def renumber(self, statistics: Statistics, classes: IntArray) -> Statistics:
        """Return the sums with class `classes[k]` as class k."""
        return pooling.renumbered(statistics, classes)

    def class_distances(self, left: Statistics, right: Statistics) -> FloatArray:
        """Return the distances (K, K) of the Gaussians, in standard deviations."""
        return pooling.class_distances(left, right)

    # --- passes ---------------------------------------------------------------------------------------------------

    def _learnt_origin(self, learnt: State) -> tuple[Origin, Columns]:
        _, prior, columns = self._unpacked(learnt, carried=True).classes
        exponent = np.clip(columns.exponent, -MAX_EXPONENT, MAX_EXPONENT)
        return Origin(columns.external(prior.mean[None])[0], exponent), columns

    def _factors_in(self, learnt: State, context: Context) -> NIWPosterior:
        return self._unpacked(learnt, carried=not context.sweep).classes.factors

    def _carried(self, learnt: State) -> State:
        return {**pack(unpack(learnt)), **calibration_in(learnt)}

    def _with_prior(self, sums: Statistics, origin: Origin, columns: Columns, learnt: State, context: Context) -> State:
        rows, parameters, first = int(sums["rows"][0]), self._step_parameters(context), is_first(learnt)
        mean, variance = internal_moments(sums, origin, columns)
        prior = self._prior_from(mean, variance, rows, columns, parameters)
        values = sums["seen"][columns.kept]
        gaps = bool((values < rows).any())
        learnt = {
            **(pack(_started(learnt, prior, columns, variance)) if first else self._carried(learnt)),
            **pack_prior(prior, columns, "target_"),
            "gaps": gaps,
            "log_volume": float(np.sum(log_volumes(columns, values[None]))) if gaps else rows * columns.log_volume,
            "rows": rows,
            "iterations": self._iterations(context, first=first),
            "trust": learnt.get("temperature", 1.0),
        }
        return self._before_fit(learnt, sums, context)

    def _with_drawn(self, learnt: State, context: Context) -> State:
        """Return the parameters with those of the classes drawn from their posterior."""
        known, alpha = _Learnt(learnt, carried=False), self._step_parameters(context).alpha
        factors, prior, _ = known.classes
        drawn = draw_given_posterior(
            *(factors, prior, alpha, context.generator),
            temperature=known.power(learnt["with_prior"], context),
            components=self._components,
        )
        arrays = {name: each for name, each in drawn._asdict().items() if each is not None}
        sweep = 0 if context.sweep is None else context.sweep
        return {**learnt, **prefixed("drawn_", arrays), "label_sweep": sweep + 1}

    def _expected_sums(self, rows: _Rows, known: _Learnt, context: Context) -> Statistics:
        """Return the sums by responsibilities given the classes of the iteration before."""
        assert known.target is not None
        own, columns = known.classes.columns, known.target[1]
        if _same(own, columns):
            factors, prior, _ = known.classes
            inner = rows.within(own, prior)
            sums = expect(
                inner.X,
                factors,
                prior,
                **self._scores(rows, factors, context),
                temperature=known.power(not rows.weighted, context),
                mask=inner.missing,
                incomplete=inner.incomplete,
            )[1]
            return _with_entropy(sums, rows)
        return self._sums_given(rows, self._responsibilities(rows, known.classes, known, context), known)

    def _sums_by_labels(self, rows: _Rows, known: _Learnt, context: Context) -> Statistics:
        """Return the sums by the last labels, with what the classes expect of missing values."""
        assert known.before is not None
        labels = self._labels(rows, known.before, known, context)
        return self._sums_given(rows, one_hot_responsibilities(labels, self.classes * self._components), known)

    def _sums_given(self, rows: _Rows, responsibilities: FloatArray, known: _Learnt) -> Statistics:
        """Return the sums by these responsibilities (N, K), for the prior of the present rows."""
        assert known.target is not None
        prior, columns = known.target
        inner = rows.within(columns, prior)
        sums = variational_sums(
            inner.X,
            np.where(inner.missing[:, None], 0.0, responsibilities),
            known.reference,
            log_prior=_of_components(rows.log_prior, self._components),
            mask=inner.missing,
            incomplete=inner.incomplete,
            given=None if inner.incomplete is None else known.expecting,
        )
        return _with_entropy(sums, rows)

    def _drawn_sums(self, rows: _Rows, known: _Learnt, context: Context) -> Statistics:
        """Return the sums by labels, and missing values, that are drawn given the drawn parameters of the classes."""
        assert known.target is not None
        own, (prior, columns) = known.classes, known.target
        labels = self._labels(rows, own, known, context)
        X, given = columns.internal(rows.values), rows.within(own.columns, own.prior)
        if given.incomplete is not None and given.seen is not None:
            assert known.drawn is not None
            generator = replace(context, sweep=known.label_sweep).generator
            generator.random(len(labels))  # those by which the labels are drawn
            drawn = draw_missing_values(
                given.X, labels, given.incomplete, known.drawn.means, known.drawn.chol, generator
            )
            X = drawn if _same(own.columns, columns) else columns.internal(own.columns.external(drawn))
        if rows.seen is not None and not _same(own.columns, columns):
            # The classes know nothing of columns that did not vary before.
            new = ~rows.seen[:, columns.kept] & ~own.columns.kept[columns.kept]
            X = np.where(new, prior.mean, X)
        return class_sums_of_labels(X, labels, known.reference)

    def _improved(self, phase: str, sums: Statistics, learnt: State, context: Context) -> State:
        if phase == EXPECTED:
            return self._with_expected(sums, learnt, context)
        known, rows, done = self._unpacked(learnt, carried=False), learnt["rows"], learnt["done"] + 1
        assert known.target is not None
        prior, columns = known.target
        factors, alpha = posterior_from_sums(sums, known.reference, prior), self._step_parameters(context).alpha
        engine, objective, ended = self._engine(context), -np.inf, False
        if engine == "vb":
            power = known.power(learnt["with_prior"], context)
            terms: dict[str, Any] = {"use_weights": not learnt["with_prior"], "components": self._components}
            objective = bound_from_sums(sums, factors, prior, alpha, temperature=power, **terms)
            context.report(done, learnt["iterations"], objective=objective)
            ended = objective - learnt["objective"] < MIN_RISE * rows
        else:
            factors = factors._replace(counts=np.rint(factors.counts).astype(np.int64))
            context.report(done, learnt["iterations"])
        after = {
            **{name: each for name, each in learnt.items() if not name.startswith("columns_")},
            **pack(Classes(factors, prior, columns)),
            "done": done,
            "objective": objective,
        }
        if done < learnt["iterations"] and not ended:
            return self._with_drawn(after, context) if engine == "blocked-gibbs" else after
        after |= prefixed("before_", pack(known.classes))
        if engine == "vb":
            after["bound"] = bound_from_sums(sums, factors, prior, alpha, **terms) - learnt["log_volume"]
        elif learnt["gaps"]:
            return {**after, "phase": EXPECTED, "done": 0, "objective": -np.inf}
        return self._after_fit(after, context)

    def _with_expected(self, sums: Statistics, learnt: State, context: Context) -> State:
        """Return the parameters with what the classes expect of missing values, as `posterior_given_labels` does."""
        known, done = self._unpacked(learnt, carried=False), learnt["done"] + 1
        assert known.target is not None
        prior, columns = known.target
        factors = posterior_from_sums(sums, known.reference, prior)
        factors = factors._replace(counts=np.rint(factors.counts).astype(np.int64))
        objective = float(log_marginal_likelihood(factors, prior).sum() + sums["missing_entropy"][0])
        after = {**learnt, **pack(Classes(factors, prior, columns)), "done": done, "objective": objective}
        ended = objective - learnt["objective"] < MIN_EXPECTED_RISE * learnt["rows"]
        return self._after_fit(after, context) if ended or done >= MAX_ITERATIONS else after

    # --- rows of a chunk ------------------------------------------------------------------------------------------

    def _rows_of(self, chunk: Chunk, known: _Learnt, context: Context) -> _Rows:
        message = data_message(chunk.inbox)
        (values, missing), absent = rows_and_mask(message), message.missing_values
        check_dimension(values, known.classes.columns.kept.size, context)
        memo = chunk.memo if chunk.total * self.classes * self._components <= KEPT_NUMBERS else {}
        with self._named(context, chunk):
            above = log_prior_from_above(chunk.inbox, (len(values), self.classes))
            log_prior = joint_prior(above, label_prior(chunk.inbox, (len(values), self.classes)))
            return _Rows(values, missing, None if absent is None else ~absent, log_prior, above is None, memo)

    def _scores(self, rows: _Rows, factors: NIWPosterior, context: Context) -> dict[str, FloatArray | None]:
        """Return what an iteration adds to log-densities, `log_weights` (K·m,) and `log_prior` (N, K·m)."""
        m, alpha = self._components, self._step_parameters(context).alpha
        log_weights = None
        if rows.weighted:
            log_weights = expected_log_scores(factors.counts, alpha, components=m)
        elif m > 1:
            log_weights = expected_log_shares(factors.counts, m, alpha)
        return {"log_weights": log_weights, "log_prior": _of_components(rows.log_prior, m)}

    def _responsibilities(self, rows: _Rows, classes: Classes, known: _Learnt, context: Context) -> FloatArray:
        """Return the responsibilities (N, K) given these classes."""
        factors, prior, columns = classes
        inner = rows.within(columns, prior)
        return responsibilities_given(
            inner.X,
            factors,
            prior,
            **self._scores(rows, factors, context),
            temperature=known.power(not rows.weighted, context),
            mask=inner.missing,
            incomplete=inner.incomplete,
        )

    def _labels(self, rows: _Rows, classes: Classes, known: _Learnt, context: Context) -> IntArray:
        """Return the labels (N,) of the last sweep that has drawn parameters: the same ones whenever it is called."""
        assert known.drawn is not None
        sweep, kept = rows.memo.get("labels", (None, None))
        if kept is not None and sweep == known.label_sweep:
            labels: IntArray = kept
            return labels
        inner, densities = rows.within(classes.columns, classes.prior), None
        if inner.incomplete is not None:
            density = log_density_observed(inner.X, inner.incomplete, known.drawn.means, known.drawn.chol)
            densities = inner.incomplete.rows, density
        labels = draw_labels(
            inner.X,
            known.drawn,
            replace(context, sweep=known.label_sweep).generator,
            log_bias=rows.log_prior,
            use_counts=rows.weighted,
            temperature=known.power(not rows.weighted, context),
            mask=inner.missing,
            incomplete=densities,
        )
        rows.memo["labels"] = known.label_sweep, labels
        return labels

    def _leave_one_out(self, rows: _Rows, known: _Learnt, context: Context) -> _LeftOut:
        """Return the log-likelihood of each row without the row itself.

        The row is in the classes by the responsibility or label that is in the final sums. Where the update had no
        iteration, it is by the responsibility given the classes themselves.
        """
        factors, prior, columns = known.classes
        inner = rows.within(columns, prior)
        if "leave one out" in rows.memo:  # no pass after the first calibration changes the classes
            kept: tuple[FloatArray, FloatArray | None] = rows.memo.pop("leave one out")
            return _LeftOut(kept[0], kept[1], inner)
        if known.drawn is not None and known.before is not None:
            labels = self._labels(rows, known.before, known, context)
            likelihood = log_predictive_loo_observed(inner.X, labels, inner.incomplete, factors, prior)
            given = one_hot_responsibilities(labels, factors.counts.size)
        else:
            given = self._responsibilities(rows, known.before or known.classes, known, context)
            likelihood = soft_log_predictive_loo(inner.X, given, factors, prior)
            if inner.incomplete is not None:
                likelihood = soft_loo_observed(inner.X, likelihood, given, inner.incomplete, factors, prior)
        log_within, m = None, self._components
        if m > 1:
            shares = loo_log_shares(given, factors.counts, m, self._step_parameters(context).alpha)
            likelihood, log_within = class_densities(likelihood + shares, m)
        likelihood[inner.missing] = 0.0
        return _LeftOut(likelihood, log_within, inner)

    def _recognized_chunk(self, chunk: Chunk, context: Context) -> Outbox:
        """Classify a chunk's rows; the metrics are the left-out columns that differ from training."""
        X, missing, seen, differing = self._read_new_rows(data_message(chunk.inbox), context)
        with self._named(context, chunk):
            likelihood, log_volume, log_within = self._new_likelihood(X, missing, context, seen)
            outbox = self._compose_outbox(chunk.inbox, context, likelihood, missing, {}, log_volume)
            outbox = self._with_component_means(outbox, log_within, missing)
            outbox = self._with_log_evidence(outbox, chunk.inbox, context, likelihood, missing, log_volume)
        return Outbox(outbox.messages, {str(column): 1.0 for column in differing.tolist()}, outbox.outputs)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _unpacked(self, learnt: State, *, carried: bool) -> _Learnt:
        """Return parameters unpacked: once for all chunks."""
        if self._last is None or self._last.source[0] is not learnt or self._last.source[1] != carried:
            self._last = _Learnt(learnt, carried)
        return self._last


def _of_components(log_prior: FloatArray | None, components: int) -> FloatArray | None:
    """Return log-priors of classes (N, K) as those of their components (N, K·m)."""
    return None if log_prior is None else of_components(log_prior, components)


def _same(left: Columns, right: Columns) -> bool:
    """Return whether two conversions of columns are the same."""
    return left is right or all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def _with_entropy(sums: dict[str, FloatArray], rows: _Rows) -> Statistics:
    """Return sums that have the entropy of missing values wherever a chunk may lack some."""
    return sums if rows.seen is None else {"missing_entropy": np.zeros(1), **sums}


def _translated(classes: Classes, prior: NIWPrior, columns: Columns) -> tuple[NIWPosterior, NIWPrior]:
    """Return classes for other columns; a column that they do not know has mean and variance of the prior."""
    factors, before, own = classes
    kept = own.kept[columns.kept]
    both = own.kept & columns.kept
    mean = np.where(kept, columns.internal(own.external(factors.mean)), prior.mean)
    degrees = (prior.nu0 + factors.counts) / (before.nu0 + factors.counts)
    factor = np.ldexp(1.0, own.exponent[both] - columns.exponent[both])
    inner = both[own.kept]
    scale = np.add(prior.nu0, factors.counts, dtype=np.float64)[:, None, None] * np.diag(np.diagonal(prior.scale))
    known = factors.scale[:, inner][:, :, inner] * factor[:, None] * factor * degrees[:, None, None]
    scale[np.ix_(np.arange(len(scale)), kept, kept)] = known
    return posterior_from_moments(factors.counts.astype(np.float64), mean, scale), prior


def _started(learnt: State, prior: NIWPrior, columns: Columns, variance: FloatArray) -> Classes:
    """Return the classes given the assignment of the sample's rows, whose moments are converted to internal rows.

    Of a column of which the sample has no value, they have the mean of all rows and their variance (D,).
    """
    kept = columns.kept
    exponent, unit = learnt["start_exponent"][kept], columns.exponent[kept]
    factor = np.ldexp(1.0, exponent - unit)
    shift = np.ldexp(learnt["start_centre"][kept], -unit) - np.ldexp(columns.centre[kept], -unit)
    sums = {
        "counts": learnt["start_counts"],
        "first": learnt["start_first"][:, kept] * factor,
        "second": learnt["start_second"][:, kept][:, :, kept] * factor[:, None] * factor,
    }
    reference = np.ldexp(learnt["start_reference"][:, kept], exponent - unit) + shift
    if "start_unseen" in learnt and (unseen := learnt["start_unseen"][kept]).any():
        reference[:, unseen], sums["first"][:, unseen] = prior.mean[unseen], 0.0
        sums["second"][:, unseen] = 0.0
        sums["second"][:, :, unseen] = 0.0
        diagonal = np.flatnonzero(unseen)
        sums["second"][:, diagonal, diagonal] = sums["counts"][:, None] * variance[unseen]
    return Classes(posterior_from_sums(sums, reference, prior), prior, columns)
