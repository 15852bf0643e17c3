"""Whoever dies, in whatever phase: the run ends with the bits of a run where nobody died."""

import pytest

from actors.backends.fault_injection import PHASES
from actors.coordination.recovery import Recovery
from actors.errors import ModuleFailedError
from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults import table
from tests.faults.runs import deaths, digests, model, named_actors, next_event, run, undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.usefixtures("ray_cluster")]

ROUNDS = 2 * len(PHASES)
"""A round of peace after each with a death: what a coordinator tells just before it dies, nobody hears."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The commits of a run of so many rounds where nobody dies, by the number of rounds."""
    made = {}

    def of(rounds, vae=True):
        if (rounds, vae) not in made:
            root = tmp_path_factory.mktemp("undisturbed") / "checkpoints"
            made[rounds, vae] = undisturbed(model(rounds, chains=1, vae=vae), root)
        return made[rounds, vae]

    return of


def faults_of(who, phase, round):
    first = [f"{who}:inside:{round}"] if phase == "recovery" else []  # only what has died is brought back
    return [*first, f"{who}:{phase}:{round}"]


def judge(who, phase, round, events, root, expected):
    """Note how the death went; whether the round's commit is what it has to be."""
    died = deaths(root)[who, phase, round]
    noticed = next_event(events, ("lost", "restarted"), died)
    back = next_event(events, ("recovered", "resumed", "commit"), noticed or died)
    name = f"round-{round:03d}"
    same = digests(Checkpoints(root), name) == digests(expected, name)
    table.ROWS.append((who, phase, noticed and noticed - died, back and back - died, same))
    return same


@pytest.mark.parametrize("who", ["vae", "gmm", "mm", "coordinator"])
def test_a_death_in_any_phase_changes_no_bit(tmp_path, expected, who):
    root = tmp_path / "checkpoints"
    at = {2 * number + 1: phase for number, phase in enumerate(PHASES)}
    faults = [fault for round, phase in at.items() for fault in faults_of(who, phase, round)]
    events = run(model(ROUNDS, chains=1), root, faults)
    assert {(phase, round) for _, phase, round in deaths(root)} >= {(phase, round) for round, phase in at.items()}
    assert [judge(who, phase, round, events, root, expected(ROUNDS)) for round, phase in at.items()] == [True] * len(at)
    assert Checkpoints(root).names() == expected(ROUNDS).names()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("who", ["data", "coordinator"])
def test_a_death_before_the_first_round_changes_no_bit(tmp_path, expected, who, phase):
    root = tmp_path / "checkpoints"
    if who == "coordinator" and phase == "recovery":
        pytest.skip("there is no commit yet to take the run up from")
    events = run(model(1, chains=1, vae=False), root, faults_of(who, phase, 0))
    assert judge(who, phase, 0, events, root, expected(1, vae=False))
    assert digests(Checkpoints(root), "round-001") == digests(expected(1, vae=False), "round-001")


def test_a_module_that_hangs_is_replaced(tmp_path, expected):
    root = tmp_path / "checkpoints"
    recovery = Recovery(timeout=3.0)
    events = run(model(2, chains=1, vae=False), root, ["gmm:hang:2"], recovery=recovery)
    assert judge("gmm", "hang", 2, events, root, expected(2, vae=False))
    reasons = [fields["reason"] for name, _, fields in events if name == "lost"]
    assert reasons == ["it did not answer within 3 s"]


def test_a_module_that_keeps_dying_leaves_a_run_that_can_be_resumed(tmp_path, expected):
    root = tmp_path / "checkpoints"
    with pytest.raises(ModuleFailedError, match=r"module 'gmm' died 3 times in update \(round 2, step 0\)"):
        run(model(2, chains=1, vae=False), root, ["gmm:before:2:3"])
    assert Checkpoints(root).newest_whole(pytest.fail).name == "round-001"
    run(model(2, chains=1, vae=False), root)
    assert digests(Checkpoints(root), "round-002") == digests(expected(2, vae=False), "round-002")


def test_a_coordinator_that_dies_while_it_brings_a_module_back_changes_no_bit(tmp_path, expected):
    root = tmp_path / "checkpoints"
    events = run(model(2, chains=1, vae=False), root, ["gmm:inside:2", "coordinator:reviving:2"])
    assert judge("coordinator", "reviving", 2, events, root, expected(2, vae=False))


def test_a_chain_that_dies_is_run_again(tmp_path, expected):
    root = tmp_path / "checkpoints"
    run(model(2, chains=1, vae=False), root, ["chain:inside:2:2"])
    assert len(list((tmp_path / "faults").iterdir())) == 2
    assert digests(Checkpoints(root), "round-002") == digests(expected(2, vae=False), "round-002")


def test_no_actor_outlives_a_run_with_deaths(tmp_path):
    run(model(1, vae=False), tmp_path / "checkpoints", ["coordinator:inside:1", "gmm:after:1"])
    wait_until(lambda: not named_actors())
