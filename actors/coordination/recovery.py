"""Recovery: restarts modules whose processes die, restores their states, and repeats the interrupted calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from actors.coordination.backend import Backend, Ref
from actors.coordination.events import Emit, ModuleDied, ModulePrepared, ModuleRecovered
from actors.errors import ModuleDiedError, ModuleFailedError

T = TypeVar("T")


@dataclass(frozen=True)
class RecoveryPolicy:
    """Limits of a run's recovery.

    Parameters
    ----------
    tries : int
        Number of deaths of a module in one update after which the run fails.
    timeout : float, optional
        Seconds after which a module that has not answered is treated as dead; by default there is no limit.
    wait : float
        Seconds that a run waits for a node that can hold a module.
    """

    tries: int = 3
    timeout: float | None = None
    wait: float = 300.0


class ModuleSupervisor:
    """Restarts modules whose processes die, and repeats their calls.

    Parameters
    ----------
    backend : Backend
    policy : RecoveryPolicy
    emit : callable
        Receives ModulePrepared, ModuleDied, ModulePlaced and ModuleRecovered.
    state_of : callable
        Returns the latest state of a module, None if it has none.
    """

    def __init__(
        self, backend: Backend, policy: RecoveryPolicy, emit: Emit, state_of: Callable[[str], Ref | None]
    ) -> None:
        self.policy = policy
        self._backend = backend
        self._emit = emit
        self._state_of = state_of
        self._prepared: set[str] = set()

    def await_prepared(self, module: str) -> None:
        """Wait until a module is prepared, before its first call; the others are prepared in parallel."""
        if module not in self._prepared:
            started = time.perf_counter()
            device = self.call_with_recovery(module, lambda: self._backend.await_prepared(module), "preparation")
            self._prepared.add(module)
            self._emit(ModulePrepared(module, device, time.perf_counter() - started))

    def push_state(self, module: str) -> None:
        """Load a module's latest state into its process."""
        state = self._state_of(module)
        self.call_with_recovery(module, lambda: self._backend.load_state(module, state), "the loading of its state")

    def call_with_recovery(self, module: str, action: Callable[[], T], doing: str) -> T:
        """Run `action`; if the module's process dies, restart the module with its state and run `action` again.

        A call depends only on the module's state, its inbox and the seeds, so its repetition is bit-identical.

        Parameters
        ----------
        module : str
        action : callable
            Raises ModuleDiedError if the module's process dies.
        doing : str
            The module's activity, for events and error messages.

        Raises
        ------
        ModuleFailedError
            If the module dies as often as the policy allows.
        """
        deaths = 0
        while True:
            try:
                if deaths:
                    self._restart(module)
                return action()
            except ModuleDiedError as error:
                deaths += 1
                self._emit(ModuleDied(module, doing, deaths, str(error)))
                if deaths >= self.policy.tries:
                    often = "" if deaths == 1 else f" {deaths} times"
                    trace = "\n".join(filter(None, [str(error), self._backend.crash_report(module)]))
                    raise ModuleFailedError(f"module {module!r} died{often} during {doing}: {trace}") from error

    def _restart(self, module: str) -> None:
        started = time.perf_counter()
        self._emit(self._backend.restart(module))
        self._backend.await_prepared(module)
        state = self._state_of(module)
        if state is not None:
            self._backend.load_state(module, state)
        self._emit(ModuleRecovered(module, time.perf_counter() - started))
