"""The Markov model of rows that workers share: sums over chunks, and operators where sequences cross chunks.

A pass of learning is forward-backward over all rows (:mod:`actors.kernels.markov.operators`): a scan brings into each
chunk what the rows before and after it say about its classes. The passes of an update are

1. ``inner_iterations`` passes that re-estimate the transitions;
2. one under the final transitions, from which follow the expected counts and the evidence;
3. with ``test_order``, those of expectation-maximisation for the class frequencies of independent rows, without scans.

The response uses the scan of pass 2, and scans of its own for the most probable path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from actors.errors import ModuleError
from actors.kernels.log_rows import softmax_of_rows
from actors.kernels.markov import operators
from actors.kernels.markov.inference import (
    ExpectedCounts,
    LinearResult,
    OtherChunkError,
    RowError,
    neighbour_counts,
    transition_probabilities,
)
from actors.kernels.markov.order_test import EM_STEPS, frequency_sums, next_frequencies, order_penalty
from actors.kernels.sequences import boundaries
from actors.module import Context, Inbox, Outbox, Port
from actors.modules.class_posteriors import (
    PORT,
    CombinedPosteriors,
    combine_posteriors,
    log_normalisers,
    message_with_floor,
    normalise_with_norms,
    present_arrays,
    product_of,
    rows_missing_for_all,
    sender_likelihoods,
    total_log_norm,
)
from actors.modules.markov_answers import (
    MarkovParameters,
    compose_messages,
    log_evidence_of_sequences,
    present,
    unordered_message,
)
from actors.sharing.chunks import Chunk
from actors.sharing.contract import ShardedModule
from actors.sharing.shard import Statistics
from actors.types import FloatArray, IntArray, State

TEMPERED, UNTEMPERED = "operators", "operators of untempered rows"
"""Scans of operators: what enters and what leaves each chunk. They are the same unless the update is tempered."""

SCORES, ORIGINS = "scores", "origins"
"""Scans for the most probable path: scores of paths into each chunk, then the class of its last row."""

IMPOSSIBLE = "impossible_chunks"
"""Sum over chunks: those that could not be computed, because rows of another chunk are impossible."""

KEPT_NUMBERS = 10_000_000
"""Most rows times classes, all workers together, for which likelihoods of rows and the results of the last pass are
kept from pass to pass and for the response: three arrays of float64, 240 MB in all, and one more for the product of
several senders. They have the same bits where they are not."""

R = TypeVar("R")

OF_TEST = ("trial_frequencies", "chain_log_likelihood", "log_norm", "present_rows")
"""Entries of the learnt parameters while an order is tested."""


class SharedMarkovModel(ShardedModule[MarkovParameters]):
    """The methods of :class:`actors.modules.markov.MarkovModel` by which workers share its rows.

    The learnt parameters are the state of the model. After the pass under the final transitions they also contain the
    ``evidence``, and what the test of order needs: :data:`OF_TEST`.
    """

    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors"),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
    )
    row_outputs: ClassVar[tuple[str, ...]] = ("msg", "Pdz", "viterbi", "filtered", "smoothed")
    sequence_outputs: ClassVar[tuple[str, ...]] = ("log_evidence",)

    def __init__(self, parameters: MarkovParameters) -> None:
        super().__init__(parameters)
        self._chain: tuple[State, str, Mapping[str, Any], operators.ChainModel] | None = None

    @classmethod
    def unshared_setting(cls, parameters: MarkovParameters) -> str | None:
        """Return that rule ``tutorial``, explicit durations and the choice of a prior need all rows in one process."""
        if parameters.rule == "tutorial":
            return "learns by rule 'tutorial', which needs all rows in one process; use rule: smoothed"
        if parameters.durations != "geometric":
            return (
                f"learns durations: {parameters.durations}, whose segments cross the chunks of workers, so that it "
                "needs all rows in one process; use workers: 1, or durations: geometric"
            )
        if parameters.samples:
            return (
                "draws from the posterior (samples), which needs all rows in one process; use workers: 1, or leave "
                "samples out"
            )
        if parameters.self_transition_prior == "auto":
            return (
                "compares several values of self_transition_prior (auto), which needs all rows in one process; use "
                "workers: 1, or a number"
            )
        return None

    def prepare_sharing(self) -> None:
        """Compile the kernels of chunks, or load them from their cache."""
        operators.compile_kernels()

    def chain(self, learnt: State, context: Context) -> operators.ChainModel:
        """Return the transitions and the initial distribution, validated: once for all chunks."""
        known, setting = self._chain, (context.mode, context.overrides)
        if known is not None and known[0] is learnt and known[1:3] == setting:
            return known[3]
        try:
            model = operators.chain_model(learnt["trans_prob"], _initial(learnt, self.at(context), context))
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        self._chain = learnt, *setting, model
        return model

    # --- passes ---------------------------------------------------------------------------------------------------

    def _learning_passes(self, context: Context) -> int:
        """Return the number of passes that re-estimate the transitions."""
        return self.at(context).inner_iterations if context.learn else 0

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:  # noqa: ARG002
        """Return whether all passes are done."""
        of_test = EM_STEPS + 1 if self.at(context).test_order else 0
        return passes >= self._learning_passes(context) + 1 + of_test

    def scans(self, learnt: State, responding: bool, context: Context) -> tuple[str, ...]:
        """Return the scans before a pass or the response.

        Raises
        ------
        ModuleError
            If the rule is ``tutorial``, or if nothing was learnt that could recognise rows.
        """
        if context.mode == "recognize":
            if "trans_prob" not in learnt:
                raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
            return (TEMPERED, SCORES, ORIGINS) if context.ordered and "frequencies" not in learnt else ()
        if problem := self.unshared_setting(self.at(context)):
            raise ModuleError(f"module {context.module!r} {problem}")
        if responding:
            return (SCORES, ORIGINS)
        assert context.sweep is not None
        final = self._learning_passes(context)
        if context.sweep == final and context.temperature != 1.0:
            return (TEMPERED, UNTEMPERED)
        return (TEMPERED,) if context.sweep <= final else ()

    def start(self, inbox: Inbox, context: Context) -> State:
        """Return transitions expected between neighbouring rows of the sample, if these are independent."""
        product = product_of(sender_likelihoods(inbox))
        probabilities, K = softmax_of_rows(context.temperature * product), product.shape[1]
        # The first pass raises the error that names a row without a possible class.
        probabilities[~np.isfinite(probabilities[:, 0])] = 1.0 / K
        transitions = neighbour_counts(probabilities, boundaries(len(product), inbox.require(PORT).lengths))
        trans_prob = self.at(context).transition_estimate(transitions)
        return {"transitions": transitions, "trans_prob": trans_prob, "initial": np.full(K, 1.0 / K)}

    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the sums over a chunk that the present pass needs."""
        assert context.sweep is not None
        final = self._learning_passes(context)
        rows = _Rows(self, chunk, learnt, context)
        if context.sweep > final:
            log_prob = present(rows.given.log_prob(0, len(chunk)), rows.given.mask)
            return frequency_sums(log_prob, learnt["trial_frequencies"])
        if context.sweep < final:
            counts = rows.counts()
            return {
                "transitions": counts.transitions,
                "initial": counts.initial,
                "log_likelihood": np.array([counts.log_likelihood]),
                IMPOSSIBLE: np.array([float(rows.impossible)]),
            }
        fit = rows.infer(TEMPERED)
        own = rows.untempered(fit)
        if rows.given.keeps and not rows.impossible:
            chunk.memo["response"] = rows.in_rooms(fit.cavity, own.posterior)  # as under the same transitions
        posterior, mask = own.posterior.sum(axis=0), rows.given.mask
        return {
            "transitions": fit.transitions,
            "initial": fit.initial,
            "log_likelihood": np.array([own.log_likelihood]),
            "untempered_transitions": own.transitions,
            "class_counts": posterior if mask is None else own.posterior[~mask].sum(axis=0),
            "present_rows": np.array([float(len(chunk) if mask is None else np.count_nonzero(~mask))]),
            "rows": np.array([float(len(chunk))]),
            "posterior": posterior,
            "log_norm": np.array([rows.given.log_norm]),
            IMPOSSIBLE: np.array([float(rows.impossible)]),
        }

    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the next parameters.

        Raises
        ------
        ModuleError
            If rows are impossible.
        """
        assert context.sweep is not None
        parameters, final = self.at(context), self._learning_passes(context)
        if context.sweep > final:
            return self._after_test_pass(statistics, learnt, context.sweep - final)
        _check_possible(statistics[IMPOSSIBLE][0], context)
        if context.sweep == final:
            return self._conclude(statistics, learnt, context)
        initial = _initial(learnt, parameters, context)
        if parameters.initial == "learnt":
            initial = transition_probabilities(statistics["initial"], parameters.pseudo_count)
        trans_prob = parameters.transition_estimate(statistics["transitions"])
        context.report(context.sweep + 1, final, log_likelihood=float(statistics["log_likelihood"][0]))
        return {**learnt, "trans_prob": trans_prob, "initial": initial}

    def _conclude(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the state after the pass under the final transitions; frequencies of an earlier test are dropped."""
        parameters = self.at(context)
        log_norm, log_likelihood = (float(statistics[name][0]) for name in ("log_norm", "log_likelihood"))
        bound_term = 0.0
        if parameters.estimate == "variational":
            counts = statistics["untempered_transitions"]
            bound_term = parameters.transition_bound_term(
                counts, learnt["trans_prob"], parameters.self_counts(statistics["transitions"])
            )
        state: State = {
            "transitions": statistics["transitions"],
            "trans_prob": learnt["trans_prob"],
            "initial": _initial(learnt, parameters, context),
            "class_counts": statistics["class_counts"],
            **({"initial_counts": statistics["initial"]} if parameters.initial == "learnt" else {}),
            "evidence": log_norm + (log_likelihood + bound_term),
        }
        if not parameters.test_order:
            return state
        trial, present_rows = statistics["posterior"] / statistics["rows"], float(statistics["present_rows"][0])
        of_test = zip(OF_TEST, (trial, log_likelihood, log_norm, present_rows), strict=True)
        return {**state, **dict(of_test)}

    def _after_test_pass(self, statistics: Statistics, learnt: State, number: int) -> State:
        """Return the parameters after pass `number` of the test, from 1: a step, or the decision."""
        trial = learnt["trial_frequencies"]
        if number <= EM_STEPS:
            return {**learnt, "trial_frequencies": next_frequencies(trial, statistics)}
        state = {name: value for name, value in learnt.items() if name not in OF_TEST}
        independent = float(statistics["log_likelihood"][0])
        gain = learnt["chain_log_likelihood"] - independent
        if gain > order_penalty(int(learnt["present_rows"]), len(trial)):
            return state
        return {**state, "frequencies": trial, "evidence": learnt["log_norm"] + independent}

    # --- runs that are merged -------------------------------------------------------------------------------------

    def statistics_of(self, learnt: State) -> Statistics:
        """Return the expected counts behind the transitions.

        Raises
        ------
        ModuleError
            If the transitions were sampled, an order was rejected or durations are explicit, or if the state lacks
            counts.
        """
        if self.parameters.durations != "geometric":
            raise ModuleError("has learnt explicit durations, which are not merged: use durations: geometric")
        if self.parameters.rule == "tutorial":
            raise ModuleError("has learnt by rule 'tutorial', whose transitions are sampled: use rule: smoothed")
        if "frequencies" in learnt:
            raise ModuleError(
                "has found no order in its rows (test_order), and the frequencies of classes that it uses instead "
                "do not follow from sums: use test_order: false"
            )
        names = ["transitions", "class_counts", *(["initial_counts"] if self.parameters.initial == "learnt" else [])]
        if missing := [name for name in names if name not in learnt]:
            raise ModuleError(
                f"has a state without {' and '.join(missing)}, as earlier versions wrote it: train the run again"
            )
        if any((learnt[name] < 0).any() for name in names):
            raise ModuleError("has a state with counts below zero: train the run again")
        return {"rows": np.array([learnt["class_counts"].sum()]), **{name: learnt[name] for name in names}}

    def learnt_from(self, statistics: Statistics) -> State:
        """Return the transitions given the expected counts of all runs."""
        parameters, counts = self.parameters, {name: each for name, each in statistics.items() if name != "rows"}
        initial = np.full(len(counts["class_counts"]), 1.0 / len(counts["class_counts"]))
        if parameters.initial == "learnt":
            initial = transition_probabilities(counts["initial_counts"], parameters.pseudo_count)
        return {**counts, "trans_prob": parameters.transition_estimate(counts["transitions"]), "initial": initial}

    def renumber(self, statistics: Statistics, classes: IntArray) -> Statistics:
        """Return the counts with class `classes[k]` as class k."""
        by_class = {name: each[classes] for name, each in statistics.items() if name != "rows"}
        return {**statistics, **by_class, "transitions": statistics["transitions"][np.ix_(classes, classes)]}

    # --- the response ---------------------------------------------------------------------------------------------

    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Return the messages and outputs of a chunk.

        Raises
        ------
        ModuleError
            If a row is impossible.
        """
        rows = _Rows(self, chunk, learnt, context)
        if context.mode != "recognize":
            cavity, posterior = chunk.memo.pop("response", None) or rows.response()
            into, logs = (chunk.room(name, rows.given.classes) for name in ("message", "log_message"))
            message, log_message = message_with_floor(cavity, into, logs)
            outputs = {"msg": message, "Pdz": posterior, "viterbi": rows.best_path(rows.given.untempered)}
        elif context.ordered and "frequencies" not in learnt:
            fit = rows.infer(TEMPERED)
            message, log_message = message_with_floor(fit.cavity)
            outputs = {
                "msg": message,
                "filtered": fit.filtered,
                "smoothed": fit.posterior,
                "viterbi": rows.best_path(rows.given.tempered),
                "log_evidence": log_evidence_of_sequences(fit.row_log_likelihood, rows.given.combined()),
            }
        else:
            combined = rows.given.combined()
            known = (learnt.get(name) for name in ("class_counts", "frequencies"))
            log_message = unordered_message(len(chunk), learnt["transitions"], *known)
            posterior, by_row = normalise_with_norms(combined.log_prob + log_message)
            outputs = {
                "msg": np.exp(log_message),
                "filtered": np.exp(posterior),
                "smoothed": np.exp(posterior),
                "log_evidence": log_evidence_of_sequences(by_row, combined),
            }
        # Where the order test rejected an order, no message of an update goes downwards.
        sends = context.mode == "recognize" or "frequencies" not in learnt
        given = rows.given.by_sender, present_arrays(lengths=chunk.lengths, mask=rows.given.mask)
        messages = compose_messages(log_message, *given, context, extrinsic=True) if sends else ()
        return Outbox(
            messages, {IMPOSSIBLE: float(rows.impossible)}, {"trans_prob": learnt["trans_prob"].copy(), **outputs}
        )

    def finish(self, sums: Mapping[str, float], learnt: State, context: Context) -> Mapping[str, float]:
        """Return the evidence, once all passes of an update are done."""
        _check_possible(sums[IMPOSSIBLE], context)
        return {"evidence": learnt["evidence"]} if "evidence" in learnt else {}

    # --- scans ----------------------------------------------------------------------------------------------------

    def summarise(self, scan: str, chunk: Chunk, learnt: State, context: Context) -> Mapping[str, Any]:
        """Return the summary of a chunk: what it says to the rows before and after it."""
        if not (chunk.continued or chunk.continues):
            return _no_summary(scan, len(learnt["trans_prob"]))
        rows = _Rows(self, chunk, learnt, context)
        if scan == ORIGINS:
            return {"origins": rows.origins()}
        tempered = scan == TEMPERED or context.mode == "recognize"
        summarise = operators.summarise_scores if scan == SCORES else operators.summarise_chunk
        try:
            return summarise(rows.given.tempered if tempered else rows.given.untempered, rows.model)
        except ValueError as error:
            raise rows.error(error) from error

    def combine(self, scan: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the summary of two neighbouring stretches of rows."""
        if scan == ORIGINS:
            return {"origins": operators.compose_origins(left["origins"], right["origins"])}
        combine = operators.combine_scores if scan == SCORES else operators.combine
        return combine(dict(left), dict(right))

    def descend(self, scan: str, entering: Any, left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return what enters each of two neighbouring stretches: messages, scores, or the class of the last row."""
        if scan == ORIGINS:
            last = -1 if entering is None else entering
            return int(right["origins"][last]), last
        if scan == SCORES:
            none = operators.no_message(left["log_scores"].shape[0])
            return operators.descend_scores(none if entering is None else entering, dict(left))
        none = operators.no_message(left["log_operator"].shape[0])
        before, after = (none, none) if entering is None else entering
        into_left, out_left, into_right, out_right = operators.descend(before, after, dict(left), dict(right))
        return (into_left, out_left), (into_right, out_right)


class _GivenRows:
    """The rows of a chunk, as they are whatever the transitions.

    Attributes
    ----------
    by_sender : dict of str to ndarray (N, K) float64
        The likelihoods of each sender.
    mask : ndarray (N,) of bool, or None
        True for rows that are missing for every sender.
    log_norm : float
        The sum of the normalisers of the class posteriors and of their product.
    keeps : bool
        Whether what takes one number for each row and class is kept from pass to pass.
    tempered : ChunkRows
        The log-distributions to the power of the temperature, normalised.
    """

    def __init__(self, chunk: Chunk, temperature: float) -> None:
        self._messages, self.by_sender = chunk.inbox.all(PORT), sender_likelihoods(chunk.inbox)
        self.mask, self._temperature = rows_missing_for_all(self._messages), temperature
        self._product = product_of(self.by_sender)
        self._starts, self._continued = boundaries(len(chunk), chunk.lengths), chunk.continued
        memo = chunk.memo
        if "norms" not in memo:  # they take as long as a pass
            norms = memo["norms"] = log_normalisers(self._product, self.by_sender, chunk.rows.start)
            memo["log_norm"] = total_log_norm(self._messages, norms, self.mask)
            if temperature != 1.0:
                powers = temperature * (self._product - norms[:, None])
                memo["tempered norms"] = normalise_with_norms(powers)[1]
        self._norms, self._tempered_norms = memo["norms"], memo.get("tempered norms")
        self.log_norm: float = memo["log_norm"]
        self.keeps = chunk.total * self.classes <= KEPT_NUMBERS
        self.tempered = operators.ChunkRows(self._tempered, self._starts, self._continued, self.keeps)

    @property
    def classes(self) -> int:
        """K."""
        return int(self._product.shape[1])

    @property
    def untempered(self) -> operators.ChunkRows:
        """The normalised product of the class posteriors from below."""
        if self._temperature == 1.0:
            return self.tempered
        return operators.ChunkRows(self._untempered, self._starts, self._continued, keeps=False)

    def log_prob(self, first: int, end: int) -> FloatArray:
        """Return a copy of the normalised product (n, K) of the class posteriors of some rows."""
        log_prob: FloatArray = self._product[first:end] - self._norms[first:end, None]
        return log_prob

    def _untempered(self, first: int, end: int) -> FloatArray:
        return self._known(self.log_prob(first, end), first, end)

    def _tempered(self, first: int, end: int) -> FloatArray:
        log_prob = self.log_prob(first, end)
        if self._tempered_norms is not None:
            log_prob *= self._temperature
            log_prob -= self._tempered_norms[first:end, None]
        return self._known(log_prob, first, end)

    def _known(self, log_prob: FloatArray, first: int, end: int) -> FloatArray:
        """Return the log-distributions with zeros in missing rows."""
        if self.mask is not None:
            log_prob[self.mask[first:end]] = 0.0
        return log_prob

    def combined(self) -> CombinedPosteriors:
        """Return the class posteriors from below, with their normalisers."""
        return combine_posteriors(self._messages, self.by_sender, self._norms)


class _Rows:
    """The rows of a chunk as the present parameters see them.

    Attributes
    ----------
    given : _GivenRows
    model : ChainModel
    impossible : bool
        Whether results are those of no information, because rows of another chunk are impossible. The chunk of such
        rows raises the error that names the first of them.
    """

    def __init__(self, module: SharedMarkovModel, chunk: Chunk, learnt: State, context: Context) -> None:
        self.given: _GivenRows = chunk.memo.get("rows") or _GivenRows(chunk, context.temperature)
        classes, known = self.given.classes, len(learnt["trans_prob"])
        if classes != known:
            route = chunk.inbox.require(PORT).header.route
            raise ModuleError(f"{route}: {classes} classes came, {context.module!r} has learnt {known}")
        if self.given.keeps:
            chunk.memo["rows"] = self.given
        self.model = module.chain(learnt, context)
        self.impossible = False
        self._chunk, self._context = chunk, context

    def counts(self) -> ExpectedCounts:
        """Return the sums of forward-backward, with what a scan of operators brings."""
        entering, leaving = self._chunk.entering[TEMPERED] or (None, None)
        try:
            return operators.expected_counts_chunk(self.given.tempered, self.model, entering, leaving)
        except ValueError as error:
            return self._without(error, ExpectedCounts(*_no_result(0, self.given.classes)[3:5], 0.0))

    def infer(self, scan: str) -> LinearResult:
        """Return the result of forward-backward, with what a scan of operators brings."""
        rows = self.given.tempered if scan == TEMPERED else self.given.untempered
        entering, leaving = self._chunk.entering[scan] or (None, None)
        try:
            return operators.forward_backward_chunk(rows, self.model, entering, leaving)
        except ValueError as error:
            return self._without(error, _no_result(len(rows), self.given.classes))

    def _without(self, error: ValueError, result: R) -> R:
        """Return a result without any information, where rows of another chunk are impossible."""
        if not isinstance(error, OtherChunkError):
            raise self.error(error) from error
        self.impossible = True
        return result

    def untempered(self, fit: LinearResult) -> LinearResult:
        """Return the result for the untempered rows; `fit` is that of the tempered ones."""
        return fit if self._context.temperature == 1.0 else self.infer(UNTEMPERED)

    def response(self) -> tuple[FloatArray, FloatArray]:
        """Return the cavity message, and the posterior of the untempered rows."""
        fit = self.infer(TEMPERED)
        return self.in_rooms(fit.cavity, self.untempered(fit).posterior)

    def in_rooms(self, cavity: FloatArray, posterior: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return cavity message and posterior, if possible where those of all rows are joined."""
        message, joined = (self._chunk.room(name, self.given.classes) for name in ("message", "posterior"))
        if message is None or joined is None:
            return cavity, posterior
        message[...], joined[...] = cavity, posterior
        return message, joined

    def origins(self) -> IntArray:
        """Return the class of the row before the chunk for each class of its last row."""
        of_path = self.given.tempered if self._context.mode == "recognize" else self.given.untempered
        try:
            return operators.trace_chunk(of_path, self.model, self._chunk.entering[SCORES])
        except ValueError:  # the response raises the error of the first row
            return np.full(self.given.classes + 1, -1)

    def best_path(self, rows: operators.ChunkRows) -> IntArray:
        """Return the part of the most probable path in the chunk."""
        if self.impossible:
            return np.zeros(len(rows), np.int64)
        entering, last = self._chunk.entering[SCORES], self._chunk.entering[ORIGINS]
        try:
            return operators.viterbi_chunk(rows, self.model, entering, -1 if last is None else last)
        except ValueError as error:
            raise self.error(error) from error

    def error(self, error: ValueError) -> ModuleError:
        """Return an error that names the row among all rows."""
        numbered = error.after(self._chunk.rows.start) if isinstance(error, RowError) else error
        return ModuleError(f"module {self._context.module!r}: {numbered}")


def _initial(learnt: State, parameters: MarkovParameters, context: Context) -> FloatArray:
    """Return the distribution (K,) of the first class of a sequence."""
    initial: FloatArray = learnt["initial"]
    if context.mode == "recognize" or parameters.initial == "learnt":
        return initial
    return np.full(len(initial), 1.0 / len(initial))


def _no_summary(scan: str, classes: int) -> Mapping[str, Any]:
    """Return the summary of a chunk whose sequences are all inside; what enters and leaves there is ignored."""
    if scan == ORIGINS:
        return {"origins": np.full(classes + 1, -1)}
    if scan == SCORES:
        return {"log_scores": np.zeros((classes, classes))}
    return {"log_operator": np.tile(operators.no_message(classes), (classes, 1)), "log_weight": np.zeros(classes)}


def _no_result(rows: int, classes: int) -> LinearResult:
    """Return the result of forward-backward without any information."""
    uniform = np.full((rows, classes), 1.0 / classes)
    none = np.zeros((classes, classes)), np.zeros(classes), np.zeros(rows)
    return LinearResult(uniform, uniform, uniform, *none, 0.0)


def _check_possible(impossible: float, context: Context) -> None:
    """Raise ModuleError if chunks could not be computed, but none of them has named a row."""
    if impossible:
        raise ModuleError(f"module {context.module!r}: rows have probability zero under the learnt transitions")
