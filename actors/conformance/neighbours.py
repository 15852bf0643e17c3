"""The neighbours of a module under test: they say, at every update, what they were given as their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from actors.conformance.sample_messages import Arrays
from actors.messaging.kinds import KINDS
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Pass, Port
from actors.types import Array, State

_BETWEEN = "/"


class _OfEveryKind:
    """Ports for all kinds that this process knows when it asks for them: a module may bring kinds of its own."""

    def __init__(self, speaks: Pass, hears: Pass) -> None:
        self._speaks, self._hears = speaks, hears

    def __get__(self, stub: object, owner: type | None = None) -> tuple[Port, ...]:
        return tuple(
            port
            for kind in KINDS
            for port in (
                Port(spoken_on(kind), "out", self._speaks, kind),
                Port(f"{kind}_in", "in", self._hears, kind, optional=True, several=True),
            )
        )


def spoken_on(kind: str) -> str:
    """Return the name of the port on which a stub says messages of `kind`."""
    return f"{kind}_out"


def saying(messages: Mapping[str, Arrays]) -> State:
    """Return the state of a stub that says `messages`, by kind."""
    return {f"{kind}{_BETWEEN}{name}": array for kind, arrays in messages.items() for name, array in arrays.items()}


@dataclass(frozen=True)
class StubParameters:
    """A stub has no parameters; what it says comes by :meth:`Stub.load_state`."""


class Stub(Module[StubParameters]):
    """Says the messages that are its state (:func:`saying`), whatever it hears."""

    Parameters: ClassVar[type[Any]] = StubParameters

    def __init__(self, parameters: StubParameters) -> None:
        super().__init__(parameters)
        self._said: dict[str, Array] = {}

    def update(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (the contract's)
        """Say it."""
        messages: dict[str, Arrays] = {}
        for key, array in self._said.items():
            kind, _, name = key.partition(_BETWEEN)
            messages.setdefault(kind, {})[name] = array
        return Outbox([OutgoingMessage(spoken_on(kind), arrays) for kind, arrays in messages.items()])

    recognize = update

    def state(self) -> State:
        """Return what it says."""
        return {key: array.copy() for key, array in self._said.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what it is to say."""
        self._said = {key: np.array(array) for key, array in state.items()}


class Below(Stub):
    """Stands for all modules below: sends upwards."""

    ports = cast("tuple[Port, ...]", _OfEveryKind("forward", "backward"))


class Above(Stub):
    """Stands for all modules above: sends downwards."""

    ports = cast("tuple[Port, ...]", _OfEveryKind("backward", "forward"))
