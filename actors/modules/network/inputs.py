"""What comes to the network: messages as columns of inputs, observations as targets, and which rows are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.errors import ModuleError
from actors.messaging.message import Message
from actors.module import Inbox
from actors.types import Array, BoolArray, Float32Array

TOLERANCE = 1e-3
"""How far the sum of a target's row may be from one, where it has to be a distribution."""


class Part(NamedTuple):
    """The columns of the inputs that one sender fills."""

    port: str
    sender: str
    width: int


class Given(NamedTuple):
    """What came: inputs (N, I) and which rows of them somebody saw, targets (N, P) and which of them are there."""

    parts: tuple[Part, ...]
    inputs: Float32Array
    seen: BoolArray
    targets: Float32Array
    known: BoolArray
    shape: tuple[int, ...]
    lengths: Array | None

    def rows(self, told: BoolArray) -> dict[str, Array]:
        """Return the lengths, and the mask of a message that says something in the rows `told`."""
        lengths = {} if self.lengths is None else {"lengths": self.lengths}
        return lengths if told.all() else {**lengths, "mask": ~told}

    def block(self, part: Part) -> slice:
        """Return the columns of a part."""
        start = sum(other.width for other in self.parts[: self.parts.index(part)])
        return slice(start, start + part.width)


def received(inbox: Inbox, loss: str) -> Given:
    """Return what came, checked against each other and the loss.

    Targets that are missing are zeros, inputs that are missing say nothing: equal probabilities, or zeros.

    Parameters
    ----------
    inbox : Inbox
    loss : {"mse", "bce", "cross_entropy"}

    Raises
    ------
    ModuleError
        If there are no inputs, or targets of several senders, or numbers of rows differ, or the loss has no probability
        for a target.
    """
    if len(came := inbox.all("observations")) > 1:
        raise ModuleError(f"the targets are those of one sender, but {' and '.join(came)} sent observations")
    message = inbox.require("observations")
    values, known = message["values"], _there(message)
    targets = np.array(values.reshape(len(values), -1), dtype=np.float32)
    _check_targets(targets[known], loss, message.header.route)
    targets[~known] = 0.0
    parts: list[Part] = []
    blocks: list[Float32Array] = []
    seen = np.zeros(len(values), dtype=np.bool_)
    lengths = message.lengths
    for port in ("class_posteriors", "latent_vectors"):
        for sender, sent in sorted(inbox.all(port).items()):
            block = _block(sent)
            if len(block) != len(values):
                raise ModuleError(f"{sent.header.route}: {len(block)} rows came, the targets are {len(values)}")
            parts.append(Part(port, sender, block.shape[1]))
            blocks.append(block)
            seen |= _there(sent)
            lengths = sent.lengths if lengths is None else lengths
    if not parts:
        raise ModuleError("no class posteriors and no latent vectors came: there is nothing to predict from")
    return Given(tuple(parts), np.hstack(blocks), seen, targets, known, values.shape[1:], lengths)


def _there(message: Message) -> BoolArray:
    """Return which rows of a message are there, (N,)."""
    return np.ones(len(_main(message)), dtype=np.bool_) if message.mask is None else ~message.mask


def _main(message: Message) -> Array:
    return message[{"class_posteriors": "log_prob", "latent_vectors": "mean"}.get(message.header.kind, "values")]


def _block(message: Message) -> Float32Array:
    """Return the columns that a message fills, (N, K) or (N, D); what says nothing where its rows are missing."""
    rows = _main(message)
    if message.header.kind == "class_posteriors":
        block, nothing = np.exp(rows, dtype=np.float64).astype(np.float32), 1.0 / rows.shape[1]
    else:
        block, nothing = rows.astype(np.float32), 0.0
    block[~_there(message)] = nothing
    return block


def _check_targets(targets: Float32Array, loss: str, route: str) -> None:
    """Refuse targets (M, P) that a loss has no probability for."""
    if not len(targets) or loss == "mse":
        return
    low, high = float(targets.min()), float(targets.max())
    if low < 0 or high > 1:
        raise ModuleError(
            f"{route}: targets span {low:g} to {high:g}: loss {loss!r} is for values in [0, 1]; scale them or use 'mse'"
        )
    if loss == "cross_entropy" and (odd := np.abs(targets.sum(axis=1, dtype=np.float64) - 1.0) > TOLERANCE).any():
        raise ModuleError(
            f"{route}: a target sums to {targets[odd][0].sum():g} ({np.count_nonzero(odd)} such rows): loss "
            "'cross_entropy' is for distributions, such as categories in one-hot columns; use 'bce' or 'mse'"
        )


def said(parts: Sequence[Part]) -> str:
    """Return the parts in words."""
    return ", ".join(f"{part.width} {part.port} of {part.sender}" for part in parts)
