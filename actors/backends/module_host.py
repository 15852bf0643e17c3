"""The host of one module: runs its calls, and validates the messages that it receives and returns.

All backends use it, so that a module behaves the same in every backend. A result is accepted whole or refused: if any
part of it is not valid, the call raises an error, and the coordinator restores the module's previous state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from actors.backends.result_checks import (
    bounded_exceptions,
    check_device,
    check_outbox,
    check_progress,
    check_state,
    show_name,
)
from actors.backends.step_parameters import StepParameters
from actors.backends.thread_limits import limited_threads
from actors.coordination.backend import ModuleCall, ModuleResult
from actors.errors import MessageError, ModuleError, NonFiniteError
from actors.graph.registry import add_code_directories, make_module
from actors.graph.spec import ModuleSpec, Slot
from actors.kernels.row_sample import spread_rows
from actors.limits import INLINED_BYTES, MAX_WHOLE_ROWS, SAMPLED_OUTPUT_ROWS
from actors.messaging.codec import make_message, pack_header, unpack_header
from actors.messaging.message import Header, Message
from actors.messaging.stored_rows import StoredRows, read_array
from actors.messaging.validation import check_arrays, has_non_finite_values, validate
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage
from actors.sharing.chunks import ShardedArrays, one_part, row_count_in, whole_arrays
from actors.storage.filesystem import Storage, storage_at
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest, load_module_files, save_module_files
from actors.types import Array, State

Arrays: TypeAlias = Mapping[str, Array | StoredRows] | ShardedArrays
HostResult: TypeAlias = ModuleResult[Mapping[str, Any], Message]
"""A result in the host: values and messages instead of references."""

DOING = {"update": "learning", "recognize": "recognizing", "generate": "generating", "propose": "proposing"}
"""What a module does in a call of each mode, for its status."""


class ModuleHost:
    """Holds one module and runs its calls.

    Parameters
    ----------
    spec : ModuleSpec
    slots : sequence of Slot
        The messages that an update may return.
    """

    def __init__(self, spec: ModuleSpec, slots: Sequence[Slot]) -> None:
        self.spec = spec
        self.slots = tuple(slots)
        with bounded_exceptions():
            add_code_directories(spec.code)
            self.module = _make(spec)
        self.device = "cpu"
        self._step_parameters = StepParameters()
        self._prepared_on = ""
        self._idle = "waiting"  # what the module does between computations
        self._status: dict[str, Any] = {"doing": self._idle}
        self._lock = threading.Lock()
        self._storage: tuple[str, Storage] | None = None
        self._checked: dict[tuple[bytes, str], tuple[Arrays, Message]] = {}  # by header and port

    def prepare(self, device: str) -> str:
        """Prepare the module on `device`; return the device that it really uses."""
        self._set_status(doing="preparing")
        self._prepared_on = device
        try:
            with bounded_exceptions(), limited_threads(self.spec.threads):
                self.prepare_module(device)
                self.device = check_device(self.spec.name, getattr(self.module, "device", "cpu"))
        finally:
            self._set_status(doing=self._idle)
        return self.device

    def prepare_module(self, device: str) -> None:
        """Prepare the instance."""
        self.module.prepare(device, self.spec.threads)

    def call(self, call: ModuleCall, arrays: Sequence[Arrays]) -> HostResult:
        """Run a call of the module.

        Parameters
        ----------
        call : ModuleCall
        arrays : sequence of mapping
            The arrays of the messages in the inbox, one for each of the call's headers.

        Raises
        ------
        MessageError
            If a message of the inbox or of the module's answer is not valid.
        ModuleError
            If a name or a type in the answer or in the state is not valid (:mod:`actors.backends.result_checks`).
        NonFiniteError
            If a metric, or a number in the state, an output or a message of the answer, is not finite.
        """
        with bounded_exceptions():
            return self._call(call, arrays)

    def _call(self, call: ModuleCall, arrays: Sequence[Arrays]) -> HostResult:
        if call.mode == "generate" and not call.rows:
            call, arrays = _without_most_rows(call, arrays)
        messages = zip(call.headers, call.ports, arrays, strict=True)
        inbox = Inbox([self._unpack_input(header, port, body) for header, port, body in messages])
        here = set(zip(call.headers, call.ports, strict=True))
        self._checked = {key: message for key, message in self._checked.items() if key in here}
        context = self._context(call)
        started = time.perf_counter()
        with self.computing(DOING[call.mode]):
            answer = getattr(self.module, call.mode)(inbox, context)
        seconds, ended = time.perf_counter() - started, time.monotonic()
        accepted = self._accept(answer if call.mode == "generate" else self._sampled(answer), call, context, seconds)
        return replace(accepted, ended=ended)

    @contextmanager
    def computing(self, doing: str) -> Iterator[None]:
        """Limit the threads while the module computes, and say what it does."""
        self._set_status(doing=doing)
        try:
            # No numpy warnings: a value that is not finite raises an error below if it reaches a result.
            with limited_threads(self.spec.threads), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                yield
        finally:
            self._set_status(doing=self._idle)

    def _accept(self, answer: object, call: ModuleCall, context: Context, seconds: float) -> HostResult:
        """Return the result of a call, checked."""
        where = context.where if call.mode == "update" else f"{context.where}, {DOING[call.mode]}"
        outbox = check_outbox(where, answer)
        check_arrays(where, "output", outbox.outputs)
        state: State = {}
        if call.mode == "update":
            state = self._kept_state(context, where)
        return ModuleResult(
            state=state,
            outputs=outbox.outputs,
            messages=self._pack_messages(outbox, call, where),
            metrics=outbox.metrics,
            seconds=seconds,
        )

    def _sampled(self, answer: object) -> object:
        """Return an answer with those rows of sampled outputs that are kept; generated rows are all kept."""
        names = self.module.sampled_outputs
        if not names or not isinstance(answer, Outbox) or not isinstance(answer.outputs, Mapping):
            return answer
        outputs = dict(answer.outputs)
        for name in names:
            array = outputs.get(name)
            if isinstance(array, np.ndarray) and array.ndim and len(array) > MAX_WHOLE_ROWS:
                outputs[f"{name}_rows"] = rows = spread_rows(len(array), SAMPLED_OUTPUT_ROWS)
                outputs[name] = array[rows]
        return replace(answer, outputs=outputs)

    def _kept_state(self, context: Context, where: str) -> State:
        """Return the module's state after an update, with the step's parameters that it depends on."""
        self._step_parameters.keep(self.module, context.overrides)
        return self._step_parameters.add_to(self._state(where), where)

    def _pack_messages(self, outbox: Outbox, call: ModuleCall, where: str) -> dict[str, Message]:
        """Return the validated messages of an outbox, by slot."""
        self._check_ports(outbox, where)
        packed = ((slot.name, self._pack_output(slot, outbox, call, where)) for slot in self.slots)
        return {slot: message for slot, message in packed if message is not None}

    def load_state(self, state: State) -> None:
        """Load a state that the module returned before."""
        with bounded_exceptions():
            self.module.load_state(self._step_parameters.take_from(state, self.module))

    def save(self, request: SaveRequest, objects: Sequence[Any]) -> dict[str, FileRecord]:
        """Write the module's part of a commit, or one part of it (:func:`actors.storage.parts.split_request`)."""
        if self._storage is None or self._storage[0] != request.root:
            self._storage = request.root, storage_at(request.root)
        return save_module_files(request, objects, self._storage[1])

    def read(self, request: LoadRequest) -> tuple[Any, ...]:
        """Read the module's part of a commit (:func:`actors.storage.module_files.load_module_files`)."""
        return load_module_files(request)

    def reset(self) -> None:
        """Replace the module by a new, untrained instance."""
        self._step_parameters.clear()
        with bounded_exceptions():
            self.module = _make(self.spec)
        if self._prepared_on:
            self.prepare(self._prepared_on)

    def status(self) -> dict[str, Any]:
        """Return what the module is doing now: ``doing`` and, in an update, ``done``, ``total`` and its metrics."""
        with self._lock:
            return dict(self._status)

    def _set_status(self, **status: Any) -> None:
        with self._lock:
            self._status = status

    def _state(self, where: str) -> State:
        """Return the module's state, checked."""
        state = check_state(where, self.module.state())
        check_arrays(where, "state", state)
        return state

    def _context(self, call: ModuleCall) -> Context:
        doing = DOING[call.mode]

        def report(done: int, total: int, metrics: Mapping[str, float]) -> None:
            self._set_status(**{**check_progress(context.where, done, total, metrics), "doing": doing})

        context = Context(
            module=self.spec.name,
            seed=call.seed,
            run=call.run,
            mode=call.mode,
            round=call.round,
            step=call.step,
            exchange=call.exchange,
            chain=call.chain,
            temperature=call.temperature,
            learn=call.learn,
            proposal=call.proposal,
            receivers=call.receivers,
            overrides=self._step_parameters.for_call(self.module, call),
            ordered=call.ordered,
            order_above=call.order_above,
            rows=call.rows,
            noise=call.noise,
            reporter=report,
        )
        return context

    def _unpack_input(self, packed_header: bytes, port: str, arrays: Arrays) -> Message:
        """Return a message of the inbox: its header parsed and addressed, its arrays read-only.

        A small one that was in the inbox of the last call, as rows are in every exchange, has been checked then.
        """
        given, message = self._checked.get((packed_header, port), (None, None))
        if message is None or given is not arrays:
            header = unpack_header(packed_header).addressed(self.spec.name, port)
            whole = whole_arrays(header.kind, arrays)
            message = self._checked_input(header, {name: read_array(array) for name, array in whole.items()})
            if message.header.nbytes <= INLINED_BYTES:
                self._checked[packed_header, port] = arrays, message
        return Message(message.header, dict(message.arrays))

    def _checked_input(self, header: Header, arrays: Mapping[str, Array | StoredRows]) -> Message:
        """Return a message of the inbox, validated, its arrays read-only."""
        port = header.port
        message = Message(header, {name: _read_only(array) for name, array in arrays.items()})
        known = next((each for each in self.module.ports if each.name == port), None)
        if known is None or known.direction != "in" or known.kind != header.kind:
            raise MessageError(f"{header.route}: {self.spec.name} has no input port {port!r} for messages of this kind")
        validate(message)
        return message

    def _rows_in(self, slot: Slot, outgoing: OutgoingMessage) -> int:
        """Return the number of rows of a message that may not be valid yet."""
        return row_count_in(slot.kind, outgoing.arrays)

    def _check_ports(self, outbox: Outbox, where: str) -> None:
        """Raise an error for messages that would otherwise be dropped silently.

        These have an unknown port or receiver, a receiver although the port sends one message to all, or are the second
        message of a slot.
        """
        ports = {port.name: port for port in self.module.ports if port.direction == "out"}
        sent: set[tuple[str, str]] = set()
        for outgoing in outbox.messages:
            port = ports.get(outgoing.port)
            if port is None:
                at = f"{where}: {self.spec.name}.{show_name(outgoing.port)}"
                raise MessageError(f"{at}: no such output port, only {', '.join(ports) or 'none'}")
            if outgoing.receiver and not port.per_receiver:
                raise MessageError(
                    f"{where}: {self.spec.name}.{port.name}: got a message for the receiver "
                    f"{show_name(outgoing.receiver)}, but the port is not per_receiver"
                )
            receivers = [slot.receiver for slot in self.slots if slot.port == port.name]
            to = outgoing.receiver and f" to {show_name(outgoing.receiver)}"
            at = f"{where}: {self.spec.name}.{port.name}{to}"
            if outgoing.receiver and outgoing.receiver not in receivers:
                raise MessageError(f"{at}: no such receiver, only {', '.join(receivers) or 'none'}")
            if (port.name, outgoing.receiver) in sent:
                raise MessageError(f"{at}: got two messages, expected at most one")
            sent.add((port.name, outgoing.receiver))

    def _pack_output(self, slot: Slot, outbox: Outbox, call: ModuleCall, where: str) -> Message | None:
        """Return the validated message of a slot, None if the module sends none."""
        outgoing = _message_for(slot, outbox)
        if outgoing is None or (slot.unread and self._rows_in(slot, outgoing) > MAX_WHOLE_ROWS):
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
            refused = NonFiniteError if has_non_finite_values(slot.kind, outgoing.arrays) else MessageError
            raise refused(f"{where}: {error}") from error


