"""The observation module: the source at the bottom of a model, which holds the data and sends them upwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actors.errors import ModuleError
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.types import Array, State

_OPTIONAL = {"lengths": np.int64, "mask": np.bool_}


@dataclass(frozen=True)
class ObservationParameters:
    """No parameters: the data are passed to :meth:`Observation.load_state`."""


class Observation(Module[ObservationParameters]):
    """Send the data of its state upwards: ``values`` (N, …) and, optionally, ``lengths`` (S,) and ``mask`` (N,).

    Parameters
    ----------
    parameters : ObservationParameters
        Empty.
    """

    Parameters: ClassVar[type[Any]] = ObservationParameters
    ports = (
        Port("observations", "out", "forward", "observations"),
        Port("reconstructions", "in", "backward", "reconstructions", optional=True, several=True),
    )

    def __init__(self, parameters: ObservationParameters) -> None:
        super().__init__(parameters)
        self._data: dict[str, Array] = {}

    def update(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (signature of the contract)
        """Send the data.

        Raises
        ------
        ModuleError
            If there are none.
        """
        if not self._data:
            raise ModuleError(f"module {context.module!r} has no data: load a state with 'values' first")
        return Outbox(messages=[OutgoingMessage("observations", self._data)])

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Send the data, as :meth:`update` does."""
        return self.update(inbox, context)

    def state(self) -> State:
        """Return copies of the data."""
        return {name: array.copy() for name, array in self._data.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace the data.

        Parameters
        ----------
        state : mapping
            ``values``, array (N, …) of numbers; ``lengths``, array (S,) of int, and ``mask``, array (N,) of bool, may
            be absent or None. An empty mapping removes the data.

        Raises
        ------
        ModuleError
            If the values are not numeric or have no rows.
        """
        data: dict[str, Array] = {}
        if state.get("values") is not None:
            values = np.array(state["values"])
            if values.ndim == 0 or len(values) == 0 or values.dtype.kind not in "buif":
                raise ModuleError(f"observations must be numbers in rows; {values.dtype} of shape {values.shape} came")
            # Messages carry floats, also for pixels stored as bytes; float32 holds integers up to 2^24.
            floats = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
            data = {"values": floats}
            data.update({k: np.array(state[k], dtype=t) for k, t in _OPTIONAL.items() if state.get(k) is not None})
        self._data = data
