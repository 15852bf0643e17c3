"""The Ray transport: the one actor class that hosts any module, and the actor around the coordinator.

Return values belong to the caller and outlive their producer (what an actor puts dies with it), so an update returns
its answer, its state, its outputs and one object a message, all owned by the coordinator; references go in as
top-level arguments, which Ray resolves where the module is. The coordinator reads the answer alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.chains import run_chain
from actors.checkpoint import Checkpoints, FileRecord, SaveRequest, save
from actors.coordinator import Coordinator
from actors.graph import Graph, ModuleSpec, Slot
from actors.host import Answer, Call, Host
from actors.in_process import InProcess
from actors.messages import MessageError
from actors.module import Mode, ModuleError
from actors.transport import ChainCall, Ref, Result, Task, TransportError

COORDINATOR = "coordinator"
STATUS_TIMEOUT = 2.0
_START_TIMEOUT = 300.0


def namespace_of(run: str) -> str:
    """Return the Ray namespace in which the actors of `run` have their names."""
    return f"serket:{run}"


class ModuleFailedError(RuntimeError):
    """A module raised or died; the text names it and holds its own traceback."""


class ModuleActor:
    """A Ray actor around one :class:`actors.host.Host`; status calls are answered while the module learns."""

    def __init__(self, spec: ModuleSpec, slots: tuple[Slot, ...]) -> None:
        self._host = Host(spec, slots)

    @ray.method(concurrency_group="status")
    def place(self) -> dict[str, Any]:
        """Say where this actor lives: node, process and the device that Ray gave it."""
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        node = ray.util.get_node_ip_address()
        return {"module": self._host.spec.name, "node": node, "pid": os.getpid(), "device": device}

    def prepare(self) -> str:
        """Prepare the module on the device that Ray gave this actor; return the one that it really uses."""
        return self._host.prepare(str(self.place()["device"]))

    def ask(self, mode: Mode, call: Call, *arrays: Any) -> tuple[Any, ...]:
        """Return answer, state, outputs, and the arrays of one message a slot."""
        reply = self._host.ask(mode, call, arrays)
        return (reply.answer, reply.state, reply.outputs, *reply.messages)

    def load(self, state: Any) -> None:
        """Give the module a state."""
        self._host.load_state(state)

    def save(self, request: SaveRequest, *objects: Any) -> dict[str, FileRecord]:
        """Write the module's part of a commit."""
        return save(request, objects)

    @ray.method(concurrency_group="status")
    def status(self) -> dict[str, Any]:
        """Say what the module does now."""
        return self._host.status()


_RemoteModule: Any = ray.remote(concurrency_groups={"status": 1})(ModuleActor)


@ray.remote
def _run_chain(call: ChainCall, *objects: Any) -> tuple[Any, ...]:
    """Return the answers by module, then state, outputs and the arrays of one message a slot of each."""
    results = run_chain(call, objects, InProcess(call.block.modules))
    given = [part for result in results.values() for part in (result.state, result.outputs, *result.messages)]
    return ({name: result.answer for name, result in results.items()}, *given)


