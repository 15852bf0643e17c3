"""The check that needs Ray: a module whose process is killed ends with the same bits as one that nobody killed."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import ray

from actors.backends.fault_injection import Fault, Injector
from actors.backends.in_process import InProcess
from actors.backends.module_host import Call
from actors.backends.ray.backend import RayTransport
from actors.coordination.backend import Ref, Result, Task, Transport
from actors.coordination.coordinator import Coordinator
from actors.coordination.recovery import Recovery
from actors.graph.graph import Graph
from actors.module import Mode
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord
from actors.storage.module_files import SaveRequest
from actors.types import State

_RECOVERY = Recovery(tries=5, timeout=300.0, wait=120.0)


def difference_by_deaths(
    graph: Graph, module: str, states: Mapping[str, State], root: Path, deaths: Sequence[str]
) -> str | None:
    """Run a model in this process, and again with one module in an actor whose process dies; say what differs.

    Parameters
    ----------
    graph : Graph
    module : str
        Whose process dies.
    states : mapping of str to dict
        What modules start from.
    root : Path
        An empty directory.
    deaths : sequence of str
        ``phase:round`` (:mod:`actors.backends.fault_injection`).

    Returns
    -------
    str or None
        In which round which of the module's files differ, or None.

    Raises
    ------
    ModuleFailedError
        If the module cannot be run on Ray.
    """
    expected = _learn(graph, InProcess(), states, root / "undisturbed")
    marks = root / "deaths"
    marks.mkdir()
    injector = Injector(tuple(Fault.parse(f"{module}:{death}") for death in deaths), str(marks))
    with local_ray():
        namespace = f"serket-conformance-{os.getpid()}-{root.name}"
        transport = _OneActor(module, RayTransport(namespace, recovery=_RECOVERY, injector=injector))
        try:
            found = _learn(graph, transport, states, root / "disturbed")
        finally:
            transport.stop()
    happened = sorted(mark.name for mark in marks.iterdir())
    if len(happened) != len(deaths):
        raise AssertionError(f"the process should have died {len(deaths)} times ({', '.join(deaths)}): {happened}")
    for name in expected.names():
        records = [run.manifest(name).modules.get(module) for run in (expected, found)]
        one, other = ({} if record is None else record.files for record in records)
        differs = [label for label in one if label not in other or one[label].digest != other[label].digest]
        if differs:
            return f"{' and '.join(differs)} of {name} differ where its process died ({', '.join(deaths)})"
    return None


@contextmanager
def local_ray() -> Iterator[None]:
    """Start Ray on this machine for as long as the context lasts; one that this process is in already stays."""
    if ray.is_initialized():
        yield
        return
    # Ray says on this process's standard output that a process died, which here is what was meant to be.
    with redirect_stdout(io.StringIO()):
        try:
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            ray.init(address="local", num_cpus=2, **quiet)
            yield
        finally:
            ray.shutdown()


def _learn(graph: Graph, transport: Transport, states: Mapping[str, State], root: Path) -> Checkpoints:
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(graph, transport, run="conformance", checkpoints=checkpoints, recovery=_RECOVERY)
    coordinator.start(states)
    coordinator.run_rounds()
    return checkpoints


class _OneActor(InProcess):
    """Reaches one module through an actor, and its neighbours, which nobody kills, in this process.

    Parameters
    ----------
    module : str
        The one.
    remote : RayTransport
        How it is reached.
    """

    def __init__(self, module: str, remote: RayTransport) -> None:
        super().__init__()
        self._module, self._remote = module, remote

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Make the actor, and the neighbours."""
        alone = copy.copy(graph)
        alone.modules = {self._module: graph.modules[self._module]}
        self._modules = [name for name in graph.modules if name != self._module]
        return [*self._remote.start(alone), *super().start(graph)]

    def ready(self, module: str) -> str:
        """Prepare `module`."""
        return self._remote.ready(module) if module == self._module else super().ready(module)

    def load(self, module: str, state: Ref | None) -> None:
        """Give `module` a state."""
        if module == self._module:
            self._remote.load(module, state)
        else:
            super().load(module, state)

    def revive(self, module: str) -> dict[str, Any]:
        """Wait for another process of the one."""
        return self._remote.revive(module)

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Ask `module`."""
        if module == self._module:
            return self._remote.submit(module, call, arrays, mode)
        return super().submit(module, call, [_here(reference) for reference in arrays], mode)

    def collect(self, module: str, task: Task) -> Result:
        """Wait for what it answers."""
        return self._remote.collect(module, task) if module == self._module else super().collect(module, task)

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:
        """Have the objects of `module` written."""
        if module == self._module:
            return (self._remote.save(module, request, objects),)
        return super().save(module, request, objects)

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Wait for what :meth:`save` asked for."""
        return self._remote.saved(task[0]) if isinstance(task, tuple) else super().saved(task)

    def last_words(self, module: str) -> str:
        """Return the traceback that the last process of `module` left."""
        return self._remote.last_words(module)

    def stop(self) -> None:
        """End the actor, and forget the neighbours."""
        self._remote.stop()
        super().stop()


def _here(reference: Ref) -> Any:
    return ray.get(reference) if isinstance(reference, ray.ObjectRef) else reference
