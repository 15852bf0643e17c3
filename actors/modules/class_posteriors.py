"""Combination of the class posteriors that several modules send for the same rows, and of the priors from above.

The posteriors of a sender m, with their normalisers, are the likelihood p(rows of m | class). Given the class, senders
are conditionally independent, so their likelihoods multiply. A row that is missing for a sender has likelihood 1 under
every class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import NamedTuple

import numpy as np

from actors.errors import ModuleError
from actors.kernels.log_rows import log_sum_exp
from actors.messaging.message import Message
from actors.module import Inbox
from actors.types import Array, FloatArray, IntArray

PORT = "class_posteriors"

LABELS = "labels"
"""Port of what is known of the classes of some rows."""

FLOOR = 1e-10
"""Probability that a message keeps for every class: an unobserved transition must not rule out a row's class."""


class CombinedPosteriors(NamedTuple):
    """The normalised product of the class posteriors of all senders.

    Attributes
    ----------
    log_prob : ndarray (N, K) float64
        The product over all senders; rows are log-distributions.
    by_sender : dict of str to ndarray (N, K) float64
        Each sender's log-likelihoods; 0 throughout a row that it missed.
    row_norms : ndarray (N,) float64
        Log-normalisers removed from each row, by the senders and by the product; 0 for missing rows.
    log_norm : float
        Their sum, in nats.
    lengths : ndarray (S,) int64, or None
        Lengths of the sequences.
    mask : ndarray (N,) of bool, or None
        True for rows that are missing for every sender.
    """

    log_prob: FloatArray
    by_sender: dict[str, FloatArray]
    row_norms: FloatArray
    log_norm: float
    lengths: Array | None
    mask: Array | None

    @property
    def row_arrays(self) -> dict[str, Array]:
        """Lengths and mask, where present, as arrays of an outgoing message."""
        return present_arrays(lengths=self.lengths, mask=self.mask)


def present_arrays(**arrays: Array | None) -> dict[str, Array]:
    """Return those arrays that are not None."""
    return {name: array for name, array in arrays.items() if array is not None}


def sender_likelihoods(inbox: Inbox) -> dict[str, FloatArray]:
    """Return each sender's log-likelihoods (N, K), in order of connection; 0 throughout a row that it missed.

    Raises
    ------
    ModuleError
        If no message came, or if the senders differ in rows or classes.
    """
    inbox.require(PORT)
    messages = inbox.all(PORT)
    by_sender: dict[str, FloatArray] = {}
    for sender, message in messages.items():
        log_prob = np.asarray(message["log_prob"], dtype=np.float64)
        # The density of a row that a sender missed is 1 under every class, not 1/K.
        by_sender[sender] = log_prob if message.mask is None else np.where(message.mask[:, None], 0.0, log_prob)
    first, shape = next((sender, log_prob.shape) for sender, log_prob in by_sender.items())
    for sender, log_prob in by_sender.items():
        if log_prob.shape != shape:
            raise ModuleError(
                f"{messages[sender].header.route}: rows and classes {log_prob.shape} came, {first!r} sent {shape}: "
                "posteriors that are multiplied must have the same rows and the same number of classes"
            )
    return by_sender


def combine_posteriors(
    messages: Mapping[str, Message], by_sender: dict[str, FloatArray], norms: FloatArray | None = None
) -> CombinedPosteriors:
    """Multiply the likelihoods of all senders.

    Parameters
    ----------
    messages : mapping of str to Message
        The class posteriors by sender.
    by_sender : dict of str to ndarray (N, K) float64
        Their :func:`sender_likelihoods`, in common labels.
    norms : ndarray (N,) float64, optional
        The :func:`log_normalisers` of their product, where they are known.

    Raises
    ------
    ModuleError
        If the senders exclude each other: in some row every class is impossible for one of them.
    """
    product = product_of(by_sender)
    norms = log_normalisers(product, messages) if norms is None else norms
    mask = rows_missing_for_all(messages)
    lengths = next((m.lengths for m in messages.values() if m.lengths is not None), None)
    sent, log_norm = _sent_norms(messages), total_log_norm(messages, norms, mask)
    row_norms: FloatArray = np.asarray(np.sum([present_norms(norms, mask), *sent], axis=0))
    return CombinedPosteriors(product - norms[:, None], by_sender, row_norms, log_norm, lengths, mask)


def total_log_norm(messages: Mapping[str, Message], norms: FloatArray, mask: Array | None) -> float:
    """Return the sum of the normalisers that the senders removed, and of those (N,) of their product."""
    present = norms if mask is None else norms[~mask]
    return sum(float(of_rows.sum()) for of_rows in _sent_norms(messages)) + float(present.sum())


def _sent_norms(messages: Mapping[str, Message]) -> list[FloatArray]:
    """Return the log-normalisers (N,) that each sender removed from its rows, 0 for those that it missed."""
    return [present_norms(m["log_norm"], m.mask) for m in messages.values()]


