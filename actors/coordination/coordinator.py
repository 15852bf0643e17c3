"""The round driver: brings modules to life, lets them learn in the schedule's order, and commits every round.

Plain Python over a :class:`actors.coordination.backend.Transport`; it knows neither Ray nor any module's code.
Messages are carried by :mod:`actors.coordination.router`, chains are run by :mod:`actors.coordination.chains`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from actors.coordination.backend import Ref, Transport
from actors.coordination.chains import ChainRouter
from actors.coordination.checkpointer import Commits
from actors.coordination.recovery import Recovery
from actors.coordination.router import Emit, score_of
from actors.errors import CheckpointError, ModuleFailedError, ObjectsLostError
from actors.graph.graph import Graph
from actors.graph.schedule import Position, Step, leaves
from actors.module import Mode
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import Manifest

Halt: TypeAlias = Literal["step", "round"]
"""After what a run stops that was asked to."""


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
        Receives the events ``placed``, ``round``, ``commit``, ``settled``, ``resumed``, ``replay`` and ``log``, and
        those of the router.
    recovery : Recovery, optional
        What is done about modules that die.
    config : mapping, optional
        Kept in every manifest, for whoever drives the run.

    Attributes
    ----------
    round : int
        The last one begun.
    settled : bool
        Whether the last round did not raise the score any more.
    committed : str
        The name of the last commit.
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
        recovery: Recovery | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.graph = graph
        self.run = run
        self.seed = seed
        self.round = 0
        self.settled = False
        self.committed = ""
        self._step: int | None = None  # how many of the round's steps are done; None: all
        self._score = math.nan
        self._halt: Halt | None = None
        self._replays = 0
        self._began, self._seconds = time.monotonic(), 0.0
        self._transport = transport
        self._config = config or {}
        self._emit = emit or (lambda _event, _fields: None)
        self._router = ChainRouter(
            graph, transport, run=run, seed=seed, emit=self._emit, recovery=recovery, on_step=self._stepped
        )
        self._commits = Commits(checkpoints, transport, self._router) if checkpoints else None

    def start(self, states: Mapping[str, Ref]) -> None:
        """Bring the modules to life, give them what they start from, and let the sources speak.

        Parameters
        ----------
        states : mapping of str to reference
            States by module; the sources' hold the data.
        """
        for place in self._transport.start(self.graph):
            self._emit("placed", place)
        while True:
            try:
                self._router.load(states)
                for index, name in enumerate(self.graph.sources):
                    self._router.learn([(index, Step(name))], Position())
                self.commit("round-000")
                return
            except ObjectsLostError as error:
                self._count_loss(error)
                self._router.sequence = 0

    def resume(self) -> None:
        """Bring the modules to life with what the newest whole commit holds, and stand where it stood.

        Raises
        ------
        CheckpointError
            If there is no whole commit.
        """
        for place in self._transport.start(self.graph):
            self._emit("placed", place)
        manifest = self._restore()
        self._emit("resumed", {"round": self.round, "step": self._step, "name": manifest.name})

    def run_rounds(self) -> None:
        """Run what is still to come of the schedule, each round followed by a commit, as long as rounds help."""
        while not self.ended:
            try:
                self._run_round()
            except ObjectsLostError as error:
                self._replay(error)

    @property
    def ended(self) -> str:
        """``done`` after the schedule's last round or the one that settled it, ``stopped`` once halted, or empty."""
        if self._step is None and (self.settled or self.round >= self.graph.schedule.rounds):
            return "done"
        halted = self._halt == "step" or (self._halt == "round" and self._step is None)
        return "stopped" if halted else ""

    def halt(self, when: Halt) -> None:
        """Have :meth:`run_rounds` commit and return after the step, or the round, that is being taken."""
        self._halt = when

    def _run_round(self) -> None:
        """Take the steps of the next round, or those that are left of the one begun, and commit."""
        schedule = self.graph.schedule
        if self._step is None:
            self.round, self._step = self.round + 1, 0
            self._emit("round", {"round": self.round})
        for batch in self.graph.batches(schedule.steps):
            number, item = batch[-1]
            done = number + len(leaves([item]))
            if done > self._step:
                self._router.follow_batch(batch, Position(self.round))
                self._step = done
                if self._halt == "step" and done < len(schedule.leaves()):
                    self.commit(self._step_name(done - 1))
                    return
        before, self._score, self._step = self._score, self.score(), None
        rise = self._score - before  # NaN where one is
        self.settled = schedule.tolerance is not None and rise < schedule.tolerance
        self.commit(self._round_name)
        if self.settled:
            self._emit("settled", {"round": self.round, "score": self._score, "rise": rise})

    def _replay(self, error: ObjectsLostError) -> None:
        """Go back to the last commit, since what the run stood on is gone."""
        self._count_loss(error)
        if self._commits is None:
            raise ModuleFailedError(f"run {self.run} lost what it stood on, and nothing is committed") from error
        self._restore()

    def _count_loss(self, error: ObjectsLostError) -> None:
        """Tell that something is begun again; not for ever."""
        self._replays += 1
        self._emit("replay", {"round": self.round, "reason": str(error)})
        if self._replays > self._router.recovery.tries:
            raise ModuleFailedError(f"run {self.run} lost what it stood on {self._replays} times: {error}") from error

    def _restore(self) -> Manifest:
        """Stand where the newest whole commit stands."""
        if self._commits is None:
            raise CheckpointError(f"run {self.run}: nothing was committed, so nothing can be taken up again")
        manifest = self._commits.newest(lambda sentence: self._emit("log", {"message": sentence}))
        self._router.active = ()
        while True:
            try:
                self._commits.restore(manifest)
                break
            except ObjectsLostError as error:  # the node that had read it is gone before somebody took it over
                self._count_loss(error)
        self._began, self._seconds = time.monotonic(), manifest.seconds
        self.round, self._step, self.settled = manifest.round, manifest.step, manifest.settled
        self._score = math.nan if manifest.score is None else manifest.score
        self.committed = manifest.name
        return manifest

    def score(self) -> float:
        """Return what rounds are compared by (:func:`actors.coordination.router.score_of`).

        Between rounds the latent vectors change, so that evidences alone do not compare.
        """
        return score_of(self._router.held.values())

    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn outside of any schedule, as step `step` of round `round`, and commit.

        Where that is committed already, nothing is done.
        """
        while self.committed != self._step_name(step, round):
            try:
                self.round, self._step = round, step + 1
                self._router.learn([(step, Step(module))], Position(round))
                self._score = self.score()
                self.commit(self._step_name(step))
            except ObjectsLostError as error:
                self._replay(error)

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
        while True:
            try:
                return self._router.ask("generate", module).outputs
            except ObjectsLostError as error:  # after the last commit, too, nodes die
                self._replay(error)

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
    def _round_name(self) -> str:
        return f"round-{self.round:03d}"

    def _step_name(self, step: int, round: int | None = None) -> str:
        return f"round-{self.round if round is None else round:03d}-step-{step:02d}"

    def _stepped(self, index: int, step: Step, position: Position) -> None:
        """After a module's last update of a round, begin to write it while the others go on learning."""
        later = self.graph.schedule.leaves()[index + 1 :]
        if self._commits and not position.inside and all(other.module != step.module for other in later):
            self._commits.begin(step.module, self._round_name)

    def commit(self, name: str) -> None:
        """Write what changed since the last commit."""
        if self._commits is None:
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
            settled=self.settled,
            seconds=self._seconds + time.monotonic() - self._began,
            config=self._config,
        )
        self._commits.write(manifest)
        self.committed, self._replays = name, 0
        seconds = time.perf_counter() - started
        self._emit("commit", {"round": self.round, "name": name, "whole": self._step is None, "seconds": seconds})
