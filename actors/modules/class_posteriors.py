"""Evidence: what several modules say of the class of the same rows, multiplied; for all that receive class posteriors.

The posteriors of a sender m with their normalisers are a likelihood, p(rows of m | class); given the class, senders are
independent, so likelihoods multiply. A row that a sender missed has the likelihood 1 whatever its class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from actors.errors import ModuleError
from actors.messaging.message import Message
from actors.module import Inbox
from actors.types import Array, FloatArray

PORT = "class_posteriors"

FLOOR = 1e-10
"""Probability that a message leaves to every class: a transition not seen yet must not forbid what a row shows."""


class Evidence(NamedTuple):
    """What came from below.

    Attributes
    ----------
    log_prob : ndarray (N, K) float64
        The product of all senders, as log-distributions.
    by_sender : dict of str to ndarray (N, K) float64
        Each sender's own; 0 throughout a row that it missed.
    row_norms : ndarray (N,) float64
        The log-normalisers that were taken away from each row, by the senders and by the product; 0 for missing rows.
    log_norm : float
        Their sum.
    lengths : ndarray (S,) int64, or None
    mask : ndarray (N,) of bool, or None
        The rows that no sender saw.
    """

    log_prob: FloatArray
    by_sender: dict[str, FloatArray]
    row_norms: FloatArray
    log_norm: float
    lengths: Array | None
    mask: Array | None

    @property
    def rows(self) -> dict[str, Array]:
        """Lengths and mask, to be sent on."""
        found = {"lengths": self.lengths, "mask": self.mask}
        return {name: array for name, array in found.items() if array is not None}


def likelihoods(inbox: Inbox) -> dict[str, FloatArray]:
    """Return what each sender says of each row, by sender in order of connection, (N, K) each; flat where it missed it.

    Raises
    ------
    ModuleError
        If nothing came, or two senders don't speak of as many rows and classes.
    """
    inbox.require(PORT)
    messages = inbox.all(PORT)
    found: dict[str, FloatArray] = {}
    for sender, message in messages.items():
        log_prob = np.asarray(message["log_prob"], dtype=np.float64)
        # The density of a row that a sender missed is 1 whatever the class, not 1/K.
        found[sender] = log_prob if message.mask is None else np.where(message.mask[:, None], 0.0, log_prob)
    first, shape = next((sender, log_prob.shape) for sender, log_prob in found.items())
    for sender, log_prob in found.items():
        if log_prob.shape != shape:
            raise ModuleError(
                f"{messages[sender].header.route}: rows and classes {log_prob.shape} came, {first!r} sent {shape}: "
                "what is multiplied must be of the same rows and of as many classes"
            )
    return found


def joined(messages: Mapping[str, Message], by_sender: dict[str, FloatArray]) -> Evidence:
    """Multiply what the senders say.

    Parameters
    ----------
    messages : mapping of str to Message
        The class posteriors by sender.
    by_sender : dict of str to ndarray (N, K) float64
        Their :func:`likelihoods`, in the same labels.

    Raises
    ------
    ModuleError
        If the senders exclude each other: of some row every class is impossible to one of them.
    """
    product = np.sum(list(by_sender.values()), axis=0)
    norms = normalisers(product, messages)
    masks = [m.mask for m in messages.values() if m.mask is not None]
    # A row is missing if nobody saw it; whoever alone missed it has sent flat evidence.
    mask = np.logical_and.reduce(masks) if len(masks) == len(messages) else None
    present = norms if mask is None else norms[~mask]
    lengths = next((m.lengths for m in messages.values() if m.lengths is not None), None)
    sent = [m["log_norm"] if m.mask is None else np.where(m.mask, 0.0, m["log_norm"]) for m in messages.values()]
    log_norm = sum(float(of_rows.sum()) for of_rows in sent) + float(present.sum())
    row_norms: FloatArray = np.asarray(np.sum([norms if mask is None else np.where(mask, 0.0, norms), *sent], axis=0))
    return Evidence(product - norms[:, None], by_sender, row_norms, log_norm, lengths, mask)


def normalisers(log_product: FloatArray, senders: Iterable[str]) -> FloatArray:
    """Return the log-normalisers (N,) of a product (N, K) of what `senders` said.

    Raises
    ------
    ModuleError
        If they exclude each other in a row.
    """
    largest = log_product.max(axis=1)
    if not np.isfinite(largest).all():
        row = int(np.flatnonzero(~np.isfinite(largest))[0])
        raise ModuleError(f"the messages of {', '.join(senders)} exclude each other in row {row}")
    norms: FloatArray = np.logaddexp.reduce(log_product, axis=1)
    return norms


def raised(log_prob: FloatArray, temperature: float) -> FloatArray:
    """Return log_prob to the power `temperature`, as log-distributions again."""
    return log_prob if temperature == 1.0 else normalised(temperature * log_prob)


def floored(log_message: FloatArray) -> FloatArray:
    """Return the message with :data:`FLOOR` added to every probability, as log-distributions again."""
    return normalised(np.logaddexp(log_message, np.log(FLOOR)))


def normalised(scores: FloatArray) -> FloatArray:
    """Return rows of `scores` as log-distributions."""
    return as_distributions(scores)[0]


def as_distributions(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return rows of `scores` (N, K) as log-distributions, and the log-normalisers (N,) that this took away."""
    log_norm: FloatArray = np.logaddexp.reduce(scores, axis=1)
    return scores - log_norm[:, None], log_norm


def prior_from(inbox: Inbox, port: str, shape: tuple[int, ...], without: str | None = None) -> FloatArray | None:
    """Return the product of the priors (N, K) that came from above, all but that of `without`; None without any.

    Raises
    ------
    ModuleError
        If one is of another shape, or they exclude each other in a row.
    """
    for message in inbox.all(port).values():
        came = message["log_prob"].shape
        if came != shape:
            raise ModuleError(f"{message.header.route}: log_prob of shape {came} came, expected {shape}")
    return inbox.log_product(port, without=without)
