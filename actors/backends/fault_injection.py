"""Fault injection for tests of recovery: kills or halts a chosen process at a chosen moment.

A fault is written ``target:phase:round`` or ``target:phase:round:times``; the target is a module's name,
``coordinator`` or ``chain``. Production code does not import this module: a run with ``SERKET_FAULTS`` loads it by name
and gets an :func:`instrumentation` that replaces the host, the backend and the checkpoints by faulty ones.

===========  ======================================================  ================================================
phase        a module dies                                           the coordinator dies
===========  ======================================================  ================================================
before       before its update                                       before it submits an update
inside       in its update (at its first report, or at its end)      during an update
after        after its update, before it has answered                after the answer, before the commit
answered     after it has answered                                   after the commit
save         before it writes its part of a commit                   after all parts are written, before the manifest
recovery     once more, while it is restarted                        once more, while it resumes the run
reviving                                                             while it restarts a module
hang         never: it sleeps in its update
stop         never: it is stopped (SIGSTOP) in its update            never: it is stopped during an update
gil          never: its interpreter is held in its update            never: its interpreter is held during an update
starting     never: it is stopped while it is prepared (round 0)
saving       never: it is stopped before it writes its part          never: it is stopped after all parts are written
committed                                                            never: it is stopped before the commit's event
clock                                                                never: from that round on, its clock is off by
                                                                     ``times`` seconds
===========  ======================================================  ================================================

A chain knows the phases ``inside``, ``hang``, ``stop`` and ``gil``. A module that sleeps still answers requests for its
status; one that is stopped, or whose interpreter is held by a call that does not release it, answers nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from actors.backends.module_host import Arrays, HostResult, ModuleHost
from actors.backends.shard_host import ShardHost
from actors.coordination.backend import Backend, ModuleCall, Ref, ResultRef, Task
from actors.coordination.events import ModulePlaced
from actors.coordination.placement import worker_name
from actors.coordination.session import Instrumentation
from actors.graph.spec import ModuleSpec, Slot
from actors.module import Context
from actors.sharing.chunks import Extent
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord, Manifest
from actors.storage.module_files import LoadRequest, SaveRequest
from actors.types import State

PHASES = ("before", "inside", "after", "answered", "save", "recovery")
"""The phases of both modules and the coordinator."""

HANGS = ("hang", "stop", "gil")
"""The phases in which a process halts in an update, instead of ending."""

STOPS = ("starting", "saving", "committed")
"""Further phases in which a process is stopped (SIGSTOP)."""

_COORDINATOR = "coordinator"
_REPLY_SECONDS = 10.0
"""Time that calls which do not learn have where a process is stopped in one of them."""
_SOON = 0.05
"""Seconds after which an answer has been sent by the process."""

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """The target, phase, round and number of the deaths of a process."""

    target: str
    phase: str
    round: int
    times: int = 1

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``target:phase:round`` or ``target:phase:round:times``.

        Raises
        ------
        ValueError
            If the text has another form.
        """
        try:
            target, phase, round, *times = text.split(":")
            return cls(target, phase, int(round), *map(int, times))
        except (ValueError, TypeError):
            raise ValueError(
                f"{text!r} is not a fault; expected target:phase:round or target:phase:round:times"
            ) from None


