"""The check that a module survives the death of its process, for which it is run on Ray."""

from __future__ import annotations

import pathlib
import tempfile

from actors.conformance.base import Checks
from actors.conformance.harness import ABOVE, BELOW, MODULE
from actors.conformance.neighbours import saying
from actors.conformance.sample_messages import Arrays, Letters
from actors.errors import ModuleFailedError
from actors.module import Pass
from actors.types import State


class DeathChecks(Checks):
    """What a module must bear as an actor."""

    def test_it_survives_the_death_of_its_process(self) -> None:
        """Killed in an update and before one, under Ray, it ends with the bits of a run in which nothing dies."""
        if not self.under_ray:
            self.skip("not run on Ray")
        from actors.conformance.ray_runs import difference_by_deaths

        case = self.cases[-1]
        states = {**self._heard(BELOW, case.first), **self._heard(ABOVE, case.later)}
        if self.data is not None:
            states[MODULE] = self.data
        with tempfile.TemporaryDirectory() as root:
            try:
                said = difference_by_deaths(self.bench.graph, MODULE, states, pathlib.Path(root), self.deaths)
            except ModuleFailedError as error:
                raise AssertionError(f"{self.bench.type}: under Ray: {error}") from error
        if said:
            self.fail(f"{said}: something that it learnt lies outside its state")

    def _heard(self, stub: str, letters: Letters) -> dict[str, State]:
        """Return the state of a stub that says what is to come from its side, if it is there; of one kind one thing."""
        pass_: Pass = "forward" if stub == BELOW else "backward"
        said: dict[str, Arrays] = {}
        for port in self.bench.ports("in", pass_):
            if port.name in letters:
                said.setdefault(port.kind, letters[port.name])
        return {stub: saying(said)} if stub in self.bench.graph.modules else {}
