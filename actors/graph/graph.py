"""The model as a drawing: modules, connections and schedule, and what follows from them.

A :class:`Graph` is plain data. It is checked and resolved where the module classes can be imported (the driver) and
then sent to the coordinator, which needs no module's code to route by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from actors.errors import GraphError
from actors.graph.connection_hints import hunger, misfit
from actors.graph.registry import find
from actors.graph.schedule import Block, Item, Schedule, Step, numbered
from actors.graph.spec import Connection, ModuleSpec, Route, Slot
from actors.messaging.kinds import KINDS, own_kinds, register_kind
from actors.module import Module, Port


class Graph:
    """A resolved model.

    Parameters
    ----------
    modules : iterable of ModuleSpec
    connections : iterable of Connection
    schedule : Schedule, optional
        By default one round that updates every module that receives something, in order of connection.

    Attributes
    ----------
    modules : dict of str to ModuleSpec
        In order of connection: a module comes after all that it receives forward messages from.
    kinds : tuple of Kind
        The kinds of message that its modules speak and that are not built in. Whoever unpickles the model knows them.
    routes : tuple of Route
    proposers : tuple of str
        Modules that propose moves.
    sources : tuple of str
        Modules without inputs from below; they speak once, before the first round.

    Raises
    ------
    GraphError
        For unknown or unconnected modules, connections over which nothing can be said, required inputs that nobody
        feeds, cycles, and steps that name no module.
    ModuleError
        For a module type that cannot be found.
    """

    def __init__(
        self, modules: Iterable[ModuleSpec], connections: Iterable[Connection], schedule: Schedule | None = None
    ) -> None:
        given: dict[str, ModuleSpec] = {}
        for spec in modules:
            if spec.name in given:
                raise GraphError(f"two modules are called {spec.name!r}")
            given[spec.name] = spec
        self.connections = tuple(connections)
        self._check_names(given)
        self.modules = {name: given[name] for name in self._order(given)}
        classes = {name: find(spec.type) for name, spec in self.modules.items()}
        self.kinds = own_kinds(port.kind for cls in classes.values() for port in cls.ports)
        self.routes = self._resolve(classes)
        self._slots = {name: self._slots_of(name, cls) for name, cls in classes.items()}
        self.uses_gpu = {name: cls.uses_gpu for name, cls in classes.items()}
        self.proposers = tuple(name for name, cls in classes.items() if cls.propose is not Module.propose)
        self.sources = tuple(
            name
            for name, cls in classes.items()
            if not any(p.direction == "in" and p.pass_ == "forward" for p in cls.ports)
        )
        learners = tuple(Step(name) for name in self.modules if name not in self.sources)
        self.schedule = schedule or Schedule(1, learners)
        for step in self.schedule.leaves():
            if step.module not in self.modules:
                raise GraphError(f"step {step.module!r}: there is no such module, only {', '.join(self.modules)}")
        self._check_inputs(classes)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        for kind in self.kinds:
            register_kind(kind, "the model")

    def _check_names(self, given: Mapping[str, ModuleSpec]) -> None:
        for index, connection in enumerate(self.connections):
            for name in (connection.lower, connection.upper):
                if name not in given:
                    raise GraphError(f"connection {connection}: there is no module {name!r}, only {', '.join(given)}")
            if connection in self.connections[:index]:
                raise GraphError(f"connection {connection} is there twice")

    def _order(self, given: Mapping[str, ModuleSpec]) -> list[str]:
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for name in given:
            sorter.add(name)
        for connection in self.connections:
            sorter.add(connection.upper, connection.lower)
        try:
            return list(sorter.static_order())
        except CycleError as error:
            # graphlib walks from a module to what depends on it: already the direction of the forward messages.
            raise GraphError(f"the connections form a cycle: {' -> '.join(error.args[1])}") from error

    def _resolve(self, classes: Mapping[str, type[Module[Any]]]) -> tuple[Route, ...]:
        routes: list[Route] = []
        for connection in self.connections:
            lower, upper = connection.lower, connection.upper
            found = [
                *_join(lower, classes[lower].ports, upper, classes[upper].ports, "forward"),
                *_join(upper, classes[upper].ports, lower, classes[lower].ports, "backward"),
            ]
            if not any(route.sender == lower for route in found):
                raise GraphError(f"connection {connection}: {misfit(lower, upper, *self._drawn(classes))}")
            routes.extend(found)
        return tuple(routes)

    def _drawn(
        self, classes: Mapping[str, type[Module[Any]]]
    ) -> tuple[dict[str, tuple[Port, ...]], list[tuple[str, str]]]:
        """Return every module's ports, and the connections as pairs."""
        ports = {name: cls.ports for name, cls in classes.items()}
        return ports, [(connection.lower, connection.upper) for connection in self.connections]

    def _slots_of(self, name: str, cls: type[Module[Any]]) -> tuple[Slot, ...]:
        slots: list[Slot] = []
        for port in cls.ports:
            receivers = self.receivers(name).get(port.name, ())
            if port.direction == "in" or not receivers:
                continue
            slots.extend(Slot(port.name, port.kind, r) for r in (receivers if port.per_receiver else ("",)))
        return tuple(slots)

    def _check_inputs(self, classes: Mapping[str, type[Module[Any]]]) -> None:
        for name, cls in classes.items():
            for port in cls.ports:
                if port.direction == "out":
                    continue
                senders = [
                    route.sender for route in self.routes if (route.receiver, route.in_port) == (name, port.name)
                ]
                if not senders and not port.optional:
                    raise GraphError(f"module {name!r}: {hunger(name, port, *self._drawn(classes))}")
                twice = next((sender for sender in senders if senders.count(sender) > 1), None)
                if twice is not None:
                    raise GraphError(
                        f"module {name!r}: {twice} sends {port.kind} from two ports to port {port.name!r}, "
                        f"which keeps one message of each sender"
                    )
                if len(senders) > 1 and not (KINDS[port.kind].multiplies or port.several):
                    raise GraphError(
                        f"module {name!r}: {' and '.join(senders)} all send to port {port.name!r}, "
                        f"but {port.kind} of several senders cannot be joined"
                    )
        connected = {name for connection in self.connections for name in (connection.lower, connection.upper)}
        alone = [name for name in self.modules if name not in connected]
        if alone and len(self.modules) > 1:
            raise GraphError(f"module {alone[0]!r}: nothing is connected to it")

    def slots(self, name: str) -> tuple[Slot, ...]:
        """Return the messages that an update of module `name` gives, in the order of its ports."""
        return self._slots[name]

    def receivers(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return who receives from each output port of module `name`."""
        found: dict[str, tuple[str, ...]] = {}
        for route in self.routes:
            if route.sender == name:
                # Once, however many of its ports hear it: the message is the same.
                found[route.out_port] = tuple(dict.fromkeys((*found.get(route.out_port, ()), route.receiver)))
        return found

    def routes_to(self, name: str) -> tuple[Route, ...]:
        """Return the ways on which messages reach module `name`, in the order in which they stand in its inbox."""
        return tuple(route for route in self.routes if route.receiver == name)

    def number(self, name: str) -> int:
        """Return the module's number from the observation (000) upwards, in order of connection."""
        return list(self.modules).index(name)

    def batches(self, steps: Sequence[Item], first: int = 0) -> list[list[tuple[int, Item]]]:
        """Cut `steps` into runs of neighbours that exchange no message and so may learn at the same time.

        Returns
        -------
        list of list of (int, Step or Block)
            Each with the number of its first step, counted from `first`; a block stands alone.
        """
        talks = {frozenset((route.sender, route.receiver)) for route in self.routes}
        batches: list[list[tuple[int, Item]]] = []
        for index, item in numbered(steps, first):
            together = batches and all(_apart(item, other, talks) for _, other in batches[-1])
            if together:
                batches[-1].append((index, item))
            else:
                batches.append([(index, item)])
        return batches


def _apart(one: Item, other: Item, talks: set[frozenset[str]]) -> bool:
    if isinstance(one, Block) or isinstance(other, Block) or one.module == other.module:
        return False
    return frozenset((one.module, other.module)) not in talks


def _join(
    sender: str, out_ports: Sequence[Port], receiver: str, in_ports: Sequence[Port], pass_: str
) -> Iterable[Route]:
    for out in out_ports:
        for into in in_ports:
            if (out.direction, into.direction, out.pass_, into.pass_) == ("out", "in", pass_, pass_) and (
                out.kind == into.kind
            ):
                yield Route(sender, out.name, receiver, into.name)
