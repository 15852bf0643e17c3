"""The router: calls modules over a backend, with the latest message on each of their incoming routes.

A :class:`Router` holds results and references and never reads an array. The coordinator has one for all modules of a
run; each chain of a block has its own, for copies of the block's modules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from actors.coordination.backend import Backend, MessageRef, ModuleCall, ModuleResult, Ref, ResultRef, Task
from actors.coordination.events import Emit, ignore
from actors.coordination.recovery import ModuleSupervisor, RecoveryPolicy
from actors.errors import ModuleDiedError, ObjectsLostError
from actors.graph.graph import Graph
from actors.graph.schedule import Position, Step
from actors.graph.spec import Route
from actors.module import Mode


@dataclass(frozen=True)
class PendingCall:
    """A submitted call of a module, with the arguments to submit it again."""

    module: str
    call: ModuleCall
    arrays: Sequence[Ref]
    task: Task[ResultRef]
    submitted: float

    @property
    def doing(self) -> str:
        """The module's activity, for events and error messages."""
        call = self.call
        if call.mode != "update":
            return call.mode
        exchange = f", exchange {call.exchange}" if call.exchange else ""
        return f"update (round {call.round}, step {call.step}{exchange})"


def seconds_waited(ended: float, seconds: float, submitted: float) -> float:
    """Return how long ago an answer was computed; 0 where that is not known, of a module on another machine.

    Parameters
    ----------
    ended : float
        By ``time.monotonic`` on the module's machine. All processes of a machine have the same monotonic clock; that of
        another machine gives an end that does not lie between the call and now.
    seconds : float
        For which the module computed.
    submitted : float
        When it was called, by ``time.monotonic`` here.
    """
    now = time.monotonic()
    waited = now - ended
    return waited if 0.0 <= waited <= now - submitted - seconds else 0.0


