"""The coordinator: starts the modules of a run, drives its rounds, and commits every round.

Plain Python over a :class:`actors.coordination.backend.Backend`; it knows neither Ray nor any module's code. Calls and
messages go through :mod:`actors.coordination.router`, the schedule is run by
:mod:`actors.coordination.schedule_runner` and :mod:`actors.coordination.chains`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeAlias

from actors.coordination.backend import Backend, Ref
from actors.coordination.chains import ChainRunner
from actors.coordination.checkpointer import Checkpointer
from actors.coordination.events import (
    Committed,
    Converged,
    Emit,
    LogMessage,
    RoundReplayed,
    RoundStarted,
    RunResumed,
    UpdateFinished,
    UpdateStarted,
    ignore,
)
from actors.coordination.recovery import RecoveryPolicy
from actors.coordination.router import Router
from actors.coordination.schedule_runner import score_of
from actors.errors import CheckpointError, ModuleFailedError, ObjectsLostError
from actors.graph.graph import Graph
from actors.graph.schedule import Position, Step, leaves
from actors.module import Mode
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import Manifest
from actors.storage.status_files import SavedEvent

Halt: TypeAlias = Literal["step", "round"]
"""When a halted run stops: after the current step or the current round."""

EventsOfCommit: TypeAlias = Callable[[Committed], AbstractContextManager[tuple[SavedEvent, ...]]]
"""Returns the events that are stored in a commit, given its own event."""


class Coordinator:
    """Runs the rounds of one run over a backend.

    Parameters
    ----------
    graph : Graph
    backend : Backend
    run : str
        The run's name.
    seed : int
        Determines every random draw of the run.
    checkpoints : Checkpoints, optional
        Where rounds are committed; without it, nothing is committed.
    emit : callable, optional
        Receives the run's events (:mod:`actors.coordination.events`).
    recovery : RecoveryPolicy, optional
    config : mapping, optional
        Stored in every manifest, for the driver of the run.
    recognizing : collection of str
        Modules that :meth:`update` asks to recognize instead of to learn, with the states that they start from.
    events_of_commit : callable, optional
        Given the event of a commit that is about to be written, returns the events that are stored in it: a context in
        which it is written.

    Attributes
    ----------
    round : int
        The number of the last round that was started.
    converged : bool
        Whether the last round did not raise the score by the schedule's tolerance.
    committed : str
        The name of the last commit.
    """

    def __init__(
        self,
        graph: Graph,
        backend: Backend,
        *,
        run: str = "run",
        seed: int = 0,
        checkpoints: Checkpoints | None = None,
        emit: Emit = ignore,
        recovery: RecoveryPolicy | None = None,
        config: Mapping[str, Any] | None = None,
        recognizing: Collection[str] = (),
        events_of_commit: EventsOfCommit = lambda _committed: nullcontext(()),
    ) -> None:
        self.graph = graph
        self._events_of_commit = events_of_commit
        self.run = run
        self.seed = seed
        self.round = 0
        self.converged = False
        self.committed = ""
        self._step: int | None = None  # number of finished steps of the round; None: all
        self._score = math.nan
        self._halt: Halt | None = None
        self._replays = 0
        self._began, self._seconds = time.monotonic(), 0.0
        self._backend = backend
        self._config = config or {}
        self._recognizing = frozenset(recognizing)
        self._emit = emit
        self._router = Router(graph, backend, run=run, seed=seed, emit=emit, recovery=recovery)
        self._runner = ChainRunner(self._router, backend, emit=emit, on_step=self._stepped)
        self._checkpointer = Checkpointer(checkpoints, backend, self._router) if checkpoints else None

    def start(self, states: Mapping[str, Ref]) -> None:
        """Start the modules, load their first states, and let the sources send their data.

        Parameters
        ----------
        states : mapping of str to Ref
            States by module; the sources' hold the data.
        """
        self._start_modules()
        while True:
            try:
                self._router.begin(states)
                for index, name in enumerate(self.graph.sources):
                    self._runner.run_updates([(index, Step(name))], Position())
                self.commit("round-000")
                return
            except ObjectsLostError as error:
                self._count_replay(error)

    def resume(self, on_commit: Callable[[Manifest], None] = lambda _manifest: None) -> None:
        """Start the modules with the states of the newest complete commit, and continue from it.

        Parameters
        ----------
        on_commit : callable
            Receives the commit, before the event which says that the run continues from it.

        Raises
        ------
        CheckpointError
            If there is no complete commit.
        """
        self._start_modules()
        manifest = self._restore()
        on_commit(manifest)
        self._emit(RunResumed(self.round, self._step, manifest.name))

    def _start_modules(self) -> None:
        for place in self._backend.start(self.graph):
            self._emit(place)

    def run_rounds(self) -> None:
        """Run the remaining rounds, each followed by a commit, until the schedule ends or the run has converged."""
        while not self.ended:
            try:
                self._run_round()
            except ObjectsLostError as error:
                self._replay(error)

    @property
    def ended(self) -> str:
        """``done`` after the last round or convergence, ``stopped`` after a halt, empty before."""
        if self._step is None and (self.converged or self.round >= self.graph.schedule.rounds):
            return "done"
        halted = self._halt == "step" or (self._halt == "round" and self._step is None)
        return "stopped" if halted else ""

    def halt(self, when: Halt) -> None:
        """Make :meth:`run_rounds` commit and return after the current step or round."""
        self._halt = when

    def _run_round(self) -> None:
        """Run the steps of the next round, or the remaining ones of the current round, and commit."""
        schedule = self.graph.schedule
        if self._step is None:
            for place in self._backend.add_workers():
                self._emit(place)
            self.round, self._step = self.round + 1, 0
            self._emit(RoundStarted(self.round))
        for batch in self.graph.batches(schedule.steps):
            number, item = batch[-1]
            done = number + len(leaves([item]))
            if done > self._step:
                self._runner.run_batch(batch, Position(self.round))
                self._step = done
                if self._halt == "step" and done < len(schedule.leaves()):
                    self.commit(self._step_name(done - 1))
                    return
        before, self._score, self._step = self._score, self.score(), None
        rise = self._score - before  # NaN if either score is
        self.converged = schedule.tolerance is not None and rise < schedule.tolerance
        self.commit(self._round_name)
        if self.converged:
            self._emit(Converged(self.round, self._score, rise))

    def _replay(self, error: ObjectsLostError) -> None:
        """Return to the last commit, because objects that the round needs were lost."""
        self._count_replay(error)
        if self._checkpointer is None:
            raise ModuleFailedError(
                f"run {self.run}: results were lost with their node, and there is no commit to repeat from; "
                "start the run again"
            ) from error
        self._restore()

    def _count_replay(self, error: ObjectsLostError) -> None:
        """Count and report a replay; the run fails after more than the recovery policy allows."""
        self._replays += 1
        self._emit(RoundReplayed(self.round, str(error)))
        if self._replays > self._router.supervisor.policy.tries:
            raise ModuleFailedError(
                f"run {self.run}: results were lost with their nodes {self._replays} times: {error}"
            ) from error

    def _restore(self) -> Manifest:
        """Return to the newest complete commit."""
        if self._checkpointer is None:
            raise CheckpointError(f"run {self.run}: nothing was committed, so there is nothing to resume from")
        manifest = self._checkpointer.newest(lambda sentence: self._emit(LogMessage(sentence)))
        self._runner.active = ()
        while True:
            try:
                self._checkpointer.restore(manifest)
                break
            except ObjectsLostError as error:  # the node that read the commit died before the data was copied
                self._count_replay(error)
        self._began, self._seconds = time.monotonic(), manifest.seconds
        self.round, self._step, self.converged = manifest.round, manifest.step, manifest.converged
        self._score = math.nan if manifest.score is None else manifest.score
        self.committed = manifest.name
        return manifest

    def score(self) -> float:
        """Return the score by which rounds are compared (:func:`actors.coordination.schedule_runner.score_of`).

        Between rounds the latent vectors change, so that evidences alone are not comparable.
        """
        return score_of(self._router.results.values())

    def update(self, module: str, round: int, step: int) -> None:
        """Update one module outside the schedule, as step `step` of round `round`, and commit.

        Does nothing if that step is committed already.
        """
        while self.committed != self._step_name(step, round):
            try:
                self.round, self._step = round, step + 1
                if module in self._recognizing:
                    self._recognize_step(module, step)
                else:
                    self._runner.run_updates([(step, Step(module))], Position(round))
                self._score = self.score()
                self.commit(self._step_name(step))
            except ObjectsLostError as error:
                self._replay(error)

    def _recognize_step(self, module: str, step: int) -> None:
        """Let a module recognize the latest messages to it, as step `step` of the round."""
        position = Position(self.round)
        self._router.supervisor.await_prepared(module)
        self._emit(UpdateStarted.at(step, module, position))
        started = time.perf_counter()
        self._ask("recognize", module, ordered=True)
        seconds, sent = time.perf_counter() - started, self._router.results[module].messages.values()
        size = sum(message.header.nbytes for message in sent)
        self._emit(UpdateFinished.at(step, module, position, seconds=seconds, message_bytes=size, metrics={}))

    def generate_rows(self, states: Mapping[str, Ref], rows: int, *, noise: bool = False) -> dict[str, Ref | None]:
        """Generate rows with all modules, from the most abstract one down.

        Parameters
        ----------
        states : mapping of str to Ref
            The modules' states.
        rows : int
        noise : bool
            Whether the latent vectors of rows are drawn from their classes; otherwise they are class means.

        Returns
        -------
        dict of str to Ref
            The outputs of each module except the sources.
        """
        self._load(states)
        downwards = [name for name in reversed(self.graph.modules) if name not in self.graph.sources]
        return {name: self._ask("generate", name, rows=rows, noise=noise) for name in downwards}

    def recognize(self, states: Mapping[str, Ref], data: Mapping[str, Ref], *, ordered: bool) -> dict[str, Ref | None]:
        """Recognize new data: one pass up through all modules, then one down, so that priors reach the lower ones.

        Parameters
        ----------
        states : mapping of str to Ref
            The modules' states.
        data : mapping of str to Ref
            The sources' new data.
        ordered : bool
            Whether the rows are in temporal order.

        Returns
        -------
        dict of str to Ref
            The outputs of each module.
        """
        self._load({**states, **data})
        upwards = list(self.graph.modules)
        downwards = [name for name in reversed(upwards[:-1]) if name not in self.graph.sources]
        return {name: self._ask("recognize", name, ordered=ordered) for name in [*upwards, *downwards]}

    def generate(self, module: str) -> Ref | None:
        """Return the outputs of a module's ``generate``, which decodes the latest messages from above."""
        while True:
            try:
                return self._router.ask("generate", module).outputs
            except ObjectsLostError as error:  # nodes may die after the last commit, too
                self._replay(error)

    def outputs(self, module: str) -> Ref | None:
        """Return the outputs of a module's last update."""
        return self._router.results[module].outputs

    def state(self, module: str) -> Ref | None:
        """Return the state of a module after its last update."""
        return self._router.results[module].state

    def status(self) -> dict[str, Any]:
        """Return the progress of the run and the activity of the active modules."""
        return {
            "run": self.run,
            "round": self.round,
            "rounds": self.graph.schedule.rounds,
            "active": {name: self._backend.status(name) for name in self._runner.active},
            "module_seconds": dict(self._router.seconds),
        }

    def _load(self, states: Mapping[str, Ref]) -> None:
        """Start the modules with states from an earlier run."""
        self._backend.start(self.graph)
        self._router.begin(states)

    def _ask(self, mode: Mode, module: str, **details: Any) -> Ref | None:
        """Call a module, store its result as the latest one, and return its outputs."""
        result = self._router.ask(mode, module, **details)
        self._router.store(module, result)
        return result.outputs

    @property
    def _round_name(self) -> str:
        return f"round-{self.round:03d}"

    def _step_name(self, step: int, round: int | None = None) -> str:
        return f"round-{self.round if round is None else round:03d}-step-{step:02d}"

    def _stepped(self, index: int, step: Step, position: Position) -> None:
        """After a module's last update of a round, start writing its result while the others continue to learn."""
        later = self.graph.schedule.leaves()[index + 1 :]
        if self._checkpointer and not position.inside and all(other.module != step.module for other in later):
            self._checkpointer.begin(step.module, self._round_name)

    def commit(self, name: str) -> None:
        """Commit the results that changed since the last commit."""
        if self._checkpointer is None:
            self.committed = name
            return
        started = time.perf_counter()
        manifest = Manifest(
            name=name,
            run=self.run,
            seed=self.seed,
            round=self.round,
            sequence=self._router.sequence,
            modules={},
            module_seconds=dict(self._router.seconds),
            score=None if math.isnan(self._score) else self._score,
            step=self._step,
            converged=self.converged,
            seconds=self._seconds + time.monotonic() - self._began,
            config=self._config,
        )

        def event_of(written: Manifest) -> Committed:
            seconds, evidence = time.perf_counter() - started, written.evidence(self.graph.modules)
            return Committed(self.round, name, self._step is None, seconds, manifest.score, evidence)

        written = self._checkpointer.write(manifest, lambda written: self._events_of_commit(event_of(written)))
        self.committed, self._replays = name, 0
        self._emit(event_of(written))
