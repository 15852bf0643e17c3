"""The bench that a module under test lies on: it makes modules anew, asks them, and keeps copies of what they say.

It asks a module more directly than a run does. What it hands over may be written to, and what comes back is not held
against anything, so that a module which does one thing wrong is found wrong in that one thing.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.backends.module_host import Call, Host, limited_threads
from actors.conformance.neighbours import Above, Below
from actors.conformance.sample_messages import Arrays, Letters
from actors.errors import MessageError, ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import find, make
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.messaging.codec import as_wire, describe, pack_header
from actors.messaging.kinds import KINDS, Kind
from actors.messaging.message import Header, Message
from actors.module import Context, Inbox, Mode, Module, Outbox, Pass, Port, Report
from actors.types import Array, State

MODULE, BELOW, ABOVE = "module", "below", "above"

_DOING = {"update": "update", "recognize": "recognition", "generate": "generation", "propose": "proposal"}


@dataclass(frozen=True)
class Answer:
    """What a module gave, copied: messages by port and receiver, figures, outputs."""

    messages: Mapping[tuple[str, str], Arrays]
    metrics: Mapping[str, float]
    outputs: Mapping[str, Array]
    touched: tuple[str, ...] = ()
    """The global generators that are not as they were before."""

    def parts(self) -> dict[str, Any]:
        """Return all of it, named as people call it."""
        sent = {f"{port} to {to}" if to else port: arrays for (port, to), arrays in self.messages.items()}
        return {"message": sent, "output": self.outputs, "metric": self.metrics}


@dataclass(frozen=True)
class Asked:
    """When, and with what else, a module is asked: the fields of its context, and the world around it.

    Parameters
    ----------
    context : mapping
        Fields of :class:`actors.module.Context`.
    generators : int
        What the global generators are seeded with.
    lent : bool
        Whether the arrays are read-only, and the caller's own, as in a run.
    """

    context: Mapping[str, Any] = field(default_factory=dict)
    generators: int = 0
    lent: bool = False


class Bench:
    """Makes modules of one type and asks them.

    Parameters
    ----------
    given : str or type
        A module type, or the class.
    parameters : mapping

    Raises
    ------
    ModuleError
        If there is no such type or a parameter is wrong.
    """

    def __init__(self, given: str | type[Module[Any]], parameters: Mapping[str, Any]) -> None:
        self.type = given if isinstance(given, str) else f"{given.__module__}:{given.__qualname__}"
        self.cls = find(self.type)
        self.parameters = dict(parameters)
        make(self.type, self.parameters)
        self.graph = self._connected()
        self.receivers = self.graph.receivers(MODULE)

    def _connected(self) -> Graph:
        """Return the module between as many stubs as it has something to do with."""
        # Another process finds what this one finds: the file of a test that pytest imported, for one.
        spec = ModuleSpec(MODULE, self.type, self.parameters, code=tuple(path for path in sys.path if path))
        specs, connections, steps = [spec], [], [Step(MODULE)]
        if self.ports("in", "forward"):
            specs.append(ModuleSpec(BELOW, f"{Below.__module__}:{Below.__name__}"))
            connections.append(Connection(BELOW, MODULE))
        if self.ports("out", "forward"):
            specs.append(ModuleSpec(ABOVE, f"{Above.__module__}:{Above.__name__}"))
            connections.append(Connection(MODULE, ABOVE))
            steps.append(Step(ABOVE))
        return Graph(specs, connections, Schedule(3, tuple(steps)))

    def ports(self, direction: str, pass_: Pass) -> tuple[Port, ...]:
        """Return the ports of one direction on one path."""
        return tuple(port for port in self.cls.ports if (port.direction, port.pass_) == (direction, pass_))

    def kind(self, port: str) -> Kind | None:
        """Return what `port` speaks; None where there is no such port."""
        return next((KINDS[each.kind] for each in self.cls.ports if each.name == port), None)

    def fresh(self, state: Mapping[str, Any] | None = None) -> Module[Any]:
        """Return a new module, ready, that has learnt what `state` holds."""
        made = make(self.type, self.parameters)
        with self._blamed("preparation"):
            made.prepare("cpu", 1)
        if state is not None:
            self.load(made, state)
        return made

    def load(self, module: Module[Any], state: Mapping[str, Any]) -> None:
        """Give a module a state as it comes in a run: read-only."""
        given = {name: _locked(value) if isinstance(value, np.ndarray) else value for name, value in state.items()}
        with self._blamed("load_state"):
            module.load_state(given)

    def state(self, module: Module[Any]) -> State:
        """Return a copy of a module's state."""
        with self._blamed("state"):
            return copy.deepcopy(module.state())

    def ask(
        self, module: Module[Any], mode: Mode, letters: Letters, asked: Asked | None = None, **context: Any
    ) -> Answer:
        """Ask a module that has no reason to refuse.

        Parameters
        ----------
        module : Module
        mode : Mode
        letters : dict of str to dict
            By port.
        asked : Asked, optional
        **context
            Further fields of the context.

        Raises
        ------
        AssertionError
            If it raises anything; says what.
        """
        answer = self.attempt(module, mode, letters, asked, **context)
        if isinstance(answer, Answer):
            return answer
        raise AssertionError(f"{self.type}: {_DOING[mode]} refuses {_listed(letters)}: {answer}") from answer

    def attempt(
        self, module: Module[Any], mode: Mode, letters: Letters, asked: Asked | None = None, **context: Any
    ) -> Answer | Exception:
        """Ask a module; return its answer, or what it says to refuse.

        Raises
        ------
        AssertionError
            If it raises what is neither a ModuleError nor a MessageError; says what.
        """
        asked = asked or Asked()
        inbox = Inbox([self._letter(port, arrays, asked.lent) for port, arrays in letters.items()])
        known = {"module": MODULE, "run": "conformance", "receivers": self.receivers}
        when = Context(**{**known, **asked.context, **context})
        with _pinned(asked.generators) as touched:
            try:
                with (
                    self._blamed(f"{_DOING[mode]} with {_listed(letters)}", may_refuse=True),
                    limited_threads(1),
                    np.errstate(over="ignore", invalid="ignore", divide="ignore"),
                ):
                    outbox = getattr(module, mode)(inbox, when)
            except (ModuleError, MessageError) as error:
                return error
        if not isinstance(outbox, Outbox):
            raise AssertionError(f"{self.type}: {_DOING[mode]} returned {type(outbox).__name__}, expected an Outbox")
        with self._blamed(_DOING[mode]):
            sent = {
                (outgoing.port, outgoing.receiver): {name: np.array(array) for name, array in outgoing.arrays.items()}
                for outgoing in outbox.messages
            }
            outputs = {name: np.array(array) for name, array in outbox.outputs.items()}
        return Answer(sent, dict(outbox.metrics), outputs, tuple(touched))

    def host(self, state: Mapping[str, Any] | None = None) -> LenientHost:
        """Return a host of a new module, as a run has it."""
        made = LenientHost(self.graph.modules[MODULE], self.graph.slots(MODULE))
        with self._blamed("preparation"):
            made.prepare("cpu")
        if state is not None:
            self.load(made.module, state)
        return made

    def call(self, letters: Letters, **fields: Any) -> tuple[Call, Sequence[Arrays]]:
        """Return a coordinator's call, and the arrays that lie beside it."""
        sent = [self._letter(port, arrays, lent=True) for port, arrays in letters.items()]
        when = {"seed": 0, "round": 1, "step": 0, "sequence": 1, **fields}
        heads = tuple(pack_header(letter.header) for letter in sent)
        return Call("conformance", receivers=self.receivers, headers=heads, **when), [dict(m.arrays) for m in sent]

    def _letter(self, port: str, given: Arrays, lent: bool) -> Message:
        arrays = {name: _locked(as_wire(array)) if lent else np.array(array) for name, array in given.items()}
        spoken = next(each for each in self.cls.ports if each.name == port)
        sender = BELOW if spoken.pass_ == "forward" else ABOVE
        return Message(Header(spoken.kind, sender, port, MODULE, "conformance", arrays=describe(arrays)), arrays)

    @contextmanager
    def _blamed(self, doing: str, *, may_refuse: bool = False) -> Iterator[None]:
        """Say of whatever a module raises that it did; unless it may refuse, and does so as the contract has it."""
        try:
            yield
        except Exception as error:
            if may_refuse and isinstance(error, ModuleError | MessageError):
                raise
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            expected = (
                "expected is an answer, or a ModuleError that says what is wrong" if may_refuse else "not expected"
            )
            raise AssertionError(f"{self.type}: {doing} raised {said}; {expected}") from error


