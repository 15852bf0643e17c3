"""Routing: lets modules learn step by step over a transport, and carries the messages of each to its receivers.

A :class:`Router` holds headers and references and never looks into an array. The coordinator drives one over all
modules of a run; each chain of a block (:mod:`actors.coordination.chains`) has one of its own, over copies of the
block's modules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from actors.backends.module_host import Call
from actors.coordination.backend import Ref, Result, Task, Transport
from actors.coordination.recovery import Recovery
from actors.errors import ModuleDiedError, ModuleFailedError, ObjectsLostError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Item, Position, Step, leaves
from actors.graph.spec import Route
from actors.messaging.codec import pack_header, unpack_header
from actors.messaging.message import Header
from actors.module import Mode

Emit: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Where events go: a name and its fields."""

T = TypeVar("T")


class UpdateSeconds:
    """How long each update took inside its module, by the sums that the events ``updated`` tell of.

    A coordinator that was restarted counts on from its last commit, so that a sum may be less than the one before it.
    """

    def __init__(self) -> None:
        self._totals: dict[str, float] = {}

    def of(self, updated: Mapping[str, Any]) -> float:
        """Return the seconds of the update that an event's fields tell of; to be asked once for each, in order."""
        module, total = str(updated["module"]), float(updated.get("total_seconds", 0.0))
        before, self._totals[module] = self._totals.get(module, 0.0), total
        return total - before


@dataclass(frozen=True)
class Letter:
    """A message as a router holds it: its header, and a reference to its arrays."""

    header: Header
    arrays: Ref