class RayTransport:
    """Reaches every module through an actor of its own, named as the module is.

    Parameters
    ----------
    namespace : str
        The Ray namespace of the actors' names.
    log : callable, optional
        Receives a sentence where a choice was made (GPU or CPU).
    """

    def __init__(self, namespace: str, log: Callable[[str], None] | None = None) -> None:
        self._namespace = namespace
        self._actors: dict[str, Any] = {}
        self._slots: dict[str, int] = {}
        self._prepared: dict[str, Any] = {}
        self._chain_cpus = 1.0
        self._log = log or (lambda _sentence: None)

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Make the actors, all at once, and let each prepare behind its first update."""
        gpus = allot(graph, ray.cluster_resources(), [node["Resources"] for node in ray.nodes() if node["Alive"]])
        for name, share in gpus.items():
            if graph.modules[name].resources.num_gpus == "auto" and graph.uses_gpu[name]:
                self._log(
                    f"{name}: {share:g} GPU" if share else f"{name}: the cluster has no GPU, so it runs on the CPU"
                )
        reserved = sum(spec.resources.num_cpus for spec in graph.modules.values())
        # Where the modules hold every core, chains would wait for one for ever.
        self._chain_cpus = 1.0 if ray.cluster_resources().get("CPU", 0.0) - reserved >= 1.0 else 0.0
        for name, spec in graph.modules.items():
            slots = graph.slots(name)
            self._actors[name] = _RemoteModule.options(
                name=name,
                namespace=self._namespace,
                num_cpus=spec.resources.num_cpus,
                num_gpus=gpus[name],
                max_restarts=0,
            ).remote(spec, slots)
            self._slots[name] = len(slots)
        places = {name: actor.place.remote() for name, actor in self._actors.items()}
        self._prepared = {name: actor.prepare.remote() for name, actor in self._actors.items()}
        return [self._get(_module(name), place, timeout=_START_TIMEOUT) for name, place in places.items()]

    def ready(self, module: str) -> str:
        """Wait until `module` is prepared; say which device it uses."""
        device: str = self._get(_module(module), self._prepared[module])
        return device

    def load(self, module: str, state: Ref) -> None:
        """Give `module` a state."""
        self._get(_module(module), self._actors[module].load.remote(state))

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Ask `module`; returns one reference a returned object."""
        method = self._actors[module].ask.options(num_returns=3 + self._slots[module])
        return method.remote(mode, call, *arrays)

    def collect(self, module: str, task: Task) -> Result:
        """Wait for the answer; the objects beside it stay where they are."""
        answer, state, outputs, *messages = task
        found: Answer = self._get(_module(module), answer)
        return Result(found, state, outputs, tuple(messages))

    def chain(self, call: ChainCall, objects: Sequence[Ref]) -> Task:
        """Have a chain run on whichever core of the cluster is free next.

        A chain is a task, not an actor: Ray keeps the processes, spreads them over the nodes, and runs the chain again
        where its node dies.
        """
        sizes = {name: 2 + len(call.graph.slots(name)) for name in call.block.modules}
        given = _run_chain.options(
            num_returns=1 + sum(sizes.values()), num_cpus=self._chain_cpus, scheduling_strategy="SPREAD"
        ).remote(call, *objects)
        return sizes, given

    def chained(self, task: Task) -> Mapping[str, Result]:
        """Wait for the answers; the objects beside them stay where they are."""
        sizes, (answers, *objects) = task
        found: Mapping[str, Answer] = self._get("a chain", answers)
        results, first = {}, 0
        for name, size in sizes.items():
            state, outputs, *messages = objects[first : first + size]
            results[name] = Result(found[name], state, outputs, tuple(messages))
            first += size
        return results

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:
        """Have the objects of `module` written by its own actor."""
        return module, self._actors[module].save.remote(request, *objects)

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Wait for what :meth:`save` asked for."""
        module, reference = task
        records: Mapping[str, FileRecord] = self._get(_module(module), reference)
        return records

    def status(self, module: str) -> dict[str, Any]:
        """Say what `module` does now; a module that does not answer in time says so."""
        try:
            status: dict[str, Any] = ray.get(self._actors[module].status.remote(), timeout=STATUS_TIMEOUT)
        except (GetTimeoutError, RayActorError) as error:
            return {"doing": f"no answer ({type(error).__name__})"}
        return status

    def stop(self) -> None:
        """End the actors."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _get(self, who: str, reference: Any, timeout: float | None = None) -> Any:
        try:
            return ray.get(reference, timeout=timeout)
        except RayTaskError as error:
            if isinstance(error.cause, ModuleError | MessageError):  # they say all that there is to say
                raise ModuleFailedError(f"{who}: {error.cause}") from None
            raise ModuleFailedError(f"{who} raised an error\n{error}") from None
        except RayActorError as error:
            raise ModuleFailedError(f"{who} died\n{error}") from None
        except GetTimeoutError:
            raise ModuleFailedError(
                f"{who} did not start within {timeout:g} seconds (are its resources taken by another run?)"
            ) from None


def _module(name: str) -> str:
    return f"module {name!r}"


