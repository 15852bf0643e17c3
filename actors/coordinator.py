"""The round driver: lets modules learn in the schedule's order, routes their messages, commits every round.

Plain Python over a :class:`actors.transport.Transport`; it knows neither Ray nor any module's code, and holds every
array as a reference that it never looks into.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from actors.checkpoint import Checkpoints, FileRecord, Manifest, ModuleRecord, SaveRequest
from actors.graph import Graph, Step
from actors.host import Call
from actors.messages import Header, pack_header, unpack_header
from actors.module import Mode
from actors.transport import Ref, Task, Transport

Emit: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Where events go: a name and its fields."""


@dataclass(frozen=True)
class Letter:
    """A message as the coordinator holds it: its header, and a reference to its arrays."""

    header: Header
    arrays: Ref


@dataclass
class _Ledger:
    """What the coordinator keeps of one module: its last answer, and what of it is committed."""

    state: Ref = None
    outputs: Ref = None
    letters: dict[str, Letter] = field(default_factory=dict)
    record: ModuleRecord = field(default_factory=lambda: ModuleRecord(0, {}))
    unsaved: bool = False
    seconds: float = 0.0


class Coordinator:
    """Drives one run.

    Parameters
    ----------
    graph : Graph
    transport : Transport
    run : str
        The run's name.
    seed : int
        Every random draw of the run follows from it.
    checkpoints : Checkpoints, optional
        Where rounds are committed; without it they are not.
    emit : callable, optional
        Receives the events ``placed``, ``prepared``, ``round``, ``update``, ``updated`` and ``commit``.
    """

    def __init__(
        self,
        graph: Graph,
        transport: Transport,
        *,
        run: str = "run",
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
        emit: Emit | None = None,
    ) -> None:
        self.graph = graph
        self.run = run
        self.seed = seed
        self.round = 0
        self.active: tuple[str, ...] = ()
        self._transport = transport
        self._checkpoints = checkpoints
        self._emit = emit or (lambda _event, _fields: None)
        self._ledgers = {name: _Ledger() for name in graph.modules}
        self._ready: set[str] = set()
        self._sequence = 0

    def start(self, states: Mapping[str, Ref]) -> None:
        """Bring the modules to life, give them what they start from, and let the sources speak.

        Parameters
        ----------
        states : mapping of str to reference
            States by module; the sources' hold the data.
        """
        for place in self._transport.start(self.graph):
            self._emit("placed", place)
        for name, state in states.items():
            self._transport.load(name, state)
        for index, name in enumerate(self.graph.sources):
            self._learn([(index, Step(name))])
        self.commit("round-000")

    def run_rounds(self) -> None:
        """Run the schedule's rounds that are still to come, each followed by a commit."""
        while self.round < self.graph.schedule.rounds:
            self.round += 1
            self._emit("round", {"round": self.round})
            for batch in self.graph.batches(self.graph.schedule.steps):
                self._learn(batch)
            self.commit(f"round-{self.round:03d}")

    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn outside of any schedule, as step `step` of round `round`, and commit."""
        self.round = round
        self._learn([(step, Step(module))])
        self.commit(f"round-{round:03d}-step-{step:02d}")

    def recognize(self, learnt: Mapping[str, Ref], data: Mapping[str, Ref], *, ordered: bool) -> dict[str, Ref]:
        """Answer for new data: once up through all modules, then down again, so that priors reach what they bear on.

        Parameters
        ----------
        learnt : mapping of str to reference
            The modules' states.
        data : mapping of str to reference
            The sources' new data.
        ordered : bool
            Whether the rows come in the order in which they happened.

        Returns
        -------
        dict of str to reference
            The outputs of each module.
        """
        self._transport.start(self.graph)
        for name, state in {**learnt, **data}.items():
            self._await_ready(name)
            self._transport.load(name, state)
        upwards = list(self.graph.modules)
        downwards = [name for name in reversed(upwards[:-1]) if name not in self.graph.sources]
        for name in [*upwards, *downwards]:
            self._take(name, self._submit(0, Step(name), "recognize", ordered=ordered), "recognize")
        return {name: ledger.outputs for name, ledger in self._ledgers.items()}

    def generate(self, module: str) -> Ref:
        """Show what the latest messages to `module` from above look like in its own data.

        Returns
        -------
        reference
            To the outputs of the module's ``generate``.
        """
        task = self._submit(0, Step(module), "generate")
        return self._transport.collect(module, task).outputs

    def status(self) -> dict[str, Any]:
        """Say where the run stands and what the active modules do now."""
        return {
            "run": self.run,
            "round": self.round,
            "rounds": self.graph.schedule.rounds,
            "active": {name: self._transport.status(name) for name in self.active},
            "module_seconds": {name: ledger.seconds for name, ledger in self._ledgers.items()},
        }

    def _learn(self, batch: list[tuple[int, Step]]) -> None:
        """Let modules that exchange no message learn at the same time."""
        for _, step in batch:
            self._await_ready(step.module)
        self.active = tuple(step.module for _, step in batch)
        tasks = []
        for index, step in batch:
            self._emit("update", {"round": self.round, "step": index, "module": step.module})
            tasks.append(self._submit(index, step))
        for (index, step), task in zip(batch, tasks, strict=True):
            self._take(step.module, task)
            ledger = self._ledgers[step.module]
            fields = {"round": self.round, "step": index, "module": step.module, **ledger.record.metrics}
            self._emit("updated", {**fields, "total_seconds": ledger.seconds})
        self.active = ()

    def _await_ready(self, module: str) -> None:
        """Before a module's first update, wait until it is prepared (the others prepare meanwhile)."""
        if module not in self._ready:
            started = time.perf_counter()
            device = self._transport.ready(module)
            self._ready.add(module)
            fields = {"module": module, "device": device, "seconds": time.perf_counter() - started}
            self._emit("prepared", fields)

    def _submit(self, index: int, step: Step, mode: Mode = "update", *, ordered: bool = True) -> Task:
        self._sequence += 1
        letters = self._inbox(step.module)
        call = Call(
            run=self.run,
            seed=self.seed,
            round=self.round,
            step=index,
            sequence=self._sequence,
            receivers=self.graph.receivers(step.module),
            overrides=step.overrides,
            ordered=ordered,
            headers=tuple(pack_header(letter.header) for letter in letters),
        )
        return self._transport.submit(step.module, call, [letter.arrays for letter in letters], mode)

    def _inbox(self, module: str) -> list[Letter]:
        """Return the latest message on every way to `module`, addressed to it."""
        letters = []
        for route in self.graph.routes_to(module):
            sent = self._ledgers[route.sender].letters
            letter = sent.get(f"{route.out_port}.{module}") or sent.get(route.out_port)
            if letter is not None:
                letters.append(replace(letter, header=letter.header.addressed(module, route.in_port)))
        return letters

    def _take(self, module: str, task: Task, mode: Mode = "update") -> None:
        result = self._transport.collect(module, task)
        ledger = self._ledgers[module]
        for slot, head, arrays in zip(self.graph.slots(module), result.answer.headers, result.messages, strict=True):
            if head is not None:
                ledger.letters[slot.name] = Letter(unpack_header(head), arrays)
        ledger.outputs = result.outputs
        if mode == "update":
            ledger.state = result.state
            ledger.unsaved = True
            ledger.seconds += result.answer.seconds
            ledger.record = replace(ledger.record, round=self.round, metrics=dict(result.answer.metrics))

    def commit(self, name: str) -> None:
        """Write what changed since the last commit, each module's part by its own process, then the manifest."""
        if self._checkpoints is None:
            return
        started = time.perf_counter()
        tasks = {module: self._save(module, name) for module, ledger in self._ledgers.items() if ledger.unsaved}
        for module, task in tasks.items():
            files: Mapping[str, FileRecord] = self._transport.saved(task)
            ledger = self._ledgers[module]
            ledger.record = replace(ledger.record, files=dict(files))
            ledger.unsaved = False
        manifest = Manifest(
            name=name,
            run=self.run,
            seed=self.seed,
            round=self.round,
            sequence=self._sequence,
            modules={module: ledger.record for module, ledger in self._ledgers.items() if ledger.record.files},
            module_seconds={module: ledger.seconds for module, ledger in self._ledgers.items()},
        )
        self._checkpoints.commit(manifest)
        seconds = time.perf_counter() - started
        self._emit("commit", {"round": self.round, "name": name, "seconds": seconds})

    def _save(self, module: str, name: str) -> Task:
        assert self._checkpoints is not None
        ledger = self._ledgers[module]
        request = SaveRequest(
            root=str(self._checkpoints.root),
            directory=name,
            module=module,
            slots=tuple(ledger.letters),
            headers=tuple(pack_header(letter.header) for letter in ledger.letters.values()),
        )
        objects = [ledger.state, ledger.outputs, *(letter.arrays for letter in ledger.letters.values())]
        return self._transport.save(module, request, objects)
