"""The schedule: which module learns when. Steps in written order, and blocks of steps that are repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Step:
    """One update of one module, with parameters set for this step alone."""

    module: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Steps that are repeated within a round; one repetition is an *exchange*.

    Parameters
    ----------
    steps : tuple of Step or Block
    repeat : int
        At most so many exchanges.
    anneal : (float, float)
        The temperature τ of the first exchange and of the last; it climbs evenly between them.
    tolerance : float, optional
        Once τ has reached its last value, exchanges end early when one changed the score of the block's modules by
        less than this, in nats (:func:`actors.coordination.router.score_of`).
    chains : int
        So many copies of the block's modules start afresh, side by side; the one with the highest evidence stays. What
        the modules had learnt before (the *incumbent*) competes twice: as it is, and continued. With 0 the modules
        themselves go through the exchanges, and nothing is chosen.
    moves : int
        At most so many times the block's modules propose other starts from where the best chain ended; each is a chain,
        and the best of them stays if the evidence rises.
    """

    steps: tuple[Step | Block, ...]
    repeat: int = 1
    anneal: tuple[float, float] = (1.0, 1.0)
    tolerance: float | None = None
    chains: int = 0
    moves: int = 0

    @property
    def competes(self) -> bool:
        """Whether several chains are run and the best is chosen."""
        return self.chains > 0 or self.moves > 0

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that learn in the block, once each, in the order of their first steps."""
        return tuple(dict.fromkeys(step.module for step in leaves([self])))

    @property
    def updates(self) -> int:
        """How many updates going through it takes at most."""
        inner = (1 if isinstance(item, Step) else item.updates for item in self.steps)
        return self.repeat * sum(inner)

    def temperature(self, exchange: int) -> float:
        """Return τ of an exchange, counted from 0."""
        first, last = self.anneal
        return last if exchange >= self.repeat - 1 else first + (last - first) * exchange / (self.repeat - 1)


Item: TypeAlias = Step | Block


@dataclass(frozen=True)
class Position:
    """Where in a run a step stands: its round, how many steps come before, and what the blocks around it say.

    Parameters
    ----------
    round : int
    first : int
        The number of the first of the steps that are taken here.
    inside : bool
        Whether a block is around them.
    exchange : int
        Counted through nested blocks.
    temperature : float
        τ, the product of the blocks' around.
    chain : int
    learn : bool
        Whether modules learn, or only say what they have learnt means for what they receive now.
    """

    round: int = 0
    first: int = 0
    inside: bool = False
    exchange: int = 0
    temperature: float = 1.0
    chain: int = 0
    learn: bool = True

    def within(self, block: Block, exchange: int) -> Position:
        """Return the position of the steps in an exchange of `block`, which stands here."""
        return replace(
            self,
            inside=True,
            exchange=self.exchange * block.repeat + exchange,
            temperature=self.temperature * block.temperature(exchange),
        )

    def fields(self) -> dict[str, Any]:
        """Return what events say of it: round, and exchange and temperature inside of blocks."""
        inside = {"exchange": self.exchange, "temperature": self.temperature} if self.inside else {}
        return {"round": self.round, **inside}


@dataclass(frozen=True)
class Schedule:
    """The steps of a round in written order, and how many rounds there are.

    Parameters
    ----------
    rounds : int
        At most so many.
    steps : tuple of Step or Block
    tolerance : float, optional
        The run ends early with a round that did not raise its score by this much, in nats
        (:meth:`actors.coordination.coordinator.Coordinator.score`).
    """

    rounds: int
    steps: tuple[Item, ...]
    tolerance: float | None = None

    def leaves(self) -> tuple[Step, ...]:
        """Return all steps in written order, those inside blocks once each."""
        return leaves(self.steps)


def numbered(steps: Sequence[Item], first: int = 0) -> list[tuple[int, Item]]:
    """Return each item with the number of its first step, steps inside blocks being counted in written order."""
    items = []
    for item in steps:
        items.append((first, item))
        first += len(leaves([item]))
    return items


def leaves(steps: Iterable[Item]) -> tuple[Step, ...]:
    """Return all steps in written order, those inside blocks once each."""
    return tuple(step for item in steps for step in ([item] if isinstance(item, Step) else leaves(item.steps)))