class LenientHost(Host):
    """A host whose module may write into what it is given."""

    def _open(self, head: bytes, body: Mapping[str, Array]) -> Message:
        message = super()._open(head, body)
        return Message(message.header, {name: np.array(array) for name, array in message.arrays.items()})


def reporting(told: list[tuple[int, int]]) -> Report:
    """Return a reporter that notes how far an update says that it is."""
    return lambda done, total, _metrics: told.append((done, total))


def difference(one: Any, other: Any, where: str = "") -> str | None:
    """Say where two states, answers or arrays are not the same to the bit, or None.

    Parameters
    ----------
    one, other : mapping, array or scalar
    where : str
        What they are, for people.

    Returns
    -------
    str or None
        The first place, and what is there in each.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in {**one, **other}:
            inner = f"{where} {name!r}" if where else str(name)
            if name not in one or name not in other:
                return f"{inner} is {'missing' if name not in other else 'there'} the second time"
            if said := difference(one[name], other[name], inner):
                return said
        return None
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _array_difference(one, other, where)
    one, other = (value.item() if isinstance(value, np.generic) else value for value in (one, other))
    same = type(one) is type(other) and repr(one) == repr(other)
    return None if same else f"{where} is {one!r} once and {other!r} the second time"


def _array_difference(one: Array, other: Array, where: str) -> str | None:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return f"{where} is {one.dtype} {one.shape} once and {other.dtype} {other.shape} the second time"
    if one.tobytes() == other.tobytes():
        return None
    differs = np.atleast_1d((one != other) & ~((one != one) & (other != other)))
    at = tuple(int(i) for i in np.unravel_index(int(differs.argmax()), differs.shape))
    first, second = (np.atleast_1d(array)[at].item() for array in (one, other))
    values = f"{first!r} once and {second!r} the second time"
    return f"{where} is {values} at {at} ({int(differs.sum())} of {one.size} differ)"


@contextmanager
def _pinned(seed: int) -> Iterator[list[str]]:
    """Seed the global generators for as long as the block lasts; give a list of those that it touched."""
    generators = _global_generators()
    before = {name: take() for name, (take, _, _) in generators.items()}
    touched: list[str] = []
    try:
        for _, _, sow in generators.values():
            sow(seed)
        sown = {name: take() for name, (take, _, _) in generators.items()}
        yield touched
        touched += [name for name, (take, _, _) in generators.items() if take() != sown[name]]
    finally:
        for name, (_, put, _) in generators.items():
            put(before[name])


def _global_generators() -> dict[str, tuple[Callable[[], Any], Callable[[Any], None], Callable[[int], Any]]]:
    """Return for each of the process's own generators how its state is taken, put back, and made from a seed."""
    found: dict[str, Any] = {
        "random": (random.getstate, random.setstate, random.seed),
        "numpy.random": (_numpy_state, np.random.set_state, np.random.seed),
    }
    torch: Any = sys.modules.get("torch")
    own = getattr(torch, "default_generator", None)  # none while torch is being imported
    if own is not None:  # of the CPU; torch.manual_seed would note the seed for devices that are not there, every time

        def put(data: bytes) -> None:
            own.set_state(torch.frombuffer(bytearray(data), dtype=torch.uint8))

        found["torch"] = (lambda: own.get_state().numpy().tobytes(), put, own.manual_seed)
    return found


def _numpy_state() -> Any:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (it is watched, not used)
    return (kind, np.asarray(keys).tolist(), *rest)


def _locked(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _listed(letters: Letters) -> str:
    return f"messages on {' and '.join(letters)}" if letters else "no message"
