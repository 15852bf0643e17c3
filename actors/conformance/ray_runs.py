"""Runs on Ray in which the process of a module is killed, compared with undisturbed runs in one process."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TypeVar

import ray

from actors.backends.fault_injection import Fault, FaultyHost, Injector
from actors.backends.in_process import InProcessBackend
from actors.backends.ray.backend import RayBackend, RayTask
from actors.backends.ray.temporary import ray_directory
from actors.coordination.backend import Backend, ModuleCall, Ref, ResultRef, Task
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import ModulePlaced
from actors.coordination.recovery import RecoveryPolicy
from actors.graph.graph import Graph
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import FileRecord
from actors.storage.module_files import SaveRequest
from actors.types import State

T = TypeVar("T")

_RECOVERY = RecoveryPolicy(tries=5, timeout=300.0, wait=120.0)


def find_difference_after_deaths(
    graph: Graph, module: str, states: Mapping[str, State], root: Path, deaths: Sequence[str]
) -> str | None:
    """Run a model in this process and with one module in an actor that is killed, and return where the results differ.

    Parameters
    ----------
    graph : Graph
    module : str
        The module whose process is killed.
    states : mapping of str to dict
        Initial states of the modules.
    root : Path
        An empty directory.
    deaths : sequence of str
        ``phase:round`` (:mod:`actors.backends.fault_injection`).

    Returns
    -------
    str or None
        The files of the module that differ and the round of their commit, or None.

    Raises
    ------
    ModuleFailedError
        If the module fails on Ray.
    AssertionError
        If the process did not die as often as requested.
    """
    expected = _run_rounds(graph, InProcessBackend(), states, root / "undisturbed")
    death_records = root / "deaths"
    death_records.mkdir()
    injector = Injector(tuple(Fault.parse(f"{module}:{death}") for death in deaths), str(death_records))
    with local_ray():
        namespace = f"serket-conformance-{os.getpid()}-{root.name}"
        remote = RayBackend(namespace, recovery=_RECOVERY, make_host=partial(FaultyHost, injector=injector))
        backend = _OneActorBackend(module, remote)
        try:
            disturbed = _run_rounds(graph, backend, states, root / "disturbed")
        finally:
            backend.stop()
    happened = sorted(path.name for path in death_records.iterdir())
    if len(happened) != len(deaths):
        raise AssertionError(
            f"the process died {len(happened)} times ({happened}), expected {len(deaths)} times ({', '.join(deaths)})"
        )
    for name in expected.names():
        records = [run.manifest(name).modules.get(module) for run in (expected, disturbed)]
        one, other = ({} if record is None else record.files for record in records)
        differs = [label for label in one if label not in other or one[label].digest != other[label].digest]
        if differs:
            verb = "differs" if len(differs) == 1 else "differ"
            return f"{' and '.join(differs)} of {name} {verb} after its process died ({', '.join(deaths)})"
    return None


@contextmanager
def local_ray() -> Iterator[None]:
    """Run a local Ray cluster while the context lasts, unless this process is already connected to one."""
    if ray.is_initialized():
        yield
        return
    # Ray prints on standard output that a worker died, which is intended here.
    with redirect_stdout(io.StringIO()):
        try:
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            ray.init(address="local", num_cpus=2, _temp_dir=ray_directory(), **quiet)
            yield
        finally:
            ray.shutdown()


def _run_rounds(graph: Graph, backend: Backend, states: Mapping[str, State], root: Path) -> Checkpoints:
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(graph, backend, run="conformance", checkpoints=checkpoints, recovery=_RECOVERY)
    coordinator.start({name: Ref(state) for name, state in states.items()})
    coordinator.run_rounds()
    return checkpoints


class _OneActorBackend(InProcessBackend):
    """Runs one module in an actor, and its neighbours, which are not killed, in this process.

    Parameters
    ----------
    module : str
        The module with an actor.
    remote : RayBackend
        The backend of the actor.
    """

    def __init__(self, module: str, remote: RayBackend) -> None:
        super().__init__()
        self._module, self._remote = module, remote

    def start(self, graph: Graph) -> list[ModulePlaced]:
        """Start the actor and the neighbours."""
        alone = copy.copy(graph)
        alone.modules = {self._module: graph.modules[self._module]}
        self._modules = [name for name in graph.modules if name != self._module]
        return [*self._remote.start(alone), *super().start(graph)]

    def await_prepared(self, module: str) -> str:
        """Wait until `module` is prepared."""
        return self._remote.await_prepared(module) if module == self._module else super().await_prepared(module)

    def load_state(self, module: str, state: Ref | None) -> None:
        """Load a state into `module`."""
        if module == self._module:
            self._remote.load_state(module, state)
        else:
            super().load_state(module, state)

    def restart(self, module: str) -> ModulePlaced:
        """Wait for a new process of the module."""
        return self._remote.restart(module)

    def submit(self, module: str, call: ModuleCall, arrays: Sequence[Ref]) -> Task[ResultRef]:
        """Submit a call to `module`."""
        if module == self._module:
            return self._remote.submit(module, call, arrays)
        return super().submit(module, call, [_local(reference) for reference in arrays])

    def submit_save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task[Mapping[str, FileRecord]]:
        """Submit the saving of objects of `module`."""
        if module == self._module:
            return self._remote.submit_save(module, request, objects)
        return super().submit_save(module, request, objects)

    def collect(self, task: Task[T]) -> T:
        """Wait for the result of a task."""
        return self._remote.collect(task) if isinstance(task, RayTask) else super().collect(task)

    def crash_report(self, module: str) -> str:
        """Return what is known about the death of the last process of `module`."""
        return self._remote.crash_report(module)

    def stop(self) -> None:
        """Stop the actor and the neighbours."""
        self._remote.stop()
        super().stop()


def _local(reference: Ref) -> Ref:
    """Return a reference to the object itself, fetched from the object store of Ray if it is there."""
    return Ref(ray.get(reference)) if isinstance(reference, ray.ObjectRef) else reference
