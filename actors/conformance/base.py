"""The base of all checks: the attributes and methods that an author sets, and the messages passed to the module."""

from __future__ import annotations

import unittest
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np

from actors.conformance.harness import ABOVE, CallSetup, ModuleHarness, OutboxCopy, find_difference
from actors.conformance.sample_messages import (
    DEFAULT_SIZES,
    Arrays,
    PortMessages,
    Size,
    Sizes,
    add_row_arrays,
    get_sizes,
    make_arrays,
)
from actors.errors import GraphError, ModuleError
from actors.messaging.kinds import KINDS
from actors.module import Module, Port
from actors.types import Array, State


@dataclass(frozen=True)
class Case:
    """One combination of inputs that the module is checked with.

    Parameters
    ----------
    forward_ports : tuple of Port
        Input ports for messages from below.
    backward_ports : tuple of Port
        Input ports for messages from above.
    forward_sizes : mapping
        Size of each dimension letter in messages from below.
    backward_sizes : mapping
        Size of each dimension letter in messages from above; equal to the sizes in the messages that the module sends
        upwards.
    determined : frozenset of str
        The dimension letters whose `backward_sizes` come from messages of the module.
    first_messages, later_messages : dict of str to dict
        The messages of the first update, before any comes from above, and those of all later updates.
    """

    forward_ports: tuple[Port, ...]
    backward_ports: tuple[Port, ...]
    forward_sizes: Sizes
    backward_sizes: Sizes
    determined: frozenset[str]
    first_messages: PortMessages
    later_messages: PortMessages


