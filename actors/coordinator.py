"""The round driver: lets modules learn in the schedule's order, routes their messages, commits every round.

Plain Python over a :class:`actors.transport.Transport`; it knows neither Ray nor any module's code, and holds every
array as a reference that it never looks into.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from actors.checkpoint import Checkpoints, FileRecord, Manifest, ModuleRecord, SaveRequest
from actors.graph import Graph
from actors.host import Call
from actors.messages import Header, pack_header, unpack_header
from actors.module import Mode
from actors.schedule import Block, Item, Step, leaves
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
    saving: Task = None
    seconds: float = 0.0


@dataclass(frozen=True)
class _Position:
    """Where in the schedule a step stands: how many steps come before, and what the blocks around it say."""

    first: int = 0
    inside: bool = False
    exchange: int = 0
    temperature: float = 1.0

    def fields(self) -> dict[str, Any]:
        """Return what events say of it: nothing outside of blocks."""
        return {"exchange": self.exchange, "temperature": self.temperature} if self.inside else {}


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
        Receives the events ``placed``, ``prepared``, ``round``, ``update``, ``updated``, ``block`` and ``commit``.
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
            self._learn([(index, Step(name))], _Position())
        self.commit("round-000")

    def run_rounds(self) -> None:
        """Run the schedule's rounds that are still to come, each followed by a commit."""
        while self.round < self.graph.schedule.rounds:
            self.round += 1
            self._emit("round", {"round": self.round})
            self._follow(self.graph.schedule.steps, _Position())
            self.commit(self._commit_name)

    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn outside of any schedule, as step `step` of round `round`, and commit."""
        self.round = round
        self._learn([(step, Step(module))], _Position())
        self.commit(f"round-{round:03d}-step-{step:02d}")

    def make_up(self, learnt: Mapping[str, Ref], rows: int) -> dict[str, Ref]:
        """Have rows made up, from the most abstract module down.

        Parameters
        ----------
        learnt : mapping of str to reference
            The modules' states.
        rows : int

        Returns
        -------
        dict of str to reference
            The outputs of each module but the sources.
        """
        self._begin(learnt)
        downwards = [name for name in reversed(self.graph.modules) if name not in self.graph.sources]
        for name in downwards:
            self._take(name, self._submit(0, Step(name), _Position(), "generate", rows=rows), "generate")
        return {name: self._ledgers[name].outputs for name in downwards}

    def _begin(self, states: Mapping[str, Ref]) -> None:
        """Bring the modules to life with the states that they once had."""
        self._transport.start(self.graph)
        for name, state in states.items():
            self._await_ready(name)
            self._transport.load(name, state)

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
        self._begin({**learnt, **data})
        upwards = list(self.graph.modules)
        downwards = [name for name in reversed(upwards[:-1]) if name not in self.graph.sources]
        for name in [*upwards, *downwards]:
            self._take(name, self._submit(0, Step(name), _Position(), "recognize", ordered=ordered), "recognize")
        return {name: ledger.outputs for name, ledger in self._ledgers.items()}

    def generate(self, module: str) -> Ref:
        """Show what the latest messages to `module` from above look like in its own data.

        Returns
        -------
        reference
            To the outputs of the module's ``generate``.
        """
        task = self._submit(0, Step(module), _Position(), "generate")
        return self._transport.collect(module, task).outputs

    def outputs(self, module: str) -> Ref:
        """Return the outputs of a module's last update, as a reference."""
        return self._ledgers[module].outputs

    def state(self, module: str) -> Ref:
        """Return the state of a module after its last update, as a reference."""
        return self._ledgers[module].state

    def status(self) -> dict[str, Any]:
        """Say where the run stands and what the active modules do now."""
        return {
            "run": self.run,
            "round": self.round,
            "rounds": self.graph.schedule.rounds,
            "active": {name: self._transport.status(name) for name in self.active},
            "module_seconds": {name: ledger.seconds for name, ledger in self._ledgers.items()},
        }

    @property
    def _commit_name(self) -> str:
        return f"round-{self.round:03d}"

    def _is_last(self, index: int, module: str, position: _Position) -> bool:
        """Say whether a step of the schedule is the round's last update of `module`."""
        later = self.graph.schedule.leaves()[index + 1 :]
        return not position.inside and all(step.module != module for step in later)

    def _follow(self, steps: Sequence[Item], position: _Position) -> None:
        """Take the steps in written order."""
        for batch in self.graph.batches(steps, position.first):
            index, item = batch[0]
            if isinstance(item, Block):
                self._repeat(item, replace(position, first=index))
            else:
                self._learn([(index, step) for index, step in batch if isinstance(step, Step)], position)
                for number, step in batch:
                    if isinstance(step, Step) and self._is_last(number, step.module, position):
                        self._save(step.module, self._commit_name)  # while the others go on learning

    def _repeat(self, block: Block, position: _Position) -> None:
        """Take the block's steps again and again, until its exchanges are done or change nothing any more."""
        evidence, before, exchange = float("nan"), float("nan"), 0
        for exchange in range(block.repeat):
            inside = replace(
                position,
                inside=True,
                exchange=position.exchange * block.repeat + exchange,
                temperature=position.temperature * block.temperature(exchange),
            )
            self._follow(block.steps, inside)
            before, evidence = evidence, self._evidence(block)
            settled = block.tolerance is not None and abs(evidence - before) < block.tolerance
            if settled and block.temperature(exchange) == block.anneal[1]:
                break
        fields = {"round": self.round, "step": position.first, "exchanges": exchange + 1}
        self._emit("block", fields if math.isnan(evidence) else {**fields, "evidence": evidence})

    def _evidence(self, block: Block) -> float:
        """Return the evidence of the block's last module that reports one, NaN where none does."""
        for step in reversed(leaves(block.steps)):
            found = self._ledgers[step.module].record.metrics.get("evidence")
            if found is not None:
                return found
        return float("nan")

    def _learn(self, batch: list[tuple[int, Step]], position: _Position) -> None:
        """Let modules that exchange no message learn at the same time."""
        for _, step in batch:
            self._await_ready(step.module)
        self.active = tuple(step.module for _, step in batch)
        tasks = []
        for index, step in batch:
            where = {"round": self.round, "step": index, "module": step.module, **position.fields()}
            self._emit("update", where)
            tasks.append(self._submit(index, step, position))
        for (index, step), task in zip(batch, tasks, strict=True):
            self._take(step.module, task)
            ledger = self._ledgers[step.module]
            where = {"round": self.round, "step": index, "module": step.module, **position.fields()}
            self._emit("updated", {**where, **ledger.record.metrics, "total_seconds": ledger.seconds})
        self.active = ()

    def _await_ready(self, module: str) -> None:
        """Before a module's first update, wait until it is prepared (the others prepare meanwhile)."""
        if module not in self._ready:
            started = time.perf_counter()
            device = self._transport.ready(module)
            self._ready.add(module)
            fields = {"module": module, "device": device, "seconds": time.perf_counter() - started}
            self._emit("prepared", fields)

    def _submit(
        self,
        index: int,
        step: Step,
        position: _Position,
        mode: Mode = "update",
        *,
        ordered: bool = True,
        rows: int = 0,
    ) -> Task:
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
            exchange=position.exchange,
            temperature=position.temperature,
            ordered=ordered,
            rows=rows,
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
            ledger.unsaved, ledger.saving = True, None
            ledger.seconds += result.answer.seconds
            ledger.record = replace(ledger.record, round=self.round, metrics=dict(result.answer.metrics))

    def commit(self, name: str) -> None:
        """Write what changed since the last commit, each module's part by its own process, then the manifest."""
        if self._checkpoints is None:
            return
        started = time.perf_counter()
        unsaved = [module for module, ledger in self._ledgers.items() if ledger.unsaved]
        for module in unsaved:
            if self._ledgers[module].saving is None:
                self._save(module, name)
        for module in unsaved:
            ledger = self._ledgers[module]
            files: Mapping[str, FileRecord] = self._transport.saved(ledger.saving)
            ledger.record = replace(ledger.record, files=dict(files))
            ledger.unsaved, ledger.saving = False, None
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

    def _save(self, module: str, name: str) -> None:
        """Begin to write what `module` gave last into the commit `name`."""
        if self._checkpoints is None:
            return
        ledger = self._ledgers[module]
        request = SaveRequest(
            root=str(self._checkpoints.root),
            directory=name,
            module=module,
            slots=tuple(ledger.letters),
            headers=tuple(pack_header(letter.header) for letter in ledger.letters.values()),
        )
        objects = [ledger.state, ledger.outputs, *(letter.arrays for letter in ledger.letters.values())]
        ledger.saving = self._transport.save(module, request, objects)
