"""Checks of what a module keeps: its state, where its randomness comes from, and that answering changes nothing."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from actors.conformance.base import Case, Checks
from actors.conformance.harness import MODULE, Answer, Asked, reporting
from actors.module import Mode
from actors.storage.manifest import ModuleRecord
from actors.storage.module_files import LoadRequest, SaveRequest, load_module_files, save_module_files
from actors.types import Scalar, State

_SCALARS = tuple(kind for kind in get_args(Scalar) if kind is not None)
_UPDATES = 3


class StateChecks(Checks):
    """What a module keeps, and what must leave it as it is."""

    def test_its_state_is_flat_and_comes_back_from_disk(self) -> None:
        """A commit holds arrays by name and plain scalars, nothing else."""
        for case in self.cases:
            module = self.fresh()
            answers = list(self.updates(module, case.first, case.later))
            state = self.bench.state(module)
            if not isinstance(state, dict):
                self.fail(f"state() gives {type(state).__name__}, expected a dict")
            for key, value in state.items():
                self._check_entry(key, value)
            read_state, read_outputs = self._through_disk(state, answers[-1].outputs)
            self.same(state, read_state, "a state is not what it was when it comes back from disk")
            self.same(answers[-1].outputs, read_outputs, "outputs are not what they were when they come back from disk")

    def test_another_module_takes_over_its_whole_state(self) -> None:
        """``load_state(state())`` gives an equal state, in a new module and in one that has learnt something else."""
        for case in self.cases:
            state = self.bench.state(self.learnt(case))
            for other, what in ((self.fresh(), "a new module"), (self.learnt(case, 1, seed=1), "one that has learnt")):
                self.bench.load(other, state)
                self.same(state, self.bench.state(other), f"the state that {what} has taken over is not the one given")

    def test_an_empty_state_is_that_of_a_module_that_has_learnt_nothing(self) -> None:
        """A run that goes back to its beginning loads an empty state."""
        for case in self.cases:
            emptied, new = self.learnt(case), self.bench.fresh()
            self.bench.load(emptied, {})
            what = "load_state({}) does not make a module that has learnt nothing"
            self.same(self.bench.state(new), self.bench.state(emptied), what)
            if self.data is not None:
                self.bench.load(emptied, self.data)
            expected = self.bench.ask(self.fresh(), "update", case.first, round=1)
            self.same(expected, self.bench.ask(emptied, "update", case.first, round=1), what)

    def test_a_state_that_was_taken_stays_as_it_is(self) -> None:
        """A coordinator keeps what ``state()`` gave while the module goes on learning."""
        for case in self.cases:
            module = self.learnt(case, 1)
            taken = module.state()
            kept = copy.deepcopy(taken)
            self.bench.ask(module, "update", case.later, round=2)
            self.same(kept, taken, "a later update changes what state() gave before: give copies of arrays")

    def test_it_goes_on_from_its_state_as_if_nothing_had_happened(self) -> None:
        """Updates with a new process before each are those without, to the bit."""
        for case in self.cases:
            undisturbed = self.fresh()
            expected = list(self.updates(undisturbed, case.first, case.later, _UPDATES))
            module = self.fresh()
            for round in range(1, _UPDATES + 1):
                answer = self.bench.ask(module, "update", case.first if round == 1 else case.later, round=round)
                what = f"update {round} is another one after load_state: something learnt is not in the state"
                self.same(expected[round - 1], answer, what)
                module = self.bench.fresh(self.bench.state(module))
            what = "the state is another one after load_state: something learnt is not in it"
            self.same(self.bench.state(undisturbed), self.bench.state(module), what)

    def test_its_draws_follow_from_the_seed_alone(self) -> None:
        """The process's own generators (random, numpy.random, torch) neither have a say nor are touched."""
        for case in self.cases:
            found = []
            for generators in (1, 2):  # the second time in a process in which much was drawn, and by another module
                module, asked = self.fresh(), Asked(generators=generators)
                answers = list(self.updates(module, case.first, case.later, asked=asked))
                answers.append(self.bench.ask(module, "recognize", case.later, asked))
                found.append((answers, self.bench.state(module)))
                for touched in (name for answer in answers for name in answer.touched):
                    self.fail(f"it draws from or seeds the process's own generator ({touched}); use the context's")
            what = "the same seed does not give the same bits where the process's own generators are in other states"
            for one, other in zip(*(answers for answers, _ in found), strict=True):
                self.same(one, other, what)
            self.same(found[0][1], found[1][1], what)

    def test_recognition_learns_nothing(self) -> None:
        """It leaves no trace, in the order in which things happened or out of it, and gives the same bits again."""
        for case in self.cases:
            module, undisturbed = self.learnt(case), self.learnt(case)
            for ordered in (True, False):
                self._check_untouched(module, "recognize", case, ordered=ordered)
            expected, after = (self.bench.ask(each, "update", case.later, round=3) for each in (undisturbed, module))
            self.same(expected, after, "an update is another one after a recognition: it leaves a trace")

    def test_generating_and_proposing_learn_nothing(self) -> None:
        """Both may be asked for at any time, and again."""
        for case in self.cases:
            module = self.learnt(case)
            for rows in (0, self.rows):
                self._check_untouched(module, "generate", case, rows=rows)
            for proposal in (0, 1):
                self._check_untouched(module, "propose", case, proposal=proposal)

    def test_it_says_so_where_it_has_learnt_nothing_yet(self) -> None:
        """Asked before its first update it answers, or refuses with a ModuleError."""
        modes: tuple[Mode, ...] = ("recognize", "generate", "propose")
        for case in self.cases:
            for mode in modes:
                self.bench.attempt(self.fresh(), mode, case.first)

    def test_it_can_be_asked_not_to_learn(self) -> None:
        """An update without ``context.learn`` sends what follows from the inbox, the same bits each time."""
        for case in self.cases:
            one, other = (
                self.bench.ask(self.learnt(case), "update", case.later, round=3, learn=False) for _ in range(2)
            )
            self.same(one, other, "two updates that were not to learn differ")
            self.bench.attempt(self.fresh(), "update", case.first, round=1, learn=False)

    def test_it_says_how_far_it_is(self) -> None:
        """What it reports goes from 0 to the total, if it reports anything."""
        for case in self.cases:
            told: list[tuple[int, int]] = []
            self.learnt(case, reporter=reporting(told))
            for done, total in told:
                if not 0 <= done <= total:
                    self.fail(f"report says {done} of {total}, expected a number from 0 to {total}")

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _check_entry(self, key: Any, value: Any) -> None:
        if not isinstance(key, str):
            self.fail(f"the state has a key {key!r}, expected text")
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                self.fail(f"state {key!r} is an array of {value.dtype}, expected numbers or truth values")
        elif not isinstance(value, (*_SCALARS, np.bool_, np.number)):
            self.fail(f"state {key!r} is {type(value).__name__}, expected an array or a bool, int, float, str or None")

    def _through_disk(self, state: State, outputs: Mapping[str, Any]) -> tuple[State, Mapping[str, Any]]:
        """Return a state and outputs as a commit gives them back."""
        with tempfile.TemporaryDirectory() as root:
            try:
                files = save_module_files(SaveRequest(root, "round-001", MODULE), [state, outputs])
            except Exception as error:
                self.fail(f"its state or outputs cannot be written to a commit ({type(error).__name__}: {error})")
            record = ModuleRecord(1, files)
            _, read_state, read_outputs = load_module_files(LoadRequest(root, MODULE, record))
        return read_state, read_outputs

    def _check_untouched(self, module: Any, mode: Mode, case: Case, **context: Any) -> None:
        before = self.bench.state(module)
        one, other = (self.bench.attempt(module, mode, case.later, **context) for _ in range(2))
        self.same(before, self.bench.state(module), f"{mode} changes the state")
        if isinstance(one, Answer) and isinstance(other, Answer):
            self.same(one, other, f"{mode} gives other bits when it is asked again")
        elif mode == "recognize":
            self.fail(f"recognize refuses messages such as it has learnt from: {one}")
