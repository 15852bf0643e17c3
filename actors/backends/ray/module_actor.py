"""What lives on the workers: the one actor class that hosts any module, and the task that a chain is."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import ray

from actors.backends.fault_injection import Injector, MortalHost
from actors.backends.in_process import InProcess
from actors.backends.module_host import Call, Host
from actors.coordination.backend import ChainCall
from actors.coordination.chains import run_chain
from actors.errors import StaleIncarnationError
from actors.graph.spec import ModuleSpec, Slot
from actors.messaging.kinds import Kind, register_kind
from actors.messaging.message import SCHEMA
from actors.module import Mode
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest

_TAIL = 20_000
"""So many bytes hold any traceback."""


class ModuleActor:
    """A Ray actor around one one module's host; status calls are answered while the module learns.

    Ray starts a dead actor again whether or not somebody asks it for something. Who comes later notices nothing of
    that, so each call that builds on what the module has learnt says whose life it is meant for.
    """

    def __init__(
        self, spec: ModuleSpec, slots: tuple[Slot, ...], kinds: tuple[Kind, ...], injector: Injector | None
    ) -> None:
        for kind in kinds:  # those of the whole model: a neighbour's may be declared in the neighbour's file alone
            register_kind(kind, "the model")
        self._host = Host(spec, slots) if injector is None else MortalHost(spec, slots, injector)
        self._life = uuid.uuid4().hex

    @ray.method(concurrency_group="status")
    def place(self) -> dict[str, Any]:
        """Say where this actor lives: node, process and the device that Ray gave it."""
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        node = ray.util.get_node_ip_address()
        name = self._host.spec.name
        return {
            "module": name,
            "node": node,
            "pid": os.getpid(),
            "device": device,
            "life": self._life,
            "schema": SCHEMA,
            "node_id": ray.get_runtime_context().get_node_id(),
            "log": str(Path("/proc/self/fd/2").resolve()),  # where Ray has sent this process's standard error
        }

    def prepare(self) -> str:
        """Prepare the module on the device that Ray gave this actor; return the one that it really uses."""
        return self._host.prepare(str(self.place()["device"]))

    def ask(self, life: str, mode: Mode, call: Call, *arrays: Any) -> tuple[Any, ...]:
        """Return answer, state, outputs, and the arrays of one message a slot."""
        self._check(life)
        reply = self._host.ask(mode, call, arrays)
        return (reply.answer, reply.state, reply.outputs, *reply.messages)

    def load(self, life: str, state: Any) -> None:
        """Give the module a state; None makes it anew."""
        self._check(life)
        if state is None:
            self._host.renew()
        else:
            self._host.load_state(state)

    def save(self, request: SaveRequest, *objects: Any) -> dict[str, FileRecord]:
        """Write the module's part of a commit."""
        return self._host.save(request, objects)

    def read(self, request: LoadRequest) -> tuple[Any, ...]:
        """Read the module's part of a commit: the messages' headers, then state, outputs and messages."""
        return self._host.read(request)

    @ray.method(concurrency_group="status")
    def status(self) -> dict[str, Any]:
        """Say what the module does now."""
        return self._host.status()

    def _check(self, life: str) -> None:
        if life != self._life:
            raise StaleIncarnationError(f"{self._host.spec.name} was started again meanwhile")


RemoteModule: Any = ray.remote(concurrency_groups={"status": 1})(ModuleActor)


@ray.remote
def run_chain_task(injector: Injector | None, call: ChainCall, *objects: Any) -> tuple[Any, ...]:
    """Return the answers by module, then state, outputs and the arrays of one message a slot of each."""
    if injector is not None:
        injector.strike("chain", "inside", call.position.round)
    results = run_chain(call, objects, InProcess(call.block.modules))
    given = [part for result in results.values() for part in (result.state, result.outputs, *result.messages)]
    return ({name: result.answer for name, result in results.items()}, *given)


@ray.remote(num_cpus=0)
def last_words_task(log: str) -> str:
    """Return the traceback at the end of a dead process's standard error (faulthandler's, which Ray enables)."""
    path = Path(log)
    text = path.read_bytes()[-_TAIL:].decode(errors="replace") if path.is_file() else ""
    found = text.rfind("Fatal Python error")
    return text[found:].strip() if found >= 0 else ""
