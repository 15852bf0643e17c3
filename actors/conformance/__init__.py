"""Checks that a module fulfils the contract of :mod:`actors.module`, for authors of modules.

A test file of three lines runs all of them under pytest::

    from actors.conformance import ModuleChecks

    class TestMine(ModuleChecks):
        module = "my_package:MyModule"
        parameters = {"size": 3}

and so does ``serket check my_package:MyModule``. A check that fails reports in one sentence what was expected and what
was found. The messages passed to the module are valid for the kinds of its ports and have random values.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from pydantic import ValidationError

from actors.conformance.inbox_checks import InboxChecks
from actors.conformance.recovery_checks import RecoveryChecks
from actors.conformance.sample_messages import PortMessages
from actors.conformance.sharing_checks import SharingChecks
from actors.conformance.state_checks import StateChecks
from actors.errors import MessageError, ModuleError
from actors.graph.registry import make_parameters
from actors.messaging.kinds import KINDS
from actors.module import Mode

__all__ = ["ModuleChecks", "Outcome", "Verdict", "iter_outcomes"]

Verdict = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check: its name without ``test_``, and why it failed or does not apply."""

    name: str
    verdict: Verdict
    sentence: str = ""


class ModuleChecks(StateChecks, InboxChecks, SharingChecks, RecoveryChecks):
    """The checks of one module, as a base class for a test class of pytest or for ``serket check``.

    A check that does not apply to a module is skipped; a check that an author sets to None is left out. If random
    messages are not suitable for a module, override :meth:`message`, or :meth:`inbox` if the messages to several ports
    must be consistent; if not all of its optional inputs can be used together, override :meth:`offers`.
    :meth:`initial_state` returns the initial state of a module without inputs from below.

    Attributes
    ----------
    module : str or type
        A module type (``vae``, the name of an entry point, ``package.module:Class``) or the class.
    parameters : mapping
        Parameters of the module; choose those that make an update short.
    rows : int
        Number of rows of the messages.
    sizes : mapping of str to int or tuple of int
        Size of each dimension letter in messages from below; by default K = 4, D = 3, ``...`` = 5, others 3. Messages
        from above have the sizes of the messages that the module sends upwards.
    flexible : tuple of str
        Dimension letters whose size may change between updates, for modules that learn from scratch at each update.
    under_ray : bool
        Whether to run the module on Ray and kill its process.
    deaths : tuple of str
        When its process is killed, as ``phase:round`` of three rounds (:mod:`actors.backends.fault_injection`):
        ``inside`` an update (at its first progress report or its end), or ``before`` one.
    """

    def test_its_declaration_is_valid(self) -> None:
        """Port names are unique, kinds are registered, default values are valid, and there is a docstring."""
        cls = self.harness.cls
        if not (cls.__doc__ or "").strip():
            self.fail("the class has no docstring; serket modules prints its first line")
        names = [port.name for port in cls.ports]
        for port in cls.ports:
            if names.count(port.name) > 1:
                self.fail(f"two ports have the name {port.name!r}, expected unique names")
            if port.kind not in KINDS:
                self.fail(f"port {port.name!r} has the unknown kind {port.kind!r}")
        defaults: dict[str, Any] = {}
        for field in fields(cls.Parameters):
            if field.default is not MISSING:
                defaults[field.name] = field.default
            elif field.default_factory is not MISSING:
                defaults[field.name] = field.default_factory()
            elif field.name not in self.parameters:
                self.fail(f"parameter {field.name!r} has no default value, and the checks are given none")
        try:
            make_parameters(cls, {**defaults, **self.parameters})
        except ValidationError as error:
            problem = error.errors()[0]
            self.fail(f"the default of parameter {problem['loc']} is not valid: {problem['msg']}")

    def test_its_results_are_valid(self) -> None:
        """Messages are valid for their kinds and on declared ports; outputs and metrics have valid names and types.

        Numbers are finite. The results of all modes are checked alike; generation and proposals may be refused.
        """
        for case in self.cases:
            host = self.harness.new_host(self.source_state)
            steps: list[tuple[Mode, PortMessages, dict[str, Any]]] = [
                ("update", case.first_messages, {"round": 1}),
                ("update", case.later_messages, {"round": 2}),
                ("recognize", case.later_messages, {"ordered": True}),
                ("recognize", case.later_messages, {"ordered": False}),
                ("generate", case.later_messages, {}),
                ("generate", case.later_messages, {"rows": self.rows}),
                ("propose", case.later_messages, {}),
            ]
            for mode, messages, call_fields in steps:
                if mode in ("generate", "propose"):
                    outcome = self.harness.try_call(host.module, mode, messages, **call_fields)
                    if isinstance(outcome, Exception):
                        continue
                try:
                    host.call(*self.harness.make_call(mode, messages, **call_fields))
                except (MessageError, ModuleError) as error:
                    failure = f"{self.harness.type_name}: the result of {mode} is not valid: {error}"
                    raise AssertionError(failure) from error


def iter_outcomes(checks: type[ModuleChecks]) -> Iterator[Outcome]:
    """Run all checks of a class without a test runner, and yield the outcome of each."""
    names = [name for cls in checks.__mro__ for name in vars(cls) if name.startswith("test_")]
    for name in dict.fromkeys(names):
        check = getattr(checks(), name)
        short_name = name.removeprefix("test_")
        if check is None:  # left out by the author
            continue
        try:
            check()
        except unittest.SkipTest as reason:
            yield Outcome(short_name, "not applicable", str(reason))
        except AssertionError as error:
            yield Outcome(short_name, "failed", str(error))
        except Exception as error:  # from a method that the author has overridden
            yield Outcome(short_name, "failed", f"{type(error).__name__}: {error}")
        else:
            yield Outcome(short_name, "passed")
