"""The Markov model (MM): learns in which order the classes come, and tells each row what its neighbours say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import softmax

from actors.errors import ModuleError
from actors.kernels.markov.inference import (
    Smoothed,
    compile_kernels,
    expected_counts,
    forward_backward,
    one_step_message,
    sampled_counts,
    transition_probabilities,
    viterbi,
)
from actors.kernels.markov.label_moves import split_and_merge
from actors.kernels.markov.order_test import cost_of_order, fit_frequencies
from actors.kernels.markov.transition_posterior import geometric_mean, transition_gain
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import FLOOR, Evidence, floored, joined, likelihoods, normalised, raised
from actors.types import FloatArray, IntArray, State


@dataclass(frozen=True)
class MarkovParameters:
    """See :class:`MarkovModel`."""

    rule: Literal["smoothed", "tutorial"] = "smoothed"
    num_samp: Annotated[int, Field(ge=1)] = 100
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    inner_iterations: Annotated[int, Field(ge=0)] = 5
    initial: Literal["uniform", "learnt"] = "uniform"
    test_order: bool = False
    estimate: Literal["mean", "variational"] = "mean"

    @property
    def pseudo_count(self) -> float:
        """α of the rule, where none was given."""
        return self.alpha if self.alpha is not None else {"tutorial": 1.0, "smoothed": 0.1}[self.rule]


class MarkovModel(Module[MarkovParameters]):
    """A first-order Markov chain over classes.

    Parameters
    ----------
    parameters : MarkovParameters
        rule : {"smoothed", "tutorial"}
            ``smoothed``: transitions are expected counts of forward-backward, and the message is the cavity, all that
            the other rows say about a row's class. ``tutorial``: transitions are counted in samples, and the message is
            one step of prediction times the message of the update before.
        num_samp : int
            Samples per pair of neighbours (``tutorial``).
        alpha : float, optional
            Added to the count of each transition; 1 for ``tutorial``, 0.1 for ``smoothed`` by default.
        inner_iterations : int
            Passes of forward-backward and re-estimation an update (``smoothed``). With 0 the transitions stay.
        initial : {"uniform", "learnt"}
            Distribution of the first class of a sequence (``smoothed``).
        test_order : bool
            Whether transitions have a say only if they explain more of the rows than their parameters cost
            (:mod:`actors.kernels.markov.order_test`). Where they don't, no message goes down: the model is the one
            without this module (``smoothed``).
        estimate : {"mean", "variational"}
            Transitions are the mean of their posterior, or its geometric mean; the evidence is then a bound that counts
            what the transitions cost (``smoothed``; :mod:`actors.kernels.markov.transition_posterior`). Best where an
            order is strict.
    """

    Parameters: ClassVar[type[Any]] = MarkovParameters
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors"),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
    )

    def __init__(self, parameters: MarkovParameters) -> None:
        super().__init__(parameters)
        self._transitions: FloatArray | None = None  # expected counts, (K, K)
        self._trans_prob: FloatArray | None = None  # (K, K)
        self._initial: FloatArray | None = None  # (K,)
        self._frequencies: FloatArray | None = None  # (K,), where the rows are found to come in no order
        self._log_message: FloatArray | None = None  # (N, K), of the tutorial's rule

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the transitions; send each row what they say about its class.

        Raises
        ------
        ModuleError
            If the messages don't fit what was learnt before.
        """
        parameters, evidence = self.at(context), self._evidence(inbox, context)
        tempered = raised(evidence.log_prob, context.temperature)
        smoothed = parameters.rule == "smoothed"
        learn = self._smooth if smoothed else self._count
        try:
            log_message = learn(tempered, evidence, parameters, context)
            fit = self._infer(evidence.log_prob, evidence)
            log_likelihood = self._judge(fit, evidence, parameters) if smoothed else fit.log_likelihood
            path, _ = viterbi(evidence.log_prob, self._learnt[0], self._learnt[1], evidence.lengths, evidence.mask)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        messages = _addressed(log_message, evidence, context, extrinsic=smoothed)
        return Outbox(
            messages=messages if self._frequencies is None else (),
            # Always of the untempered rows, so that updates at different temperatures compare.
            metrics={"evidence": evidence.log_norm + log_likelihood},
            outputs={
                "trans_prob": self._learnt[0].copy(),
                "msg": np.exp(log_message),
                "Pdz": fit.posterior,
                "viterbi": path,
            },
        )

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Say what the learnt transitions make of new rows; of rows out of order, only how frequent each class is.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages don't fit.
        """
        if self._trans_prob is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        evidence = self._evidence(inbox, context)
        if not context.ordered or self._frequencies is not None:
            log_message = self._of_any_row(evidence.log_prob)
            messages = _addressed(log_message, evidence, context, extrinsic=True)
            posterior = softmax(evidence.log_prob + log_message, axis=1)
            outputs = {"trans_prob": self._trans_prob.copy(), "msg": np.exp(log_message)}
            return Outbox(messages, outputs={**outputs, "filtered": posterior, "smoothed": posterior})
        tempered = raised(evidence.log_prob, context.temperature)
        try:
            found = self._infer(tempered, evidence)
            path, _ = viterbi(tempered, *self._learnt, evidence.lengths, evidence.mask)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        log_message = floored(found.log_cavity)
        return Outbox(
            messages=_addressed(log_message, evidence, context, extrinsic=True),
            outputs={
                "trans_prob": self._trans_prob.copy(),
                "msg": np.exp(log_message),
                "filtered": found.filtered,
                "smoothed": found.posterior,
                "viterbi": path,
            },
        )

    def generate(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (what is below has no say)
        """Draw a sequence of classes from the learnt transitions; output ``class`` (N,), and certain priors downwards.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._trans_prob is None or self._initial is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        cumulated = np.cumsum(self._trans_prob, axis=1)
        draws = context.generator.random(context.rows)
        classes = np.empty(context.rows, np.int64)
        reached = np.cumsum(self._initial)
        for t, draw in enumerate(draws):  # each class hangs on the one before
            classes[t] = min(int(np.searchsorted(reached, draw * reached[-1], side="right")), len(cumulated) - 1)
            reached = cumulated[classes[t]]
        certain = _certain(classes, len(cumulated))
        messages = [
            OutgoingMessage("transition_prior", {"log_prob": certain}, receiver)
            for receiver in context.receivers.get("transition_prior", ())
        ]
        return Outbox(messages, outputs={"class": classes})

    def propose(self, inbox: Inbox, context: Context) -> Outbox:
        """Return certain priors: the classes after one split-and-merge move (:mod:`actors.kernels.markov.label_moves`).

        Raises
        ------
        ModuleError
            If the messages don't fit what was learnt.
        """
        if self._trans_prob is None or self._frequencies is not None:  # no order, no sign of what is wrong
            return Outbox()
        evidence = self._evidence(inbox, context)
        found = self._infer(evidence.log_prob, evidence)
        labels = split_and_merge(found.posterior, found.transitions, context.proposal, evidence.lengths)
        if labels is None:
            return Outbox()
        log_prior = _certain(labels, found.posterior.shape[1])
        if evidence.mask is not None:
            log_prior[evidence.mask] = -np.log(log_prior.shape[1])
        receivers = context.receivers.get("transition_prior", ())
        arrays = {"log_prob": log_prior, **evidence.rows}
        return Outbox([OutgoingMessage("transition_prior", arrays, receiver) for receiver in receivers])

    def state(self) -> State:
        """Return copies of the expected transitions, the probabilities and (tutorial) the last message."""
        held = {
            "transitions": self._transitions,
            "trans_prob": self._trans_prob,
            "initial": self._initial,
            "frequencies": self._frequencies,
            "log_message": self._log_message,
        }
        return {name: array.copy() for name, array in held.items() if array is not None}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a model that has learnt nothing."""
        held = {name: np.array(array, dtype=np.float64) for name, array in state.items()}
        self._transitions, self._trans_prob = held.get("transitions"), held.get("trans_prob")
        self._initial, self._log_message = held.get("initial"), held.get("log_message")
        self._frequencies = held.get("frequencies")

    # --- learning -------------------------------------------------------------------------------------------------

    def _smooth(
        self, tempered: FloatArray, evidence: Evidence, parameters: MarkovParameters, context: Context
    ) -> FloatArray:
        """Re-estimate the transitions by forward-backward; return the cavity message."""
        K, alpha = tempered.shape[1], parameters.pseudo_count
        estimated = geometric_mean if parameters.estimate == "variational" else transition_probabilities
        if self._trans_prob is None:
            self._transitions = expected_counts(np.exp(tempered), evidence.lengths)
            self._trans_prob = estimated(self._transitions, alpha)
        if self._initial is None or parameters.initial == "uniform":
            self._initial = np.full(K, 1.0 / K)
        for done in range(parameters.inner_iterations if context.learn else 0):
            found = self._infer(tempered, evidence)
            self._trans_prob = estimated(found.transitions, alpha)
            if parameters.initial == "learnt":
                self._initial = transition_probabilities(found.initial, alpha)
            context.report(done + 1, parameters.inner_iterations, log_likelihood=found.log_likelihood)
        found = self._infer(tempered, evidence)
        self._transitions = found.transitions
        return floored(found.log_cavity)

    def _count(
        self, tempered: FloatArray, evidence: Evidence, parameters: MarkovParameters, context: Context
    ) -> FloatArray:
        """Count sampled transitions; return the tutorial's message, which remembers the one before."""
        P, previous = np.exp(tempered), self._log_message
        if previous is not None and previous.shape != P.shape:
            raise ModuleError(
                f"module {context.module!r} has a message of shape {previous.shape}, {P.shape} came: start a new run"
            )
        if context.learn or self._trans_prob is None:
            counts = sampled_counts(P, parameters.num_samp, context.generator, evidence.lengths)
            self._transitions = counts / parameters.num_samp
            self._trans_prob = transition_probabilities(counts, parameters.pseudo_count)
            self._initial = np.full(P.shape[1], 1.0 / P.shape[1])
        message = one_step_message(P, self._trans_prob, previous, evidence.lengths)
        # A posterior that underflowed would forbid its class for good, since each message multiplies the next one.
        self._log_message = np.maximum(message, np.log(np.finfo(np.float64).tiny))
        return self._log_message

    # --- pieces ---------------------------------------------------------------------------------------------------

    @property
    def _learnt(self) -> tuple[FloatArray, FloatArray]:
        """Transition probabilities and initial distribution."""
        assert self._trans_prob is not None
        assert self._initial is not None
        return self._trans_prob, self._initial

    def _infer(self, log_prob: FloatArray, evidence: Evidence) -> Smoothed:
        return forward_backward(log_prob, *self._learnt, evidence.lengths, evidence.mask)

    def _judge(self, fit: Smoothed, evidence: Evidence, parameters: MarkovParameters) -> float:
        """Return the log-likelihood of what is believed about the order; note where it is that there is none."""
        log_likelihood = fit.log_likelihood
        if parameters.estimate == "variational":
            log_likelihood += transition_gain(fit.transitions, self._learnt[0], parameters.pseudo_count)
        if not parameters.test_order:
            return log_likelihood
        seen = evidence.log_prob if evidence.mask is None else evidence.log_prob[~evidence.mask]
        frequencies, independent = fit_frequencies(seen, fit.posterior.mean(axis=0))
        ordered = fit.log_likelihood - independent > cost_of_order(*seen.shape)
        self._frequencies = None if ordered else frequencies
        return log_likelihood if ordered else independent

    def _of_any_row(self, rows: FloatArray) -> FloatArray:
        """Return for each of `rows` (N, K) how frequent the classes are, in the log domain: all that is known of it.

        The columns of the expected transitions, where the rows learnt from come in an order.
        """
        assert self._transitions is not None
        counts = self._transitions.sum(axis=0) if self._frequencies is None else self._frequencies
        log_frequencies = np.log((counts + FLOOR) / (counts + FLOOR).sum())
        return np.tile(log_frequencies, (len(rows), 1))

    def _evidence(self, inbox: Inbox, context: Context) -> Evidence:
        """Return the product of what came from below."""
        by_sender = likelihoods(inbox)
        first = inbox.require("class_posteriors")
        classes = first["log_prob"].shape[1]
        if self._trans_prob is not None and len(self._trans_prob) != classes:
            raise ModuleError(
                f"{first.header.route}: {classes} classes came, {context.module!r} has learnt {len(self._trans_prob)}"
            )
        return joined(inbox.all("class_posteriors"), by_sender)


def _certain(classes: IntArray, K: int) -> FloatArray:
    """Return log-distributions (N, K) that know the class of each row."""
    certain = np.full((len(classes), K), -np.inf)
    certain[np.arange(len(classes)), classes] = 0.0
    return certain


def _addressed(
    log_message: FloatArray, evidence: Evidence, context: Context, *, extrinsic: bool
) -> list[OutgoingMessage]:
    """Return the message to each receiver: `log_message`, if `extrinsic` times what other senders saw of the row."""
    messages = []
    for receiver in context.receivers.get("transition_prior", ()):
        others = [log_prob for sender, log_prob in evidence.by_sender.items() if sender != receiver]
        log_prob = log_message
        if extrinsic and others:
            log_prob = normalised(np.sum([log_message, *others], axis=0))
        messages.append(OutgoingMessage("transition_prior", {"log_prob": log_prob, **evidence.rows}, receiver))
    return messages
