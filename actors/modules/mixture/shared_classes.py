"""What the modules that classify rows by learnt classes have in common where workers share the rows.

An update has several kinds of passes. *Moments* gives the units of the columns and the prior (one pass, or two or three
where the origin of the deviations turns out to be far away). *Fit* is one iteration of the engine. Where rows lack some
of their values, *expected* follows the last sweep of ``blocked-gibbs``. *Sharpness* and *scores* calibrate the
likelihood. The parameters between passes are what a state contains, and what the next passes need, among it:

================== ================================================================================================
``phase``          The kind of the next pass; ``done`` after the last one.
``origin_…``       Of the deviations that the moments are sums of.
``start_…``        In the first update: sums of the classes that the sample's rows were assigned to.
``target_…``       Prior and columns of the present rows. Those of the classes are the ones that they were learnt with.
``drawn_…``        Engine ``blocked-gibbs``: parameters of the classes, from which the next labels are drawn.
``before_…``       The classes, or drawn parameters, from which the final responsibilities, or labels, follow.
================== ================================================================================================

No row has a label or responsibility that is kept. The responsibilities in the final sums are computed again where they
are needed, from the classes of the iteration before; labels are drawn again, by the same generator of the chunk.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from actors.errors import ModuleError, NonFiniteError
from actors.kernels.mixture.calibration import LAPSES, TEMPERATURES
from actors.kernels.mixture.columns import Columns
from actors.kernels.mixture.row_moments import (
    Origin,
    columns_from_moments,
    combine_extremes,
    next_origin,
    row_moments,
)
from actors.kernels.mixture.sums import calibration_scores, calibration_sums, choose_calibration, mean_posteriors
from actors.module import Context, Inbox, Outbox
from actors.modules.class_posteriors import combine_priors
from actors.modules.mixture.class_module import (
    INITIAL_LAPSE,
    NO_ROWS,
    PRIOR,
    ClassModule,
    data_message,
    log_left_out,
    row_values,
    rows_and_mask,
)
from actors.modules.mixture.engines import Engine, MixtureParameters
from actors.sharing.chunks import Chunk
from actors.sharing.contract import ShardedModule
from actors.sharing.shard import Statistics, add_statistics
from actors.types import BoolArray, FloatArray, State

P = TypeVar("P", bound=MixtureParameters)

MOMENTS, FIT, EXPECTED = "moments", "fit", "expected"
SHARPNESS, SCORES, DONE = "sharpness", "scores", "done"

CALIBRATION = ("temperature", "lapse", "mean_posterior")

KEPT_NUMBERS = 10_000_000
"""Most rows times classes, all workers together, for which labels and the likelihoods of the calibration are kept from
pass to pass: 80 MB in all, and 8 bytes a row. They have the same bits where they are not."""


class LeftOut(NamedTuple):
    """A chunk's rows, each left out of the classes.

    Attributes
    ----------
    likelihood : ndarray of float64, shape (N, K)
        Log-likelihoods, 0 where rows are missing.
    missing : ndarray of bool, shape (N,)
    log_prior : ndarray of float64, shape (N, K), or None
        The product of the priors from above and labels.
    weighted : bool
        Whether there is no prior from above, so that the classes have weights.
    log_volume : float or ndarray of float64, shape (N,)
        What converts densities to the units of the rows.
    rest : object
        What the module adds, for :meth:`SharedClassModule._completed`.
    """

    likelihood: FloatArray
    missing: BoolArray
    log_prior: FloatArray | None
    weighted: bool
    log_volume: float | FloatArray
    rest: Any = None


class SharedClassModule(ClassModule[P], ShardedModule[P]):
    """Classify rows by learnt classes, also by workers that share the rows; abstract."""

    row_outputs = ("class", "Pdz")
    sequence_outputs = ("log_evidence",)

    def __init__(self, parameters: P) -> None:
        super().__init__(parameters)
        self._own: tuple[State, Any] | None = None

    # --- what a subclass defines ----------------------------------------------------------------------------------

    @abstractmethod
    def _engine(self, context: Context) -> Engine:
        """Return the engine of this step.

        Raises
        ------
        ModuleError
            If it needs all rows in one process.
        """

    @abstractmethod
    def _fit_sums(self, phase: str, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the sums of a pass of the kind :data:`FIT` or :data:`EXPECTED`."""

    @abstractmethod
    def _improved(self, phase: str, sums: Statistics, learnt: State, context: Context) -> State:
        """Return the parameters after such a pass."""

    @abstractmethod
    def _with_prior(self, sums: Statistics, origin: Origin, columns: Columns, learnt: State, context: Context) -> State:
        """Return the parameters for the first iteration, with the prior of all rows and their columns."""

    @abstractmethod
    def _with_drawn(self, learnt: State, context: Context) -> State:
        """Return the parameters with those of the classes drawn from their posterior."""

    @abstractmethod
    def _left_out(self, chunk: Chunk, learnt: State, context: Context, *, keep: bool) -> LeftOut:
        """Return the likelihoods of a chunk's rows; to `keep` is what the next pass, or the response, needs of it."""

    @abstractmethod
    def _recognized_chunk(self, chunk: Chunk, context: Context) -> Outbox:
        """Classify a chunk's rows by what was loaded; the metrics are the left-out columns that differ."""

    @abstractmethod
    def _factors_in(self, learnt: State, context: Context) -> Any:
        """Return the classes in parameters between two passes."""

    @abstractmethod
    def _carried(self, learnt: State) -> State:
        """Return what a state would contain: the classes and the calibration."""

    @abstractmethod
    def _learnt_origin(self, learnt: State) -> tuple[Origin, Columns]:
        """Return a point near the rows of an earlier update, and their columns."""

    def _more_moments(self, chunk: Chunk, origin: Origin, context: Context) -> Statistics:  # noqa: ARG002 (overridden)
        """Return further sums of the first passes; by default none."""
        return {}

    def _completed(self, outbox: Outbox, chunk: Chunk, found: LeftOut, context: Context) -> Outbox:  # noqa: ARG002
        """Return the outbox of a chunk with what only this module sends; it is called of what was loaded."""
        return outbox

    # --- the contract ---------------------------------------------------------------------------------------------

    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the sums of one pass, of the kind that is next.

        Raises
        ------
        ModuleError
            If the rows do not fit what was learnt.
        """
        phase = self._phase(learnt, context)
        self._engine(context)
        if phase == MOMENTS:
            return self._moments(chunk, learnt, context)
        if phase in (FIT, EXPECTED):
            return self._fit_sums(phase, chunk, learnt, context)
        found = self._left_out(chunk, learnt, context, keep=True)
        with self._named(context, chunk):
            likelihood = found.likelihood[~found.missing]
            weights = np.exp(self._log_weights(self._factors_in(learnt, context), self._step_parameters(context)))
            if phase == SHARPNESS:
                with_prior = np.array([0.0 if found.weighted else float(len(chunk))])
                return {**calibration_sums(likelihood, weights), "with_prior": with_prior}
            assert found.log_prior is not None
            return calibration_scores(likelihood, weights, found.log_prior[~found.missing], learnt["means"])

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """Return the sums of both; of moments also the extremes, and the first row."""
        if "minimum" not in left:
            return add_statistics(left, right)
        first = np.where(left["seen"] > 0.0, left["row"], right["row"])
        others = {**combine_extremes(left, right), "row": first, "itemsize": left["itemsize"]}
        added = ({name: each for name, each in sums.items() if name not in others} for sums in (left, right))
        return {**add_statistics(*added), **others}

    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the parameters for the next pass.

        Raises
        ------
        ModuleError
            If the sums do not allow it.
        """
        phase = self._phase(learnt, context)
        with self._named(context):
            if phase == MOMENTS:
                return self._with_units(statistics, learnt, context)
            if phase in (FIT, EXPECTED):
                return self._improved(phase, statistics, learnt, context)
            if phase == SHARPNESS:
                return self._with_sharpness(statistics, learnt, context)
        temperature, lapse = choose_calibration(statistics)
        return _calibrated(learnt, temperature, lapse, learnt["means"])

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:
        """Return whether no kind of pass is left."""
        return self._phase(learnt, replace(context, sweep=passes)) == DONE

    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Return messages, outputs and metrics of one chunk, as `update` or `recognize` for all rows.

        Raises
        ------
        ModuleError
            If the rows do not fit what was learnt.
        """
        own = self._loaded(learnt)
        if context.mode == "recognize":
            return own._recognized_chunk(chunk, context)
        found, parameters = self._left_out(chunk, learnt, context, keep=False), self._step_parameters(context)
        likelihood, missing, log_prior = found.likelihood, found.missing, found.log_prior
        if found.weighted:
            log_prior = own._prior_of_rows(None, log_prior, parameters)
        metrics, log_volume = own._evidences(likelihood, log_prior, context), found.log_volume
        volume = (~missing).sum() * log_volume if isinstance(log_volume, float) else log_volume[~missing].sum()
        metrics = {name: metrics[name] - float(volume) for name in ("evidence", "score") if name in metrics}
        if parameters.calibrate:
            log_volume = 0.0
            likelihood = own._calibrated_likelihood(likelihood, self._factors_in(learnt, context), parameters)
            likelihood[missing] = 0.0
        outbox = own._compose_outbox(chunk.inbox, context, likelihood, missing, metrics, log_volume)
        return own._completed(outbox, chunk, found, context)

    def finish(self, sums: Mapping[str, float], learnt: State, context: Context) -> Mapping[str, float]:
        """Return the metrics of an update, bound and calibration among them; log which columns of new rows differ."""
        if context.mode == "recognize":
            self._log_differing(np.array(sorted(map(int, sums)), dtype=np.int64), context)
            return {}
        bound = {"bound": learnt["bound"]} if "bound" in learnt else {}
        return {**sums, **bound, **self._loaded(learnt)._calibration_metrics()}

    # --- passes ---------------------------------------------------------------------------------------------------

    def _phase(self, learnt: State, context: Context) -> str:
        """Return the kind of the next pass."""
        phase: str = learnt.get("phase", DONE)
        if phase != DONE or context.sweep:
            return phase
        if self._iterations(context, first=False):  # from what an earlier update learnt
            return MOMENTS
        return SHARPNESS if self._step_parameters(context).calibrate else DONE

    def _iterations(self, context: Context, *, first: bool) -> int:
        parameters = self._step_parameters(context)
        return parameters.iterations + (parameters.burn_in if first else 0) if context.learn else 0

    def _moments(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the moments of a chunk's rows, and whether there is a prior."""
        message, origin = data_message(chunk.inbox), self._origin(learnt)
        (rows, missing), absent = rows_and_mask(message), message.missing_values
        check_dimension(rows, origin.reference.size, context)
        with self._named(context, chunk):
            sums, extremes = row_moments(rows, origin, mask=missing, seen=None if absent is None else ~absent)
            more = self._more_moments(chunk, origin, context)
        firsts = (~missing).argmax() if absent is None else absent.argmin(axis=0)
        return {
            **sums,
            **extremes,
            **more,
            "row": np.where(sums["seen"] > 0.0, rows[firsts, np.arange(rows.shape[1])], 0.0),
            "itemsize": np.array([float(row_values(message).dtype.itemsize)]),
            "with_prior": np.array([float(bool(chunk.inbox.all(PRIOR)))]),
        }

    def _origin(self, learnt: State) -> Origin:
        """Return the origin of the next moments: at first, where rows of an earlier update were."""
        if learnt.get("phase") == MOMENTS:
            return Origin(learnt["origin_reference"], learnt["origin_exponent"])
        return self._learnt_origin(learnt)[0]

    def _with_units(self, sums: Statistics, learnt: State, context: Context) -> State:
        """Return the parameters with columns and prior of all rows, or with another origin."""
        if not sums["rows"][0]:
            raise ModuleError(NO_ROWS)
        if not sums["seen"].all():
            raise ModuleError(f"column {int(sums['seen'].argmin()) + 1} has no value in any row; leave it out")
        origin = self._origin(learnt)
        before = None if is_first(learnt) else self._learnt_origin(learnt)[1]
        extremes = {name: sums[name] for name in ("minimum", "maximum")}
        if (other := next_origin(sums, extremes, origin)) is not None:
            return {**learnt, "phase": MOMENTS, **prefixed("origin_", other._asdict())}
        dtype = np.float32 if sums["itemsize"][0] == np.dtype(np.float32).itemsize else np.float64
        columns = columns_from_moments(sums, extremes, origin, sums["row"], dtype)
        log_left_out(columns, before, context)
        return self._with_prior(sums, origin, columns, learnt, context)

    def _before_fit(self, learnt: State, sums: Statistics, context: Context) -> State:
        """Return the parameters for the first iteration, or for what follows where there is none."""
        learnt = {
            **learnt,
            "phase": FIT,
            "with_prior": bool(sums["with_prior"][0]),
            "done": 0,
            "objective": -np.inf,
        }
        if not learnt["iterations"]:
            return self._after_fit(learnt, context)
        return self._with_drawn(learnt, context) if self._engine(context) == "blocked-gibbs" else learnt

    def _after_fit(self, learnt: State, context: Context) -> State:
        """Return the parameters for what follows the last iteration."""
        if self._step_parameters(context).calibrate:
            return {**learnt, "phase": SHARPNESS}
        return {**{name: each for name, each in learnt.items() if name not in CALIBRATION}, "phase": DONE}

    def _with_sharpness(self, sums: Statistics, learnt: State, context: Context) -> State:
        """Return the parameters with the mean posteriors for each calibration; without a prior, with the first one."""
        if not sums["rows"][0]:
            raise ModuleError(NO_ROWS)
        carried = not context.sweep
        weights = np.exp(self._log_weights(self._factors_in(learnt, context), self._step_parameters(context)))
        means = mean_posteriors(sums, weights)
        learnt = {**(self._carried(learnt) if carried else learnt), "trust": trust_of(learnt, carried=carried)}
        if sums["with_prior"][0]:
            return {**learnt, "means": means, "phase": SCORES}
        return _calibrated(learnt, 1.0, INITIAL_LAPSE, means)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _loaded(self, learnt: State) -> Self:
        """Return a module that has learnt these parameters: once for all chunks."""
        if self._own is None or self._own[0] is not learnt:
            own = type(self)(self.parameters)
            own.load_state(learnt)
            self._own = (learnt, own)
        loaded: Self = self._own[1]
        return loaded

    @contextmanager
    def _named(self, context: Context, chunk: Chunk | None = None) -> Iterator[None]:
        """Name the module, and the rows of the chunk, in errors of the kernels, which count from its first row."""
        part = ""
        if chunk is not None and len(chunk) < chunk.total:
            part = f"in rows {chunk.rows.start} to {chunk.rows.stop - 1}, counted from the first of these: "
        try:
            yield
        except NonFiniteError:
            raise
        except ModuleError as error:
            if not part:
                raise
            raise ModuleError(f"{part}{error}") from error
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ModuleError(f"module {context.module!r}: {part}{error}") from error


