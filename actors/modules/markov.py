"""The Markov model (MM): learns the transitions between classes and sends each row a prior from its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from actors.errors import ModuleError
from actors.kernels.inversion import draw_chain
from actors.kernels.markov.inference import (
    ForwardBackwardResult,
    compile_kernels,
    expected_by_model,
    expected_counts,
    forward_backward,
    known_evidence,
    one_step_message,
    prepare,
    sampled_counts,
    transition_probabilities,
    viterbi,
)
from actors.kernels.markov.label_moves import split_and_merge
from actors.kernels.markov.order_test import fit_frequencies, order_penalty
from actors.kernels.markov.posterior_samples import compile_kernels as compile_samplers
from actors.kernels.markov.posterior_samples import draw_chains, interval
from actors.kernels.markov.segment_passes import SegmentWeights
from actors.kernels.markov.semi_markov import (
    SegmentResult,
    best_segmentation,
    segment_forward_backward,
)
from actors.kernels.markov.semi_markov import compile_kernels as compile_segment_kernels
from actors.kernels.sequences import boundaries
from actors.module import Context, Inbox, Outbox, OutgoingMessage
from actors.modules.class_posteriors import (
    CombinedPosteriors,
    add_floor,
    combine_posteriors,
    normalise_with_norms,
    sender_likelihoods,
    temper,
)
from actors.modules.markov_answers import (
    MarkovParameters,
    compose_messages,
    log_evidence_of_sequences,
    one_hot_log_prob,
    present,
    unordered_message,
)
from actors.modules.markov_durations import (
    LearntSegments,
    draw_segments,
    duration_outputs,
    evidence_bound,
    learn_segments,
    learning_weights,
    parameters_of_order,
    probabilities,
    segment_intervals,
    sticky_start,
    tell_long_durations,
)
from actors.modules.markov_sharing import SharedMarkovModel
from actors.types import Array, FloatArray, IntArray, State

__all__ = ["MarkovModel", "MarkovParameters"]


class MarkovModel(SharedMarkovModel):
    """Learn a Markov chain over classes, and send each row the prior from its neighbours.

    Parameters
    ----------
    parameters : MarkovParameters
        rule : {"smoothed", "tutorial"}
            ``smoothed``: transitions are expected counts of forward-backward, and the message is the cavity message,
            the distribution of a row's class given all other rows. ``tutorial``: transitions are counted in samples,
            and the message is the one-step prediction times the message of the previous update.
        num_samp : int
            Samples per pair of neighbours (``tutorial``).
        alpha : float, optional
            Pseudo-count of each transition; by default 1 for ``tutorial`` and 0.1 for ``smoothed``.
        inner_iterations : int
            Passes of forward-backward and re-estimation per update (``smoothed``). With 0 the transitions are kept.
        initial : {"uniform", "learnt"}
            Distribution of the first class of a sequence (``smoothed``).
        test_order : bool
            Whether transitions are used only if they explain more of the rows than their parameters cost
            (:mod:`actors.kernels.markov.order_test`). Otherwise no message goes downwards, and the model is the one
            without this module (``smoothed``).
        estimate : {"mean", "variational"}
            Transitions are the mean of their posterior, or its geometric mean; the evidence is then a lower bound that
            includes the cost of the transitions (``smoothed``; :mod:`actors.kernels.markov.transition_posterior`). The
            latter suits a strict order best.
        self_transition_prior : float or "auto"
            κ, a pseudo-count of remaining in a class (the sticky prior of Fox et al. 2011); with ``auto`` the one of a
            small grid under which the evidence bound is the largest (``smoothed``).
        durations : {"geometric", "poisson", "negative_binomial"}
            How many rows a class lasts. ``geometric`` is a first-order chain. With the others, shifted by one, the
            model is a hidden semi-Markov model: transitions are between segments, which a class of its own follows
            (:mod:`actors.modules.markov_durations`; ``smoothed``).
        max_duration : int, optional
            The most rows of a segment; by default those of the longest sequence, at most
            :data:`actors.limits.DEFAULT_MAX_DURATION`. It bounds time and memory.
        prior_duration : float or "auto"
            The mean of the durations under their prior, in rows; with ``auto`` found by the evidence.
        samples : int
            With a number above 0, intervals of transitions and durations are those of that many draws of classes and
            parameters (:mod:`actors.kernels.markov.posterior_samples`), which hold where classes overlap; outputs
            ``trans_low`` and ``trans_high`` (K, K) are added (``smoothed``).
    """

    Parameters: ClassVar[type[Any]] = MarkovParameters
    learning_parameters = ("inner_iterations", "num_samp", "samples")
    fixed_parameters = ("durations", "max_duration")
    uses_order = True

    def __init__(self, parameters: MarkovParameters) -> None:
        super().__init__(parameters)
        self._transitions: FloatArray | None = None  # expected counts, (K, K)
        self._trans_prob: FloatArray | None = None  # (K, K)
        self._initial: FloatArray | None = None  # (K,)
        self._initial_counts: FloatArray | None = None  # expected counts (K,) of first classes, if they are learnt
        self._class_counts: FloatArray | None = None  # expected rows of each class, (K,)
        self._frequencies: FloatArray | None = None  # (K,), if the order test rejects an order
        self._log_message: FloatArray | None = None  # (N, K), of rule 'tutorial'
        self._segments: LearntSegments | None = None  # of explicit durations
        self._told = False  # whether the log says that segments reach their bound

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()
        if self._explicit:
            compile_segment_kernels()
        if self.parameters.samples:
            compile_samplers()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the transitions; send each row a prior over its class.

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt before.
        """
        parameters, combined = self.at(context), self._combined_posteriors(inbox, context)
        tempered = temper(combined.log_prob, context.temperature)
        smoothed = parameters.rule == "smoothed"
        learn = self._learn_smoothed if smoothed else self._learn_tutorial
        try:
            log_message, fit = learn(tempered, combined, parameters, context)
            if fit is None or tempered is not combined.log_prob:
                fit = self._infer(combined.log_prob, combined, self._weights(parameters))
            self._class_counts = present(fit.posterior, combined.mask).sum(axis=0)
            log_likelihood = self._test_order(fit, combined, parameters) if smoothed else fit.log_likelihood
            path = self._best_path(combined.log_prob, combined, self._weights(parameters))
            intervals = self._intervals(combined, parameters, context)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        messages = compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=smoothed)
        return Outbox(
            messages=messages if self._frequencies is None else (),
            # Always of the untempered rows, so that updates at different temperatures compare.
            metrics={"evidence": combined.log_norm + log_likelihood},
            outputs={
                "trans_prob": self._transition_model[0].copy(),
                "msg": np.exp(log_message),
                "Pdz": fit.posterior,
                "viterbi": path,
                **(duration_outputs(self._segments, parameters) if self._segments is not None else {}),
                **intervals,
            },
        )

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Infer the classes of new rows by the learnt transitions, or by class frequencies if the rows are unordered.

        The output ``log_evidence`` (S,) is the log-density of each sequence, as the evidence of an update is that of
        all rows; S is 1 without lengths.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages do not fit.
        """
        if self._trans_prob is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        combined = self._combined_posteriors(inbox, context)
        if not context.ordered or self._frequencies is not None:
            assert self._transitions is not None
            rows = len(combined.log_prob)
            log_message = unordered_message(rows, self._transitions, self._class_counts, self._frequencies)
            messages = compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=True)
            log_posterior, by_row = normalise_with_norms(combined.log_prob + log_message)
            posterior = np.exp(log_posterior)
            outputs = {"trans_prob": self._trans_prob.copy(), "msg": np.exp(log_message)}
            evidence = log_evidence_of_sequences(by_row, combined)
            return Outbox(
                messages, outputs={**outputs, "filtered": posterior, "smoothed": posterior, "log_evidence": evidence}
            )
        tempered, weights = temper(combined.log_prob, context.temperature), self._probabilities(self.at(context))
        try:
            fit = self._infer(tempered, combined, weights)
            path = self._best_path(tempered, combined, weights)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        log_message = add_floor(fit.log_cavity)
        return Outbox(
            messages=compose_messages(log_message, combined.by_sender, combined.row_arrays, context, extrinsic=True),
            outputs={
                "trans_prob": self._trans_prob.copy(),
                "msg": np.exp(log_message),
                "filtered": fit.filtered,
                "smoothed": fit.posterior,
                "viterbi": path,
                "log_evidence": log_evidence_of_sequences(fit.row_log_likelihood, combined),
            },
        )

    def generate(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (nothing is above)
        """Sample a sequence of classes from the chain; output ``class`` (N,), and send one-hot priors downwards.

        Where the order test rejected an order, classes are drawn independently by their frequencies.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._trans_prob is None or self._initial is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        transition_prob, first = self._trans_prob, self._initial
        if self._frequencies is not None:  # independent rows: the same distribution after every class
            first = self._frequencies
            transition_prob = np.tile(first, (len(first), 1))
        weights = self._probabilities(self.at(context))
        if weights is not None and self._frequencies is None:
            classes = draw_segments(weights, context.rows, context.generator)
        else:
            classes = draw_chain(first, transition_prob, context.generator.random(context.rows))
        log_prior = one_hot_log_prob(classes, len(first))
        messages = [
            OutgoingMessage("transition_prior", {"log_prob": log_prior}, receiver)
            for receiver in context.receivers.get("transition_prior", ())
        ]
        return Outbox(messages, outputs={"class": classes})

    def propose(self, inbox: Inbox, context: Context) -> Outbox:
        """Return one-hot priors: the labels after a split-and-merge move (:mod:`actors.kernels.markov.label_moves`).

        Raises
        ------
        ModuleError
            If the messages do not fit what was learnt.
        """
        if self._trans_prob is None or self._frequencies is not None:  # moves are ranked by the transitions
            return Outbox()
        combined = self._combined_posteriors(inbox, context)
        fit = self._infer(combined.log_prob, combined, self._weights(self.at(context)))
        transitions = fit.row_transitions if isinstance(fit, SegmentResult) else fit.transitions
        labels = split_and_merge(fit.posterior, transitions, context.proposal, combined.lengths)
        if labels is None:
            return Outbox()
        log_prior = one_hot_log_prob(labels, fit.posterior.shape[1])
        if combined.mask is not None:
            log_prior[combined.mask] = -np.log(log_prior.shape[1])
        receivers = context.receivers.get("transition_prior", ())
        arrays = {"log_prob": log_prior, **combined.row_arrays}
        return Outbox([OutgoingMessage("transition_prior", arrays, receiver) for receiver in receivers])

    def state(self) -> State:
        """Return copies of expected counts, probabilities, frequencies and (``tutorial``) the last message."""
        arrays = {
            "transitions": self._transitions,
            "trans_prob": self._trans_prob,
            "initial": self._initial,
            "initial_counts": self._initial_counts,
            "class_counts": self._class_counts,
            "frequencies": self._frequencies,
            "log_message": self._log_message,
        }
        state: State = {name: array.copy() for name, array in arrays.items() if array is not None}
        return state if self._segments is None else {**state, **self._segments.state()}

    def state_without_rows(self) -> State:
        """Return the state without the last message of ``rule: tutorial``, which has a value for each row."""
        return {name: value for name, value in self.state().items() if name != "log_message"}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; an empty one is that of a model that has learnt nothing."""
        arrays = {name: np.array(array, dtype=np.float64) for name, array in state.items()}
        self._transitions, self._trans_prob = arrays.get("transitions"), arrays.get("trans_prob")
        self._initial, self._log_message = arrays.get("initial"), arrays.get("log_message")
        self._initial_counts = arrays.get("initial_counts")
        self._class_counts, self._frequencies = arrays.get("class_counts"), arrays.get("frequencies")
        self._segments = LearntSegments.from_state(arrays)

    # --- learning -------------------------------------------------------------------------------------------------

    def _learn_smoothed(
        self, tempered: FloatArray, combined: CombinedPosteriors, parameters: MarkovParameters, context: Context
    ) -> tuple[FloatArray, ForwardBackwardResult]:
        """Re-estimate the transitions by forward-backward; return the cavity message, and what it follows from."""
        if self._explicit:
            return self._learn_durations(tempered, combined, parameters, context)
        K, new = tempered.shape[1], self._trans_prob is None
        if self._trans_prob is None:
            self._transitions = expected_counts(np.exp(tempered), combined.lengths)
            self._trans_prob = parameters.transition_estimate(self._transitions)
        if self._initial is None or parameters.initial == "uniform":
            self._initial = np.full(K, 1.0 / K)
        rows = prepare(*known_evidence(tempered, combined.lengths, combined.mask))
        if new and parameters.self_transition_prior == "auto":
            assert self._transitions is not None
            self._trans_prob = sticky_start(rows, self._transitions, self._initial, parameters)
        for done in range(parameters.inner_iterations if context.learn else 0):
            expected = expected_by_model(rows, *self._transition_model)
            self._trans_prob = parameters.transition_estimate(expected.transitions)
            if parameters.initial == "learnt":
                self._initial = transition_probabilities(expected.initial, parameters.pseudo_count)
            context.report(done + 1, parameters.inner_iterations, log_likelihood=expected.log_likelihood)
        fit = self._infer(tempered, combined, None)
        self._transitions = fit.transitions
        self._initial_counts = fit.initial if parameters.initial == "learnt" else None
        return add_floor(fit.log_cavity), fit

    def _learn_durations(
        self, tempered: FloatArray, combined: CombinedPosteriors, parameters: MarkovParameters, context: Context
    ) -> tuple[FloatArray, ForwardBackwardResult]:
        """As `_learn_smoothed`, with segments of explicit durations."""
        self._segments = learn_segments(tempered, combined, self._segments, parameters, context)
        longest = int(np.diff(boundaries(len(tempered), combined.lengths)).max())
        # Once, not in each update, and not by copies in other chains: the module continues the one that is selected.
        if not self._told and context.chain == 0:
            self._told = tell_long_durations(self._segments, parameters, longest, context.module)
        learnt = probabilities(self._segments, parameters)
        self._trans_prob, self._initial = np.exp(learnt.transitions), np.exp(learnt.initial)
        fit = self._infer(tempered, combined, learning_weights(self._segments, parameters))
        self._transitions, self._initial_counts = fit.transitions, fit.initial
        return add_floor(fit.log_cavity), fit

    def _learn_tutorial(
        self, tempered: FloatArray, combined: CombinedPosteriors, parameters: MarkovParameters, context: Context
    ) -> tuple[FloatArray, None]:
        """Count sampled transitions; return the one-step prediction times the previous message."""
        P, previous = np.exp(tempered), self._log_message
        if previous is not None and previous.shape != P.shape:
            raise ModuleError(
                f"module {context.module!r} has a message of shape {previous.shape}, {P.shape} came: start a new run"
            )
        if context.learn or self._trans_prob is None:
            counts = sampled_counts(P, parameters.num_samp, context.generator, combined.lengths)
            self._transitions = counts / parameters.num_samp
            self._trans_prob = transition_probabilities(counts, parameters.pseudo_count)
            self._initial = np.full(P.shape[1], 1.0 / P.shape[1])
        self._initial_counts = None
        self._frequencies = None  # an earlier update by the other rule may have tested the order
        message = one_step_message(P, self._trans_prob, previous, combined.lengths)
        # Messages multiply from update to update, so that a zero would exclude its class for good.
        self._log_message = np.maximum(message, np.log(np.finfo(np.float64).tiny))
        return self._log_message, None

    # --- helpers --------------------------------------------------------------------------------------------------

    @property
    def _transition_model(self) -> tuple[FloatArray, FloatArray]:
        """Transition matrix (K, K) and initial distribution (K,)."""
        assert self._trans_prob is not None
        assert self._initial is not None
        return self._trans_prob, self._initial

    @property
    def _explicit(self) -> bool:
        """Whether the model has durations of its own."""
        return self.parameters.durations != "geometric"

    def _weights(self, parameters: MarkovParameters) -> SegmentWeights | None:
        """Return the weights of segments with which the model learns; None for a chain."""
        return None if self._segments is None else learning_weights(self._segments, parameters)

    def _probabilities(self, parameters: MarkovParameters) -> SegmentWeights | None:
        """Return the probabilities of segments for new rows; None for a chain."""
        return None if self._segments is None else probabilities(self._segments, parameters)

    def _infer(
        self, log_prob: FloatArray, combined: CombinedPosteriors, weights: SegmentWeights | None
    ) -> ForwardBackwardResult:
        """Return the result of forward-backward, over segments if their weights are given."""
        if weights is not None:
            return segment_forward_backward(log_prob, weights, combined.lengths, combined.mask)
        return forward_backward(log_prob, *self._transition_model, combined.lengths, combined.mask)

    def _best_path(
        self, log_prob: FloatArray, combined: CombinedPosteriors, weights: SegmentWeights | None
    ) -> IntArray:
        """Return the most probable classes (N,), or those of the most probable segments."""
        if weights is not None:
            return best_segmentation(log_prob, weights, combined.lengths, combined.mask)[0]
        return viterbi(log_prob, *self._transition_model, combined.lengths, combined.mask)[0]

    def _intervals(
        self, combined: CombinedPosteriors, parameters: MarkovParameters, context: Context
    ) -> dict[str, Array]:
        """Return the outputs that follow from draws of the posterior, if any are asked for and rows are ordered."""
        if not parameters.samples or self._frequencies is not None:
            return {}
        if self._segments is not None:
            return segment_intervals(self._segments, combined, parameters, context)
        assert self._transitions is not None
        K, kappa = combined.log_prob.shape[1], parameters.self_counts(self._transitions)
        draws = draw_chains(
            combined.log_prob,
            *self._transition_model,
            np.full((K, K), parameters.pseudo_count) + kappa * np.eye(K),
            parameters.samples,
            context.generator,
            initial_alpha=parameters.pseudo_count if parameters.initial == "learnt" else None,
            lengths=combined.lengths,
            mask=combined.mask,
        )
        low, high = interval(draws.transitions)
        return {"trans_low": low, "trans_high": high}

    def _test_order(
        self, fit: ForwardBackwardResult, combined: CombinedPosteriors, parameters: MarkovParameters
    ) -> float:
        """Test whether the rows are ordered; return the log-likelihood of the model, chain or independent rows.

        Without an order, ``_frequencies`` is set to the class frequencies of independent rows.
        """
        log_likelihood = fit.log_likelihood
        if parameters.estimate == "variational":
            log_likelihood = self._bound(fit, parameters)
        if not parameters.test_order:
            self._frequencies = None  # an earlier update may have tested it
            return log_likelihood
        rows = present(combined.log_prob, combined.mask)
        frequencies, independent = fit_frequencies(rows, fit.posterior.mean(axis=0))
        of_order = parameters_of_order(rows.shape[1], parameters) if self._explicit else None
        ordered = fit.log_likelihood - independent > order_penalty(len(rows), rows.shape[1], of_order)
        self._frequencies = None if ordered else frequencies
        return log_likelihood if ordered else independent

    def _bound(self, fit: ForwardBackwardResult, parameters: MarkovParameters) -> float:
        """Return the lower bound of the log-likelihood of the rows, with the terms of what was learnt."""
        if self._segments is not None:
            assert isinstance(fit, SegmentResult)
            weights = learning_weights(self._segments, parameters)
            return evidence_bound(fit, weights, self._segments.prior_duration, parameters)
        self_counts = parameters.self_counts(fit.transitions)
        term = parameters.transition_bound_term(fit.transitions, self._transition_model[0], self_counts)
        return fit.log_likelihood + term

    def _combined_posteriors(self, inbox: Inbox, context: Context) -> CombinedPosteriors:
        """Return the product of the class posteriors from below."""
        by_sender = sender_likelihoods(inbox)
        first = inbox.require("class_posteriors")
        classes = first["log_prob"].shape[1]
        if self._trans_prob is not None and len(self._trans_prob) != classes:
            raise ModuleError(
                f"{first.header.route}: {classes} classes came, {context.module!r} has learnt {len(self._trans_prob)}"
            )
        return combine_posteriors(inbox.all("class_posteriors"), by_sender)