@dataclass(frozen=True)
class Injector:
    """Kills or halts processes.

    Parameters
    ----------
    faults : tuple of Fault
    marks : str
        A directory shared by all processes, with one file for each death that holds its Unix time, so that a process
        does not die more often than requested.
    """

    faults: tuple[Fault, ...]
    marks: str

    @classmethod
    def of(cls, faults: Sequence[str], root: str) -> Injector:
        """Return the injector of a run with commits at `root`."""
        marks = Path(root).parent / "faults"
        marks.mkdir(parents=True, exist_ok=True)
        return cls(tuple(map(Fault.parse, faults)), str(marks))

    def inject(self, target: str, phase: str, round: int | None) -> None:
        """Kill or halt this process, if a fault requests it and was not injected as often as requested."""
        for fault in self.faults:
            if (fault.target, fault.phase, fault.round) == (target, phase, round) and self._mark(fault):
                if phase in (*HANGS, *STOPS):
                    _halt("stop" if phase in STOPS else phase)
                os.kill(os.getpid(), signal.SIGKILL)

    def inject_into_chain(self, round: int) -> None:
        """Kill or halt the process of a chain."""
        for phase in ("inside", *HANGS):
            self.inject("chain", phase, round)

    def clock_shift(self, round: int) -> int:
        """Return by how many seconds the coordinator's clock is off in a round."""
        return sum(fault.times for fault in self.faults if fault.phase == "clock" and fault.round <= round)

    def last_death_of(self, target: str) -> int | None:
        """Return the round of the last death of `target`, None if there is none."""
        marks = sorted(Path(self.marks).glob(f"{target}-*"), key=lambda path: path.stat().st_mtime_ns)
        return int(marks[-1].name.split("-")[2]) if marks else None

    def _mark(self, fault: Fault) -> bool:
        for number in range(fault.times):
            path = Path(self.marks) / f"{fault.target}-{fault.phase}-{fault.round}-{number + 1}"
            try:
                with path.open("x") as file:
                    file.write(repr(time.time()))
            except FileExistsError:
                continue
            return True
        return False


def _halt(phase: str) -> None:
    """Halt this process for ever: sleep, stop it, or hold its interpreter."""
    if phase == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if phase == "gil":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ctypes.PyDLL(None).pause()  # PyDLL keeps the lock of the interpreter
    time.sleep(1e6)


_clock_shift = 0
"""Seconds by which the clock of the coordinator in this process is off."""


def faulty_clock() -> float:
    """Return the Unix time by a clock that may be off."""
    return time.time() + _clock_shift


def instrumentation(faults: Sequence[str], root: str) -> Instrumentation:
    """Return the instrumentation that injects `faults` into a run with commits at `root`.

    Raises
    ------
    ValueError
        If a fault has another form than ``target:phase:round`` or ``target:phase:round:times``.
    """
    injector = Injector.of(faults, root)
    return Instrumentation(
        make_host=partial(faulty_host, injector=injector),
        wrap_backend=partial(FaultyBackend, injector=injector),
        make_checkpoints=partial(FaultyCheckpoints, injector=injector),
        before_chain=injector.inject_into_chain,
        clock=faulty_clock,
    )


def faulty_host(spec: ModuleSpec, slots: Sequence[Slot], injector: Injector) -> ModuleHost:
    """Return the host of a module, or of one of its workers, that kills its process in the requested phases."""
    return (FaultyHost if spec.sharing is None else FaultyShardHost)(spec, slots, injector)


class FaultyHost(ModuleHost):
    """A module host that kills its process in the requested phases."""

    def __init__(self, spec: ModuleSpec, slots: Sequence[Slot], injector: Injector) -> None:
        super().__init__(spec, slots)
        self._injector = injector
        self._target = spec.name

    def prepare(self, device: str) -> str:
        """Prepare the module, after a possible death."""
        self._recover()
        self._inject("starting", 0)
        return super().prepare(device)

    def load_state(self, state: State) -> None:
        """Load a state into the module, after a possible death."""
        self._recover()
        super().load_state(state)

    def call(self, call: ModuleCall, arrays: Sequence[Arrays]) -> HostResult:
        """Call the module, with possible deaths before, in and after an update."""
        if call.mode != "update":
            return super().call(call, arrays)
        self._inject("before", call.round)
        result = super().call(call, arrays)
        self._in_update(call.round)  # for a module that reports no progress
        self._inject("after", call.round)
        threading.Timer(_SOON, self._inject, ("answered", call.round)).start()
        return result

    def save(self, request: SaveRequest, objects: Sequence[Any]) -> dict[str, FileRecord]:
        """Write the module's part of a commit, after a possible death."""
        for phase in ("save", "saving"):
            self._inject(phase, int(request.directory.split("-")[1]))
        return super().save(request, objects)

    def _context(self, call: ModuleCall) -> Context:
        context = super()._context(call)

        def report(done: int, total: int, metrics: Any) -> None:
            self._in_update(call.round)
            if context.reporter is not None:
                context.reporter(done, total, metrics)

        return replace(context, reporter=report)

    def _in_update(self, round: int) -> None:
        self._inject("inside", round)
        for phase in HANGS:
            self._inject(phase, round)

    def _recover(self) -> None:
        self._inject("recovery", self._injector.last_death_of(self._target))

    def _inject(self, phase: str, round: int | None) -> None:
        self._injector.inject(self._target, phase, round)