def is_first(learnt: State) -> bool:
    """Return whether no update has learnt classes yet: there are those of a sample."""
    return "start_counts" in learnt


def trust_of(learnt: State, *, carried: bool) -> float:
    """Return the temperature of the calibration before this update, of parameters between two passes.

    `carried` says that they are those of the earlier update.
    """
    return float(learnt["trust"] if not carried and "trust" in learnt else learnt.get("temperature", 1.0))


def log_prior_from_above(inbox: Inbox, shape: tuple[int, int]) -> FloatArray | None:
    """Return what `combine_priors` does, in a third of the time: every pass needs it."""
    factors = [message["log_prob"] for message in inbox.all(PRIOR).values()]
    if not factors or any(factor.shape != shape for factor in factors):
        return combine_priors(inbox, PRIOR, shape)
    product = np.sum([factor.astype(np.float64) for factor in factors], axis=0)
    largest = product.max(axis=1, keepdims=True)
    if not np.isfinite(largest).all():
        return combine_priors(inbox, PRIOR, shape)  # which names the row
    product -= largest + np.log(np.exp(product - largest).sum(axis=1, keepdims=True))
    result: FloatArray = product
    return result


def prefixed(prefix: str, entries: Mapping[str, Any]) -> State:
    """Return entries under names that begin with `prefix`."""
    return {prefix + name: value for name, value in entries.items()}