class Router:
    """Calls modules and routes their messages.

    Parameters
    ----------
    graph : Graph
    backend : Backend
    run : str
        The run's name.
    seed : int
        Determines every random draw.
    emit : callable, optional
        Receives ModulePrepared, ModuleDied, ModulePlaced and ModuleRecovered.
    recovery : RecoveryPolicy, optional

    Attributes
    ----------
    results : mapping of str to ResultRef
        The latest result of each module; read-only.
    seconds : mapping of str to float
        Spent inside each module; read-only.
    sequence : int
        Number of submitted calls; part of each message's header.
    supervisor : ModuleSupervisor
    """

    def __init__(
        self,
        graph: Graph,
        backend: Backend,
        *,
        run: str,
        seed: int,
        emit: Emit = ignore,
        recovery: RecoveryPolicy | None = None,
    ) -> None:
        self.graph = graph
        self.run = run
        self.seed = seed
        self.sequence = 0
        self._backend = backend
        self._results: dict[str, ResultRef] = {name: ModuleResult() for name in graph.modules}
        self._seconds = dict.fromkeys(graph.modules, 0.0)
        self.supervisor = ModuleSupervisor(
            backend, recovery or RecoveryPolicy(), emit, lambda module: self._results[module].state
        )

    @property
    def results(self) -> Mapping[str, ResultRef]:
        """The latest result of each module."""
        return MappingProxyType(self._results)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds spent inside each module."""
        return MappingProxyType(self._seconds)

    # --- results --------------------------------------------------------------------------------------------------

    def begin(self, states: Mapping[str, Ref]) -> None:
        """Load the states from which the run starts, before the modules' first calls."""
        self.sequence = 0
        for name, state in states.items():
            self.supervisor.await_prepared(name)
            self._results[name] = replace(self._results[name], state=state)
            self.supervisor.push_state(name)

    def store(self, module: str, result: ResultRef) -> None:
        """Make `result` the latest result of a module."""
        self._results[module] = result

    def adopt(self, results: Mapping[str, ResultRef]) -> None:
        """Let the modules continue from the results of a chain."""
        for name, result in results.items():
            self.store(name, result)
            self.supervisor.push_state(name)
            sent = (message.header.sequence for message in result.messages.values())
            self.sequence = max(self.sequence, *sent, 0)

    def restore(self, sequence: int, seconds: Mapping[str, float]) -> None:
        """Return to an earlier position: discard all results, and set the sequence number and the seconds."""
        self.sequence = sequence
        self._seconds = {**dict.fromkeys(self.graph.modules, 0.0), **seconds}
        self._results = {name: ModuleResult() for name in self.graph.modules}

    def add_seconds(self, results: Mapping[str, ResultRef]) -> None:
        """Add the seconds that a chain spent inside its copies of the modules."""
        for name, result in results.items():
            self._seconds[name] += result.seconds

    # --- calls ----------------------------------------------------------------------------------------------------

    def submit(self, mode: Mode, step: Step, position: Position, **details: Any) -> PendingCall:
        """Submit a call of a module, with the latest messages to it.

        Parameters
        ----------
        mode : Mode
        step : Step
        position : Position
            ``first``: the number of this step.
        **details
            Further fields of the :class:`actors.coordination.backend.ModuleCall`.
        """
        self.sequence += 1
        inbox = self.route_messages_to(step.module)
        call = ModuleCall(
            mode=mode,
            run=self.run,
            seed=self.seed,
            round=position.round,
            step=position.first,
            sequence=self.sequence,
            receivers=self.graph.receivers(step.module),
            order_above=step.module in self.graph.below_order,
            overrides=step.overrides,
            exchange=position.exchange,
            chain=position.chain,
            temperature=position.temperature,
            learn=position.learn,
            headers=tuple(message.packed_header for _, message in inbox),
            ports=tuple(port for port, _ in inbox),
            **details,
        )
        arrays, submitted = [message.arrays for _, message in inbox], time.monotonic()
        return PendingCall(step.module, call, arrays, self._backend.submit(step.module, call, arrays), submitted)

    def collect(self, pending: PendingCall) -> ResultRef:
        """Wait for the answer of a call and return it.

        If the module raises an exception, its previous state is restored.
        """
        module, submitted = pending.module, [pending.task]

        def answer() -> ResultRef:
            task = submitted.pop() if submitted else self._backend.submit(module, pending.call, pending.arrays)
            try:
                return self._backend.collect(task)
            except (ModuleDiedError, ObjectsLostError):
                raise
            except Exception:
                with suppress(Exception):  # the module's own exception is the one to raise
                    self._backend.load_state(module, self._results[module].state)
                raise

        result = self.supervisor.call_with_recovery(module, answer, pending.doing)
        if pending.call.mode == "update":
            self._seconds[module] += result.seconds
        return result

    def ask(self, mode: Mode, module: str, **details: Any) -> ResultRef:
        """Call a module in another mode than an update; return its latest result with the new outputs and messages.

        The result is not stored.
        """
        latest, answer = self._results[module], self.collect(self.submit(mode, Step(module), Position(), **details))
        return replace(latest, outputs=answer.outputs, messages={**latest.messages, **answer.messages})

    # --- messages -------------------------------------------------------------------------------------------------

    def latest_message(
        self, route: Route, start: Mapping[str, ResultRef] | None = None
    ) -> tuple[str, MessageRef] | None:
        """Return the slot and the latest message on a route, None if there is none yet.

        The results in `start` replace those of the router.
        """
        sent = {**self._results, **(start or {})}[route.sender].messages
        slots = (f"{route.out_port}.{route.receiver}", route.out_port)  # its own message, or the one for all receivers
        return next(((slot, sent[slot]) for slot in slots if slot in sent), None)

    def route_messages_to(self, module: str) -> list[tuple[str, MessageRef]]:
        """Return the latest message on each incoming route, with its input port."""
        latest = ((route.in_port, self.latest_message(route)) for route in self.graph.routes_to(module))
        return [(port, slot_and_message[1]) for port, slot_and_message in latest if slot_and_message]
