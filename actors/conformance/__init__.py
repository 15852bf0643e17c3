"""The checks that whoever writes a module runs, to see that it keeps to the contract of :mod:`actors.module`.

A test file of three lines holds a module against all of them::

    from actors.conformance import ModuleChecks

    class TestMine(ModuleChecks):
        module = "my_package:MyModule"
        parameters = {"size": 3}

and so does ``serket check my_package:MyModule``. Each check says in a sentence what was expected and what came. Of
messages nothing is known but their kinds; what is drawn for each is by default valid and without meaning.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from pydantic import ValidationError

from actors.conformance.inbox_checks import InboxChecks
from actors.conformance.recovery_checks import DeathChecks
from actors.conformance.sample_messages import Letters
from actors.conformance.state_checks import StateChecks
from actors.errors import MessageError, ModuleError
from actors.graph.registry import make_parameters
from actors.messaging.kinds import KINDS

__all__ = ["ModuleChecks", "Outcome", "Verdict", "outcomes"]

Verdict = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What came of one check: its name without ``test_``, and why it failed or does not apply."""

    name: str
    verdict: Verdict
    sentence: str = ""


class ModuleChecks(StateChecks, InboxChecks, DeathChecks):
    """The checks of one module: to be subclassed, and collected by pytest or ``serket check``.

    A check that does not apply to a module is skipped. One that an author has a reason to leave out is set to None.
    Where random messages make no sense to a module, its author overrides :meth:`message`, or :meth:`inbox` where they
    must fit each other; where not all of its optional inputs go together, :meth:`offers`; and :meth:`initial_state`
    says what a module without inputs from below starts from.

    Attributes
    ----------
    module : str or type
        A module type (``vae``, an entry point's name, ``package.module:Class``) or the class.
    parameters : mapping
        Its parameters; such as make an update short.
    rows : int
        How many rows messages have.
    sizes : mapping of str to int or tuple of int
        Sizes of the dimensions of messages from below, by letter; by default K = 4, D = 3, ``...`` = 5, others 3.
        Messages from above are as large as what the module itself sends upwards.
    flexible : tuple of str
        Letters whose size may change from one update to the next, of a module that learns anew each time.
    under_ray : bool
        Whether the module is run on Ray, and its process killed.
    deaths : tuple of str
        Where it is killed, ``phase:round`` of three rounds (:mod:`actors.backends.fault_injection`): ``inside`` an
        update, where it first reports or at its end, and ``before`` one.
    """

    def test_it_declares_itself_well(self) -> None:
        """Ports are of known kinds and names of their own, defaults are valid, and there is a docstring."""
        cls = self.bench.cls
        if not (cls.__doc__ or "").strip():
            self.fail("the class has no docstring; its first line is what serket modules shows")
        names = [port.name for port in cls.ports]
        for port in cls.ports:
            if names.count(port.name) > 1:
                self.fail(f"two ports are called {port.name!r}")
            if port.kind not in KINDS:
                self.fail(f"port {port.name!r} is of the unknown kind {port.kind!r}")
        given: dict[str, Any] = {}
        for field in fields(cls.Parameters):
            if field.default is not MISSING:
                given[field.name] = field.default
            elif field.default_factory is not MISSING:
                given[field.name] = field.default_factory()
            elif field.name not in self.parameters:
                self.fail(f"parameter {field.name!r} has no default and is not among the checks' parameters")
        try:
            make_parameters(cls, {**given, **self.parameters})
        except ValidationError as error:
            fault = error.errors()[0]
            self.fail(f"the default of parameter {fault['loc']} is not valid: {fault['msg']}")

    def test_what_it_sends_is_valid(self) -> None:
        """Messages are valid for their kinds, on ports that are declared; outputs and figures are numbers."""
        for case in self.cases:
            host = self.bench.host(self.data)
            steps: list[tuple[Any, Letters, dict[str, Any]]] = [
                ("update", case.first, {"round": 1}),
                ("update", case.later, {"round": 2}),
                ("recognize", case.later, {"ordered": True}),
                ("recognize", case.later, {"ordered": False}),
            ]
            for mode, letters, when in steps:
                try:
                    host.ask(mode, *self.bench.call(letters, **when))
                except (MessageError, ModuleError) as error:
                    raise AssertionError(f"{self.bench.type}: what {mode} gives is refused: {error}") from error


def outcomes(checks: type[ModuleChecks]) -> Iterator[Outcome]:
    """Go through all checks, without a test runner; give what came of each as soon as it is known."""
    names = [name for cls in checks.__mro__ for name in vars(cls) if name.startswith("test_")]
    for name in dict.fromkeys(names):
        check = getattr(checks(), name)
        plain = name.removeprefix("test_")
        if check is None:  # the author has left it out
            continue
        try:
            check()
        except unittest.SkipTest as reason:
            yield Outcome(plain, "not applicable", str(reason))
        except AssertionError as error:
            yield Outcome(plain, "failed", str(error))
        except Exception as error:  # in what the author says otherwise
            yield Outcome(plain, "failed", f"{type(error).__name__}: {error}")
        else:
            yield Outcome(plain, "passed")
