"""Parameters of the Markov model, and its answers: messages, densities of sequences, priors of unordered rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from actors.kernels.markov.inference import transition_probabilities
from actors.kernels.markov.transition_posterior import (
    best_self_transition_prior,
    geometric_mean,
    sticky_counts,
    transition_bound_term,
)
from actors.kernels.sequences import boundaries
from actors.limits import MAX_DURATION, MAX_POSTERIOR_SAMPLES
from actors.module import Context, OutgoingMessage
from actors.modules.class_posteriors import FLOOR, CombinedPosteriors, normalise_rows
from actors.types import Array, FloatArray, IntArray


@dataclass(frozen=True)
class MarkovParameters:
    """See :class:`actors.modules.markov.MarkovModel`."""

    rule: Literal["smoothed", "tutorial"] = "smoothed"
    num_samp: Annotated[int, Field(ge=1)] = 100
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    inner_iterations: Annotated[int, Field(ge=0)] = 5
    initial: Literal["uniform", "learnt"] = "uniform"
    test_order: bool = False
    estimate: Literal["mean", "variational"] = "mean"
    self_transition_prior: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = 0.0
    durations: Literal["geometric", "poisson", "negative_binomial"] = "geometric"
    max_duration: Annotated[int, Field(ge=1, le=MAX_DURATION)] | None = None
    prior_duration: Annotated[float, Field(gt=1, le=MAX_DURATION)] | Literal["auto"] = "auto"
    samples: Annotated[int, Field(ge=0, le=MAX_POSTERIOR_SAMPLES)] = 0

    def __post_init__(self) -> None:
        sticky, explicit = self.self_transition_prior != 0.0, self.durations != "geometric"
        if self.rule == "tutorial" and (sticky or explicit):
            given = f"durations: {self.durations}" if explicit else "self_transition_prior"
            raise ValueError(f"rule 'tutorial' counts sampled pairs of rows: {given} needs rule: smoothed")
        if self.rule == "tutorial" and self.samples:
            raise ValueError("rule 'tutorial' has no posterior to draw from: samples needs rule: smoothed")
        if sticky and explicit:
            raise ValueError(
                f"with durations: {self.durations} no class follows itself: leave out self_transition_prior, "
                "prior_duration says how long segments are"
            )
        if not explicit and (self.max_duration is not None or self.prior_duration != "auto"):
            given = "prior_duration" if self.max_duration is None else "max_duration"
            raise ValueError(
                f"{given} goes with durations: poisson or negative_binomial; geometric durations have no bound, and "
                "self_transition_prior makes them longer"
            )

    @property
    def pseudo_count(self) -> float:
        """Return α, by default that of the rule."""
        return self.alpha if self.alpha is not None else {"tutorial": 1.0, "smoothed": 0.1}[self.rule]

    def self_counts(self, counts: FloatArray) -> float:
        """Return κ, the pseudo-count of remaining in a class; with `auto` by the evidence of expected counts."""
        if self.self_transition_prior == "auto":
            return best_self_transition_prior(counts, self.pseudo_count)
        return self.self_transition_prior

    def transition_estimate(self, counts: FloatArray, self_counts: float | None = None) -> FloatArray:
        """Return the transition matrix (K, K) from expected counts (K, K), by `estimate`; κ if it is not its own."""
        kappa = self.self_counts(counts) if self_counts is None else self_counts
        estimate = geometric_mean if self.estimate == "variational" else transition_probabilities
        return estimate(counts if kappa == 0.0 else counts + kappa * np.eye(len(counts)), self.pseudo_count)

    def transition_bound_term(self, counts: FloatArray, transitions: FloatArray, self_counts: float) -> float:
        """Return the term of the transitions in the evidence bound, with κ pseudo-counts of remaining in a class."""
        alpha = self.pseudo_count
        prior = alpha if self_counts == 0.0 else sticky_counts(counts, alpha, self_counts)
        return transition_bound_term(counts, transitions, prior)


def present(values: FloatArray, mask: Array | None) -> FloatArray:
    """Return the rows of `values` (N, …) that are not missing."""
    return values if mask is None else values[~mask]


def log_evidence_of_sequences(by_row: FloatArray, combined: CombinedPosteriors) -> FloatArray:
    """Return the log-density (S,) of each sequence, from the parts of its rows (N,) without their normalisers."""
    parts = by_row + combined.row_norms
    evidence: FloatArray = np.add.reduceat(parts, boundaries(len(parts), combined.lengths)[:-1])
    return evidence


def one_hot_log_prob(classes: IntArray, K: int) -> FloatArray:
    """Return log-distributions (N, K) with all mass on the class of each row."""
    log_prob = np.full((len(classes), K), -np.inf)
    log_prob[np.arange(len(classes)), classes] = 0.0
    return log_prob


def compose_messages(
    log_message: FloatArray,
    by_sender: Mapping[str, FloatArray],
    row_arrays: Mapping[str, Array],
    context: Context,
    *,
    extrinsic: bool,
) -> list[OutgoingMessage]:
    """Return a message per receiver: `log_message`, with `extrinsic` times the likelihoods of all other senders.

    `row_arrays` are sent with each: lengths and mask.
    """
    messages = []
    for receiver in context.receivers.get("transition_prior", ()):
        others = [log_prob for sender, log_prob in by_sender.items() if sender != receiver]
        log_prob = log_message
        if extrinsic and others:
            log_prob = normalise_rows(np.sum([log_message, *others], axis=0))
        messages.append(OutgoingMessage("transition_prior", {"log_prob": log_prob, **row_arrays}, receiver))
    return messages


def unordered_message(
    rows: int, transitions: FloatArray, class_counts: FloatArray | None, frequencies: FloatArray | None
) -> FloatArray:
    """Return the message (N, K) for unordered rows: the log-frequencies of the classes, the same for each row.

    They are the expected numbers of training rows in each class, γ summed over all rows that are present, unless
    the order test rejected an order. Transitions alone do not give them: their columns lack the rows that open a
    sequence, their rows those that end one. Commits of earlier versions have nothing else; the larger of both is
    then the nearest bound, exact for a class that never both opens and ends sequences.
    """
    counts = class_counts if frequencies is None else frequencies
    if counts is None:
        counts = np.maximum(transitions.sum(axis=0), transitions.sum(axis=1))
    log_frequencies = np.log((counts + FLOOR) / (counts + FLOOR).sum())
    return np.tile(log_frequencies, (rows, 1))