def _message_for(slot: Slot, outbox: Outbox) -> OutgoingMessage | None:
    """Return the message for a slot: the one for its receiver, or else the one for all receivers of the port."""
    candidates = [outgoing for outgoing in outbox.messages if outgoing.port == slot.port]
    own = [outgoing for outgoing in candidates if outgoing.receiver == slot.receiver]
    return next(iter(own or [outgoing for outgoing in candidates if not outgoing.receiver]), None)


def _without_most_rows(call: ModuleCall, arrays: Sequence[Arrays]) -> tuple[ModuleCall, Sequence[Arrays]]:
    """Return a call that decodes parameters in messages, without rows on disk and with one part of those in parts."""
    cut = [one_part(unpack_header(packed), body) for packed, body in zip(call.headers, arrays, strict=True)]
    headers = tuple(pack_header(header) for header, _ in cut)
    return replace(call, headers=headers), [body for _, body in cut]


def _read_only(array: Array | StoredRows) -> Array | StoredRows:
    """Return a read-only view; Ray's arrays are read-only as well."""
    if isinstance(array, StoredRows):
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def _make(spec: ModuleSpec) -> Module[Any]:
    """Return a new module; raise ModuleError if its class ends the process."""
    try:
        return make_module(spec.type, spec.parameters)
    except SystemExit as error:
        raise ModuleError(
            f"module {spec.name!r}: its class {spec.type} called sys.exit({error.code!r}) as it was made"
        ) from None
