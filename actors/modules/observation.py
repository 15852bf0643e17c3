"""The observation module: the source at the bottom of a model, which holds the data and sends them upwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from actors.errors import ModuleError
from actors.messaging.stored_rows import StoredRows
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.types import Array, State

_OPTIONAL = {"lengths": np.int64, "mask": np.bool_}
_SCALE = ("center", "width")


@dataclass(frozen=True)
class ObservationParameters:
    """The data are passed to :meth:`Observation.load_state`.

    Parameters
    ----------
    scaled : bool
        Whether the columns of the data are scaled, and the state says how new rows are.
    """

    scaled: bool = False


class Observation(Module[ObservationParameters]):
    """Send the data of its state upwards: ``values`` (N, …) and, optionally, ``lengths`` (S,) and ``mask`` (N,).

    The values may stay on disk; what is sent then says which rows of which files they are.

    Parameters
    ----------
    parameters : ObservationParameters
        Whether the data are scaled.
    """

    Parameters: ClassVar[type[Any]] = ObservationParameters
    ports: ClassVar[tuple[Port, ...]] = (
        Port("observations", "out", "forward", "observations"),
        Port("reconstructions", "in", "backward", "reconstructions", optional=True, several=True),
    )

    def __init__(self, parameters: ObservationParameters) -> None:
        super().__init__(parameters)
        self._data: dict[str, Array | StoredRows] = {}
        self._scale: dict[str, Array] = {}

    def update(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (signature of the contract)
        """Send the data.

        Raises
        ------
        ModuleError
            If there are none, or a file of rows on disk is missing or has changed.
        """
        if not self._data:
            raise ModuleError(f"module {context.module!r} has no data: load a state with 'values' first")
        if isinstance(self._data["values"], StoredRows):
            self._data["values"].check_unchanged()
        return Outbox(messages=[OutgoingMessage("observations", self._data)])

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Send the data, as :meth:`update` does."""
        return self.update(inbox, context)

    def state(self) -> State:
        """Return copies of the data; of values on disk, the text that describes their files."""
        data: State = {
            "stored" if isinstance(array, StoredRows) else name: array.to_text()
            if isinstance(array, StoredRows)
            else array.copy()
            for name, array in self._data.items()
        }
        return {**data, **{name: array.copy() for name, array in self._scale.items()}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Replace the data.

        Parameters
        ----------
        state : mapping
            ``values``, array (N, …) of numbers, or ``stored``, the text of
            :meth:`actors.messaging.stored_rows.StoredRows.to_text`; ``lengths``, array (S,) of int, and ``mask``, array
            (N,) of bool, may be absent or None; as may ``center`` and ``width``, arrays (D,) that say how the columns
            of the values were scaled, and new ones are to be. An empty mapping removes the data.

        Raises
        ------
        ModuleError
            If the values are not numeric or have no rows.
        """
        data: dict[str, Array | StoredRows] = {}
        if state.get("stored") is not None:
            data["values"] = StoredRows.from_text(state["stored"])
        elif state.get("values") is not None:
            values = np.array(state["values"])
            if values.ndim == 0 or len(values) == 0 or values.dtype.kind not in "buif":
                raise ModuleError(f"observations must be numbers in rows; {values.dtype} of shape {values.shape} came")
            # Messages carry floats, also for pixels stored as bytes; float32 holds integers up to 2^24.
            floats = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
            data["values"] = floats
        if data:
            data.update({k: np.array(state[k], dtype=t) for k, t in _OPTIONAL.items() if state.get(k) is not None})
        self._data = data
        self._scale = {name: np.array(state[name], np.float64) for name in _SCALE if state.get(name) is not None}