def allot(graph: Graph, cluster: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how many GPUs each module gets, having checked that the cluster can hold all modules.

    Parameters
    ----------
    graph : Graph
    cluster : mapping of str to float
        What the cluster has in all (``CPU``, ``GPU``).
    nodes : sequence of mapping of str to float
        What each node has.

    Raises
    ------
    TransportError
        Says what was asked and what there is; a request that cannot be met would wait for ever.
    """
    hopeful = [n for n, s in graph.modules.items() if s.resources.num_gpus == "auto" and graph.uses_gpu[n]]
    demanded = {n: float(s.resources.num_gpus) for n, s in graph.modules.items() if s.resources.num_gpus != "auto"}
    free = int(cluster.get("GPU", 0.0) - sum(demanded.values()))
    # So many to a GPU, evenly, that whole GPUs hold them all.
    share = 1.0 / math.ceil(len(hopeful) / free) if hopeful and free > 0 else 0.0
    gpus = {name: demanded.get(name, share if name in hopeful else 0.0) for name in graph.modules}
    asked = {"CPU": {n: s.resources.num_cpus for n, s in graph.modules.items()}, "GPU": gpus}
    for resource, by_module in asked.items():
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        for name, amount in by_module.items():
            if amount > largest:
                raise TransportError(
                    f"module {name!r} asks for {amount:g} {resource}, but the largest node has {largest:g}"
                )
        total, whole = sum(by_module.values()), cluster.get(resource, 0.0)
        if total > whole:
            wishes = ", ".join(f"{name} {amount:g}" for name, amount in by_module.items() if amount)
            raise TransportError(f"the modules ask for {total:g} {resource} ({wishes}), but the cluster has {whole:g}")
    return gpus


class CoordinatorActor:
    """A Ray actor around one :class:`actors.coordinator.Coordinator`; a second thread answers :meth:`poll`."""

    def __init__(self, graph: Graph, run: str, seed: int, checkpoints: str | None) -> None:
        self._events: list[tuple[str, float, dict[str, Any]]] = []
        self._places: dict[str, dict[str, Any]] = {}
        self._transport = RayTransport(namespace_of(run), log=lambda sentence: self._emit("log", {"message": sentence}))
        self._coordinator = Coordinator(
            graph,
            self._transport,
            run=run,
            seed=seed,
            checkpoints=Checkpoints(checkpoints) if checkpoints else None,
            emit=self._emit,
        )

    def start(self, states: Mapping[str, list[Any]]) -> None:
        """Bring the modules to life; `states` holds each reference in a list, so that it arrives as a reference."""
        self._coordinator.start({name: reference[0] for name, reference in states.items()})

    def run_rounds(self) -> None:
        """Run all rounds."""
        self._coordinator.run_rounds()

    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn, and commit."""
        self._coordinator.update(module, round, step)

    def generate(self, module: str) -> list[Any]:
        """Ask `module` for a generation; its outputs as a reference in a list, so that it leaves as a reference."""
        return [self._coordinator.generate(module)]

    @ray.method(concurrency_group="status")
    def stop(self) -> None:
        """End the modules' actors, in the middle of an update too."""
        self._transport.stop()

    @ray.method(concurrency_group="status")
    def poll(self, since: int) -> tuple[list[tuple[str, float, dict[str, Any]]], dict[str, Any]]:
        """Return the events from number `since` on (name, Unix time, fields), and where the run stands."""
        return self._events[since:], self._coordinator.status()

    @ray.method(concurrency_group="status")
    def describe(self) -> dict[str, Any]:
        """Say where every module lives and what it does now (:func:`serket inspect`)."""
        modules = {name: {**place, **self._transport.status(name)} for name, place in list(self._places.items())}
        own = {"node": ray.util.get_node_ip_address(), "pid": os.getpid(), "device": "cpu"}
        return {COORDINATOR: {**own, **self._coordinator.status()}, "modules": modules}

    def _emit(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "placed":
            self._places[fields["module"]] = dict(fields)
        self._events.append((event, time.time(), dict(fields)))


RemoteCoordinator: Any = ray.remote(concurrency_groups={"status": 1}, num_cpus=0)(CoordinatorActor)
