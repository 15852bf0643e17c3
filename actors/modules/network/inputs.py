"""Inputs of the network module: messages as columns of inputs, observations as targets, and the masks of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.errors import ModuleError
from actors.messaging.message import Message
from actors.messaging.validation import as_float32
from actors.module import Inbox
from actors.modules.value_ranges import check_unit_interval
from actors.types import Array, BoolArray, Float32Array

TOLERANCE = 1e-3
"""Maximal deviation from one of a target's sum, where the target must be a distribution."""


class InputBlock(NamedTuple):
    """The columns of the inputs that hold the messages of one sender."""

    port: str
    sender: str
    width: int


class InputsAndTargets(NamedTuple):
    """Inputs and targets of N rows.

    Attributes
    ----------
    blocks : tuple of InputBlock
        The senders of the inputs, in the order of their columns.
    inputs : ndarray of float32, shape (N, I)
    has_input : ndarray of bool, shape (N,)
        Which rows have an input from at least one sender.
    targets : ndarray of float32, shape (N, P)
    has_target : ndarray of bool, shape (N,)
    shape : tuple of int
        The shape of one target before flattening.
    lengths : ndarray or None
    """

    blocks: tuple[InputBlock, ...]
    inputs: Float32Array
    has_input: BoolArray
    targets: Float32Array
    has_target: BoolArray
    shape: tuple[int, ...]
    lengths: Array | None

    def lengths_and_mask(self, present: BoolArray) -> dict[str, Array]:
        """Return the lengths, where there are any, and the mask, unless all rows are `present` (N,)."""
        lengths = {} if self.lengths is None else {"lengths": self.lengths}
        return lengths if present.all() else {**lengths, "mask": ~present}

    def columns(self, block: InputBlock) -> slice:
        """Return the columns of a block."""
        start = sum(other.width for other in self.blocks[: self.blocks.index(block)])
        return slice(start, start + block.width)


def read_messages(inbox: Inbox, loss: str) -> InputsAndTargets:
    """Return the inputs and targets from the inbox, checked against each other and the loss.

    Missing targets are replaced by zeros, missing class posteriors by equal probabilities, missing latent vectors by
    zeros.

    Parameters
    ----------
    inbox : Inbox
    loss : {"mse", "bce", "cross_entropy"}

    Raises
    ------
    ModuleError
        If there are no inputs, targets from several senders, different numbers of rows, or targets outside the domain
        of the loss.
    """
    if len(senders := inbox.all("observations")) > 1:
        raise ModuleError(f"targets must come from one sender, but {' and '.join(senders)} sent observations")
    message = inbox.require("observations")
    values, has_target = message["values"], _present_rows(message)
    flat = np.where(has_target[:, None], values.reshape(len(values), -1), 0)
    as_float32(f"targets of {message.header.sender!r}", flat[has_target])
    targets = np.array(flat, dtype=np.float32)
    _check_targets(targets[has_target], loss, message.header.route)
    targets[~has_target] = 0.0
    blocks: list[InputBlock] = []
    columns: list[Float32Array] = []
    has_input = np.zeros(len(values), dtype=np.bool_)
    lengths = message.lengths
    for port in ("class_posteriors", "latent_vectors"):
        for sender, sent in sorted(inbox.all(port).items()):
            filled = _input_columns(sent)
            if len(filled) != len(values):
                raise ModuleError(
                    f"{sent.header.route}: received {len(filled)} rows, but there are {len(values)} targets"
                )
            blocks.append(InputBlock(port, sender, filled.shape[1]))
            columns.append(filled)
            has_input |= _present_rows(sent)
            lengths = sent.lengths if lengths is None else lengths
    if not blocks:
        raise ModuleError(
            "received no class posteriors and no latent vectors, so there is nothing to predict from; "
            "connect a module that sends them"
        )
    return InputsAndTargets(
        tuple(blocks), np.hstack(columns), has_input, targets, has_target, values.shape[1:], lengths
    )


def _present_rows(message: Message) -> BoolArray:
    """Return which rows of a message are present, (N,)."""
    return np.ones(len(_main_array(message)), dtype=np.bool_) if message.mask is None else ~message.mask


def _main_array(message: Message) -> Array:
    return message[{"class_posteriors": "log_prob", "latent_vectors": "mean"}.get(message.header.kind, "values")]


def _input_columns(message: Message) -> Float32Array:
    """Return the input columns of a message, (N, K) or (N, D), with an uninformative value in missing rows."""
    rows = _main_array(message)
    if message.header.kind == "class_posteriors":
        columns, uninformative = np.exp(rows, dtype=np.float64).astype(np.float32), 1.0 / rows.shape[1]
    else:
        present = _present_rows(message)
        as_float32(f"latent vectors of {message.header.sender!r}", rows[present])
        columns, uninformative = np.where(present[:, None], rows, 0).astype(np.float32), 0.0
    columns[~_present_rows(message)] = uninformative
    return columns


def _check_targets(targets: Float32Array, loss: str, route: str) -> None:
    """Raise ModuleError for targets (M, P) outside the domain of the loss."""
    if not len(targets) or loss == "mse":
        return
    check_unit_interval(targets, f"{route}: targets", f"loss {loss!r}")
    np.clip(targets, 0, 1, out=targets)
    if loss == "cross_entropy" and (odd := np.abs(targets.sum(axis=1, dtype=np.float64) - 1.0) > TOLERANCE).any():
        raise ModuleError(
            f"{route}: a target sums to {targets[odd][0].sum():g} ({np.count_nonzero(odd)} such rows), but loss "
            "'cross_entropy' is for distributions, such as categories in one-hot columns; use 'bce' or 'mse'"
        )


def describe_inputs(blocks: Sequence[InputBlock]) -> str:
    """Return a description of the inputs for error messages."""
    return ", ".join(f"{block.width} {block.port} of {block.sender}" for block in blocks)
