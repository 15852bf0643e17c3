"""A Markov model whose transitions depend on a regime of each row, which a Markov model above learns to predict.

Workers can share its rows. A pass of learning is forward-backward over all rows, with a scan that brings into each
chunk what the rows before and after it say about its classes (:mod:`actors.kernels.markov.switching_operators`); the
expected transitions are summed. After the ``inner_iterations`` passes there is one for the numbers of rows in each
class and regime. Whether a prior of the regimes has come is known after the first pass, which changes nothing without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.kernels.inversion import draw_chain, draw_rows
from actors.kernels.log_rows import log_sum_exp
from actors.kernels.markov import operators, switching_operators
from actors.kernels.markov.inference import RowError, known_evidence, transition_probabilities
from actors.kernels.markov.switching import (
    WINDOWS,
    SwitchingResult,
    compile_kernels,
    start_counts,
)
from actors.kernels.markov.switching_operators import summarise_switching, switching_chunk
from actors.kernels.sequences import boundaries
from actors.limits import MAX_REGIMES
from actors.module import Context, Inbox, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import (
    CombinedPosteriors,
    add_floor,
    combine_posteriors,
    combine_priors,
    log_normalisers,
    normalise_rows,
    normalise_with_norms,
    present_norms,
    product_of,
    sender_likelihoods,
    temper,
)
from actors.modules.markov_answers import (
    compose_messages,
    log_evidence_of_sequences,
    one_hot_log_prob,
    present,
    unordered_message,
)
from actors.sharing.chunks import Chunk
from actors.sharing.contract import ShardedModule
from actors.sharing.shard import Statistics
from actors.types import Array, FloatArray, State

PRIOR, REGIMES = "regime_prior", "regime_posteriors"

TEMPERED, UNTEMPERED = "operators", "operators of untempered rows"
"""Scans: what enters and what leaves each chunk. They are the same unless the update is tempered."""

KEPT_NUMBERS = 10_000_000
"""Most rows times classes and regimes, all workers together, for which the class posteriors and the priors that came
are kept, combined, from pass to pass: at most two arrays of float64, 160 MB in all. They have the same bits where they
are not."""

FREQUENCIES, WITHOUT_PRIOR = "given_frequencies", "without_prior"
"""Entries of the parameters during an update: the frequencies of regimes that stand for a prior, and that none came."""


@dataclass(frozen=True)
class SwitchingMarkovParameters:
    """See :class:`SwitchingMarkov`."""

    regimes: Annotated[int, Field(ge=1, le=MAX_REGIMES)] = 2
    inner_iterations: Annotated[int, Field(ge=0)] = 5
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    initial: Literal["uniform", "learnt"] = "uniform"
    window: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"


class _Ends(NamedTuple):
    """What the rows before and after a chunk say of its first and last class, (K,); None where they say nothing."""

    entering: FloatArray | None = None
    leaving: FloatArray | None = None


class _Given(NamedTuple):
    """The rows of a chunk, as they are whatever the matrices: what came from below, tempered, and the priors (N, R)."""

    combined: CombinedPosteriors
    tempered: FloatArray
    log_prior: FloatArray | None


class SwitchingMarkov(ShardedModule[SwitchingMarkovParameters]):
    """Learn a transition matrix for each regime, and send upwards what each row says of its regime.

    p(z_t | z_{t-1}, r_t) = A^{r_t}[z_{t-1}, z_t]: the lower chain of a hierarchical hidden Markov model, such as the
    syllables of words. A ``markov`` above it (``connections: [mm -> words]``) is the upper chain, p(r_t | r_{t-1}), and
    knows nothing of this one: as from a mixture, it receives the likelihoods of the regimes, and sends each row a prior
    of its regime given all other rows. Given these priors, inference here is exact
    (:mod:`actors.kernels.markov.switching`).

    The output ``regime`` (N,) is the most probable regime of each row, with ``Pregime`` (N, R), ``Pdz`` (N, K) the
    posterior of the classes below, and ``regime_trans_prob`` (R, K, K) the matrices; ``trans_prob`` (K, K) is their
    mean.

    Parameters
    ----------
    parameters : SwitchingMarkovParameters
        regimes : int
            R, the number of classes that the module above sees.
        inner_iterations : int
            Passes of forward-backward and re-estimation per update; with 0 the matrices are kept.
        alpha : float
            Pseudo-count of each transition in each regime.
        initial : {"uniform", "learnt"}
            Distribution of the first class of a sequence; a first row has no regime.
        window : int or "auto"
            Rows of the windows that are compared at the start, until a first prior comes; with ``auto`` another one of
            12, 6, 24 and 48 in each chain of a block.

    Notes
    -----
    Workers that share the rows compare windows of the sample, once; in one process each update does so anew, with all
    rows, until a first prior comes. Where the sample is all rows, other results differ by rounding.
    """

    Parameters: ClassVar[type[Any]] = SwitchingMarkovParameters
    learning_parameters = ("inner_iterations",)
    fixed_parameters = ("regimes",)
    uses_order = True
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors"),
        Port(PRIOR, "in", "backward", "transition_prior", optional=True),
        Port(REGIMES, "out", "forward", "class_posteriors", per_receiver=True),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
    )
    row_outputs: ClassVar[tuple[str, ...]] = ("regime", "Pregime", "msg", "Pdz", "filtered", "smoothed")
    sequence_outputs: ClassVar[tuple[str, ...]] = ("log_evidence",)

    def __init__(self, parameters: SwitchingMarkovParameters) -> None:
        super().__init__(parameters)
        self._counts: FloatArray | None = None  # expected transitions, (R, K, K)
        self._initial_counts: FloatArray | None = None  # expected first classes, (K,)
        self._class_counts: FloatArray | None = None  # expected rows of each class, (K,)
        self._regime_counts: FloatArray | None = None  # expected rows of each regime, (R,)
        self._from_windows = False  # whether the matrices are those of windows, since no prior has come yet
        self._own: tuple[State, SwitchingMarkov] | None = None

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def prepare_sharing(self) -> None:
        """Compile the kernels of chunks, or load them from their cache."""
        switching_operators.compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the matrices, given the priors of the regimes; send messages both ways.

        Until a first prior has come, the matrices are those of windows of rows that are alike.

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt before, or exclude each other.
        """
        parameters, combined = self.at(context), self._combined(inbox, context)
        tempered = temper(combined.log_prob, context.temperature)
        log_prior = self._prior(inbox, len(tempered))
        learns = context.learn and parameters.inner_iterations > 0
        if self._counts is None or (self._from_windows and log_prior is None and learns):
            self._start(tempered, combined.lengths, parameters, context)
        try:
            for done in range(parameters.inner_iterations if learns and log_prior is not None else 0):
                fit = self._infer(tempered, combined, log_prior, parameters)
                self._counts, self._initial_counts, self._from_windows = fit.transitions, fit.initial, False
                context.report(done + 1, parameters.inner_iterations, log_likelihood=fit.log_likelihood)
            down = fit = self._infer(tempered, combined, log_prior, parameters)
            if tempered is not combined.log_prob:
                fit = self._infer(combined.log_prob, combined, log_prior, parameters)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        if context.learn:
            self._class_counts = present(fit.posterior, combined.mask).sum(axis=0)
            self._regime_counts = self._regime_posterior(fit, log_prior).sum(axis=0)
        return self._answer(inbox, combined, fit, log_prior, add_floor(down.log_cavity), context)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Infer classes and regimes of new rows; rows without an order have the frequencies of both.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages do not fit.
        """
        if self._counts is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        combined = self._combined(inbox, context)
        if not context.ordered:
            return self._recognize_unordered(combined, context)
        log_prior, parameters = self._prior(inbox, len(combined.log_prob)), self.at(context)
        try:
            fit = self._infer(temper(combined.log_prob, context.temperature), combined, log_prior, parameters)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        return self._answer(inbox, combined, fit, log_prior, add_floor(fit.log_cavity), context)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Draw classes by the regimes that came from above, or by their frequencies; output ``class`` (N,).

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._counts is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        message = inbox.first(PRIOR)
        rows, uniforms = context.rows, context.generator.random((context.rows, 2))
        prior = np.tile(self._frequencies, (rows, 1)) if message is None else np.exp(np.asarray(message["log_prob"]))
        regimes = draw_rows(np.cumsum(prior, axis=1), uniforms[:, 0])
        initial = self._first(self.at(context))
        classes = draw_chain(initial, self._matrices(self.at(context)), uniforms[:, 1], regimes)
        log_prob = one_hot_log_prob(classes, len(initial))
        messages = [
            OutgoingMessage("transition_prior", {"log_prob": log_prob}, receiver)
            for receiver in context.receivers.get("transition_prior", ())
        ]
        return Outbox(messages, outputs={"class": classes, "regime": regimes})

    def state(self) -> State:
        """Return copies of the expected counts."""
        arrays = {
            "transitions": self._counts,
            "initial_counts": self._initial_counts,
            "class_counts": self._class_counts,
            "regime_counts": self._regime_counts,
        }
        state: State = {name: array.copy() for name, array in arrays.items() if array is not None}
        return {**state, "from_windows": True} if self._from_windows else state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a model that has learnt nothing."""
        arrays = {name: np.array(array, dtype=np.float64) for name, array in state.items()}
        self._counts, self._initial_counts = arrays.get("transitions"), arrays.get("initial_counts")
        self._class_counts, self._regime_counts = arrays.get("class_counts"), arrays.get("regime_counts")
        self._from_windows = bool(state.get("from_windows", False))

    # --- rows that workers share ----------------------------------------------------------------------------------

    def start(self, inbox: Inbox, context: Context) -> State:
        """Return the matrices from windows of the sample that are alike.

        Raises
        ------
        ModuleError
            If the senders differ in rows or classes.
        """
        product, own = product_of(sender_likelihoods(inbox)), type(self)(self.parameters)
        possible = np.isfinite(log_sum_exp(product))[:, None]  # the first pass names a row without a possible class
        log_prob = temper(normalise_rows(np.where(possible, product, 0.0)), context.temperature)
        own._start(log_prob, inbox.require("class_posteriors").lengths, self.at(context), context)
        return own.state()

    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the sums over a chunk that the present pass needs.

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt before, or exclude each other.
        """
        own, given = self._loaded(learnt), self._given(chunk, learnt, context)
        down, fit = own._infer_chunk(chunk, given, learnt, context)
        if context.sweep != self._passes(learnt, context):
            return {
                "transitions": down.transitions,
                "initial": down.initial,
                "log_likelihood": np.array([down.log_likelihood]),
                "with_prior": np.array([0.0 if given.log_prior is None else float(len(chunk))]),
            }
        return {
            "class_counts": present(fit.posterior, given.combined.mask).sum(axis=0),
            "regime_counts": own._regime_posterior(fit, given.log_prior).sum(axis=0),
        }

    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the next parameters."""
        passes, sweep = self._passes(learnt, context), context.sweep
        assert sweep is not None
        if sweep == passes:
            return {**learnt, FREQUENCIES: self._loaded(learnt)._frequencies, **(statistics if context.learn else {})}
        if not statistics["with_prior"][0]:
            return {**learnt, WITHOUT_PRIOR: True}
        context.report(sweep + 1, passes, log_likelihood=float(statistics["log_likelihood"][0]))
        kept = {name: each for name, each in learnt.items() if name != "from_windows"}
        return {**kept, "transitions": statistics["transitions"], "initial_counts": statistics["initial"]}

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:
        """Return whether all passes are done."""
        return passes > self._passes(learnt, context)

    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Return messages, outputs and metrics of one chunk, as `update` or `recognize` for all rows.

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt, or exclude each other.
        """
        own, given = self._loaded(learnt), self._given(chunk, learnt, context)
        if context.mode == "recognize" and not context.ordered:
            return own._recognize_unordered(given.combined, context)
        down, fit = own._infer_chunk(chunk, given, learnt, context)
        return own._answer(chunk.inbox, given.combined, fit, given.log_prior, add_floor(down.log_cavity), context)

    def scans(self, learnt: State, responding: bool, context: Context) -> tuple[str, ...]:
        """Return the scans before a pass or the response; that of an update uses those of its last pass.

        Raises
        ------
        ModuleError
            If nothing was learnt that could recognise rows.
        """
        if context.mode == "recognize":
            if "transitions" not in learnt:
                raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
            return (TEMPERED,) if context.ordered else ()
        if responding:
            return ()
        last = context.sweep == self._passes(learnt, context)
        return (TEMPERED, UNTEMPERED) if last and context.temperature != 1.0 else (TEMPERED,)

    def summarise(self, scan: str, chunk: Chunk, learnt: State, context: Context) -> Mapping[str, Any]:
        """Return a chunk as a map of the distribution of the class before it to that of its last row.

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt, or exclude each other.
        """
        own, given = self._loaded(learnt), self._given(chunk, learnt, context)
        if not (chunk.continued or chunk.continues):  # what enters and leaves is ignored
            K = given.tempered.shape[1]
            return {"log_operator": np.tile(operators.no_message(K), (K, 1)), "log_weight": np.zeros(K)}
        log_prob = given.combined.log_prob if scan == UNTEMPERED else given.tempered
        with _named(context, chunk):
            evidence, starts = known_evidence(log_prob, given.combined.lengths, given.combined.mask)
            model = own._model(len(evidence), given.log_prior, self.at(context), learnt.get(FREQUENCIES))
            return summarise_switching(evidence, starts, *model, chunk.continued)

    def combine(self, scan: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        """Return the map of two neighbouring stretches of rows."""
        return operators.combine(dict(left), dict(right))

    def descend(
        self,
        scan: str,  # noqa: ARG002 (both are of one kind)
        entering: Any,
        left: Mapping[str, Any],
        right: Mapping[str, Any],
    ) -> tuple[Any, Any]:
        """Return what enters and what leaves each of two neighbouring stretches."""
        none = operators.no_message(left["log_operator"].shape[0])
        before, after = (none, none) if entering is None else entering
        into_left, out_left, into_right, out_right = operators.descend(before, after, dict(left), dict(right))
        return (into_left, out_left), (into_right, out_right)

    def statistics_of(self, learnt: State) -> Statistics:  # noqa: ARG002 (no state can be merged)
        """Raise ModuleError: regimes of two runs have other numbers, and no distance by which to match them."""
        raise ModuleError(
            "has regimes, which are not matched between runs: train one run on all rows, or let all runs use the same "
            "learnt module"
        )

    def _passes(self, learnt: State, context: Context) -> int:
        """Return the number of passes before the last one; without a prior, the first one learns nothing."""
        passes = self.at(context).inner_iterations if context.learn else 0
        return min(passes, 1) if WITHOUT_PRIOR in learnt else passes

    def _loaded(self, learnt: State) -> SwitchingMarkov:
        """Return a model that has learnt these parameters: once for all chunks."""
        if self._own is None or self._own[0] is not learnt:
            own = type(self)(self.parameters)
            own.load_state(learnt)
            self._own = learnt, own
        return self._own[1]

    def _given(self, chunk: Chunk, learnt: State, context: Context) -> _Given:
        """Return what came with the rows of a chunk."""
        if "given" in chunk.memo:
            kept: _Given = chunk.memo["given"]
            return kept
        own, by_sender = self._loaded(learnt), sender_likelihoods(chunk.inbox)
        own._check_classes(chunk.inbox, context)
        messages, product = chunk.inbox.all("class_posteriors"), product_of(by_sender)
        norms = log_normalisers(product, by_sender, chunk.rows.start)
        combined = combine_posteriors(messages, by_sender, norms)
        with _named(context, chunk):
            log_prior = self._prior(chunk.inbox, len(product))
        given = _Given(combined, temper(combined.log_prob, context.temperature), log_prior)
        if chunk.total * (product.shape[1] + self.parameters.regimes) <= KEPT_NUMBERS:
            chunk.memo["given"] = given
        return given

    def _infer_chunk(
        self, chunk: Chunk, given: _Given, learnt: State, context: Context
    ) -> tuple[SwitchingResult, SwitchingResult]:
        """Return the results for the tempered rows of a chunk, and those for the rows as they are.

        Both are the same before the last pass, and at recognition.
        """
        parameters, passes = self.at(context), self._passes(learnt, context)
        both = context.mode != "recognize" and (context.sweep is None or context.sweep >= passes)
        found = []
        scans = (TEMPERED, UNTEMPERED) if both and context.temperature != 1.0 else (TEMPERED,)
        for scan in scans:
            entering, leaving = chunk.entering.get(scan) or (None, None)
            ends = _Ends(entering if chunk.continued else None, leaving if chunk.continues else None)
            log_prob = given.tempered if scan == TEMPERED else given.combined.log_prob
            with _named(context, chunk):
                of_prior = given.log_prior, parameters, learnt.get(FREQUENCIES), ends
                found.append(self._infer(log_prob, given.combined, *of_prior))
        return found[0], found[-1]

    # --- helpers --------------------------------------------------------------------------------------------------

    @property
    def _frequencies(self) -> FloatArray:
        """The share (R,) of the rows in each regime; equal shares before anything is known."""
        R = self.parameters.regimes
        counts = np.zeros(R) if self._regime_counts is None else self._regime_counts
        shares: FloatArray = (counts + 1.0) / (counts + 1.0).sum()
        return shares

    def _matrices(self, parameters: SwitchingMarkovParameters) -> FloatArray:
        """Return the transition probabilities (R, K, K)."""
        assert self._counts is not None
        return np.stack([transition_probabilities(counts, parameters.alpha) for counts in self._counts])

    def _first(self, parameters: SwitchingMarkovParameters) -> FloatArray:
        """Return the distribution (K,) of first classes."""
        assert self._counts is not None
        K = self._counts.shape[1]
        if parameters.initial == "uniform" or self._initial_counts is None:
            return np.full(K, 1.0 / K)
        return transition_probabilities(self._initial_counts, parameters.alpha)

    def _combined(self, inbox: Inbox, context: Context) -> CombinedPosteriors:
        """Return the product of the class posteriors from below."""
        by_sender = sender_likelihoods(inbox)
        self._check_classes(inbox, context)
        return combine_posteriors(inbox.all("class_posteriors"), by_sender)

    def _check_classes(self, inbox: Inbox, context: Context) -> None:
        """Raise ModuleError if class posteriors have other classes than what was learnt."""
        first = inbox.require("class_posteriors")
        classes = first["log_prob"].shape[1]
        if self._counts is not None and self._counts.shape[1] != classes:
            raise ModuleError(
                f"{first.header.route}: {classes} classes came, {context.module!r} has learnt {self._counts.shape[1]}"
            )

    def _prior(self, inbox: Inbox, rows: int) -> FloatArray | None:
        """Return the priors (N, R) of the regimes from above, None if none came."""
        return combine_priors(inbox, PRIOR, (rows, self.parameters.regimes))

    def _start(
        self,
        log_prob: FloatArray,
        lengths: Array | None,
        parameters: SwitchingMarkovParameters,
        context: Context,
    ) -> None:
        """Set the matrices from windows of rows that are alike."""
        window = WINDOWS[context.chain % len(WINDOWS)] if parameters.window == "auto" else parameters.window
        starts = boundaries(len(log_prob), lengths)
        self._counts = start_counts(log_prob, parameters.regimes, window, starts, context.generator)
        self._initial_counts = np.exp(log_prob[starts[:-1]]).sum(axis=0)
        self._regime_counts, self._from_windows = None, True

    def _infer(
        self,
        log_prob: FloatArray,
        combined: CombinedPosteriors,
        log_prior: FloatArray | None,
        parameters: SwitchingMarkovParameters,
        frequencies: FloatArray | None = None,
        ends: _Ends = _Ends(),  # noqa: B008 (it is immutable)
    ) -> SwitchingResult:
        """Return the result of forward-backward; rows of a chunk have `ends`."""
        evidence, starts = known_evidence(log_prob, combined.lengths, combined.mask)
        return switching_chunk(evidence, starts, *self._model(len(evidence), log_prior, parameters, frequencies), *ends)

    def _model(
        self,
        rows: int,
        log_prior: FloatArray | None,
        parameters: SwitchingMarkovParameters,
        frequencies: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return matrices (R, K, K), priors of the regimes (N, R), and the distribution (K,) of first classes.

        Without a prior from above it is given by frequencies, those that were learnt by default.
        """
        if log_prior is None:
            prior = np.tile(self._frequencies if frequencies is None else frequencies, (rows, 1))
        else:
            prior = np.exp(log_prior)
        return self._matrices(parameters), prior, self._first(parameters)

    def _regime_posterior(self, fit: SwitchingResult, log_prior: FloatArray | None) -> FloatArray:
        """Return the posterior (N, R) of the regimes."""
        log_weights = np.log(self._frequencies) if log_prior is None else log_prior
        posterior: FloatArray = np.exp(normalise_with_norms(fit.log_regimes + log_weights)[0])
        return posterior

    def _answer(
        self,
        inbox: Inbox,
        combined: CombinedPosteriors,
        fit: SwitchingResult,
        log_prior: FloatArray | None,
        log_message: FloatArray,
        context: Context,
    ) -> Outbox:
        """Return messages, outputs and, of an update, the evidence."""
        row_norms = fit.row_log_likelihood + combined.row_norms
        messages = compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=True)
        for receiver in context.receivers.get(REGIMES, ()):
            others = combine_priors(inbox, PRIOR, fit.log_regimes.shape, receiver)
            up, up_norm = normalise_with_norms(fit.log_regimes if others is None else fit.log_regimes + others)
            norms = present_norms(up_norm + row_norms, combined.mask)
            arrays = {"log_prob": up, "log_norm": norms, **combined.row_arrays}
            messages.append(OutgoingMessage(REGIMES, arrays, receiver))
        posterior, matrices = self._regime_posterior(fit, log_prior), self._matrices(self.at(context))
        outputs = {
            "regime": posterior.argmax(axis=1),
            "Pregime": posterior,
            "regime_trans_prob": matrices,
            "trans_prob": np.tensordot(self._frequencies, matrices, axes=1),
            "msg": np.exp(log_message),
        }
        if context.mode == "recognize":
            evidence = log_evidence_of_sequences(fit.row_log_likelihood, combined)
            outputs |= {"filtered": fit.filtered, "smoothed": fit.posterior, "log_evidence": evidence}
            return Outbox(messages, outputs=outputs)
        return Outbox(messages, {"evidence": float(row_norms.sum())}, {**outputs, "Pdz": fit.posterior})

    def _recognize_unordered(self, combined: CombinedPosteriors, context: Context) -> Outbox:
        """Answer for rows without an order: the frequencies of classes downwards, nothing of regimes upwards."""
        assert self._counts is not None
        rows, R = len(combined.log_prob), self.parameters.regimes
        log_message = unordered_message(rows, self._counts.sum(axis=0), self._class_counts, None)
        log_posterior, by_row = normalise_with_norms(combined.log_prob + log_message)
        posterior = np.exp(log_posterior)
        messages = compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=True)
        norms = present_norms(by_row + combined.row_norms + np.log(R), combined.mask)
        arrays = {"log_prob": np.full((rows, R), -np.log(R)), "log_norm": norms, **combined.row_arrays}
        messages += [OutgoingMessage(REGIMES, arrays, receiver) for receiver in context.receivers.get(REGIMES, ())]
        outputs = {"msg": np.exp(log_message), "filtered": posterior, "smoothed": posterior}
        return Outbox(messages, outputs={**outputs, "log_evidence": log_evidence_of_sequences(by_row, combined)})


@contextmanager
def _named(context: Context, chunk: Chunk) -> Iterator[None]:
    """Name the module, and the row among all rows or the rows of the chunk, in errors."""
    try:
        yield
    except ModuleError as error:
        if len(chunk) == chunk.total:
            raise
        rows = f"in rows {chunk.rows.start} to {chunk.rows.stop - 1}, counted from the first of these: "
        raise ModuleError(f"{rows}{error}") from error
    except ValueError as error:
        numbered = error.after(chunk.rows.start) if isinstance(error, RowError) else error
        raise ModuleError(f"module {context.module!r}: {numbered}") from error
