"""An autoregressive mixture whose rows workers share: passes over chunks of rows instead of one fit to all of them.

:mod:`actors.modules.mixture.shared_classes` has the kinds of passes, :mod:`actors.kernels.mixture.autoregression_sums`
the sums. The first rows of a chunk follow from the last ones of the chunk before, which a scan brings before the first
pass. They are L at most, in the units in which they came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from actors.errors import ModuleError
from actors.kernels.log_rows import softmax_of_rows
from actors.kernels.mixture.autoregression import (
    Classes,
    DrawnClasses,
    Prior,
    Series,
    classes_from,
    draw_parameters,
    expected_log_density,
    log_density,
    log_predictive,
    log_predictive_loo,
    series,
)
from actors.kernels.mixture.autoregression_sums import (
    Preceding,
    Reference,
    bound_from_sums,
    class_sums,
    classes_from_sums,
    of_columns,
    series_after,
    step_sums,
    translated,
    translated_sums,
    unexplained_variance,
    variational_sums,
)
from actors.kernels.mixture.blocked_gibbs import draw_from_scores, draw_log_weights
from actors.kernels.mixture.columns import Columns, choose_columns
from actors.kernels.mixture.row_moments import MAX_EXPONENT, Origin, internal_moments, origin_at
from actors.kernels.mixture.variational import MIN_RISE, expected_log_scores, one_hot_responsibilities
from actors.kernels.sequences import boundaries
from actors.messaging.message import Message
from actors.module import Context, Inbox, Outbox
from actors.modules.class_posteriors import joint_prior, label_prior
from actors.modules.mixture.ar_base import ARGMMParameters, ARMixture
from actors.modules.mixture.ar_states import LearntClasses, Units, pack, pack_prior, unpack, unpack_prior
from actors.modules.mixture.class_module import NO_ROWS, data_message, row_values, rows_and_mask, rows_name
from actors.modules.mixture.engines import Engine
from actors.modules.mixture.shared_classes import (
    KEPT_NUMBERS,
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

PRECEDING = "rows before"
"""The scan that brings the last rows of the chunks before."""


class _Rows(NamedTuple):
    """The rows of a chunk (N, D), in the units in which they came, and those before it.

    `starts` are where its sequences begin, and N. `log_prior` (N, K) is the product of the priors from above and of
    labels; `weighted` says that there is none from above, so that the classes have weights.
    """

    values: FloatArray
    missing: BoolArray
    preceding: Preceding
    starts: IntArray
    log_prior: FloatArray | None
    weighted: bool
    memo: dict[str, Any]

    def within(self, units: Units, order: int) -> Series:
        """Return internal rows with their regressors."""
        before = Preceding(units.internal(self.preceding.rows), self.preceding.missing)
        return series_after(before, units.internal(self.values), self.missing, self.starts, order)


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
        self.classes: LearntClasses = unpack(learnt)
        own: State = {} if carried else learnt
        target, before, drawn = (with_prefix(each, own) for each in ("target_", "before_", "drawn_"))
        self.target: tuple[Prior, Columns] | None = unpack_prior(target) if target else None
        self.before: LearntClasses | None = unpack(before) if before else None
        self.drawn: DrawnClasses | None = None
        if drawn:
            self.drawn = DrawnClasses(*(drawn[name] for name in DrawnClasses._fields))
            self.log_weights: FloatArray = drawn["log_weights"]
        self.label_sweep: int | None = own.get("label_sweep")
        self.trust = trust_of(learnt, carried=carried)

    def power(self, with_prior: bool, context: Context) -> float:
        """Return the exponent of the likelihood: below one only against a prior, as in `ARMixture.update`."""
        return context.temperature * self.trust if with_prior else 1.0

    @cached_property
    def units(self) -> Units:
        """What internal rows are by the prior of the present rows."""
        assert self.target is not None
        prior, columns = self.target
        return Units(columns, prior.centre)

    @cached_property
    def reference(self) -> Reference:
        """A point near each class, in the units of the present rows."""
        assert self.target is not None
        factors = self.classes.factors
        near = Reference(factors.dynamics.coefficients, factors.initial.mean)
        if self.drawn is not None:
            near = Reference(self.drawn.coefficients, self.drawn.initial_means)
        own = self.classes.units
        return near if own.same_as(self.units) else _in_units(near, own, self.units, self.target[0])


class SharedARMixture(ARMixture, SharedClassModule[ARGMMParameters]):
    """An autoregressive mixture that also learns by workers that share its rows; abstract.

    Rows that lack some of their values would depend on each other across chunks: one process learns from them.
    """

    missing_values_by_workers = False

    def __init__(self, parameters: ARGMMParameters) -> None:
        super().__init__(parameters)
        self._last: _Learnt | None = None

    def _engine(self, context: Context) -> Engine:
        return self._step_parameters(context).engine

    # --- the rows before a chunk ----------------------------------------------------------------------------------

    def scans(self, learnt: State, responding: bool, context: Context) -> tuple[str, ...]:  # noqa: ARG002
        """Return the scan before the first pass, or before a response without passes; it stays for the later ones."""
        if context.mode == "recognize":
            return (PRECEDING,) if context.ordered else ()
        return () if context.sweep else (PRECEDING,)

    def summarise(self, scan: str, chunk: Chunk, learnt: State, context: Context) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the last rows of a chunk, at most L, and whether those before it in their sequence are needed, too."""
        message, order = data_message(chunk.inbox), self.parameters.order
        first = max(int(boundaries(len(chunk), chunk.lengths)[-2]), len(chunk) - order)
        if not chunk.continues:
            first = len(chunk)
        values = message.take(rows_name(message), np.arange(first, len(chunk)))
        tail = np.array(values, dtype=np.float64).reshape(len(values), math.prod(values.shape[1:]))
        missing = np.zeros(len(tail), np.bool_) if message.mask is None else np.array(message.mask[first:])
        open_ = chunk.continues and chunk.continued and first == 0 and len(tail) < order
        return {"rows": tail, "missing": missing, "open": open_}

    def combine(self, scan: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the last rows of two neighbouring stretches."""
        if not right["open"]:
            return right
        order, before = self.parameters.order, Preceding(left["rows"], left["missing"])
        rows, missing = before.followed_by(right["rows"], right["missing"], order)
        return {"rows": rows, "missing": missing, "open": left["open"] and len(rows) < order}

    def descend(self, scan: str, entering: Any, left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Any, Any]:  # noqa: ARG002
        """Return the rows before each of two neighbouring stretches."""
        if entering is None:  # before the first of all rows
            return None, left
        return entering, self.combine(scan, entering, left)

    def _preceding(self, chunk: Chunk, dimensions: int) -> Preceding:
        """Return the rows before a chunk, in the units in which they came."""
        brought = chunk.entering.get(PRECEDING)
        if brought is None or not chunk.continued:
            return Preceding.none(dimensions)
        return Preceding(brought["rows"], brought["missing"])

    # --- the start ------------------------------------------------------------------------------------------------

    def start(self, inbox: Inbox, context: Context) -> State:
        """Assign the rows of a sample to classes; return sums of these, for which the prior is not known yet.

        Raises
        ------
        ModuleError
            If the sample does not allow it.
        """
        message, parameters = _whole_rows(inbox, context), self._step_parameters(context)
        rows, missing = rows_and_mask(message)
        if missing.all():
            raise ModuleError(
                NO_ROWS if len(rows) == 0 else f"every one of the {len(rows)} rows to start from is missing"
            )
        present = rows[~missing]
        columns, starts = choose_columns(present, row_values(message).dtype), boundaries(len(rows), message.lengths)
        X, seen = columns.internal(rows), np.broadcast_to(~missing[:, None], (len(rows), int(columns.kept.sum())))
        with self._named(context):
            prior, _ = self._priors(X, seen, missing, starts, columns, parameters)
            data, told = series(X - prior.centre, missing, starts, parameters.order), label_prior(inbox, self._shape(X))
            first = self._start(X, missing, message.lengths, told, (data, prior), context)
            labels = np.where(missing, -1, first.labels)
            member = one_hot_responsibilities(labels, self.classes)
            classes = classes_from(data, member, prior)
        wide = all_kept(columns, present)
        units = Units(wide, wide.internal(present).mean(axis=0))
        units.centre[columns.kept] = prior.centre
        near = _of_more_columns(classes, columns.kept)
        every = series(units.internal(rows), missing, starts, parameters.order)
        return {
            "phase": "moments",
            **prefixed("start_", class_sums(every, member, near)),
            **prefixed("start_near_", near._asdict()),
            "start_columns_centre": wide.centre,
            "start_columns_exponent": wide.exponent,
            "start_centre": units.centre,
            **prefixed("origin_", origin_at(present[0])._asdict()),
        }

    def _shape(self, rows: FloatArray) -> tuple[int, int]:
        return len(rows), self.classes

    # --- passes ---------------------------------------------------------------------------------------------------

    def _more_moments(self, chunk: Chunk, origin: Origin, context: Context) -> Statistics:
        message = data_message(chunk.inbox)
        (rows, missing), before = rows_and_mask(message), self._preceding(chunk, origin.reference.size)
        with np.errstate(over="ignore", invalid="ignore"):
            preceding = Preceding(origin.deviations(before.rows), before.missing)
            starts, order = boundaries(len(rows), chunk.lengths), self.parameters.order
            data = series_after(preceding, origin.deviations(rows), missing, starts, order)
            return step_sums(data, persistence=self._persistence(context))

    def _persistence(self, context: Context) -> bool:
        return self._step_parameters(context).prior_mean == "persistence"

    def _with_prior(self, sums: Statistics, origin: Origin, columns: Columns, learnt: State, context: Context) -> State:
        rows, parameters, first = int(sums["rows"][0]), self._step_parameters(context), is_first(learnt)
        mean, variance = internal_moments(sums, origin, columns)
        unexplained = variance
        if sums["step_rows"][0]:
            offset = sums["first"] / sums["seen"]
            of_deviations = unexplained_variance(sums, offset, persistence=self._persistence(context))
            unexplained = np.ldexp(of_deviations, 2 * (origin.exponent - columns.exponent))[columns.kept]
        prior = self._priors_from((mean, variance, unexplained), rows, columns, parameters)
        learnt = {
            **(pack(self._started(learnt, prior, columns)) if first else self._carried(learnt)),
            **prefixed("target_", pack_prior(prior, columns)),
            "log_volume": rows * columns.log_volume,
            "rows": rows,
            "iterations": self._iterations(context, first=first),
            "trust": learnt.get("temperature", 1.0),
        }
        return self._before_fit(learnt, sums, context)

    def _started(self, learnt: State, prior: Prior, columns: Columns) -> LearntClasses:
        """Return the classes given the assignment of the sample's rows, whose sums are converted to internal rows."""
        every = np.ones_like(columns.kept)
        wide = Columns(every, learnt["start_columns_centre"], learnt["start_columns_exponent"])
        near = Reference(*(learnt[f"start_near_{name}"] for name in Reference._fields))
        sums, near = of_columns(with_prefix("start_", learnt), near, columns.kept)
        factor, shift = Units(wide, learnt["start_centre"]).translation(Units(columns, prior.centre))
        sums = translated_sums(sums, factor, shift, self.parameters.order)
        near = Reference(translated(near.coefficients, factor, shift), factor * near.means + shift)
        return LearntClasses(classes_from_sums(sums, near, prior), prior, columns)

    def _with_drawn(self, learnt: State, context: Context) -> State:
        """Return the parameters with those of the classes drawn from their posterior."""
        factors, prior, _ = unpack(learnt)
        drawn = draw_parameters(factors, prior, context.generator)._asdict()
        alpha = self._step_parameters(context).alpha
        drawn["log_weights"] = draw_log_weights(alpha + factors.counts, context.generator)
        sweep = 0 if context.sweep is None else context.sweep
        return {**learnt, **prefixed("drawn_", drawn), "label_sweep": sweep + 1}

    def _fit_sums(self, phase: str, chunk: Chunk, learnt: State, context: Context) -> Statistics:  # noqa: ARG002
        known = self._unpacked(learnt, carried=not context.sweep)
        rows = self._rows_of(chunk, known, context)
        with self._named(context, chunk):
            own = rows.within(known.classes.units, self.parameters.order)
            if self._engine(context) == "vb":
                given = self._responsibilities(own, rows, known.classes, known, context)
            else:
                given = one_hot_responsibilities(self._labels(own, rows, known, context), self.classes)
            same = known.classes.units.same_as(known.units)
            data = own if same else rows.within(known.units, self.parameters.order)
            if self._engine(context) == "vb":
                return variational_sums(data, given, known.reference, rows.log_prior)
            return class_sums(data, given, known.reference)

    def _improved(self, phase: str, sums: Statistics, learnt: State, context: Context) -> State:  # noqa: ARG002
        known, rows, done = self._unpacked(learnt, carried=False), learnt["rows"], learnt["done"] + 1
        assert known.target is not None
        prior, columns = known.target
        factors, alpha = classes_from_sums(sums, known.reference, prior), self._step_parameters(context).alpha
        engine, objective, ended = self._engine(context), -np.inf, False
        if engine == "vb":
            power, weights = known.power(learnt["with_prior"], context), not learnt["with_prior"]
            objective = bound_from_sums(sums, factors, prior, alpha, temperature=power, use_weights=weights)
            context.report(done, learnt["iterations"], objective=objective)
            ended = objective - learnt["objective"] < MIN_RISE * rows
        else:
            context.report(done, learnt["iterations"])
        after = {
            **{name: each for name, each in learnt.items() if not name.startswith("columns_")},
            **pack(LearntClasses(factors, prior, columns)),
            "done": done,
            "objective": objective,
        }
        if done < learnt["iterations"] and not ended:
            return self._with_drawn(after, context) if engine == "blocked-gibbs" else after
        after |= prefixed("before_", pack(known.classes))
        if engine == "vb":
            bound = bound_from_sums(sums, factors, prior, alpha, use_weights=not learnt["with_prior"])
            after["bound"] = bound - learnt["log_volume"]
        return self._after_fit(after, context)

    def _learnt_origin(self, learnt: State) -> tuple[Origin, Columns]:
        _, prior, columns = self._unpacked(learnt, carried=True).classes
        exponent = np.clip(columns.exponent, -MAX_EXPONENT, MAX_EXPONENT)
        return Origin(columns.external(prior.centre[None])[0], exponent), columns

    def _factors_in(self, learnt: State, context: Context) -> Classes:
        return self._unpacked(learnt, carried=not context.sweep).classes.factors

    def _carried(self, learnt: State) -> State:
        return {**pack(unpack(learnt)), **calibration_in(learnt)}

    # --- rows of a chunk ------------------------------------------------------------------------------------------

    def _rows_of(self, chunk: Chunk, known: _Learnt, context: Context) -> _Rows:
        values, missing = rows_and_mask(_whole_rows(chunk.inbox, context))
        check_dimension(values, known.classes.columns.kept.size, context)
        memo = chunk.memo if chunk.total * self.classes <= KEPT_NUMBERS else {}
        with self._named(context, chunk):
            above = log_prior_from_above(chunk.inbox, self._shape(values))
            log_prior = joint_prior(above, label_prior(chunk.inbox, self._shape(values)))
        preceding, starts = self._preceding(chunk, values.shape[1]), boundaries(len(values), chunk.lengths)
        return _Rows(values, missing, preceding, starts, log_prior, above is None, memo)

    def _responsibilities(
        self, data: Series, rows: _Rows, classes: LearntClasses, known: _Learnt, context: Context
    ) -> FloatArray:
        """Return the responsibilities (N, K) given these classes, in whose units the series is."""
        factors, prior, _ = classes
        alpha, power = self._step_parameters(context).alpha, known.power(not rows.weighted, context)
        bias = None if rows.log_prior is None else np.where(data.present[:, None], rows.log_prior, 0.0)
        scores = expected_log_scores(factors.counts, alpha, bias, use_weights=rows.weighted)
        responsibilities = softmax_of_rows(scores + power * expected_log_density(data, factors, prior))
        responsibilities[~data.present] = 0.0
        return responsibilities

    def _labels(self, data: Series, rows: _Rows, known: _Learnt, context: Context) -> IntArray:
        """Return the labels (N,) of the last sweep that has drawn parameters: the same ones whenever it is called."""
        assert known.drawn is not None
        sweep, kept = rows.memo.get("labels", (None, None))
        if kept is not None and sweep == known.label_sweep:
            labels: IntArray = kept
            return labels
        scores = known.power(not rows.weighted, context) * log_density(data, known.drawn)
        if rows.weighted:
            scores += known.log_weights
        if rows.log_prior is not None:
            scores += rows.log_prior
        uniforms = replace(context, sweep=known.label_sweep).generator.random(len(scores))
        labels = np.full(len(scores), -1, dtype=np.int64)
        labels[data.present] = draw_from_scores(scores[data.present], uniforms[data.present])
        rows.memo["labels"] = known.label_sweep, labels
        return labels

    def _left_out(self, chunk: Chunk, learnt: State, context: Context, *, keep: bool) -> LeftOut:
        """Return the log-likelihood of each row without the row itself.

        The row is in the classes by the responsibility or label that is in the final sums. Where the update had no
        iteration, it is by the responsibility given the classes themselves.
        """
        known = self._unpacked(learnt, carried=not context.sweep)
        rows, order = self._rows_of(chunk, known, context), self.parameters.order
        with self._named(context, chunk):
            if "leave one out" in rows.memo:  # no pass after the first calibration changes the classes
                likelihood: FloatArray = rows.memo.pop("leave one out")
            else:
                classes = known.before or known.classes
                data = rows.within(classes.units, order)
                if known.drawn is not None and known.before is not None:
                    given = one_hot_responsibilities(self._labels(data, rows, known, context), self.classes)
                else:
                    given = self._responsibilities(data, rows, classes, known, context)
                if not classes.units.same_as(known.classes.units):
                    data = rows.within(known.classes.units, order)
                likelihood = log_predictive_loo(data, given, known.classes.factors, known.classes.prior)
        if keep:
            rows.memo["leave one out"] = likelihood
        log_volume = known.classes.columns.log_volume
        return LeftOut(likelihood, rows.missing, rows.log_prior, rows.weighted, log_volume, rows)

    def _completed(self, outbox: Outbox, chunk: Chunk, found: LeftOut, context: Context) -> Outbox:
        if not context.receivers.get("latent_means"):
            return outbox
        assert self._priors_of_classes is not None
        assert self._columns is not None
        data = found.rest.within(Units(self._columns, self._priors_of_classes.centre), self.parameters.order)
        return self._with_expected_rows(outbox, chunk.inbox, data, context)

    def _recognized_chunk(self, chunk: Chunk, context: Context) -> Outbox:
        assert self._factors is not None
        assert self._priors_of_classes is not None
        assert self._columns is not None
        message, prior = _whole_rows(chunk.inbox, context), self._priors_of_classes
        rows, missing, _, differing = self._read_new_rows(message, context)
        before, starts = self._preceding(chunk, self._columns.kept.size), np.arange(len(rows) + 1)
        if context.ordered:
            starts = boundaries(len(rows), chunk.lengths)
        with self._named(context, chunk):
            inner = Preceding(Units(self._columns, prior.centre).internal(before.rows), before.missing)
            data = series_after(inner, rows, missing, starts, self.parameters.order)
            likelihood = log_predictive(data, self._factors, prior)
            log_volume = self._columns.log_volume
            outbox = self._answer(chunk.inbox, context, data, likelihood, {}, log_volume)
            outbox = self._with_log_evidence(outbox, chunk.inbox, context, likelihood, missing, log_volume)
        return Outbox(outbox.messages, {str(column): 1.0 for column in differing.tolist()}, outbox.outputs)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _unpacked(self, learnt: State, *, carried: bool) -> _Learnt:
        """Return parameters unpacked: once for all chunks."""
        if self._last is None or self._last.source[0] is not learnt or self._last.source[1] != carried:
            self._last = _Learnt(learnt, carried)
        return self._last


def _whole_rows(inbox: Inbox, context: Context) -> Message:
    """Return the message with the rows to classify.

    Raises
    ------
    ModuleError
        If some of them lack some of their values.
    """
    message = data_message(inbox)
    absent = message.missing_values
    if absent is not None and (absent.any(axis=1) & ~absent.all(axis=1)).any():
        raise ModuleError(
            f"module {context.module!r}: some rows lack some of their values, which a module of type 'ar_gmm' can use "
            "in one process only; leave workers out, or fill them in"
        )
    return message


def _of_more_columns(classes: Classes, kept: BoolArray) -> Reference:
    """Return a reference for all columns (D,) of the rows, of classes that know those that are `kept`."""
    known, D = classes.dynamics.coefficients, kept.size
    K, inner, Q = known.shape
    used = np.append(np.tile(kept, (Q - 1) // inner), True)
    coefficients, means = np.zeros((K, D, used.size)), np.zeros((K, D))
    coefficients[np.ix_(np.arange(K), kept, used)] = known
    means[:, kept] = classes.initial.mean
    return Reference(coefficients, means)


def _in_units(near: Reference, own: Units, units: Units, prior: Prior) -> Reference:
    """Return a reference in other units; of columns that it does not know, that of the prior."""
    both = own.columns.kept & units.columns.kept
    K, D, Q = near.coefficients.shape
    order, of_own, of_units = (Q - 1) // D, both[own.columns.kept], both[units.columns.kept]
    used, others = (np.append(np.tile(each, order), True) for each in (of_own, of_units))
    factor, shift = own.translation(units)
    coefficients, means = np.tile(prior.dynamics.mean, (K, 1, 1)), np.tile(prior.initial.mean, (K, 1))
    inner = translated(near.coefficients[:, of_own][:, :, used], factor, shift)
    coefficients[np.ix_(np.arange(K), of_units, others)] = inner
    means[:, of_units] = factor * near.means[:, of_own] + shift
    return Reference(coefficients, means)
