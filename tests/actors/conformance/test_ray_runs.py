"""Tests of the conformance check that kills the process of a module on Ray.

``make test-faults`` runs it for all modules.
"""

import pytest

from actors.conformance import ModuleChecks
from tests.actors.conformance import test_conformance as quick

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def check_survival(checks, *deaths):
    subclass = type(
        "Checks", (ModuleChecks,), {"module": checks.module, "parameters": checks.parameters, "deaths": deaths}
    )
    subclass().test_it_survives_the_death_of_its_process()


@pytest.mark.parametrize(
    ("checks", "death"),
    [
        pytest.param(quick.TestObservation, "before:2", marks=pytest.mark.slow),
        pytest.param(quick.TestVAE, "inside:2", marks=pytest.mark.slow),
        (quick.TestGMM, "inside:2"),
        pytest.param(quick.TestMarkovModel, "before:3", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "module", value),
)
def test_a_module_survives_the_death_of_its_process(checks, death):
    check_survival(checks, death)


@pytest.mark.slow
def test_a_module_with_state_in_a_global_variable_does_not_survive():
    checks = type("Checks", (quick.QuickChecks,), {"module": f"{quick.WRONG}:StateInAGlobalVariable"})
    with pytest.raises(
        AssertionError, match=r"StateInAGlobalVariable: state.* of round-002 differ.*\(inside:2\); something"
    ):
        check_survival(checks, "inside:2")
