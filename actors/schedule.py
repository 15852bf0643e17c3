"""The schedule: which module learns when. Steps in written order, and blocks of steps that are repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
        Once τ has reached its last value, exchanges end early when one changed the evidence by less than this.
    """

    steps: tuple[Step | Block, ...]
    repeat: int = 1
    anneal: tuple[float, float] = (1.0, 1.0)
    tolerance: float | None = None

    def temperature(self, exchange: int) -> float:
        """Return τ of an exchange, counted from 0."""
        first, last = self.anneal
        return last if exchange >= self.repeat - 1 else first + (last - first) * exchange / (self.repeat - 1)


Item: TypeAlias = Step | Block


@dataclass(frozen=True)
class Schedule:
    """How many rounds, and the steps of a round in written order."""

    rounds: int
    steps: tuple[Item, ...]

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