def present_norms(norms: FloatArray, mask: Array | None) -> FloatArray:
    """Return log-normalisers (N,), 0 for the rows that a mask (N,) says are missing: these carry no evidence."""
    return norms if mask is None else np.where(mask, 0.0, norms)


def rows_missing_for_all(messages: Mapping[str, Message]) -> Array | None:
    """Return True for the rows (N,) that are missing for every sender; one sender's missing row is flat in the product.

    None if a sender has all rows.
    """
    masks = [message.mask for message in messages.values() if message.mask is not None]
    return np.asarray(np.logical_and.reduce(masks)) if len(masks) == len(messages) else None


def product_of(by_sender: Mapping[str, FloatArray]) -> FloatArray:
    """Return the product (N, K) of the likelihoods of all senders, in the log domain; of one sender, its own array."""
    product: FloatArray = reduce(np.add, by_sender.values())
    return product


def log_normalisers(log_product: FloatArray, senders: Iterable[str], first_row: int = 0) -> FloatArray:
    """Return the log-normalisers (N,) of a product (N, K) of the messages of `senders`.

    In errors, rows are numbered from `first_row`.

    Raises
    ------
    ModuleError
        If the messages exclude each other in a row.
    """
    norms = log_sum_exp(log_product)
    if not np.isfinite(norms).all():
        row = int(np.flatnonzero(~np.isfinite(norms))[0])
        raise ModuleError(f"the messages of {', '.join(senders)} exclude each other in row {first_row + row}")
    return norms


def temper(log_prob: FloatArray, temperature: float) -> FloatArray:
    """Return log_prob to the power `temperature`, renormalised: rows are log-distributions."""
    return log_prob if temperature == 1.0 else normalise_rows(temperature * log_prob)


def add_floor(log_message: FloatArray) -> FloatArray:
    """Return the message with :data:`FLOOR` added to every probability, renormalised: rows are log-distributions."""
    return normalise_rows(np.log(np.exp(log_message) + FLOOR))  # at most one: nothing overflows


def message_with_floor(
    message: FloatArray, into: FloatArray | None = None, logs: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return distributions (N, K) with :data:`FLOOR` added to every probability, normalised, and their logarithms.

    As :func:`add_floor`, from probabilities instead of their logarithms: the sums of the rows are known. They are in
    the memory `into`, which may be that of the message, and `logs`, if these are given.
    """
    floored: FloatArray = np.add(message, FLOOR, out=into)
    floored /= 1.0 + message.shape[1] * FLOOR
    return floored, np.log(floored, out=logs)


def normalise_rows(scores: FloatArray) -> FloatArray:
    """Return the rows of `scores` (N, K) as log-distributions."""
    return normalise_with_norms(scores)[0]


def normalise_with_norms(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the rows of `scores` (N, K) as log-distributions, and the log-normalisers (N,) removed from them."""
    log_norm = log_sum_exp(scores)
    return scores - log_norm[:, None], log_norm


def combine_priors(inbox: Inbox, port: str, shape: tuple[int, ...], without: str | None = None) -> FloatArray | None:
    """Return the normalised product (N, K) of the priors on `port`, that of `without` left out; None if there is none.

    Raises
    ------
    ModuleError
        If a prior is not of `shape`, or if the priors exclude each other in a row.
    """
    for message in inbox.all(port).values():
        came = message["log_prob"].shape
        if came != shape:
            raise ModuleError(f"{message.header.route}: log_prob of shape {came} came, expected {shape}")
    return inbox.log_product(port, without=without)


def label_prior(inbox: Inbox, shape: tuple[int, int]) -> FloatArray | None:
    """Return log p(label | class), (N, K), the product over all sources; 0 for rows without. None if no labels came.

    Raises
    ------
    ModuleError
        If labels are not of `shape`, or contradict each other.
    """
    messages = inbox.all(LABELS)
    if not messages:
        return None
    combine_priors(inbox, LABELS, shape)  # checks
    total = np.zeros(shape)
    for message in messages.values():
        log_prob = np.asarray(message["log_prob"], np.float64)
        total += log_prob if message.mask is None else np.where(message.mask[:, None], 0.0, log_prob)
    return total


def known_classes(told: FloatArray) -> IntArray:
    """Return the most probable class (N,) by labels alone (N, K), -1 for rows without a label."""
    return np.where(np.ptp(np.exp(told), axis=1) > 0.0, told.argmax(axis=1), -1).astype(np.int64)


def joint_prior(above: FloatArray | None, told: FloatArray | None) -> FloatArray | None:
    """Return the product of a prior from above and labels (N, K), as log-distributions if both are there.

    Raises
    ------
    ModuleError
        If they exclude each other in a row.
    """
    if above is None or told is None:
        return told if above is None else above
    product = above + told
    excluded = np.flatnonzero(product.max(axis=1) == -np.inf)
    if len(excluded):
        raise ModuleError(
            f"the prior from above excludes the label of row {excluded[0] + 1}; give labels a confidence below 1"
        )
    return normalise_rows(product)