@dataclass(frozen=True, eq=False)
class Held:
    """What is held of a module: references to its state and outputs, its latest messages by slot, its figures."""

    state: Ref = None
    outputs: Ref = None
    letters: Mapping[str, Letter] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a module was asked for, such that it can be asked again."""

    module: str
    mode: Mode
    call: Call
    arrays: Sequence[Ref]
    task: Task

    @property
    def doing(self) -> str:
        """What the module does, for people."""
        call = self.call
        exchange = f", exchange {call.exchange}" if call.exchange else ""
        place = f" (round {call.round}, step {call.step}{exchange})" if self.mode == "update" else ""
        return f"{self.mode}{place}"


class Router:
    """Lets modules learn and routes their messages.

    Parameters
    ----------
    graph : Graph
    transport : Transport
    run : str
        The run's name.
    seed : int
        Every random draw follows from it.
    emit : callable, optional
        Receives the events ``prepared``, ``update``, ``updated``, ``block``, and ``lost``, ``placed`` and ``recovered``
        where a module dies.
    recovery : Recovery, optional
        What is done about modules that die.
    on_step : callable, optional
        Called with (number, step, position) after each step of a schedule.

    Attributes
    ----------
    held : dict of str to Held
    seconds : dict of str to float
        Spent inside each module.
    sequence : int
        How often modules were asked for something; headers carry it.
    active : tuple of str
        The modules that learn now.
    """

    def __init__(
        self,
        graph: Graph,
        transport: Transport,
        *,
        run: str,
        seed: int,
        emit: Emit | None = None,
        recovery: Recovery | None = None,
        on_step: Callable[[int, Step, Position], None] | None = None,
    ) -> None:
        self.graph = graph
        self.run = run
        self.seed = seed
        self.recovery = recovery or Recovery()
        self.held = {name: Held() for name in graph.modules}
        self.seconds = dict.fromkeys(graph.modules, 0.0)
        self.sequence = 0
        self.active: tuple[str, ...] = ()
        self._transport = transport
        self._emit = emit or (lambda _event, _fields: None)
        self._on_step = on_step or (lambda _number, _step, _position: None)
        self._ready: set[str] = set()

    def load(self, states: Mapping[str, Ref]) -> None:
        """Give modules states that they once had."""
        for name, state in states.items():
            self.await_ready(name)
            self.held[name] = replace(self.held[name], state=state)
            self.hand_over(name)

    def hand_over(self, module: str) -> None:
        """Give a module the state that is held of it."""
        state = self.held[module].state
        self.insist(module, lambda: self._transport.load(module, state), "taking over its state")

    def follow(self, steps: Sequence[Item], position: Position) -> None:
        """Take the steps in written order."""
        for batch in self.graph.batches(steps, position.first):
            self.follow_batch(batch, position)

    def follow_batch(self, batch: Sequence[tuple[int, Item]], position: Position) -> None:
        """Take neighbouring steps that exchange no message, or a block (:meth:`actors.graph.graph.Graph.batches`)."""
        index, item = batch[0]
        if isinstance(item, Block):
            self.walk(item, replace(position, first=index))
        else:
            steps_here = [(index, step) for index, step in batch if isinstance(step, Step)]
            self.learn(steps_here, position)
            for number, step in steps_here:
                self._on_step(number, step, position)

    def walk(self, block: Block, position: Position) -> None:
        """Take the block's steps again and again, until its exchanges are done or change nothing any more."""
        score, exchange = math.nan, 0
        for exchange in range(block.repeat):
            self.follow(block.steps, position.within(block, exchange))
            before, score = score, score_of(self.held[name] for name in self.graph.modules if name in block.modules)
            settled = block.tolerance is not None and abs(score - before) < block.tolerance
            if settled and block.temperature(exchange) == block.anneal[1]:
                break
        evidence = evidence_of(block, self.held)
        fields = {"round": position.round, "step": position.first, "exchanges": exchange + 1}
        self._emit("block", fields if math.isnan(evidence) else {**fields, "evidence": evidence})

    def learn(self, batch: Sequence[tuple[int, Step]], position: Position) -> None:
        """Let modules that exchange no message learn at the same time."""
        for _, step in batch:
            self.await_ready(step.module)
        self.active = tuple(step.module for _, step in batch)
        tasks = []
        try:
            for index, step in batch:
                self._emit("update", {"step": index, "module": step.module, **position.fields()})
                tasks.append(self.submit("update", step, replace(position, first=index)))
            for (index, step), task in zip(batch, tasks, strict=True):
                held = self.held[step.module] = self.take(task)
                size = sum(letter.header.nbytes for letter in held.letters.values())
                figures = {"total_seconds": self.seconds[step.module], "message_bytes": size}
                fields = {**held.metrics, **figures}
                self._emit("updated", {"step": index, "module": step.module, **position.fields(), **fields})
        finally:  # who asks how a failed run stands must not wait for the answer of a module that is gone
            self.active = ()

    def ask(self, mode: Mode, module: str, **details: Any) -> Held:
        """Ask one module; return what it answers beside what is held of it (see :meth:`submit`)."""
        return self.take(self.submit(mode, Step(module), Position(), **details))

    def await_ready(self, module: str) -> None:
        """Before a module is first asked for something, wait until it is prepared (the others prepare meanwhile)."""
        if module not in self._ready:
            started = time.perf_counter()
            device = self.insist(module, lambda: self._transport.ready(module), "being prepared")
            self._ready.add(module)
            fields = {"module": module, "device": device, "seconds": time.perf_counter() - started}
            self._emit("prepared", fields)

    def insist(self, module: str, action: Callable[[], T], doing: str) -> T:
        """Have a module do something; where its process dies, bring it back with what it had learnt and begin again.

        Whatever it does follows from its state, its inbox and the seeds, so that the second time gives the same bits.

        Parameters
        ----------
        module : str
        action : callable
            Raises :class:`actors.errors.ModuleDiedError` where the module dies.
        doing : str
            What the module does, for people.

        Raises
        ------
        ModuleFailedError
            If the module dies as often as the run's recovery allows.
        """
        lost = 0
        while True:
            try:
                if lost:
                    self._revive(module)
                return action()
            except ModuleDiedError as error:
                lost += 1
                self._emit("lost", {"module": module, "doing": doing, "times": lost, "reason": str(error)})
                if lost >= self.recovery.tries:
                    often = "" if lost == 1 else f" {lost} times"
                    words = "\n".join(filter(None, [str(error), self._transport.last_words(module)]))
                    raise ModuleFailedError(f"module {module!r} died{often} in {doing}: {words}") from error

    def _revive(self, module: str) -> None:
        started = time.perf_counter()
        self._emit("placed", self._transport.revive(module))
        self._transport.ready(module)
        if self.held[module].state is not None:
            self._transport.load(module, self.held[module].state)
        self._emit("recovered", {"module": module, "seconds": time.perf_counter() - started})

    def submit(self, mode: Mode, step: Step, position: Position, **details: Any) -> Asked:
        """Ask a module for what it does in `mode`, with the latest messages to it.

        Parameters
        ----------
        mode : Mode
        step : Step
        position : Position
            ``first`` is the step's own number.
        **details
            Further fields of the :class:`actors.backends.module_host.Call`.
        """
        self.sequence += 1
        letters = self._inbox(step.module)
        call = Call(
            run=self.run,
            seed=self.seed,
            round=position.round,
            step=position.first,
            sequence=self.sequence,
            receivers=self.graph.receivers(step.module),
            overrides=step.overrides,
            exchange=position.exchange,
            chain=position.chain,
            temperature=position.temperature,
            learn=position.learn,
            headers=tuple(pack_header(letter.header) for letter in letters),
            **details,
        )
        arrays = [letter.arrays for letter in letters]
        return Asked(step.module, mode, call, arrays, self._transport.submit(step.module, call, arrays, mode))

    def take(self, asked: Asked) -> Held:
        """Wait for what was asked for; return what is held of the module then."""
        before, held = self.held[asked.module], self.receive(asked)
        if asked.mode == "update":
            return held
        return replace(before, outputs=held.outputs, letters={**before.letters, **held.letters})

    def receive(self, asked: Asked) -> Held:
        """Wait for what was asked for; return the answer alone.

        A module that raises keeps what it had learnt before.
        """
        module, tasks = asked.module, [asked.task]

        def answer() -> Result:
            task = tasks.pop() if tasks else self._transport.submit(module, asked.call, asked.arrays, asked.mode)
            try:
                return self._transport.collect(module, task)
            except (ModuleDiedError, ObjectsLostError):
                raise
            except Exception:
                with suppress(Exception):  # what the module raised is what matters
                    self._transport.load(module, self.held[module].state)
                raise

        result = self.insist(module, answer, asked.doing)
        self.seconds[module] += result.answer.seconds if asked.mode == "update" else 0.0
        return held_of(self.graph, module, result)

    def letter(self, route: Route, start: Mapping[str, Held] | None = None) -> tuple[str, Letter] | None:
        """Return the latest message on a route with the name of its slot, None where there was none yet.

        What `start` holds of a module stands for what is held of it here.
        """
        sent = {**self.held, **(start or {})}[route.sender].letters
        slots = (f"{route.out_port}.{route.receiver}", route.out_port)
        return next(((slot, sent[slot]) for slot in slots if slot in sent), None)

    def _inbox(self, module: str) -> list[Letter]:
        """Return the latest message on every way to `module`, addressed to it."""
        found = ((route, self.letter(route)) for route in self.graph.routes_to(module))
        return [
            replace(sent[1], header=sent[1].header.addressed(module, route.in_port)) for route, sent in found if sent
        ]


