"""The host of one module: turns a coordinator's call into an update, and what the update gives into checked messages.

Both transports reach modules through it, so that what a module sees does not depend on where it lives.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from actors.errors import MessageError, NonFiniteError
from actors.graph.registry import add_code_directories, make
from actors.graph.spec import ModuleSpec, Slot
from actors.messaging.codec import make_message, pack_header, unpack_header
from actors.messaging.message import Header, Message
from actors.messaging.validation import check_arrays, check_figures, is_no_number, validate
from actors.module import Context, Inbox, Mode, Outbox, OutgoingMessage
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest, load_module_files, save_module_files
from actors.types import Array, State

Arrays = Mapping[str, Array]

_DOING = {"update": "learning", "recognize": "recognizing", "generate": "generating", "propose": "proposing"}


@dataclass(frozen=True)
class Call:
    """What the coordinator asks of a module: when (the context's fields) and with what (its inbox).

    The headers are msgpack bytes and lie beside the call's arrays, one for one.
    """

    run: str
    seed: int
    round: int
    step: int
    sequence: int
    receivers: Mapping[str, tuple[str, ...]]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    exchange: int = 0
    chain: int = 0
    temperature: float = 1.0
    learn: bool = True
    proposal: int = 0
    ordered: bool = True
    rows: int = 0
    headers: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a module answers besides arrays: a header a slot (None where it sent nothing), figures, seconds."""

    headers: tuple[bytes | None, ...]
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Reply:
    """A whole answer of a host. The arrays of one message are one object, None where the slot stayed empty."""

    answer: Answer
    state: State
    outputs: Arrays
    messages: tuple[Arrays | None, ...]


class Host:
    """Holds one module and runs its updates.

    Parameters
    ----------
    spec : ModuleSpec
    slots : sequence of Slot
        The messages that an update gives, in this order.
    """

    def __init__(self, spec: ModuleSpec, slots: Sequence[Slot]) -> None:
        self.spec = spec
        self.slots = tuple(slots)
        add_code_directories(spec.code)
        self.module = make(spec.type, spec.parameters)
        self.device = "cpu"
        self._prepared_on = ""
        self._doing: dict[str, Any] = {"doing": "waiting"}
        self._lock = threading.Lock()

    def prepare(self, device: str) -> str:
        """Prepare the module on `device`; returns the device that it really uses."""
        self._note(doing="preparing")
        self._prepared_on = device
        try:
            with limited_threads(self.spec.threads):
                self.module.prepare(device, self.spec.threads)
        finally:
            self._note(doing="waiting")
        self.device = str(getattr(self.module, "device", "cpu"))
        return self.device

    def ask(self, mode: Mode, call: Call, arrays: Sequence[Arrays]) -> Reply:
        """Let the module learn (``update``) or answer (``recognize``, ``generate``, ``propose``); see :class:`Reply`.

        Raises
        ------
        MessageError
            If a message of the inbox or of the module's answer is not valid.
        NonFiniteError
            If a figure, or a number in the state, an output or a message of the answer, is not finite.
        """
        inbox = Inbox([self._open(head, body) for head, body in zip(call.headers, arrays, strict=True)])
        doing = _DOING[mode]
        context = self._context(call, doing)
        self._note(doing=doing)
        started = time.perf_counter()
        try:
            # What numpy would warn of on the terminal is refused below, by name, if anything comes of it.
            with limited_threads(self.spec.threads), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                outbox: Outbox = getattr(self.module, mode)(inbox, context)
        finally:
            self._note(doing="waiting")
        seconds = time.perf_counter() - started
        where = context.where if mode == "update" else f"{context.where}, {doing}"
        check_figures(where, outbox.metrics)
        check_arrays(where, "output", outbox.outputs)
        state = self.module.state() if mode == "update" else {}
        check_arrays(where, "state", state)
        self._check_ports(outbox)
        messages = [self._seal(slot, outbox, call, where) for slot in self.slots]
        return Reply(
            answer=Answer(
                headers=tuple(pack_header(message.header) if message else None for message in messages),
                metrics={name: float(value) for name, value in outbox.metrics.items()},
                seconds=seconds,
            ),
            state=state,
            outputs=dict(outbox.outputs),
            messages=tuple(message.arrays if message else None for message in messages),
        )

    def load_state(self, state: State) -> None:
        """Give the module a state that it returned before."""
        self.module.load_state(state)

    def save(self, request: SaveRequest, objects: Sequence[Any]) -> dict[str, FileRecord]:
        """Write the module's part of a commit."""
        return save_module_files(request, objects)

    def read(self, request: LoadRequest) -> tuple[Any, ...]:
        """Read the module's part of a commit (:func:`actors.storage.module_files.load_module_files`)."""
        return load_module_files(request)

    def renew(self) -> None:
        """Put a module that has learnt nothing in the place of this one."""
        self.module = make(self.spec.type, self.spec.parameters)
        if self._prepared_on:
            self.prepare(self._prepared_on)

    def status(self) -> dict[str, Any]:
        """Return what the module does now: ``doing`` and, in an update, ``done``, ``total`` and its figures."""
        with self._lock:
            return dict(self._doing)

    def _note(self, **doing: Any) -> None:
        with self._lock:
            self._doing = doing

    def _context(self, call: Call, doing: str) -> Context:
        return Context(
            module=self.spec.name,
            seed=call.seed,
            run=call.run,
            round=call.round,
            step=call.step,
            exchange=call.exchange,
            chain=call.chain,
            temperature=call.temperature,
            learn=call.learn,
            proposal=call.proposal,
            receivers=call.receivers,
            overrides=call.overrides,
            ordered=call.ordered,
            rows=call.rows,
            reporter=lambda done, total, metrics: self._note(
                **{**metrics, "doing": doing, "done": done, "total": total}
            ),
        )

    def _open(self, head: bytes, body: Arrays) -> Message:
        message = Message(unpack_header(head), {name: _read_only(array) for name, array in body.items()})
        port = next((port for port in self.module.ports if port.name == message.header.port), None)
        if port is None or port.direction != "in" or port.kind != message.header.kind:
            raise MessageError(f"{message.header.route}: {self.spec.name} has no such port for this kind")
        validate(message)
        return message

    def _check_ports(self, outbox: Outbox) -> None:
        """Refuse what would otherwise be lost without a word.

        A misspelt port or receiver, a receiver of a shared message, a second message where there is room for one.
        """
        ports = {port.name: port for port in self.module.ports if port.direction == "out"}
        ways: set[tuple[str, str]] = set()
        for outgoing in outbox.messages:
            port = ports.get(outgoing.port)
            if port is None:
                raise MessageError(
                    f"{self.spec.name}.{outgoing.port}: no such output port, only {', '.join(ports) or 'none'}"
                )
            if outgoing.receiver and not port.per_receiver:
                raise MessageError(
                    f"{self.spec.name}.{port.name}: a message of its own came for {outgoing.receiver}, "
                    f"but the port is not per_receiver"
                )
            receivers = [slot.receiver for slot in self.slots if slot.port == port.name]
            where = f"{self.spec.name}.{port.name}{outgoing.receiver and f' to {outgoing.receiver}'}"
            if outgoing.receiver and outgoing.receiver not in receivers:
                raise MessageError(f"{where}: no such receiver, only {', '.join(receivers) or 'none'}")
            if (port.name, outgoing.receiver) in ways:
                raise MessageError(f"{where}: two messages came, one can be sent")
            ways.add((port.name, outgoing.receiver))

    def _seal(self, slot: Slot, outbox: Outbox, call: Call, where: str) -> Message | None:
        outgoing = _for_slot(slot, outbox)
        if outgoing is None:
            return None
        header = Header(
            kind=slot.kind,
            sender=self.spec.name,
            port=slot.port,
            receiver=slot.receiver,
            run=call.run,
            round=call.round,
            step=call.step,
            sequence=call.sequence,
        )
        try:
            return make_message(header, outgoing.arrays)
        except MessageError as error:
            if is_no_number(slot.kind, outgoing.arrays):
                raise NonFiniteError(f"{where}: {error}") from error
            raise


def _for_slot(slot: Slot, outbox: Outbox) -> OutgoingMessage | None:
    candidates = [outgoing for outgoing in outbox.messages if outgoing.port == slot.port]
    own = [outgoing for outgoing in candidates if outgoing.receiver == slot.receiver]
    return next(iter(own or [outgoing for outgoing in candidates if not outgoing.receiver]), None)


def _read_only(array: Array) -> Array:
    """Return a view that cannot be written through: in one process too, as Ray gives it."""
    view = array.view()
    view.flags.writeable = False
    return view


@lru_cache(maxsize=1)
def _pools(_modules: int) -> ThreadpoolController:
    """Return the thread pools of the process, looked for anew (milliseconds) only after something was imported."""
    return ThreadpoolController()


class limited_threads:  # noqa: N801 (reads as the statement that it is)
    """Within it, BLAS, OpenMP and torch use exactly `threads` threads: the bits of their sums depend on it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __enter__(self) -> None:
        self._torch = sys.modules.get("torch")
        if self._torch is not None:
            self._torch_threads = self._torch.get_num_threads()  # before the pools: it looks at OpenMP's
        self._pools = _pools(len(sys.modules)).limit(limits=self.threads)
        if self._torch is not None:
            self._torch.set_num_threads(self.threads)

    def __exit__(self, *_: object) -> None:
        if self._torch is not None:
            self._torch.set_num_threads(self._torch_threads)
        self._pools.restore_original_limits()
