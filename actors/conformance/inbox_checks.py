"""Checks of what a module makes of its messages: those that are missing, incomplete, small, of another shape."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from actors.conformance.base import Case, Checks
from actors.conformance.harness import Answer, Asked, difference
from actors.conformance.sample_messages import Arrays, Letters, of_rows, one_more, refilled, sizes_in, split
from actors.errors import MessageError, NonFiniteError
from actors.messaging.validation import check_arrays
from actors.module import Mode, Module, Port
from actors.types import Array, BoolArray

_MODES: tuple[Mode, ...] = ("update", "recognize", "generate", "propose")


class InboxChecks(Checks):
    """What a module makes of its messages."""

    def test_it_leaves_its_messages_as_they_were(self) -> None:
        """Arrays are read-only and somebody else's."""
        for case in self.cases:
            for mode in _MODES:
                module = self.learnt(case)
                given, kept = copy.deepcopy(case.later), copy.deepcopy(case.later)
                try:
                    self.bench.attempt(module, mode, given, Asked(lent=True), round=3)
                except AssertionError as error:
                    raise AssertionError(f"{error} (messages are read-only: copy what is to change)") from error
                self.same(kept, given, f"{mode} changes its messages")

    def test_it_does_without_each_optional_message(self) -> None:
        """What is declared optional may never come, from the first update on."""
        tried = False
        for case in self.listening_cases():
            for port in (port for port in (*case.ports, *case.backward) if port.optional):
                first, later = _without(case.first, port.name), _without(case.later, port.name)
                if not first:  # nothing at all came from below
                    continue
                tried = True
                self._check_learns(first, later, f"port {port.name!r} is declared optional")
        if not tried:
            self.skip("nothing that it receives is optional")

    def test_it_says_which_message_it_needs(self) -> None:
        """Without a required message, or any at all, it refuses with a ModuleError."""
        for case in self.listening_cases():
            required = [port.name for port in case.ports if not port.optional]
            for name in required or [""]:
                letters = _without(case.first, name) if name else {}
                what = f"the required message on port {name!r}" if name else "any message from below"
                for module, mode in self._learning_and_answering(case):
                    if isinstance(self.bench.attempt(module, mode, letters), Answer):
                        self.fail(f"{mode} answers without {what}; expected a ModuleError")

    def test_missing_rows_have_no_influence(self) -> None:
        """What stands in masked rows changes neither what is learnt nor what is said of the other rows."""
        for case in self.listening_cases():
            mask = _some(self.rows)
            found = []
            for filled in (False, True):
                first, later = (self._masked(letters, case, mask, filled) for letters in (case.first, case.later))
                module = self.fresh()
                answers = list(self.updates(module, first, later))
                answers.append(self.bench.ask(module, "recognize", later))
                found.append(({"state": self.bench.state(module)}, [self._seen(each, mask) for each in answers]))
            what = "the values in rows that are masked have an influence"
            self.same(found[0][0], found[1][0], what)
            for one, other in zip(found[0][1], found[1][1], strict=True):
                self.same(one, other, what)

    def test_it_passes_the_mask_on(self) -> None:
        """Messages that have the rows of those that came say which of them are missing."""
        self._check_passed_on("mask", _some(self.rows))

    def test_it_passes_the_lengths_of_sequences_on(self) -> None:
        """Several sequences are accepted, and messages that have their rows say where each ends."""
        self._check_passed_on("lengths", split(self.rows))

    def test_it_answers_where_a_source_is_missing_throughout(self) -> None:
        """At recognition every row of a message from below may be masked."""
        for case in self.listening_cases():
            for port in case.ports:
                letters = dict(case.later)
                letters.update(self.annotated({port.name: letters[port.name]}, mask=np.ones(self.rows, dtype=np.bool_)))
                answer = self.bench.ask(self.learnt(case), "recognize", letters)
                self._check_finite(answer, f"with every row of {port.name!r} masked recognition")

    def test_it_can_do_with_one_row(self) -> None:
        """With a single row it learns and answers, or refuses with a ModuleError."""
        for case in self.listening_cases():
            first, later = self.resized(case, N=1)
            self._check_answers(self.learnt(case), [("recognize", later)])
            self._check_answers(self.fresh(), [("update", first), ("update", later), ("recognize", later)])

    def test_it_bears_empty_sequences(self) -> None:
        """A sequence without rows never reaches it; one of which every row is masked is no reason to fail."""
        for case in self.listening_cases():
            self._check_refused_before(case)
            lengths = split(self.rows)
            mask = np.zeros(self.rows, dtype=np.bool_)
            mask[lengths[0] : lengths[0] + lengths[1 % len(lengths)]] = True
            first, later = (self.annotated(each, mask=mask, lengths=lengths) for each in (case.first, case.later))
            module = self.fresh()
            what = "with a sequence of which every row is masked"
            for answer in self.updates(module, first, later):
                self._check_finite(answer, f"{what} an update")
            self._check_finite(self.bench.ask(module, "recognize", later), f"{what} recognition")

    def test_it_refuses_messages_of_another_shape(self) -> None:
        """Rows that do not fit the other messages, or a width that does not fit what was learnt: a ModuleError."""
        tried = False
        for case in self.listening_cases():
            for port, letter, message in self._misfits(case):
                tried = True
                for module, mode in self._learning_and_answering(case):
                    if mode == "recognize" or letter not in self.flexible:
                        self._check_refused(module, mode, case, port, letter, message)
        if not tried:
            self.skip("whatever the shapes of its messages, they fit")

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _learning_and_answering(self, case: Case) -> list[tuple[Module[Any], Mode]]:
        return [(self.learnt(case), "update"), (self.learnt(case), "recognize")]

    def _check_learns(self, first: Letters, later: Letters, what: str) -> None:
        try:
            module = self.fresh()
            for _ in self.updates(module, first, later):
                pass
            self.bench.ask(module, "recognize", later)
        except AssertionError as error:
            raise AssertionError(f"{error} ({what})") from error

    def _check_answers(self, module: Module[Any], steps: Sequence[tuple[Mode, Letters]]) -> None:
        for mode, letters in steps:
            answer = self.bench.attempt(module, mode, letters, round=1)
            if not isinstance(answer, Answer):
                return  # what was not learnt cannot be asked
            self._check_finite(answer, f"with one row {mode}")

    def _masked(self, letters: Letters, case: Case, mask: BoolArray, filled: bool) -> Letters:
        """Return messages with a mask; those from below with other values in the rows that it covers, if `filled`."""
        found = self.annotated(letters, mask=mask)
        for port in case.ports if filled else ():
            kind = self.bench.kind(port.name)
            assert kind is not None
            found[port.name] = refilled(kind, found[port.name], mask, np.random.default_rng(3))
        return found

    def _seen(self, answer: Answer, mask: BoolArray) -> dict[str, Any]:
        """Return what an answer says of the rows that are not masked, and of all rows together."""
        messages = {}
        for (port, to), arrays in answer.messages.items():
            kind = self.bench.kind(port)
            of_row = [spec.name for spec in kind.arrays if spec.dims[0] == "N"] if kind else []
            messages[f"{port} {to}".strip()] = {
                name: array[~mask] if name in of_row and len(array) == len(mask) else array
                for name, array in arrays.items()
            }
        outputs = {
            name: array[~mask] if array.ndim and len(array) == len(mask) else array
            for name, array in answer.outputs.items()
        }
        return {"message": messages, "output": outputs, "metric": answer.metrics}

    def _check_passed_on(self, name: str, expected: Array) -> None:
        tried = False
        for case in self.listening_cases():
            first, later = (self.annotated(letters, **{name: expected}) for letters in (case.first, case.later))
            module = self.fresh()
            answers = [*self.updates(module, first, later), self.bench.ask(module, "recognize", later)]
            for (port, _), arrays in (sent for answer in answers for sent in answer.messages.items()):
                if self._has_rows(port, arrays, name):
                    tried = True
                    came = arrays.get(name)
                    if came is None or difference(expected, came):
                        self.fail(f"message {port!r} has {name} {came}, expected those that came: {expected}")
        if not tried:
            self.skip("it sends no message that has rows")

    def _has_rows(self, port: str, arrays: Mapping[str, Array], name: str) -> bool:
        """Whether a message has as many rows as came, and its kind has an array `name` that says something of them."""
        kind = self.bench.kind(port)
        if kind is None or kind.spec(name) is None:
            return False
        return any(
            spec.dims[0] == "N" and spec.name in arrays and len(arrays[spec.name]) == self.rows for spec in kind.arrays
        )

    def _check_finite(self, answer: Answer, what: str) -> None:
        try:
            for (port, _), arrays in answer.messages.items():
                check_arrays(what, f"message {port!r}", arrays)
            check_arrays(what, "output", answer.outputs)
        except NonFiniteError as error:
            self.fail(f"{error}, expected a number")

    def _check_refused_before(self, case: Case) -> None:
        """Send sequences without rows, as another program might; the host must not let them pass."""
        for port in case.ports:
            kind = self.bench.kind(port.name)
            assert kind is not None
            arrays = case.first[port.name]
            none = {spec.name: arrays[spec.name][:0] for spec in kind.arrays if spec.name in arrays}
            no_rows = np.array([self.rows, 0], dtype=np.int64)
            for wrong in (none, of_rows(kind, arrays, lengths=no_rows)):
                if wrong is not none and "lengths" not in wrong:
                    continue
                host = self.bench.host(self.data)
                self.bench.ask(host.module, "update", case.first, round=1)
                before = self.bench.state(host.module)
                try:
                    host.ask("update", *self.bench.call({**case.first, port.name: wrong}, round=2))
                except MessageError:
                    self.same(before, self.bench.state(host.module), "a message without rows changes the state")
                else:
                    self.fail(f"a message without rows on port {port.name!r} was let through")

    def _misfits(self, case: Case) -> Iterator[tuple[Port, str, Arrays]]:
        """Give messages that are larger along one dimension than they may be; which port and dimension."""
        for port in (*case.ports, *case.backward):
            kind = self.bench.kind(port.name)
            assert kind is not None
            sizes = case.sizes if port in case.ports else case.answered
            fits = sizes_in(kind, case.later[port.name])
            for letter in fits:
                alone = letter == "N" and len(case.later) == 1
                free = port in case.backward and letter not in ("N", *case.bound)
                if alone or free:
                    continue
                message = self.letters([port], {**sizes, letter: one_more(fits[letter])})[port.name]
                if sizes_in(kind, message)[letter] != fits[letter]:  # as it is where the author has made it otherwise
                    yield port, letter, message

    def _check_refused(
        self, module: Module[Any], mode: Mode, case: Case, port: Port, letter: str, message: Arrays
    ) -> None:
        before = self.bench.state(module)
        answer = self.bench.attempt(module, mode, {**case.later, port.name: message}, round=3)
        if not isinstance(answer, Answer):
            what = f"{mode} refuses a message on port {port.name!r} and yet learns"
            self.same(before, self.bench.state(module), what)
            return
        # Whoever never looks at a message need not look at its shape; nor whether its rows are those of others.
        harmless = [_without(case.later, port.name), *([{port.name: message}] if letter == "N" else [])]
        for letters in harmless:
            expected = self.bench.attempt(self.learnt(case), mode, letters, round=3)
            if isinstance(expected, Answer) and not difference(answer.parts(), expected.parts()):
                return
        kind = self.bench.kind(port.name)
        assert kind is not None
        size = f"{letter} = {sizes_in(kind, message)[letter]}"
        self.fail(f"{mode} takes a message on port {port.name!r} with {size}, which does not fit; expected ModuleError")


def _without(letters: Letters, port: str) -> Letters:
    return {name: arrays for name, arrays in letters.items() if name != port}


def _some(rows: int) -> BoolArray:
    """Return a mask of about every fourth row, the first and the last among them."""
    mask = np.zeros(rows, dtype=np.bool_)
    mask[::4] = True
    mask[-1] = True
    return mask
