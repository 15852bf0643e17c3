"""The schedule: the order of module updates, as steps in written order and repeated blocks of steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Step:
    """One update of one module, with parameters that are overridden for this step only."""

    module: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Steps that are repeated within a round; one repetition is an *exchange*.

    Parameters
    ----------
    steps : tuple of Step or Block
    repeat : int
        Maximal number of exchanges.
    anneal : (float, float)
        The temperature τ of the first and of the last exchange; it increases linearly between them.
    tolerance : float, optional
        Once τ has reached its last value, exchanges end early when one changed the score of the block's modules by
        less than this, in nats.
    chains : int
        Number of copies of the block's modules that start afresh and run in parallel; the one with the highest
        evidence is kept. The modules' present state (the *incumbent*) competes twice: unchanged, and continued. With 0
        the modules themselves run the exchanges and nothing is selected.
    moves : int
        Maximal number of times that the block's modules propose alternative starts from the result of the best chain;
        each proposal is a chain, and the best one is kept if it raises the evidence.
    """

    steps: tuple[Step | Block, ...]
    repeat: int = 1
    anneal: tuple[float, float] = (1.0, 1.0)
    tolerance: float | None = None
    chains: int = 0
    moves: int = 0

    @property
    def competes(self) -> bool:
        """Whether several chains are run and the best one is selected."""
        return self.chains > 0 or self.moves > 0

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that are updated in the block, once each, in the order of their first steps."""
        return tuple(dict.fromkeys(step.module for step in leaves([self])))

    @property
    def updates(self) -> int:
        """Maximal number of updates in one pass through the block."""
        inner = (1 if isinstance(item, Step) else item.updates for item in self.steps)
        return self.repeat * sum(inner)

    def temperature(self, exchange: int) -> float:
        """Return τ of an exchange, counted from 0."""
        first, last = self.anneal
        return last if exchange >= self.repeat - 1 else first + (last - first) * exchange / (self.repeat - 1)


Item: TypeAlias = Step | Block


@dataclass(frozen=True)
class Position:
    """Position of a step in a run: its round, the number of steps before it, and the state of the enclosing blocks.

    Parameters
    ----------
    round : int
    first : int
        The number of the first step that is run from here.
    inside : bool
        Whether the position is inside a block.
    exchange : int
        Counted through nested blocks.
    temperature : float
        τ, the product of the enclosing blocks' temperatures.
    chain : int
    learn : bool
        False if modules only evaluate their present state on the messages they receive.
    """

    round: int = 0
    first: int = 0
    inside: bool = False
    exchange: int = 0
    temperature: float = 1.0
    chain: int = 0
    learn: bool = True

    def within(self, block: Block, exchange: int) -> Position:
        """Return the position of the steps in an exchange of `block`, which is at this position."""
        return replace(
            self,
            inside=True,
            exchange=self.exchange * block.repeat + exchange,
            temperature=self.temperature * block.temperature(exchange),
        )

    def fields(self) -> dict[str, Any]:
        """Return the fields that events contain: the round and, inside blocks, exchange and temperature."""
        inside = {"exchange": self.exchange, "temperature": self.temperature} if self.inside else {}
        return {"round": self.round, **inside}


@dataclass(frozen=True)
class Schedule:
    """The number of rounds and the steps of a round in written order.

    Parameters
    ----------
    rounds : int
        Maximal number of rounds.
    steps : tuple of Step or Block
        Empty: :class:`actors.graph.graph.Graph` fills in a step for every module with inputs from below.
    tolerance : float, optional
        The run ends early after a round that raised its score by less than this, in nats
        (:meth:`actors.coordination.coordinator.Coordinator.score`).
    """

    rounds: int
    steps: tuple[Item, ...]
    tolerance: float | None = None

    def leaves(self) -> tuple[Step, ...]:
        """Return all steps in written order, those inside blocks once each."""
        return leaves(self.steps)


def numbered(steps: Sequence[Item], first: int = 0) -> list[tuple[int, Item]]:
    """Return each item with the number of its first step, where steps inside blocks are counted in written order."""
    items = []
    for item in steps:
        items.append((first, item))
        first += len(leaves([item]))
    return items


def leaves(steps: Iterable[Item]) -> tuple[Step, ...]:
    """Return all steps in written order, those inside blocks once each."""
    return tuple(step for item in steps for step in ([item] if isinstance(item, Step) else leaves(item.steps)))
