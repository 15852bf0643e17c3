"""The harness of a module under test: creates modules, calls them, and copies their results.

It calls a module more directly than a run does: arrays are passed writable and results are not validated, so that a
module with one error fails the check of that error alone.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from actors.backends.module_host import Arrays as HostArrays
from actors.backends.module_host import ModuleHost
from actors.backends.thread_limits import limited_threads
from actors.conformance.neighbours import LowerNeighbour, UpperNeighbour
from actors.conformance.sample_messages import Arrays, PortMessages
from actors.coordination.backend import ModuleCall
from actors.errors import MessageError, ModuleError, shorten_text
from actors.graph.graph import Graph
from actors.graph.registry import find, make_module
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.limits import MAX_EXCEPTION_CHARACTERS
from actors.messaging.codec import as_wire, describe, pack_header
from actors.messaging.kinds import KINDS, Kind
from actors.messaging.message import Header, Message
from actors.messaging.validation import check_arrays
from actors.module import Context, Inbox, Mode, Module, Outbox, Pass, Port, Report
from actors.types import Array, State

MODULE, BELOW, ABOVE = "module", "below", "above"

_MODE_NOUNS = {"update": "update", "recognize": "recognition", "generate": "generation", "propose": "proposal"}


@dataclass(frozen=True)
class OutboxCopy:
    """A copy of what a module returned: messages by port and receiver, metrics, and outputs."""

    messages: Mapping[tuple[str, str], Arrays]
    metrics: Mapping[str, float]
    outputs: Mapping[str, Array]
    changed_generators: tuple[str, ...] = ()
    """The global random generators whose state the call changed."""

    def parts(self) -> dict[str, Any]:
        """Return messages, outputs and metrics under the names that failure sentences use."""
        messages = {f"{port} to {to}" if to else port: arrays for (port, to), arrays in self.messages.items()}
        return {"message": messages, "output": self.outputs, "metric": self.metrics}


@dataclass(frozen=True)
class CallSetup:
    """The conditions of a call: fields of the context, the global random generators, and the access to the arrays.

    Parameters
    ----------
    context : mapping
        Fields of :class:`actors.module.Context`.
    global_seed : int
        The seed of the global random generators.
    read_only : bool
        Whether to pass the given arrays themselves, read-only, as in a run; otherwise writable copies.
    """

    context: Mapping[str, Any] = field(default_factory=dict)
    global_seed: int = 0
    read_only: bool = False


class ModuleHarness:
    """Creates modules of one type and calls them.

    Parameters
    ----------
    module : str or type
        A module type, or the class.
    parameters : mapping

    Raises
    ------
    ModuleError
        If the type does not exist or a parameter is not valid.
    """

    def __init__(self, module: str | type[Module[Any]], parameters: Mapping[str, Any]) -> None:
        self.type_name = module if isinstance(module, str) else f"{module.__module__}:{module.__qualname__}"
        self.cls = find(self.type_name)
        self.parameters = dict(parameters)
        make_module(self.type_name, self.parameters)
        self.graph = self._build_graph()
        self.receivers = self.graph.receivers(MODULE)

    def _build_graph(self) -> Graph:
        """Return a graph of the module and of those neighbours that its ports can be connected to."""
        # The search path goes along so that an actor can import the module too, from a test file for example.
        spec = ModuleSpec(MODULE, self.type_name, self.parameters, code=tuple(path for path in sys.path if path))
        specs, connections, steps = [spec], [], [Step(MODULE)]
        if self.ports("in", "forward"):
            specs.append(ModuleSpec(BELOW, _class_path(LowerNeighbour)))
            connections.append(Connection(BELOW, MODULE))
        if self.ports("out", "forward"):
            specs.append(ModuleSpec(ABOVE, _class_path(UpperNeighbour)))
            connections.append(Connection(MODULE, ABOVE))
            steps.append(Step(ABOVE))
        return Graph(specs, connections, Schedule(3, tuple(steps)))

    def ports(self, direction: str, pass_: Pass) -> tuple[Port, ...]:
        """Return the ports of one direction and one pass."""
        return tuple(port for port in self.cls.ports if (port.direction, port.pass_) == (direction, pass_))

    def kind(self, port: str) -> Kind | None:
        """Return the message kind of a port, or None if there is no such port."""
        return next((KINDS[each.kind] for each in self.cls.ports if each.name == port), None)

    def new_module(self, state: Mapping[str, Any] | None = None) -> Module[Any]:
        """Return a new, prepared module, with `state` loaded if one is given."""
        module = make_module(self.type_name, self.parameters)
        with self._report_exceptions("preparation"):
            module.prepare("cpu", 1)
        if state is not None:
            self.load_state(module, state)
        return module

    def load_state(self, module: Module[Any], state: Mapping[str, Any]) -> None:
        """Load a state into a module, with read-only arrays as in a run."""
        given = {name: _read_only(value) if isinstance(value, np.ndarray) else value for name, value in state.items()}
        with self._report_exceptions("load_state"):
            module.load_state(given)

    def state(self, module: Module[Any]) -> State:
        """Return a copy of a module's state."""
        with self._report_exceptions("state"):
            return copy.deepcopy(module.state())

    def call(
        self, module: Module[Any], mode: Mode, messages: PortMessages, setup: CallSetup | None = None, **context: Any
    ) -> OutboxCopy:
        """Call a module that has no reason to refuse its messages.

        Parameters
        ----------
        module : Module
        mode : Mode
        messages : dict of str to dict
            The arrays of the message on each port.
        setup : CallSetup, optional
        **context
            Further fields of the context.

        Raises
        ------
        AssertionError
            If the module raises an exception, which is named.
        """
        result = self.try_call(module, mode, messages, setup, **context)
        if isinstance(result, OutboxCopy):
            return result
        failure = f"{self.type_name}: {_MODE_NOUNS[mode]} refuses {_describe_inputs(messages)}: {result}"
        raise AssertionError(failure) from result

    def try_call(
        self, module: Module[Any], mode: Mode, messages: PortMessages, setup: CallSetup | None = None, **context: Any
    ) -> OutboxCopy | Exception:
        """Call a module; return its result, or the ModuleError or MessageError with which it refuses its messages.

        Raises
        ------
        AssertionError
            If the module raises any other exception, which is named.
        """
        setup = setup or CallSetup()
        inbox = Inbox([self._make_message(port, arrays, setup.read_only) for port, arrays in messages.items()])
        defaults = {"module": MODULE, "run": "conformance", "receivers": self.receivers}
        call_context = Context(**{**defaults, **setup.context, **context})
        noun = _MODE_NOUNS[mode]
        with _seeded_global_generators(setup.global_seed) as changed_generators:
            try:
                with (
                    self._report_exceptions(f"{noun} with {_describe_inputs(messages)}", may_refuse=True),
                    limited_threads(1),
                    np.errstate(over="ignore", invalid="ignore", divide="ignore"),
                ):
                    outbox = getattr(module, mode)(inbox, call_context)
            except (ModuleError, MessageError) as error:
                return error
        if not isinstance(outbox, Outbox):
            raise AssertionError(f"{self.type_name}: {noun} returned {type(outbox).__name__}, expected an Outbox")
        with self._report_exceptions(noun):
            sent = {
                (outgoing.port, outgoing.receiver): {name: np.array(array) for name, array in outgoing.arrays.items()}
                for outgoing in outbox.messages
            }
            outputs = {name: np.array(array) for name, array in outbox.outputs.items()}
        return OutboxCopy(sent, dict(outbox.metrics), outputs, tuple(changed_generators))

    def new_host(self, state: Mapping[str, Any] | None = None) -> UncheckedHost:
        """Return a new module in a host, as in a run, with `state` loaded if one is given."""
        host = UncheckedHost(self.graph.modules[MODULE], self.graph.slots(MODULE))
        with self._report_exceptions("preparation"):
            host.prepare("cpu")
        if state is not None:
            self.load_state(host.module, state)
        return host

    def make_call(self, mode: Mode, messages: PortMessages, **fields: Any) -> tuple[ModuleCall, Sequence[Arrays]]:
        """Return a call as the coordinator makes it, and the arrays of its messages."""
        sent = [self._make_message(port, arrays, read_only=True) for port, arrays in messages.items()]
        call_fields = {"seed": 0, "round": 1, "step": 0, "sequence": 1, **fields}
        headers = tuple(pack_header(message.header) for message in sent)
        call = ModuleCall(
            mode, "conformance", receivers=self.receivers, headers=headers, ports=tuple(messages), **call_fields
        )
        return call, [{name: message[name] for name in message.arrays} for message in sent]

    def make_message(self, port: str, arrays: Arrays) -> Message:
        """Return a message to a port, with read-only arrays as in a run."""
        return self._make_message(port, arrays, read_only=True)

    def _make_message(self, port: str, given: Arrays, read_only: bool) -> Message:
        arrays = {name: _read_only(as_wire(array)) if read_only else np.array(array) for name, array in given.items()}
        declared = next(each for each in self.cls.ports if each.name == port)
        sender = BELOW if declared.pass_ == "forward" else ABOVE
        return Message(Header(declared.kind, sender, port, MODULE, "conformance", arrays=describe(arrays)), arrays)

    @contextmanager
    def _report_exceptions(self, action: str, *, may_refuse: bool = False) -> Iterator[None]:
        """Turn an exception of the module into a failure of the check, except the errors with which it may refuse."""
        try:
            yield
        except Exception as error:
            if may_refuse and isinstance(error, ModuleError | MessageError):
                raise
            text = shorten_text(str(error), MAX_EXCEPTION_CHARACTERS)
            raised = f"{type(error).__name__}: {text}" if text else type(error).__name__
            expected = "a result, or a ModuleError with the reason" if may_refuse else "no exception"
            raise AssertionError(f"{self.type_name}: {action} raised {raised}; expected {expected}") from error


