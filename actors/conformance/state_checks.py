"""Checks of a module's state: saving, loading, random draws, and modes that must not change it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.conformance.base import BaseChecks, Case
from actors.conformance.harness import MODULE, CallSetup, OutboxCopy, record_progress
from actors.module import Mode
from actors.storage.manifest import ModuleRecord
from actors.storage.module_files import LoadRequest, SaveRequest, load_module_files, save_module_files
from actors.storage.state_codec import storage_error
from actors.types import State

_UPDATES = 3


class StateChecks(BaseChecks):
    """Checks of the state, of random draws, and of modes that must not change the state."""

    def test_its_state_is_flat_and_can_be_saved_and_loaded(self) -> None:
        """The state has named arrays and scalars alone, and comes back from a commit with equal types and bits."""
        for case in self.cases:
            module = self.new_module()
            results = list(self.run_updates(module, case.first_messages, case.later_messages))
            state = self.harness.state(module)
            if not isinstance(state, dict):
                self.fail(f"state() returned {type(state).__name__}, expected a dict")
            if problem := storage_error(state):
                self.fail(f"the state would not come back from a commit as it is: {problem}")
            loaded_state, loaded_outputs = self._save_and_load(state, results[-1].outputs)
            self.check_equal(state, loaded_state, "the state differs after it was saved and loaded")
            self.check_equal(results[-1].outputs, loaded_outputs, "the outputs differ after they were saved and loaded")

    def test_load_state_restores_the_whole_state(self) -> None:
        """``load_state(state())`` leads to an equal state, in a new module and in one that was trained otherwise."""
        for case in self.cases:
            state = self.harness.state(self.train_module(case))
            targets = ((self.new_module(), "a new module"), (self.train_module(case, 1, seed=1), "a trained module"))
            for other, target in targets:
                self.harness.load_state(other, state)
                failure = f"state() differs from the state that was loaded into {target}"
                self.check_equal(state, self.harness.state(other), failure)

    def test_an_empty_state_resets_the_module(self) -> None:
        """A run that starts again from its beginning loads an empty state."""
        for case in self.cases:
            reset, new = self.train_module(case), self.harness.new_module()
            self.harness.load_state(reset, {})
            failure = "load_state({}) does not reset the module to its untrained state"
            self.check_equal(self.harness.state(new), self.harness.state(reset), failure)
            if self.source_state is not None:
                self.harness.load_state(reset, self.source_state)
            expected = self.harness.call(self.new_module(), "update", case.first_messages, round=1)
            self.check_equal(expected, self.harness.call(reset, "update", case.first_messages, round=1), failure)

    def test_a_returned_state_does_not_change_later(self) -> None:
        """The coordinator keeps the result of ``state()`` while the module continues to learn: its arrays are copies.

        An array that two calls return is the module's own, even if the module happens not to write into it.
        """
        for case in self.cases:
            module = self.train_module(case, 1)
            returned, again = module.state(), module.state()
            expected = copy.deepcopy(returned)
            if name := _shared_array(returned, again):
                self.fail(f"state() returns the module's own array {name!r}, which can change; return copies of arrays")
            self.harness.call(module, "update", case.later_messages, round=2)
            failure = "a later update changes the arrays that state() returned; return copies of arrays"
            self.check_equal(expected, returned, failure)

    def test_updates_continue_exactly_from_a_loaded_state(self) -> None:
        """Updates with a new process before each are bitwise equal to those of one process."""
        for case in self.cases:
            undisturbed = self.new_module()
            expected = list(self.run_updates(undisturbed, case.first_messages, case.later_messages, _UPDATES))
            module = self.new_module()
            for round in range(1, _UPDATES + 1):
                messages = case.first_messages if round == 1 else case.later_messages
                result = self.harness.call(module, "update", messages, round=round)
                failure = f"update {round} differs after load_state; something that it learnt is not in the state"
                self.check_equal(expected[round - 1], result, failure)
                module = self.harness.new_module(self.harness.state(module))
            failure = "the state differs after load_state; something that it learnt is not in it"
            self.check_equal(self.harness.state(undisturbed), self.harness.state(module), failure)

    def test_its_random_draws_depend_on_the_seed_alone(self) -> None:
        """The global generators (random, numpy.random, torch) neither influence a module nor are changed by it."""
        for case in self.cases:
            runs = []
            for global_seed in (1, 2):
                module, setup = self.new_module(), CallSetup(global_seed=global_seed)
                results = list(self.run_updates(module, case.first_messages, case.later_messages, setup=setup))
                results.append(self.harness.call(module, "recognize", case.later_messages, setup))
                runs.append((results, self.harness.state(module)))
                for changed in (name for result in results for name in result.changed_generators):
                    self.fail(f"it draws from or seeds the global random generator ({changed}); use context.generator")
            failure = "the same seed gives other bits when the global random generators have another state"
            for first, second in zip(*(results for results, _ in runs), strict=True):
                self.check_equal(first, second, failure)
            self.check_equal(runs[0][1], runs[1][1], failure)

    def test_recognition_learns_nothing(self) -> None:
        """Recognition of ordered and of unordered rows changes nothing and is repeatable to the bit."""
        for case in self.cases:
            module, undisturbed = self.train_module(case), self.train_module(case)
            for ordered in (True, False):
                self._check_state_unchanged(module, "recognize", case, ordered=ordered)
            expected, after = (
                self.harness.call(each, "update", case.later_messages, round=3) for each in (undisturbed, module)
            )
            self.check_equal(expected, after, "an update differs after a recognition, which must not change the module")

    def test_generation_and_proposals_learn_nothing(self) -> None:
        """Both can be called at any time, and again with the same result."""
        for case in self.cases:
            module = self.train_module(case)
            for rows in (0, self.rows):
                self._check_state_unchanged(module, "generate", case, rows=rows)
            for proposal in (0, 1):
                self._check_state_unchanged(module, "propose", case, proposal=proposal)

    def test_it_answers_or_refuses_before_its_first_update(self) -> None:
        """An untrained module returns a result in every mode, or refuses with a ModuleError."""
        modes: tuple[Mode, ...] = ("recognize", "generate", "propose")
        for case in self.cases:
            for mode in modes:
                self.harness.try_call(self.new_module(), mode, case.first_messages)

    def test_it_can_update_without_learning(self) -> None:
        """An update without ``context.learn`` returns messages for its inbox, with the same bits each time."""
        for case in self.cases:
            first, second = (
                self.harness.call(self.train_module(case), "update", case.later_messages, round=3, learn=False)
                for _ in range(2)
            )
            self.check_equal(first, second, "two updates without context.learn differ")
            self.harness.try_call(self.new_module(), "update", case.first_messages, round=1, learn=False)

    def test_its_progress_reports_are_valid(self) -> None:
        """The progress that it reports, if any, is between 0 and the total."""
        for case in self.cases:
            reports: list[tuple[int, int]] = []
            self.train_module(case, reporter=record_progress(reports))
            for done, total in reports:
                if not 0 <= done <= total:
                    self.fail(f"it reported the progress {done} of {total}, expected a number from 0 to {total}")

    # --- helpers --------------------------------------------------------------------------------------------------

    def _save_and_load(self, state: State, outputs: Mapping[str, Any]) -> tuple[State, Mapping[str, Any]]:
        """Save a state and outputs as in a commit, and return them as loaded from it."""
        with tempfile.TemporaryDirectory() as root:
            try:
                files = save_module_files(SaveRequest(root, "round-001", MODULE), [state, outputs])
            except Exception as error:
                self.fail(f"its state or outputs cannot be saved in a commit ({type(error).__name__}: {error})")
            record = ModuleRecord(1, files)
            _, loaded_state, loaded_outputs = load_module_files(LoadRequest(root, MODULE, record))
        return loaded_state, loaded_outputs

    def _check_state_unchanged(self, module: Any, mode: Mode, case: Case, **context: Any) -> None:
        before = self.harness.state(module)
        first, second = (self.harness.try_call(module, mode, case.later_messages, **context) for _ in range(2))
        self.check_equal(before, self.harness.state(module), f"{mode} changes the state")
        if isinstance(first, OutboxCopy) and isinstance(second, OutboxCopy):
            self.check_equal(first, second, f"{mode} returns other bits when it is called again")
        elif mode == "recognize":
            self.fail(f"recognize refuses messages that update accepted: {first}")


def _shared_array(first: Any, second: Any) -> str | None:
    """Return the name of an array that is the same memory in two states, or None."""
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return None
    for name, one in first.items():
        other = second.get(name)
        if isinstance(one, np.ndarray) and isinstance(other, np.ndarray) and np.shares_memory(one, other):
            return str(name)
    return None
