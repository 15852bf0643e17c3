"""The neighbours of a module under test: at every update they send the messages that were loaded as their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from actors.conformance.sample_messages import Arrays
from actors.messaging.kinds import KINDS
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Pass, Port
from actors.types import Array, State

_SEPARATOR = "/"


class _PortsOfEveryKind:
    """Ports for every message kind that is registered at the time of access: a module may declare kinds of its own."""

    def __init__(self, output_pass: Pass, input_pass: Pass) -> None:
        self._output_pass, self._input_pass = output_pass, input_pass

    def __get__(self, instance: object, owner: type | None = None) -> tuple[Port, ...]:
        return tuple(
            port
            for kind in KINDS
            for port in (
                Port(output_port_name(kind), "out", self._output_pass, kind),
                Port(f"{kind}_in", "in", self._input_pass, kind, optional=True, several=True),
            )
        )


def output_port_name(kind: str) -> str:
    """Return the name of the port on which a neighbour sends messages of `kind`."""
    return f"{kind}_out"


def make_neighbour_state(messages: Mapping[str, Arrays]) -> State:
    """Return the state of a neighbour that sends `messages`, one for each kind."""
    return {f"{kind}{_SEPARATOR}{name}": array for kind, arrays in messages.items() for name, array in arrays.items()}


@dataclass(frozen=True)
class NeighbourParameters:
    """Parameters of a neighbour: none; its messages are set by :meth:`Neighbour.load_state`."""


class Neighbour(Module[NeighbourParameters]):
    """Sends the messages of its state (:func:`make_neighbour_state`) and ignores what it receives."""

    Parameters: ClassVar[type[Any]] = NeighbourParameters

    def __init__(self, parameters: NeighbourParameters) -> None:
        super().__init__(parameters)
        self._arrays: dict[str, Array] = {}

    def update(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (the contract's)
        """Return the messages of the state."""
        messages: dict[str, Arrays] = {}
        for key, array in self._arrays.items():
            kind, _, name = key.partition(_SEPARATOR)
            messages.setdefault(kind, {})[name] = array
        return Outbox([OutgoingMessage(output_port_name(kind), arrays) for kind, arrays in messages.items()])

    recognize = update

    def state(self) -> State:
        """Return a copy of the arrays of the messages."""
        return {key: array.copy() for key, array in self._arrays.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the arrays of the messages."""
        self._arrays = {key: np.array(array) for key, array in state.items()}


class LowerNeighbour(Neighbour):
    """Takes the place of all modules below, and sends forward messages."""

    ports = cast("tuple[Port, ...]", _PortsOfEveryKind("forward", "backward"))


class UpperNeighbour(Neighbour):
    """Takes the place of all modules above, and sends backward messages."""

    ports = cast("tuple[Port, ...]", _PortsOfEveryKind("backward", "forward"))