class BaseChecks:
    """The attributes and methods that an author sets, and the helpers of all checks; see :class:`ModuleChecks`."""

    module: ClassVar[str | type[Module[Any]]] = ""
    parameters: ClassVar[Mapping[str, Any]] = {}
    rows: ClassVar[int] = 24
    sizes: ClassVar[Mapping[str, Size]] = {}
    flexible: ClassVar[tuple[str, ...]] = ()
    under_ray: ClassVar[bool] = True
    deaths: ClassVar[tuple[str, ...]] = ("inside:2", "before:3")

    # --- methods that an author may override ----------------------------------------------------------------------

    def message(self, port: Port, sizes: Sizes, generator: np.random.Generator) -> Arrays:
        """Return the arrays of a message to `port`; by default the required arrays of its kind, with random values.

        Parameters
        ----------
        port : Port
        sizes : mapping of str to int or tuple of int
            Size of each dimension letter; N is the number of rows, ``...`` may be a tuple.
        generator : numpy.random.Generator
            Seeded alike in every check.
        """
        return make_arrays(KINDS[port.kind], sizes, generator)

    def inbox(self, ports: Sequence[Port], sizes: Sizes, generator: np.random.Generator) -> PortMessages:
        """Return the messages to several ports, for modules that need consistent messages.

        Parameters
        ----------
        ports : sequence of Port
        sizes, generator
            As in :meth:`message`.
        """
        return {port.name: dict(self.message(port, sizes, generator)) for port in ports}

    def offers(self) -> Sequence[Sequence[str]]:
        """Return the combinations of input ports, for messages from below, that the module is checked with.

        By default all ports together; if none is required, also each port alone. Ports ``beside`` others, whose
        messages have sizes that the module's parameters set, are left to the module's own tests.
        """
        forward = [port for port in self.harness.ports("in", "forward") if not port.beside]
        all_names = tuple(port.name for port in forward)
        if len(all_names) < 2 or any(not port.optional for port in forward):
            return [all_names]
        return [*((name,) for name in all_names), all_names]

    def initial_state(self, sizes: Sizes, generator: np.random.Generator) -> State:
        """Return the initial state of a module without inputs from below: data, as a run loads them into its sources.

        Parameters
        ----------
        sizes, generator
            As in :meth:`message`.
        """
        return {"values": make_arrays(KINDS["observations"], sizes, generator)["values"]}

    # --- helpers of the checks ------------------------------------------------------------------------------------

    @property
    def harness(self) -> ModuleHarness:
        """The harness of the module; one for all checks of a class."""
        cls = type(self)
        if "_harness" not in vars(cls):
            try:
                cls._harness = ModuleHarness(self.module, self.parameters)  # type: ignore[attr-defined]
            except (ModuleError, GraphError) as error:
                raise AssertionError(str(error)) from error
        harness: ModuleHarness = vars(cls)["_harness"]
        return harness

    @property
    def cases(self) -> list[Case]:
        """The combinations of inputs that every check uses."""
        cls = type(self)
        if "_cases" not in vars(cls):
            cls._cases = [self._make_case(names) for names in self.offers()]  # type: ignore[attr-defined]
        cases: list[Case] = vars(cls)["_cases"]
        return cases

    def cases_with_input(self) -> list[Case]:
        """Return the cases with messages from below; skip the check if there are none."""
        cases = [case for case in self.cases if case.forward_ports]
        return cases or self.skip("the module receives nothing from below")

    def new_module(self) -> Module[Any]:
        """Return an untrained module; a source has its data."""
        return self.harness.new_module(self.source_state)

    @property
    def source_state(self) -> State | None:
        """The initial state of a source; None for other modules."""
        if self.harness.ports("in", "forward"):
            return None
        return self.initial_state(self.forward_sizes, _make_generator())

    @property
    def forward_sizes(self) -> dict[str, Size]:
        """The size of each dimension letter in messages from below."""
        return {**DEFAULT_SIZES, **self.sizes, "N": self.rows}

    def make_messages(self, ports: Sequence[Port], sizes: Sizes) -> PortMessages:
        """Return messages of the given sizes, equal at every call."""
        return self.inbox(ports, sizes, _make_generator())

    def resize_messages(self, case: Case, **sizes: Size) -> tuple[PortMessages, PortMessages]:
        """Return the first and the later messages of a case in other sizes."""
        first = self.make_messages(case.forward_ports, {**case.forward_sizes, **sizes})
        return first, {**first, **self.make_messages(case.backward_ports, {**case.backward_sizes, **sizes})}

    def train_module(self, case: Case, updates: int = 2, setup: CallSetup | None = None, **context: Any) -> Module[Any]:
        """Return a new module after its first updates."""
        module = self.new_module()
        for _ in self.run_updates(module, case.first_messages, case.later_messages, updates, setup, **context):
            pass
        return module

    def run_updates(
        self,
        module: Module[Any],
        first: PortMessages,
        later: PortMessages,
        count: int = 2,
        setup: CallSetup | None = None,
        **context: Any,
    ) -> Iterator[OutboxCopy]:
        """Update a module in successive rounds, and yield the result of each."""
        for round in range(1, count + 1):
            messages = first if round == 1 else later
            yield self.harness.call(module, "update", messages, setup, round=round, **context)

    def annotate_rows(self, messages: PortMessages, **extra: Array | None) -> PortMessages:
        """Return messages with ``lengths`` or ``mask`` added, where their kinds have them."""
        annotated = {}
        for port, arrays in messages.items():
            kind = self.harness.kind(port)
            annotated[port] = add_row_arrays(kind, arrays, **extra) if kind else arrays
        return annotated

    def check_equal(self, first: Any, second: Any, failure: str) -> None:
        """Fail with the sentence `failure` and the first difference unless two results or states are bitwise equal."""
        first, second = (each.parts() if isinstance(each, OutboxCopy) else each for each in (first, second))
        if difference := find_difference(first, second):
            self.fail(f"{failure}: {difference}")

    def fail(self, sentence: str) -> NoReturn:
        """Fail the check with a sentence about the module."""
        raise AssertionError(f"{self.harness.type_name}: {sentence}")

    def skip(self, reason: str) -> NoReturn:
        """Skip the check, with the reason why it does not apply, by the exception that test runners know."""
        raise unittest.SkipTest(f"{self.harness.type_name}: {reason}")

    def _make_case(self, names: Sequence[str]) -> Case:
        harness = self.harness
        forward = tuple(port for port in harness.ports("in", "forward") if port.name in names)
        sizes = self.forward_sizes
        first = self.make_messages(forward, sizes)
        sent = harness.call(self.new_module(), "update", first, round=1).messages
        upward_names = {port.name for port in harness.ports("out", "forward")}
        determined: dict[str, Size] = {}
        for (name, _), arrays in sent.items():
            kind = harness.kind(name)
            if name in upward_names and kind is not None:
                determined.update(get_sizes(kind, arrays))
        backward_sizes = {**sizes, **determined, "N": self.rows}
        backward = harness.ports("in", "backward") if ABOVE in harness.graph.modules else ()
        later = {**first, **self.make_messages(backward, backward_sizes)}
        return Case(forward, backward, sizes, backward_sizes, frozenset(determined) - {"N", "S"}, first, later)


def _make_generator() -> np.random.Generator:
    return np.random.default_rng(20)
