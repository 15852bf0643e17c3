"""The round driver: brings modules to life, lets them learn in the schedule's order, and commits every round.

Plain Python over a :class:`actors.transport.Transport`; it knows neither Ray nor any module's code. Messages are
carried by :mod:`actors.routing`, chains are run by :mod:`actors.chains`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.chains import ChainRouter
from actors.checkpoint import Checkpoints, FileRecord, Manifest, ModuleRecord, SaveRequest
from actors.graph import Graph
from actors.messages import pack_header
from actors.module import Mode
from actors.routing import Emit, Held, score_of
from actors.schedule import Position, Step
from actors.transport import Ref, Task, Transport


@dataclass
class _Ledger:
    """What is committed of one module: its record, and what is being written or was written of it last."""

    record: ModuleRecord = field(default_factory=lambda: ModuleRecord(0, {}))
    written: Held | None = None
    saving: Task = None


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
        Receives the events ``placed``, ``round``, ``commit`` and ``settled``, and those of the router.
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
        self._transport = transport
        self._checkpoints = checkpoints
        self._emit = emit or (lambda _event, _fields: None)
        self._router = ChainRouter(graph, transport, run=run, seed=seed, emit=self._emit, on_step=self._stepped)
        self._ledgers = {name: _Ledger() for name in graph.modules}

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
            self._router.learn([(index, Step(name))], Position())
        self.commit("round-000")

    def run_rounds(self) -> None:
        """Run the schedule's rounds that are still to come, each followed by a commit, as long as they help."""
        schedule, score = self.graph.schedule, self.score()
        while self.round < schedule.rounds:
            self.round += 1
            self._emit("round", {"round": self.round})
            self._router.follow(schedule.steps, Position(self.round))
            self.commit(self._commit_name)
            before, score = score, self.score()
            if schedule.tolerance is not None and score - before < schedule.tolerance:  # never where one is NaN
                self._emit("settled", {"round": self.round, "score": score, "rise": score - before})
                break

    def score(self) -> float:
        """Return what rounds are compared by (:func:`actors.routing.score_of`).

        Between rounds the latent vectors change, so that evidences alone do not compare.
        """
        return score_of(self._router.held.values())

    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn outside of any schedule, as step `step` of round `round`, and commit."""
        self.round = round
        self._router.learn([(step, Step(module))], Position(round))
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
        return {name: self._ask("generate", name, rows=rows) for name in downwards}

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
        return {name: self._ask("recognize", name, ordered=ordered) for name in [*upwards, *downwards]}

    def generate(self, module: str) -> Ref:
        """Show what the latest messages to `module` from above look like in its own data.

        Returns
        -------
        reference
            To the outputs of the module's ``generate``.
        """
        return self._router.ask("generate", module).outputs

    def outputs(self, module: str) -> Ref:
        """Return the outputs of a module's last update, as a reference."""
        return self._router.held[module].outputs

    def state(self, module: str) -> Ref:
        """Return the state of a module after its last update, as a reference."""
        return self._router.held[module].state

    def status(self) -> dict[str, Any]:
        """Say where the run stands and what the active modules do now."""
        return {
            "run": self.run,
            "round": self.round,
            "rounds": self.graph.schedule.rounds,
            "active": {name: self._transport.status(name) for name in self._router.active},
            "module_seconds": dict(self._router.seconds),
        }

    def _begin(self, states: Mapping[str, Ref]) -> None:
        """Bring the modules to life with the states that they once had."""
        self._transport.start(self.graph)
        self._router.load(states)

    def _ask(self, mode: Mode, module: str, **details: Any) -> Ref:
        """Ask a module, and let its messages be the latest; return its outputs."""
        self._router.held[module] = held = self._router.ask(mode, module, **details)
        return held.outputs

    @property
    def _commit_name(self) -> str:
        return f"round-{self.round:03d}"

    def _stepped(self, index: int, step: Step, position: Position) -> None:
        """After a module's last update of a round, begin to write it while the others go on learning."""
        later = self.graph.schedule.leaves()[index + 1 :]
        if not position.inside and all(other.module != step.module for other in later):
            self._save(step.module, self._commit_name)

    def commit(self, name: str) -> None:
        """Write what changed since the last commit, each module's part by its own process, then the manifest."""
        if self._checkpoints is None:
            return
        started = time.perf_counter()
        for module, ledger in self._ledgers.items():
            held = self._router.held[module]
            if held is not ledger.written and held.state is not None:
                self._save(module, name)
        for ledger in self._ledgers.values():
            if ledger.saving is not None and ledger.written is not None:
                files: Mapping[str, FileRecord] = self._transport.saved(ledger.saving)
                ledger.record = ModuleRecord(self.round, dict(files), dict(ledger.written.metrics))
                ledger.saving = None
        score = self.score()
        manifest = Manifest(
            name=name,
            run=self.run,
            seed=self.seed,
            round=self.round,
            sequence=self._router.sequence,
            modules={module: ledger.record for module, ledger in self._ledgers.items() if ledger.record.files},
            module_seconds=dict(self._router.seconds),
            score=None if math.isnan(score) else score,
        )
        self._checkpoints.commit(manifest)
        seconds = time.perf_counter() - started
        self._emit("commit", {"round": self.round, "name": name, "seconds": seconds})

    def _save(self, module: str, name: str) -> None:
        """Begin to write what `module` gave last into the commit `name`."""
        if self._checkpoints is None:
            return
        held = self._ledgers[module].written = self._router.held[module]
        request = SaveRequest(
            root=str(self._checkpoints.root),
            directory=name,
            module=module,
            slots=tuple(held.letters),
            headers=tuple(pack_header(letter.header) for letter in held.letters.values()),
        )
        objects = [held.state, held.outputs, *(letter.arrays for letter in held.letters.values())]
        self._ledgers[module].saving = self._transport.save(module, request, objects)
