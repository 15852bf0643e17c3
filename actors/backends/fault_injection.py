"""Deaths on purpose, for tests of recovery: which process dies where.

A fault is written ``who:phase:round`` or ``who:phase:round:times``; who is a module's name, ``coordinator`` or
``chain``. A run that asks for none meets nothing of this: hosts, transport and checkpoints are wrapped only where
there are faults.

===========  ======================================================  ================================================
phase        a module dies                                           the coordinator dies
===========  ======================================================  ================================================
before       before its update                                       before it asks for an update
inside       in its update (when it first reports, or at its end)    while a module learns
after        having learnt, before it has answered                   having the answer, before the commit
answered     having answered                                         having made the commit
save         before it writes its part of a commit                   all parts being written, before the manifest
recovery     once more, while it is brought back                     once more, while it takes the run up
reviving                                                             while it brings a module back
hang         never: it stops answering, in its update
===========  ======================================================  ================================================
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.backends.module_host import Arrays, Call, Host, Reply
from actors.coordination.backend import Part, Ref, Result, Task, Transport
from actors.graph.spec import ModuleSpec, Slot
from actors.module import Context, Mode
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord, Manifest
from actors.storage.module_files import LoadRequest, SaveRequest
from actors.types import State

PHASES = ("before", "inside", "after", "answered", "save", "recovery")
"""Those that modules and coordinator have in common."""

_COORDINATOR = "coordinator"
_SOON = 0.05
"""Seconds in which an answer has certainly left the process."""


@dataclass(frozen=True)
class Fault:
    """Who dies where, and how often."""

    who: str
    phase: str
    round: int
    times: int = 1

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``who:phase:round`` or ``who:phase:round:times``.

        Raises
        ------
        ValueError
            If it is neither.
        """
        try:
            who, phase, round, *times = text.split(":")
            return cls(who, phase, int(round), *map(int, times))
        except (ValueError, TypeError):
            raise ValueError(f"{text!r} is no fault; expected who:phase:round or who:phase:round:times") from None


@dataclass(frozen=True)
class Injector:
    """Lets processes die.

    Parameters
    ----------
    faults : tuple of Fault
    marks : str
        A directory that all processes see, in which each death leaves a file with its Unix time: that it happened, so
        that it does not happen more often than asked.
    """

    faults: tuple[Fault, ...]
    marks: str

    @classmethod
    def of(cls, faults: Sequence[str], root: str | None) -> Injector | None:
        """Return the injector of a run whose commits lie at `root`; None without faults."""
        if not faults or root is None:
            return None
        marks = Path(root).parent / "faults"
        marks.mkdir(parents=True, exist_ok=True)
        return cls(tuple(map(Fault.parse, faults)), str(marks))

    def strike(self, who: str, phase: str, round: int | None) -> None:
        """Die here, if that was asked for and has not happened often enough."""
        for fault in self.faults:
            if (fault.who, fault.phase, fault.round) == (who, phase, round) and self._mark(fault):
                if phase == "hang":
                    time.sleep(1e6)
                os.kill(os.getpid(), signal.SIGKILL)

    def died_in(self, who: str) -> int | None:
        """Return the round in which `who` has died last; None where it has not."""
        marks = sorted(Path(self.marks).glob(f"{who}-*"), key=lambda path: path.stat().st_mtime_ns)
        return int(marks[-1].name.split("-")[2]) if marks else None

    def _mark(self, fault: Fault) -> bool:
        for number in range(fault.times):
            path = Path(self.marks) / f"{fault.who}-{fault.phase}-{fault.round}-{number + 1}"
            try:
                with path.open("x") as file:
                    file.write(repr(time.time()))
            except FileExistsError:
                continue
            return True
        return False


class MortalHost(Host):
    """A host in whose module's update the process dies."""

    def __init__(self, spec: ModuleSpec, slots: Sequence[Slot], injector: Injector) -> None:
        super().__init__(spec, slots)
        self._injector = injector

    def prepare(self, device: str) -> str:
        """Prepare the module, or die."""
        self._recover()
        return super().prepare(device)

    def load_state(self, state: State) -> None:
        """Give the module a state, or die."""
        self._recover()
        super().load_state(state)

    def ask(self, mode: Mode, call: Call, arrays: Sequence[Arrays]) -> Reply:
        """Let the module learn, and die before, in or after it."""
        if mode != "update":
            return super().ask(mode, call, arrays)
        self._strike("before", call.round)
        reply = super().ask(mode, call, arrays)
        self._in_update(call.round)  # of a module that reports nothing
        self._strike("after", call.round)
        threading.Timer(_SOON, self._strike, ("answered", call.round)).start()
        return reply

    def save(self, request: SaveRequest, objects: Sequence[Any]) -> dict[str, FileRecord]:
        """Write the module's part of a commit, or die."""
        self._strike("save", int(request.directory.split("-")[1]))
        return super().save(request, objects)

    def _context(self, call: Call, doing: str) -> Context:
        context = super()._context(call, doing)

        def report(done: int, total: int, metrics: Any) -> None:
            self._in_update(call.round)
            if context.reporter is not None:
                context.reporter(done, total, metrics)

        return replace(context, reporter=report)

    def _in_update(self, round: int) -> None:
        self._strike("inside", round)
        self._strike("hang", round)

    def _recover(self) -> None:
        self._strike("recovery", self._injector.died_in(self.spec.name))

    def _strike(self, phase: str, round: int | None) -> None:
        self._injector.strike(self.spec.name, phase, round)


class MortalTransport:
    """A transport whose user, the coordinator, dies.

    Parameters
    ----------
    inner : Transport
        Does the work.
    injector : Injector
    """

    def __init__(self, inner: Transport, injector: Injector) -> None:
        self._inner = inner
        self._injector = injector
        self._round = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Ask `module`, and die before or after it."""
        if mode != "update":
            return self._inner.submit(module, call, arrays, mode)
        self._round = call.round
        self._strike("before", call.round)
        task = self._inner.submit(module, call, arrays, mode)
        self._strike("inside", call.round)
        return task

    def collect(self, module: str, task: Task) -> Result:
        """Wait for the answer, and die."""
        result = self._inner.collect(module, task)
        self._strike("after", self._round)
        return result

    def revive(self, module: str) -> dict[str, Any]:
        """Bring `module` back, and die."""
        place = self._inner.revive(module)
        self._strike("reviving", self._round)
        return place

    def read(self, module: str, request: LoadRequest) -> Part:
        """Have `module` read what was committed of it, and die."""
        self._strike("recovery", self._injector.died_in(_COORDINATOR))
        return self._inner.read(module, request)

    def _strike(self, phase: str, round: int | None) -> None:
        self._injector.strike(_COORDINATOR, phase, round)


class MortalCheckpoints(Checkpoints):
    """Checkpoints in whose commit the coordinator dies."""

    def __init__(self, root: str, keep: int | None, injector: Injector) -> None:
        super().__init__(root, keep)
        self._injector = injector

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest, and die before or after it."""
        self._injector.strike(_COORDINATOR, "save", manifest.round)
        super().commit(manifest)
        self._injector.strike(_COORDINATOR, "answered", manifest.round)
