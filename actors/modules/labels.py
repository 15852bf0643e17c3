"""The labels module: a source of what is known about the classes of some rows, as a prior for the others' module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.messaging.stored_rows import read_array
from actors.module import Context, Inbox, Outbox, OutgoingMessage, Port
from actors.modules.observation import Observation
from actors.types import Array, FloatArray


@dataclass(frozen=True)
class LabelsParameters:
    """See :class:`Labels`."""

    classes: Annotated[int, Field(ge=1)] = 10
    confidence: Annotated[float, Field(gt=0, le=1)] = 1.0
    scaled: bool = False


class Labels(Observation):
    """Send the labels of the rows that have one, as probabilities of the classes.

    p(label | class k) is the confidence for the class of the label, and (1 - confidence) / (K - 1) for each other. Rows
    without a label have the same probability for each class, and are masked.

    Parameters
    ----------
    parameters : LabelsParameters
        classes : int
            K, the number of classes of the module above.
        confidence : float
            The probability that a label is right.
    """

    Parameters: ClassVar[type[Any]] = LabelsParameters
    ports = (Port("labels", "out", "forward", "transition_prior"),)

    def update(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (signature of the contract)
        """Send the prior.

        Raises
        ------
        ModuleError
            If there are no labels, or one is no number of a class.
        """
        if not self._data:
            raise ModuleError(f"module {context.module!r} has no labels: load a state with 'values' first")
        if problem := self.problem:
            raise ModuleError(f"module {context.module!r}: {problem}")
        parameters: LabelsParameters = self.parameters  # type: ignore[assignment]
        known = self._known()
        arrays: dict[str, Any] = {"log_prob": label_log_probabilities(known, parameters.classes, parameters.confidence)}
        if (known < 0).any():
            arrays["mask"] = known < 0
        if "lengths" in self._data:
            arrays["lengths"] = self._data["lengths"]
        return Outbox(messages=[OutgoingMessage("labels", arrays)])

    @property
    def problem(self) -> str | None:
        """A sentence about the first label that is no number of a class, None if all are."""
        parameters: LabelsParameters = self.parameters  # type: ignore[assignment]
        return label_problem(self._known(), parameters.classes)

    def _known(self) -> FloatArray:
        return known_labels(read_array(self._data["values"]), self._data.get("mask"))


def known_labels(values: Array, mask: Any) -> FloatArray:
    """Return labels (N,) of observations (N, 1), -1 for rows without one: masked, or negative."""
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    missing = np.zeros(len(flat), np.bool_) if mask is None else np.asarray(mask).reshape(len(flat), -1).all(axis=1)
    return np.where(missing | (flat[:, 0] < 0), -1.0, flat[:, 0])


def label_problem(known: FloatArray, classes: int) -> str | None:
    """Return a sentence about the first label that is no number of a class, None if all are."""
    bad = (known >= classes) | (known != np.floor(known))
    if not bad.any():
        return None
    row = int(bad.argmax())
    return (
        f"row {row + 1} has the label {known[row]:g}; give 0 to {classes - 1}, or nothing (or -1) where none is known"
    )


def label_log_probabilities(known: FloatArray, classes: int, confidence: float) -> FloatArray:
    """Return log p(label | class) (N, K), normalised over the classes; equal for rows without a label (-1)."""
    right = confidence if classes > 1 else 1.0
    wrong = (1.0 - right) / max(classes - 1, 1)
    own = known[:, None] == np.arange(classes)
    with np.errstate(divide="ignore"):
        log_prob: FloatArray = np.log(np.where(known[:, None] < 0, 1.0 / classes, np.where(own, right, wrong)))
    return log_prob
