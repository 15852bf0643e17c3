"""Messages and outputs of the MLDA, composed from what either engine infers of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from actors.kernels.mlda.calibration import PredictionCalibration
from actors.module import Context, Inbox, Outbox, OutgoingMessage
from actors.modules.class_posteriors import (
    combine_priors,
    joint_prior,
    known_classes,
    label_prior,
    normalise_rows,
    normalise_with_norms,
)
from actors.modules.mlda.tokens import ReceivedModality, lengths_and_mask
from actors.types import Array, BoolArray, Float32Array, FloatArray, IntArray

PREDICTION_PORTS = {"class_posteriors": "transition_prior", "observations": "reconstructions"}
"""Kind of a received message → output port on which it is predicted."""


class KnownModality(NamedTuple):
    """What is learnt of a modality: word distributions (K, V), and the mean sum of a histogram."""

    words: FloatArray
    total: float


class InferredRows(NamedTuple):
    """What is inferred of N rows.

    Attributes
    ----------
    missing : ndarray of bool (N,)
        Which rows have no tokens.
    log_prior : ndarray of float64 (N, K)
        Product of the priors from above; uniform without any.
    likelihood : ndarray of float64 (N, K)
        log p(tokens | class), zeros for missing rows.
    shares : ndarray of float64 (N, K)
        P(the topic of the row's next token is k).
    predictions : mapping of str to ndarray of float64 (N, V)
        The distributions of the words of senders of class posteriors, by modality.
    """

    missing: BoolArray
    log_prior: FloatArray
    likelihood: FloatArray
    shares: FloatArray
    predictions: Mapping[str, FloatArray]


def compose_outbox(
    inbox: Inbox,
    context: Context,
    modalities: Sequence[ReceivedModality],
    rows: InferredRows,
    known: Mapping[str, KnownModality],
) -> Outbox:
    """Combine the rows' likelihoods with the priors from above; return messages, outputs and the ``evidence``."""
    log_posterior, log_norm = normalise_with_norms(rows.likelihood + rows.log_prior)
    told = label_prior(inbox, rows.log_prior.shape)
    of_rows = lengths_and_mask(modalities, rows.missing)
    if told is not None and "mask" in of_rows:  # a missing row that has a label says something
        of_rows["mask"] = of_rows["mask"] & (known_classes(told) < 0)
    messages = []
    for receiver in context.receivers.get("topic_posteriors", ()):
        # Without the receiver's own prior (the cavity message), which would otherwise be counted twice.
        others = joint_prior(inbox.log_product("topic_prior", without=receiver), told)
        up, up_norm = normalise_with_norms(rows.likelihood if others is None else rows.likelihood + others)
        up_norm[rows.missing] = 0.0  # a missing row carries no evidence
        messages.append(OutgoingMessage("topic_posteriors", {"log_prob": up, "log_norm": up_norm, **of_rows}, receiver))
    for modality in modalities:
        port, receiver = PREDICTION_PORTS[modality.kind], modality.sender
        if receiver not in context.receivers.get(port, ()):
            continue
        arrays = dict(of_rows)
        if port == "transition_prior":
            arrays["log_prob"] = log_distributions(rows.predictions[modality.name])
        else:
            arrays["values"] = _reconstruct(modality, rows.shares, known[modality.name])
        messages.append(OutgoingMessage(port, arrays, receiver))
    outputs: dict[str, Array] = {"class": log_posterior.argmax(axis=1), "Pdz": np.exp(log_posterior)}
    outputs |= {f"Pzw_{name}": each.words for name, each in known.items()}
    return Outbox(messages, {"evidence": float(log_norm[~rows.missing].sum())}, outputs)


def log_prior_of(inbox: Inbox, rows: int, topics: int) -> tuple[FloatArray, bool]:
    """Return the product of the priors from above and labels (rows, K), and whether there is any prior from above.

    It is uniform without either.
    """
    expected = (rows, topics)
    above, told = combine_priors(inbox, "topic_prior", expected), label_prior(inbox, expected)
    product = joint_prior(above, told)
    if product is None:
        return np.full(expected, -np.log(expected[1])), False
    return (product if told is None else normalise_rows(product)), above is not None


def word_distributions(counts: IntArray | FloatArray, beta: float) -> FloatArray:
    """Return φ (K, V), the word distributions of topics with `counts` (V, K): (counts + β), normalised per topic."""
    raised = counts.T + beta
    distributions: FloatArray = raised / raised.sum(axis=1, keepdims=True)
    return distributions


def log_distributions(distributions: FloatArray) -> FloatArray:
    """Return the logarithms of rows (N, V) that sum to one up to rounding, normalised exactly."""
    log_prob: FloatArray = np.log(distributions) - np.log(distributions.sum(axis=1, keepdims=True))
    return log_prob


def prediction_calibration(values: Array, mean: Array) -> PredictionCalibration:
    """Return the calibration of a state: exponent, lapse rate and sharpness, and the mean message."""
    exponent, lapse, sharpness = (float(value) for value in values)
    return PredictionCalibration(exponent, lapse, sharpness, np.array(mean))


def _reconstruct(modality: ReceivedModality, shares: FloatArray, known: KnownModality) -> Float32Array:
    """Return the histograms predicted from topic shares (N, K), in the shape and with the sums of those received.

    A missing histogram is given the mean sum; one in which counts are missing, the sum of which the observed words are
    expected to have theirs.
    """
    predicted, totals = shares @ known.words, modality.totals
    if (absent := modality.message.missing_values) is not None:
        seen = np.where(absent, 0.0, predicted).sum(axis=1)
        totals = totals / np.where(seen > 0.0, seen, 1.0)
    totals = np.where(modality.totals > 0, totals, known.total)
    values = predicted * totals[:, None]
    return values.astype(np.float32).reshape(modality.message["values"].shape)
