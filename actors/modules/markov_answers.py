"""Parameters of the Markov model, and its answers: messages, densities of sequences, priors of unordered rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from actors.kernels.markov.inference import transition_probabilities
from actors.kernels.markov.transition_posterior import geometric_mean
from actors.kernels.sequences import boundaries
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

    @property
    def pseudo_count(self) -> float:
        """Return α, by default that of the rule."""
        return self.alpha if self.alpha is not None else {"tutorial": 1.0, "smoothed": 0.1}[self.rule]

    def transition_estimate(self, counts: FloatArray) -> FloatArray:
        """Return the transition matrix (K, K) from expected counts (K, K), by `estimate`."""
        estimate = geometric_mean if self.estimate == "variational" else transition_probabilities
        return estimate(counts, self.pseudo_count)


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
