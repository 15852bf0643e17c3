"""What all checks stand on: what the author says of the module, and the messages that it is tried with."""

from __future__ import annotations

import unittest
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import numpy as np

from actors.conformance.harness import ABOVE, Answer, Asked, Bench, difference
from actors.conformance.sample_messages import SIZES, Arrays, Letters, Size, Sizes, make_arrays, of_rows, sizes_in
from actors.errors import GraphError, ModuleError
from actors.messaging.kinds import KINDS
from actors.module import Module, Port
from actors.types import Array, State


@dataclass(frozen=True)
class Case:
    """One choice of the messages that reach a module.

    Parameters
    ----------
    ports : tuple of Port
        From below.
    backward : tuple of Port
        From above.
    sizes : mapping
        By letter, of messages from below.
    answered : mapping
        By letter, of messages from above: as large as what the module itself sent upwards.
    bound : frozenset of str
        The letters whose sizes in `answered` are those of what the module sent.
    first, later : dict of str to dict
        The messages of the first update, when nothing has come from above yet, and of those after it.
    """

    ports: tuple[Port, ...]
    backward: tuple[Port, ...]
    sizes: Sizes
    answered: Sizes
    bound: frozenset[str]
    first: Letters
    later: Letters


class Checks:
    """What an author says about a module, and what every check does with it; see :class:`ModuleChecks`."""

    module: ClassVar[str | type[Module[Any]]] = ""
    parameters: ClassVar[Mapping[str, Any]] = {}
    rows: ClassVar[int] = 24
    sizes: ClassVar[Mapping[str, Size]] = {}
    flexible: ClassVar[tuple[str, ...]] = ()
    under_ray: ClassVar[bool] = True
    deaths: ClassVar[tuple[str, ...]] = ("inside:2", "before:3")

    # --- what an author may say otherwise -------------------------------------------------------------------------

    def message(self, port: Port, sizes: Sizes, generator: np.random.Generator) -> Arrays:
        """Return the arrays of a message to `port`; those that its kind cannot do without, with random values.

        Parameters
        ----------
        port : Port
        sizes : mapping of str to int
            By letter of a dimension; N is the number of rows, ``...`` may be a tuple.
        generator : numpy.random.Generator
            What is drawn from it is the same in every check.
        """
        return make_arrays(KINDS[port.kind], sizes, generator)

    def inbox(self, ports: Sequence[Port], sizes: Sizes, generator: np.random.Generator) -> Letters:
        """Return the messages to several ports, for modules to which they must fit each other.

        Parameters
        ----------
        ports : sequence of Port
        sizes, generator
            As :meth:`message` has them.
        """
        return {port.name: dict(self.message(port, sizes, generator)) for port in ports}

    def offers(self) -> Sequence[Sequence[str]]:
        """Return which inputs from below the module is tried with, by port: one choice after the other.

        All at once; of a module that requires none, each alone too.
        """
        forward = self.bench.ports("in", "forward")
        every = tuple(port.name for port in forward)
        if len(every) < 2 or any(not port.optional for port in forward):
            return [every]
        return [*((name,) for name in every), every]

    def initial_state(self, sizes: Sizes, generator: np.random.Generator) -> State:
        """Return what a module without inputs from below starts from: data, as a run gives them to its sources.

        Parameters
        ----------
        sizes, generator
            As :meth:`message` has them.
        """
        return {"values": make_arrays(KINDS["observations"], sizes, generator)["values"]}

    # --- what the checks are made of ------------------------------------------------------------------------------

    @property
    def bench(self) -> Bench:
        """Where modules are made and asked; one for all checks of a class."""
        cls = type(self)
        if "_bench" not in vars(cls):
            try:
                cls._bench = Bench(self.module, self.parameters)  # type: ignore[attr-defined]
            except (ModuleError, GraphError) as error:
                raise AssertionError(str(error)) from error
        made: Bench = vars(cls)["_bench"]
        return made

    @property
    def cases(self) -> list[Case]:
        """The choices of messages with which everything is tried."""
        cls = type(self)
        if "_cases" not in vars(cls):
            cls._cases = [self._case(names) for names in self.offers()]  # type: ignore[attr-defined]
        made: list[Case] = vars(cls)["_cases"]
        return made

    def listening_cases(self) -> list[Case]:
        """Return the choices of messages in which something comes from below; without any, this is no check."""
        found = [case for case in self.cases if case.ports]
        return found or self.skip("the module receives nothing from below")

    def fresh(self) -> Module[Any]:
        """Return a module that has learnt nothing; a source has its data."""
        return self.bench.fresh(self.data)

    @property
    def data(self) -> State | None:
        """What a source starts from; None for other modules."""
        if self.bench.ports("in", "forward"):
            return None
        return self.initial_state(self.own_sizes, _generator())

    @property
    def own_sizes(self) -> dict[str, Size]:
        """The sizes of messages from below, by letter."""
        return {**SIZES, **self.sizes, "N": self.rows}

    def letters(self, ports: Sequence[Port], sizes: Sizes) -> Letters:
        """Return messages of these sizes; the same ones whenever they are asked for."""
        return self.inbox(ports, sizes, _generator())

    def resized(self, case: Case, **sizes: Size) -> tuple[Letters, Letters]:
        """Return the messages of a first and of a later update in other sizes."""
        first = self.letters(case.ports, {**case.sizes, **sizes})
        return first, {**first, **self.letters(case.backward, {**case.answered, **sizes})}

    def learnt(self, case: Case, updates: int = 2, asked: Asked | None = None, **context: Any) -> Module[Any]:
        """Return a module after its first updates."""
        module = self.fresh()
        for _ in self.updates(module, case.first, case.later, updates, asked, **context):
            pass
        return module

    def updates(
        self,
        module: Module[Any],
        first: Letters,
        later: Letters,
        count: int = 2,
        asked: Asked | None = None,
        **context: Any,
    ) -> Iterator[Answer]:
        """Let a module learn, round after round, and give each answer."""
        for round in range(1, count + 1):
            letters = first if round == 1 else later
            yield self.bench.ask(module, "update", letters, asked, round=round, **context)

    def annotated(self, letters: Letters, **extra: Array | None) -> Letters:
        """Return the messages with ``lengths`` or ``mask`` beside their arrays."""
        found = {}
        for port, arrays in letters.items():
            kind = self.bench.kind(port)
            found[port] = of_rows(kind, arrays, **extra) if kind else arrays
        return found

    def same(self, one: Any, other: Any, what: str) -> None:
        """Hold two answers or states against each other, bit by bit; `what` says what is wrong if they differ."""
        one, other = (each.parts() if isinstance(each, Answer) else each for each in (one, other))
        if said := difference(one, other):
            self.fail(f"{what}: {said}")

    def fail(self, sentence: str) -> NoReturn:
        """Say what is wrong with the module."""
        raise AssertionError(f"{self.bench.type}: {sentence}")

    def skip(self, reason: str) -> NoReturn:
        """Say why a check is none for this module. Test runners know this exception."""
        raise unittest.SkipTest(f"{self.bench.type}: {reason}")

    def _case(self, names: Sequence[str]) -> Case:
        bench = self.bench
        ports = tuple(port for port in bench.ports("in", "forward") if port.name in names)
        sizes = self.own_sizes
        first = self.letters(ports, sizes)
        sent = bench.ask(self.fresh(), "update", first, round=1).messages
        upwards = {port.name for port in bench.ports("out", "forward")}
        bound: dict[str, Size] = {}
        for (name, _), arrays in sent.items():
            kind = bench.kind(name)
            if name in upwards and kind is not None:
                bound.update(sizes_in(kind, arrays))
        answered = {**sizes, **bound, "N": self.rows}
        backward = bench.ports("in", "backward") if ABOVE in bench.graph.modules else ()
        later = {**first, **self.letters(backward, answered)}
        return Case(ports, backward, sizes, answered, frozenset(bound) - {"N", "S"}, first, later)


def _generator() -> np.random.Generator:
    return np.random.default_rng(20)
