"""On Ray the process of a module is killed, and what it ends with is as if nothing had died.

Those of all modules are killed by ``make test-faults``.
"""

import pytest

from actors.conformance import ModuleChecks
from tests.actors.conformance import test_conformance as quick

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def survive(checks, *deaths):
    made = type("Checks", (ModuleChecks,), {"module": checks.module, "parameters": checks.parameters, "deaths": deaths})
    made().test_it_survives_the_death_of_its_process()


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
    survive(checks, death)


@pytest.mark.slow
def test_a_module_that_keeps_something_outside_its_state_does_not():
    checks = type("Checks", (quick.Quick,), {"module": f"{quick.WRONG}:Elsewhere"})
    with pytest.raises(AssertionError, match=r"Elsewhere: state.* of round-002 differ.*\(inside:2\): something"):
        survive(checks, "inside:2")
