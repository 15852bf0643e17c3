"""Small inputs that a module's process keeps from one update to the next, so that they need not be sent again.

Rows come with every exchange of a block. On a cluster that a run has started, an object of up to
:data:`actors.limits.INLINED_BYTES` travels within each call; a larger one lies in shared memory and costs nothing when
it comes again. The process keeps those of its last update and says in its answer which they are; the coordinator, which
alone knows the objects by name, puts None in the place of those in the next update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray

from actors.errors import StaleIncarnationError
from actors.limits import INLINED_BYTES


class SentInputs:
    """What the coordinator knows of the inputs that the modules' processes keep."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, frozenset[str]]] = {}

    def leave_out(self, module: str, incarnation: str, objects: Sequence[Any]) -> tuple[tuple[str, ...], list[Any]]:
        """Return the names of the objects of an update, and the objects with None for those that the process keeps.

        Until :meth:`note` says what it keeps then, nothing is known of the process: the call may fail.
        """
        known, kept = self._kept.pop(module, ("", frozenset()))
        names = tuple(each.hex() if isinstance(each, ray.ObjectRef) else "" for each in objects)
        held = kept if known == incarnation else frozenset[str]()
        return names, [None if name in held else each for name, each in zip(names, objects, strict=True)]

    def note(self, module: str, incarnation: str, names: frozenset[str]) -> None:
        """Note what a process keeps after an update."""
        self._kept[module] = incarnation, names


class KeptInputs:
    """The inputs that a module's process keeps of its last update."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    @property
    def names(self) -> frozenset[str]:
        """The names of the objects that are kept."""
        return frozenset(self._values)

    def complete(self, names: Sequence[str], objects: Sequence[Any]) -> list[Any]:
        """Return the objects of an update with those in the place of None that are kept; keep the small ones of these.

        Raises
        ------
        StaleIncarnationError
            If one that was left out is not here; the coordinator then sends all of them.
        """
        given = list(objects)
        for number, name in enumerate(names):
            if name and given[number] is None:
                if name not in self._values:
                    raise StaleIncarnationError("the process does not have what an earlier call has sent")
                given[number] = self._values[name]
        self._values = {name: value for name, value in zip(names, given, strict=True) if name and _is_small(value)}
        return given


def _is_small(value: Any) -> bool:
    """Return whether `value` are arrays that travel within a call; one in parts or on disk does not."""
    if not isinstance(value, Mapping) or not all(isinstance(each, np.ndarray) for each in value.values()):
        return False
    return sum(int(each.nbytes) for each in value.values()) <= INLINED_BYTES
