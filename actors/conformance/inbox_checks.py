"""Checks of a module's treatment of its messages: absent ones, masked rows, few rows, wrong shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from actors.conformance.base import BaseChecks, Case
from actors.conformance.harness import CallSetup, OutboxCopy, find_difference
from actors.conformance.sample_messages import (
    Arrays,
    PortMessages,
    add_row_arrays,
    get_sizes,
    increment_size,
    make_lengths,
    replace_masked_rows,
)
from actors.errors import MessageError, NonFiniteError
from actors.messaging.validation import check_arrays
from actors.module import Mode, Module, Port
from actors.types import Array, BoolArray

_MODES: tuple[Mode, ...] = ("update", "recognize", "generate", "propose")


class InboxChecks(BaseChecks):
    """Checks of a module's treatment of its messages."""

    def test_it_does_not_modify_its_messages(self) -> None:
        """The arrays of messages are read-only and shared with other modules."""
        for case in self.cases:
            for mode in _MODES:
                module = self.train_module(case)
                given, expected = copy.deepcopy(case.later_messages), copy.deepcopy(case.later_messages)
                try:
                    self.harness.try_call(module, mode, given, CallSetup(read_only=True), round=3)
                except AssertionError as error:
                    raise AssertionError(f"{error} (messages are read-only; copy an array to change it)") from error
                self.check_equal(expected, given, f"{mode} changes its messages")

    def test_optional_messages_may_be_absent(self) -> None:
        """A message on a port that is declared optional may be absent from the first update on."""
        tried = False
        for case in self.cases_with_input():
            for port in (port for port in (*case.forward_ports, *case.backward_ports) if port.optional):
                first, later = _without(case.first_messages, port.name), _without(case.later_messages, port.name)
                if not first:  # no message from below is left
                    continue
                tried = True
                self._check_learns(first, later, f"port {port.name!r} is declared optional")
        if not tried:
            self.skip("none of its inputs is optional")

    def test_it_refuses_to_do_without_required_messages(self) -> None:
        """Without a required message, or without any message from below, it raises a ModuleError."""
        for case in self.cases_with_input():
            required = [port.name for port in case.forward_ports if not port.optional]
            for name in required or [""]:
                messages = _without(case.first_messages, name) if name else {}
                absent = f"the required message on port {name!r}" if name else "any message from below"
                for module, mode in self._trained_modules_and_modes(case):
                    if isinstance(self.harness.try_call(module, mode, messages), OutboxCopy):
                        self.fail(f"{mode} returns a result without {absent}; expected a ModuleError")

    def test_missing_rows_have_no_influence(self) -> None:
        """The values in masked rows influence neither what is learnt nor the results for the other rows."""
        for case in self.cases_with_input():
            mask = _mask_every_fourth_row(self.rows)
            runs = []
            for replaced in (False, True):
                first, later = (
                    self._mask_messages(messages, case, mask, replaced)
                    for messages in (case.first_messages, case.later_messages)
                )
                module = self.new_module()
                results = list(self.run_updates(module, first, later))
                results.append(self.harness.call(module, "recognize", later))
                runs.append(
                    ({"state": self.harness.state(module)}, [self._unmasked_parts(each, mask) for each in results])
                )
            failure = "the values in masked rows have an influence"
            self.check_equal(runs[0][0], runs[1][0], failure)
            for one, other in zip(runs[0][1], runs[1][1], strict=True):
                self.check_equal(one, other, failure)

    def test_it_passes_the_mask_on(self) -> None:
        """Messages with the rows of the input have the mask of the input."""
        self._check_passed_on("mask", _mask_every_fourth_row(self.rows))

    def test_it_passes_the_lengths_of_sequences_on(self) -> None:
        """Several sequences are accepted, and messages with their rows have their lengths."""
        self._check_passed_on("lengths", make_lengths(self.rows))

    def test_recognition_accepts_inputs_with_every_row_masked(self) -> None:
        """At recognition every row of a message from below may be missing."""
        for case in self.cases_with_input():
            for port in case.forward_ports:
                messages, mask = dict(case.later_messages), np.ones(self.rows, dtype=np.bool_)
                messages.update(self.annotate_rows({port.name: messages[port.name]}, mask=mask))
                result = self.harness.call(self.train_module(case), "recognize", messages)
                self._check_finite(result, f"recognition with every row of {port.name!r} masked")

    def test_it_handles_a_single_row(self) -> None:
        """With a single row it returns finite results, or refuses with a ModuleError."""
        for case in self.cases_with_input():
            first, later = self.resize_messages(case, N=1)
            self._check_calls(self.train_module(case), [("recognize", later)])
            self._check_calls(self.new_module(), [("update", first), ("update", later), ("recognize", later)])

    def test_it_handles_sequences_without_unmasked_rows(self) -> None:
        """Its host refuses a sequence of no rows; a sequence in which every row is masked is handled."""
        for case in self.cases_with_input():
            self._check_host_refuses_empty_sequences(case)
            lengths = make_lengths(self.rows)
            mask = np.zeros(self.rows, dtype=np.bool_)
            mask[lengths[0] : lengths[0] + lengths[1 % len(lengths)]] = True
            first, later = (
                self.annotate_rows(messages, mask=mask, lengths=lengths)
                for messages in (case.first_messages, case.later_messages)
            )
            module = self.new_module()
            condition = "with a sequence in which every row is masked"
            for result in self.run_updates(module, first, later):
                self._check_finite(result, f"update {condition}")
            self._check_finite(self.harness.call(module, "recognize", later), f"recognition {condition}")

    def test_it_refuses_messages_of_another_shape(self) -> None:
        """It raises a ModuleError if a size differs from that in other messages or in what was learnt."""
        tried = False
        for case in self.cases_with_input():
            for port, letter, message in self._enlarged_messages(case):
                tried = True
                for module, mode in self._trained_modules_and_modes(case):
                    if mode == "recognize" or letter not in self.flexible:
                        self._check_refused(module, mode, case, port, letter, message)
        if not tried:
            self.skip("messages of every shape are valid")

    # --- helpers --------------------------------------------------------------------------------------------------

    def _trained_modules_and_modes(self, case: Case) -> list[tuple[Module[Any], Mode]]:
        return [(self.train_module(case), "update"), (self.train_module(case), "recognize")]

    def _check_learns(self, first: PortMessages, later: PortMessages, reason: str) -> None:
        try:
            module = self.new_module()
            for _ in self.run_updates(module, first, later):
                pass
            self.harness.call(module, "recognize", later)
        except AssertionError as error:
            raise AssertionError(f"{error} ({reason})") from error

    def _check_calls(self, module: Module[Any], calls: Sequence[tuple[Mode, PortMessages]]) -> None:
        for mode, messages in calls:
            result = self.harness.try_call(module, mode, messages, round=1)
            if not isinstance(result, OutboxCopy):
                return  # after a refused update there is nothing to recognise with
            self._check_finite(result, f"{mode} with one row")

    def _mask_messages(self, messages: PortMessages, case: Case, mask: BoolArray, replaced: bool) -> PortMessages:
        """Return messages with a mask; if `replaced`, those from below with other values in the masked rows."""
        masked = self.annotate_rows(messages, mask=mask)
        for port in case.forward_ports if replaced else ():
            kind = self.harness.kind(port.name)
            assert kind is not None
            masked[port.name] = replace_masked_rows(kind, masked[port.name], mask, np.random.default_rng(3))
        return masked

    def _unmasked_parts(self, result: OutboxCopy, mask: BoolArray) -> dict[str, Any]:
        """Return a result without the masked rows."""
        messages = {}
        for (port, receiver), arrays in result.messages.items():
            kind = self.harness.kind(port)
            row_arrays = [spec.name for spec in kind.arrays if spec.dims[0] == "N"] if kind else []
            messages[f"{port} {receiver}".strip()] = {
                name: array[~mask] if name in row_arrays and len(array) == len(mask) else array
                for name, array in arrays.items()
            }
        outputs = {
            name: array[~mask] if array.ndim and len(array) == len(mask) else array
            for name, array in result.outputs.items()
        }
        return {"message": messages, "output": outputs, "metric": result.metrics}

    def _check_passed_on(self, name: str, expected: Array) -> None:
        tried = False
        for case in self.cases_with_input():
            first, later = (
                self.annotate_rows(messages, **{name: expected})
                for messages in (case.first_messages, case.later_messages)
            )
            module = self.new_module()
            results = [*self.run_updates(module, first, later), self.harness.call(module, "recognize", later)]
            for (port, _), arrays in (sent for result in results for sent in result.messages.items()):
                if self._has_input_rows(port, arrays, name):
                    tried = True
                    sent_array = arrays.get(name)
                    if sent_array is None or find_difference(expected, sent_array):
                        self.fail(f"message {port!r} has {name} {sent_array}, expected those of its input: {expected}")
        if not tried:
            self.skip("it sends no message with the rows of its input")

    def _has_input_rows(self, port: str, arrays: Mapping[str, Array], name: str) -> bool:
        """Return whether a message has as many rows as the input and its kind has the array `name`."""
        kind = self.harness.kind(port)
        if kind is None or kind.spec(name) is None:
            return False
        return any(
            spec.dims[0] == "N" and spec.name in arrays and len(arrays[spec.name]) == self.rows for spec in kind.arrays
        )

    def _check_finite(self, result: OutboxCopy, call: str) -> None:
        try:
            for (port, _), arrays in result.messages.items():
                check_arrays(call, f"message {port!r}", arrays)
            check_arrays(call, "output", result.outputs)
        except NonFiniteError as error:
            self.fail(f"{error}, expected a number")

    def _check_host_refuses_empty_sequences(self, case: Case) -> None:
        """Send sequences of no rows, as a foreign sender could, and check that the host refuses them."""
        for port in case.forward_ports:
            kind = self.harness.kind(port.name)
            assert kind is not None
            arrays = case.first_messages[port.name]
            no_rows = {spec.name: arrays[spec.name][:0] for spec in kind.arrays if spec.name in arrays}
            zero_length = np.array([self.rows, 0], dtype=np.int64)
            for invalid in (no_rows, add_row_arrays(kind, arrays, lengths=zero_length)):
                if invalid is not no_rows and "lengths" not in invalid:
                    continue
                host = self.harness.new_host(self.source_state)
                self.harness.call(host.module, "update", case.first_messages, round=1)
                before = self.harness.state(host.module)
                try:
                    host.call(*self.harness.make_call("update", {**case.first_messages, port.name: invalid}, round=2))
                except MessageError:
                    failure = "a message with an empty sequence changes the state"
                    self.check_equal(before, self.harness.state(host.module), failure)
                else:
                    self.fail(f"a message with an empty sequence on port {port.name!r} was accepted")

    def _enlarged_messages(self, case: Case) -> Iterator[tuple[Port, str, Arrays]]:
        """Yield messages that are too large in one dimension, with the port and the dimension letter."""
        for port in (*case.forward_ports, *case.backward_ports):
            kind = self.harness.kind(port.name)
            assert kind is not None
            sizes = case.forward_sizes if port in case.forward_ports else case.backward_sizes
            valid_sizes = get_sizes(kind, case.later_messages[port.name])
            for letter in valid_sizes:
                only_message = letter == "N" and len(case.later_messages) == 1
                undetermined = port in case.backward_ports and letter not in ("N", *case.determined)
                if only_message or undetermined:
                    continue
                enlarged = {**sizes, letter: increment_size(valid_sizes[letter])}
                message = self.make_messages([port], enlarged)[port.name]
                if get_sizes(kind, message)[letter] != valid_sizes[letter]:  # equal if the author's method fixes it
                    yield port, letter, message

    def _check_refused(
        self, module: Module[Any], mode: Mode, case: Case, port: Port, letter: str, message: Arrays
    ) -> None:
        before = self.harness.state(module)
        result = self.harness.try_call(module, mode, {**case.later_messages, port.name: message}, round=3)
        if not isinstance(result, OutboxCopy):
            failure = f"{mode} refuses a message on port {port.name!r} but changes the state"
            self.check_equal(before, self.harness.state(module), failure)
            return
        # A module that ignores a message need not check its shape, nor one that ignores all others their rows.
        equivalent = [
            _without(case.later_messages, port.name),
            *([{port.name: message}] if letter == "N" else []),
        ]
        for messages in equivalent:
            expected = self.harness.try_call(self.train_module(case), mode, messages, round=3)
            if isinstance(expected, OutboxCopy) and not find_difference(result.parts(), expected.parts()):
                return
        kind = self.harness.kind(port.name)
        assert kind is not None
        size = f"{letter} = {get_sizes(kind, message)[letter]}"
        self.fail(
            f"{mode} accepts a message on port {port.name!r} with {size}, which does not fit; expected a ModuleError"
        )


def _without(messages: PortMessages, port: str) -> PortMessages:
    return {name: arrays for name, arrays in messages.items() if name != port}


def _mask_every_fourth_row(rows: int) -> BoolArray:
    """Return a mask of every fourth row and the last."""
    mask = np.zeros(rows, dtype=np.bool_)
    mask[::4] = True
    mask[-1] = True
    return mask
