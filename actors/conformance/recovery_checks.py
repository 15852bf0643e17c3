"""The check that a module survives the death of its process, for which it is run on Ray."""

from __future__ import annotations

import pathlib
import tempfile

from actors.conformance.base import BaseChecks
from actors.conformance.harness import ABOVE, BELOW, MODULE
from actors.conformance.neighbours import make_neighbour_state
from actors.conformance.sample_messages import Arrays, PortMessages
from actors.errors import ModuleFailedError
from actors.module import Pass
from actors.types import State


class RecoveryChecks(BaseChecks):
    """Checks of a module that runs as an actor whose process is killed."""

    def test_it_survives_the_death_of_its_process(self) -> None:
        """Killed during an update and before one, on Ray, it has the state and outputs of an undisturbed run."""
        if not self.under_ray:
            self.skip("not run on Ray")
        from actors.conformance.ray_runs import find_difference_after_deaths

        case = self.cases[-1]
        states = {
            **self._neighbour_state(BELOW, case.first_messages),
            **self._neighbour_state(ABOVE, case.later_messages),
        }
        if self.source_state is not None:
            states[MODULE] = self.source_state
        with tempfile.TemporaryDirectory() as root:
            try:
                difference = find_difference_after_deaths(
                    self.harness.graph, MODULE, states, pathlib.Path(root), self.deaths
                )
            except ModuleFailedError as error:
                raise AssertionError(f"{self.harness.type_name}: on Ray: {error}") from error
        if difference:
            self.fail(f"{difference}; something that it learnt is not in its state")

    def _neighbour_state(self, neighbour: str, messages: PortMessages) -> dict[str, State]:
        """Return the state with which a neighbour, if there is one, sends its part of `messages`: one of each kind."""
        pass_: Pass = "forward" if neighbour == BELOW else "backward"
        by_kind: dict[str, Arrays] = {}
        for port in self.harness.ports("in", pass_):
            if port.name in messages:
                by_kind.setdefault(port.kind, messages[port.name])
        return {neighbour: make_neighbour_state(by_kind)} if neighbour in self.harness.graph.modules else {}