def with_prefix(prefix: str, entries: Mapping[str, Any]) -> State:
    """Return those entries whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): each for name, each in entries.items() if name.startswith(prefix)}


def calibration_in(learnt: State) -> State:
    """Return what a state has of the calibration."""
    return {name: learnt[name] for name in CALIBRATION if name in learnt}


def _calibrated(learnt: State, temperature: float, lapse: float, means: FloatArray) -> State:
    """Return the final parameters with this calibration, given the mean posteriors (T, L, K) for each."""
    mean = means[TEMPERATURES.index(temperature), LAPSES.index(lapse)].copy()
    kept = {name: each for name, each in learnt.items() if name != "means"}
    return {**kept, "temperature": temperature, "lapse": lapse, "mean_posterior": mean, "phase": DONE}


def check_dimension(rows: FloatArray, learnt: int, context: Context) -> None:
    """Raise ModuleError if rows (N, D) have another dimension than those that were learnt from."""
    if rows.shape[1] != learnt:
        raise ModuleError(
            f"module {context.module!r} has learnt from rows with {learnt} dimensions, rows with {rows.shape[1]} came: "
            "start a new run"
        )


def all_kept(columns: Columns, rows: FloatArray) -> Columns:
    """Return a conversion that keeps all columns, also those that do not vary in these rows (N, D).

    They are divided by their magnitude: in other rows they may vary.
    """
    _, magnitude = np.frexp(np.abs(rows).max(axis=0))
    exponent = np.where(columns.kept, columns.exponent, magnitude.astype(np.int64))
    return Columns(np.ones_like(columns.kept), columns.centre, exponent)