def held_of(graph: Graph, module: str, result: Result) -> Held:
    """Return a module's answer as it is held."""
    slots = zip(graph.slots(module), result.answer.headers, result.messages, strict=True)
    letters = {slot.name: Letter(unpack_header(head), arrays) for slot, head, arrays in slots if head is not None}
    return Held(result.state, result.outputs, letters, dict(result.answer.metrics))


def evidence_of(block: Block, held: Mapping[str, Held]) -> float:
    """Return the evidence of the block's last module that reports one, NaN where none does."""
    reported = (held[step.module].metrics.get("evidence") for step in reversed(leaves([block])))
    return next((evidence for evidence in reported if evidence is not None), math.nan)


def score_of(held: Iterable[Held]) -> float:
    """Return what exchanges and rounds are compared by: about the log-density of what came into the lowest module.

    The evidence of the most abstract module that reports one, plus what the others report as ``score``; NaN where
    nobody reports either.

    Parameters
    ----------
    held : iterable of Held
        In order of connection.
    """
    reported = [each.metrics for each in held]
    upmost = next((metrics for metrics in reversed(reported) if "evidence" in metrics), None)
    parts = [metrics["score"] for metrics in reported if metrics is not upmost and "score" in metrics]
    if upmost is None and not parts:
        return math.nan
    return sum(parts) + (0.0 if upmost is None else upmost["evidence"])