class FaultyShardHost(FaultyHost, ShardHost):
    """The host of a worker that kills its process in the requested phases; targets are ``gmm``, ``gmm#1``, ….

    A worker does not know which one it is before its first call, so that only the first one dies while it is prepared.
    """

    def open_shard(self, call: ModuleCall, arrays: Sequence[Arrays], extents: Sequence[Extent], rank: int) -> None:
        """Take the worker's rows, after a possible death."""
        self._target, self._round = worker_name(self.spec.name, rank), call.round if call.mode == "update" else None
        self._inject("before", self._round)
        super().open_shard(call, arrays, extents, rank)

    def run(self, method: str, *values: Any) -> Any:
        """Run a part of a call, with possible deaths in it and, of all but the first worker, after it."""
        if method in ("learn", "accumulate") and self._round is not None:
            self._in_update(self._round)
        answer = super().run(method, *values)
        if method == "respond" and self._round is not None and self._target != self.spec.name:
            self._inject("after", self._round)
            threading.Timer(_SOON, self._inject, ("answered", self._round)).start()
        return answer

    def conclude_call(self, learnt: State | None, metrics: Mapping[str, float]) -> HostResult:
        """End a call in the first worker, with possible deaths after it."""
        result = super().conclude_call(learnt, metrics)
        if self._round is not None:
            self._inject("after", self._round)
            threading.Timer(_SOON, self._inject, ("answered", self._round)).start()
        return result


class FaultyBackend:
    """A backend that kills its caller, the coordinator, in the requested phases.

    Parameters
    ----------
    inner : Backend
        Receives all calls.
    injector : Injector
    """

    def __init__(self, inner: Backend, injector: Injector) -> None:
        self._inner = inner
        self._injector = injector
        self._round = 0
        self._calls: set[int] = set()  # tasks after whose answers the coordinator may die
        if any(fault.phase in STOPS for fault in injector.faults):
            inner.reply_seconds = _REPLY_SECONDS  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, module: str, call: ModuleCall, arrays: Sequence[Ref]) -> Task[ResultRef]:
        """Submit a call of `module`, with possible deaths before and after it."""
        if call.mode != "update":
            task = self._inner.submit(module, call, arrays)
        else:
            global _clock_shift
            self._round, _clock_shift = call.round, self._injector.clock_shift(call.round)
            self._inject("before", call.round)
            task = self._inner.submit(module, call, arrays)
            for phase in ("inside", "stop", "gil"):
                self._inject(phase, call.round)
        self._calls.add(id(task))
        return task

    def collect(self, task: Task[T]) -> T:
        """Wait for the answer, before a possible death."""
        answer = self._inner.collect(task)
        if id(task) in self._calls:
            self._calls.discard(id(task))
            self._inject("after", self._round)
        return answer

    def restart(self, module: str) -> ModulePlaced:
        """Restart `module`, before a possible death."""
        place = self._inner.restart(module)
        self._inject("reviving", self._round)
        return place

    def submit_read(self, module: str, request: LoadRequest) -> Task[ResultRef]:
        """Submit the reading of a module's part of a commit, after a possible death."""
        self._inject("recovery", self._injector.last_death_of(_COORDINATOR))
        return self._inner.submit_read(module, request)

    def _inject(self, phase: str, round: int | None) -> None:
        self._injector.inject(_COORDINATOR, phase, round)


class FaultyCheckpoints(Checkpoints):
    """Checkpoints that kill the coordinator before or after a commit."""

    def __init__(self, root: str, keep: int | None, injector: Injector) -> None:
        super().__init__(root, keep)
        self._injector = injector

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, with possible deaths before and after it."""
        for phase in ("save", "saving"):
            self._injector.inject(_COORDINATOR, phase, manifest.round)
        super().commit(manifest)
        for phase in ("answered", "committed"):
            self._injector.inject(_COORDINATOR, phase, manifest.round)