class UncheckedHost(ModuleHost):
    """A host that passes writable arrays to its module, and leaves its state to the checks of states."""

    def _unpack_input(self, packed_header: bytes, port: str, arrays: HostArrays) -> Message:
        message = super()._unpack_input(packed_header, port, arrays)
        return Message(message.header, {name: np.array(array) for name, array in message.arrays.items()})

    def _state(self, where: str) -> State:
        state = self.module.state()
        if isinstance(state, Mapping):
            check_arrays(where, "state", {name: value for name, value in state.items() if type(value) is np.ndarray})
        return state


def record_progress(reports: list[tuple[int, int]]) -> Report:
    """Return a reporter that appends each progress report of an update, (done, total), to a list."""
    return lambda done, total, _metrics: reports.append((done, total))


def find_difference(first: Any, second: Any, where: str = "") -> str | None:
    """Return a description of the first bitwise difference between two states, results or arrays, or None.

    Parameters
    ----------
    first, second : mapping, array or scalar
    where : str
        The name of the compared values in the description.

    Returns
    -------
    str or None
        The position of the difference, and both values there.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for name in {**first, **second}:
            inner = f"{where} {name!r}" if where else str(name)
            if name not in first or name not in second:
                return f"{inner} is missing the {'first' if name not in first else 'second'} time"
            if difference := find_difference(first[name], second[name], inner):
                return difference
        return None
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return _find_array_difference(first, second, where)
    first, second = (value.item() if isinstance(value, np.generic) else value for value in (first, second))
    same = type(first) is type(second) and repr(first) == repr(second)
    return None if same else f"{where} is {_both(repr(first), repr(second))}"


def _find_array_difference(first: Array, second: Array, where: str) -> str | None:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return f"{where} is {_both(*(f'{array.dtype} {array.shape}' for array in (first, second)))}"
    if first.tobytes() == second.tobytes():
        return None
    differs = np.atleast_1d((first != second) & ~((first != first) & (second != second)))
    index = tuple(int(i) for i in np.unravel_index(int(differs.argmax()), differs.shape))
    values = _both(*(repr(np.atleast_1d(array)[index].item()) for array in (first, second)))
    return f"{where} is {values} at {index} ({int(differs.sum())} of {first.size} differ)"


def _both(first: str, second: str) -> str:
    return f"{first} the first time and {second} the second time"


@contextmanager
def _seeded_global_generators(seed: int) -> Iterator[list[str]]:
    """Seed the global random generators within the context; yield a list that then names those which it changed."""
    generators = _get_global_generators()
    saved = {name: generator.get_state() for name, generator in generators.items()}
    changed: list[str] = []
    try:
        for generator in generators.values():
            generator.seed(seed)
        seeded = {name: generator.get_state() for name, generator in generators.items()}
        yield changed
        changed += [name for name, generator in generators.items() if generator.get_state() != seeded[name]]
    finally:
        for name, generator in generators.items():
            generator.set_state(saved[name])


class _GlobalGenerator(NamedTuple):
    """The functions of a random generator that belongs to the process."""

    get_state: Callable[[], Any]
    set_state: Callable[[Any], object]
    seed: Callable[[int], object]


def _get_global_generators() -> dict[str, _GlobalGenerator]:
    generators = {
        "random": _GlobalGenerator(random.getstate, random.setstate, random.seed),
        "numpy.random": _GlobalGenerator(_numpy_state, np.random.set_state, np.random.seed),
    }
    torch: Any = sys.modules.get("torch")
    default = getattr(torch, "default_generator", None)  # None while torch is being imported
    if default is not None:  # the CPU's; torch.manual_seed would also queue a seed for absent devices at every call

        def set_state(data: bytes) -> None:
            default.set_state(torch.frombuffer(bytearray(data), dtype=torch.uint8))

        generators["torch"] = _GlobalGenerator(
            lambda: default.get_state().numpy().tobytes(), set_state, default.manual_seed
        )
    return generators


def _numpy_state() -> Any:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (it is compared, not drawn from)
    return (kind, np.asarray(keys).tolist(), *rest)


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _class_path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__name__}"


def _describe_inputs(messages: PortMessages) -> str:
    return f"messages on {' and '.join(messages)}" if messages else "no message"
