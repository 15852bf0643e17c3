"""The model graph: modules, connections and schedule, and the routes and slots that follow from them.

A :class:`Graph` is plain data. It is checked and resolved where the module classes can be imported (the driver) and
then sent to the coordinator, which routes messages by it without importing any module's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from actors.errors import GraphError
from actors.graph.connection_hints import incompatible_ports_message, missing_input_message
from actors.graph.registry import find
from actors.graph.schedule import Block, Item, Schedule, Step, numbered
from actors.graph.spec import Connection, ModuleSpec, Route, Slot
from actors.limits import MAX_LISTED_NAMES
from actors.messaging.kinds import KINDS, custom_kinds, register_kind
from actors.module import Module, Port


class Graph:
    """A checked and resolved model.

    Parameters
    ----------
    modules : iterable of ModuleSpec
    connections : iterable of Connection
    schedule : Schedule, optional
        By default one round. A schedule without steps gets one step for every module that has inputs from below, in
        order of connection.

    Attributes
    ----------
    modules : dict of str to ModuleSpec
        In order of connection: a module comes after all modules that send forward messages to it.
    kinds : tuple of Kind
        The message kinds of its modules that are not built in; unpickling the graph registers them.
    routes : tuple of Route
    proposers : tuple of str
        Modules that propose moves.
    below_order : frozenset of str
        Modules below one that learns from the order of the rows.
    sources : tuple of str
        Modules without inputs from below; they send once, before the first round.

    Raises
    ------
    GraphError
        For unknown or unconnected modules, connections without a common message kind, required inputs without a
        sender, cycles, and steps that name no module.
    ModuleError
        For a module type that cannot be found.
    """

    def __init__(
        self, modules: Iterable[ModuleSpec], connections: Iterable[Connection], schedule: Schedule | None = None
    ) -> None:
        given: dict[str, ModuleSpec] = {}
        for spec in modules:
            if spec.name in given:
                raise GraphError(f"two modules are named {spec.name!r}")
            given[spec.name] = spec
        self.connections = tuple(connections)
        self._check_names(given)
        self.modules = {name: given[name] for name in self._order(given)}
        classes = {name: find(spec.type) for name, spec in self.modules.items()}
        self.kinds = custom_kinds(port.kind for cls in classes.values() for port in cls.ports)
        self.routes = self._build_routes(classes)
        self.uses_gpu = {name: cls.uses_gpu for name, cls in classes.items()}
        self.below_order = self._modules_below(name for name, cls in classes.items() if cls.uses_order)
        self.proposers = tuple(name for name, cls in classes.items() if cls.propose is not Module.propose)
        self.sources = tuple(
            name
            for name, cls in classes.items()
            if not any(p.direction == "in" and p.pass_ == "forward" for p in cls.ports)
        )
        self._slots = {name: self._build_slots(name, cls) for name, cls in classes.items()}
        schedule = schedule or Schedule(1, ())
        if not schedule.steps:
            schedule = replace(schedule, steps=tuple(Step(name) for name in self.modules if name not in self.sources))
        self.schedule = schedule
        for step in self.schedule.leaves():
            if step.module not in self.modules:
                raise GraphError(f"step {step.module!r}: there is no such module, only {_list_names(self.modules)}")
        self._check_inputs(classes)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        for kind in self.kinds:
            register_kind(kind, "the model")

    def _check_names(self, given: Mapping[str, ModuleSpec]) -> None:
        seen: set[Connection] = set()
        for connection in self.connections:
            for name in (connection.lower, connection.upper):
                if name not in given:
                    raise GraphError(f"connection {connection}: there is no module {name!r}, only {_list_names(given)}")
            if connection in seen:
                raise GraphError(f"connection {connection} is given twice")
            seen.add(connection)

    def _order(self, given: Mapping[str, ModuleSpec]) -> list[str]:
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for name in given:
            sorter.add(name)
        for connection in self.connections:
            sorter.add(connection.upper, connection.lower)
        try:
            return list(sorter.static_order())
        except CycleError as error:
            # graphlib's cycle goes from a module to those that depend on it: the direction of forward messages.
            raise GraphError(f"the connections form a cycle: {_list_names(error.args[1], ' -> ')}") from error

    def _build_routes(self, classes: Mapping[str, type[Module[Any]]]) -> tuple[Route, ...]:
        routes: list[Route] = []
        for connection in self.connections:
            lower, upper = connection.lower, connection.upper
            own = [
                *_match_ports(lower, classes[lower].ports, upper, classes[upper].ports, "forward"),
                *_match_ports(upper, classes[upper].ports, lower, classes[lower].ports, "backward"),
            ]
            if not any(route.sender == lower for route in own):
                message = incompatible_ports_message(lower, upper, *self._ports_and_connections(classes))
                raise GraphError(f"connection {connection}: {message}")
            routes.extend(own)
        return tuple(routes)

    def _ports_and_connections(
        self, classes: Mapping[str, type[Module[Any]]]
    ) -> tuple[dict[str, tuple[Port, ...]], list[tuple[str, str]]]:
        """Return every module's ports, and the connections as pairs."""
        ports = {name: cls.ports for name, cls in classes.items()}
        return ports, [(connection.lower, connection.upper) for connection in self.connections]

    def _build_slots(self, name: str, cls: type[Module[Any]]) -> tuple[Slot, ...]:
        slots: list[Slot] = []
        receivers_of = self.receivers(name)
        for port in cls.ports:
            receivers = receivers_of.get(port.name, ())
            if port.direction == "in" or not receivers:
                continue
            for own in receivers if port.per_receiver else ("",):
                read_by = (own,) if own else receivers
                slots.append(Slot(port.name, port.kind, own, unread=all(each in self.sources for each in read_by)))
        return tuple(slots)

    def _check_inputs(self, classes: Mapping[str, type[Module[Any]]]) -> None:
        senders_to: dict[tuple[str, str], list[str]] = {}
        for route in self.routes:
            senders_to.setdefault((route.receiver, route.in_port), []).append(route.sender)
        for name, cls in classes.items():
            below = [
                p for p in cls.ports if (p.direction, p.pass_) == ("in", "forward") and (name, p.name) in senders_to
            ]
            if below and all(port.beside for port in below):
                raise GraphError(
                    f"module {name!r}: {below[0].name} say something about rows, but nothing sends it these: connect "
                    "their source, too"
                )
            for port in cls.ports:
                if port.direction == "out":
                    continue
                senders = senders_to.get((name, port.name), [])
                if not senders and not port.optional:
                    message = missing_input_message(name, port, *self._ports_and_connections(classes))
                    raise GraphError(f"module {name!r}: {message}")
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

    def _modules_below(self, names: Iterable[str]) -> frozenset[str]:
        """Return the modules from which forward messages lead to `names`, directly or through others."""
        below: set[str] = set()
        above = list(names)
        while above:
            upper = above.pop()
            lower = {connection.lower for connection in self.connections if connection.upper == upper} - below
            below |= lower
            above.extend(lower)
        return frozenset(below)

    def slots(self, name: str) -> tuple[Slot, ...]:
        """Return the slots of the messages that an update of module `name` returns, in the order of its ports."""
        return self._slots[name]

    def receivers(self, name: str) -> dict[str, tuple[str, ...]]:
        """Return the receivers of each output port of module `name`."""
        receivers: dict[str, tuple[str, ...]] = {}
        for route in self.routes:
            if route.sender == name:
                # A receiver is listed once even if it gets the message on several ports: the message is the same.
                receivers[route.out_port] = tuple(dict.fromkeys((*receivers.get(route.out_port, ()), route.receiver)))
        return receivers

    def routes_to(self, name: str) -> tuple[Route, ...]:
        """Return the routes to module `name`, in the order of the messages in its inbox."""
        return tuple(route for route in self.routes if route.receiver == name)

    def number(self, name: str) -> int:
        """Return the module's number, counted from the observation (0) upwards in order of connection."""
        return list(self.modules).index(name)

    def batches(self, steps: Sequence[Item], first: int = 0) -> list[list[tuple[int, Item]]]:
        """Split `steps` into batches of consecutive steps that exchange no message and so may run concurrently.

        Returns
        -------
        list of list of (int, Step or Block)
            Each with the number of its first step, counted from `first`; a block is a batch of its own.
        """
        linked = {frozenset((route.sender, route.receiver)) for route in self.routes}
        batches: list[list[tuple[int, Item]]] = []
        for index, item in numbered(steps, first):
            together = batches and all(_independent(item, other, linked) for _, other in batches[-1])
            if together:
                batches[-1].append((index, item))
            else:
                batches.append([(index, item)])
        return batches


def _list_names(names: Iterable[str], separator: str = ", ") -> str:
    """Return the first names of a list for an error message."""
    listed = list(names)
    more = f" and {len(listed) - MAX_LISTED_NAMES} more" if len(listed) > MAX_LISTED_NAMES else ""
    return separator.join(listed[:MAX_LISTED_NAMES]) + more


def _independent(one: Item, other: Item, linked: set[frozenset[str]]) -> bool:
    """Return whether two steps are of different modules that exchange no message."""
    if isinstance(one, Block) or isinstance(other, Block) or one.module == other.module:
        return False
    return frozenset((one.module, other.module)) not in linked


def _match_ports(
    sender: str, out_ports: Sequence[Port], receiver: str, in_ports: Sequence[Port], pass_: str
) -> Iterable[Route]:
    """Yield a route for each pair of an output and an input port of the same kind."""
    for out in out_ports:
        for into in in_ports:
            if (out.direction, into.direction, out.pass_, into.pass_) == ("out", "in", pass_, pass_) and (
                out.kind == into.kind
            ):
                yield Route(sender, out.name, receiver, into.name)
