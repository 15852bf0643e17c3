"""Tests that kill every process in every phase: the results stay bit-identical."""

import os
import re
import signal
import time

import psutil
import pytest

from actors.backends.fault_injection import HANGS, PHASES
from actors.coordination.recovery import RecoveryPolicy
from actors.errors import ModuleFailedError
from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults import recovery_table
from tests.faults.runs import (
    deaths,
    digests,
    model,
    named_actors,
    next_event,
    process_titles,
    run,
    run_undisturbed,
)

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.usefixtures("ray_cluster")]

ROUNDS = 2 * len(PHASES)
"""A round without a fault follows each round with one: events of a coordinator that dies right after are not read."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A function that returns the commits of a run without faults, by its number of rounds and with or without VAE."""
    commits = {}

    def expected_commits(rounds, vae=True):
        if (rounds, vae) not in commits:
            root = tmp_path_factory.mktemp("undisturbed") / "checkpoints"
            commits[rounds, vae] = run_undisturbed(model(rounds, chains=1, vae=vae), root)
        return commits[rounds, vae]

    return expected_commits


def faults_for(target, phase, round):
    first = [f"{target}:inside:{round}"] if phase == "recovery" else []  # recovery follows only after a death
    return [*first, f"{target}:{phase}:{round}"]


def add_to_table(target, phase, round, events, root, expected):
    """Add a death to the table of recovery times; return whether the round's commit is bit-identical."""
    died = deaths(root)[target, phase, round]
    noticed = next_event(events, ("lost", "restarted"), died)
    back = next_event(events, ("recovered", "resumed", "commit"), noticed or died)
    name = f"round-{round:03d}"
    identical = digests(Checkpoints(root), name) == digests(expected, name)
    recovery_table.ROWS.append((target, phase, noticed and noticed - died, back and back - died, identical))
    return identical


@pytest.mark.parametrize("target", ["vae", "gmm", "mm", "coordinator"])
def test_the_results_are_bit_identical_after_a_death_in_any_phase(tmp_path, expected, target):
    root = tmp_path / "checkpoints"
    phases = {2 * number + 1: phase for number, phase in enumerate(PHASES)}
    faults = [fault for round, phase in phases.items() for fault in faults_for(target, phase, round)]
    events = run(model(ROUNDS, chains=1), root, faults)
    assert {(phase, round) for _, phase, round in deaths(root)} >= {(phase, round) for round, phase in phases.items()}
    identical = [add_to_table(target, phase, round, events, root, expected(ROUNDS)) for round, phase in phases.items()]
    assert identical == [True] * len(phases)
    assert Checkpoints(root).names() == expected(ROUNDS).names()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("target", ["data", "coordinator"])
def test_the_results_are_bit_identical_after_a_death_before_the_first_round(tmp_path, expected, target, phase):
    root = tmp_path / "checkpoints"
    if target == "coordinator" and phase == "recovery":
        pytest.skip("there is no commit yet to resume from")
    events = run(model(1, chains=1, vae=False), root, faults_for(target, phase, 0))
    assert add_to_table(target, phase, 0, events, root, expected(1, vae=False))
    assert digests(Checkpoints(root), "round-001") == digests(expected(1, vae=False), "round-001")


@pytest.mark.parametrize("phase", HANGS)
def test_a_module_that_hangs_is_restarted(tmp_path, expected, phase):
    root = tmp_path / "checkpoints"
    recovery = RecoveryPolicy(timeout=3.0)
    events = run(model(2, chains=1, vae=False), root, [f"gmm:{phase}:2"], recovery=recovery)
    assert add_to_table("gmm", phase, 2, events, root, expected(2, vae=False))
    reasons = [timed.event.reason for timed in events if timed.event.event == "lost"]
    assert reasons == ["it did not answer within 3 s"]
    wait_until(lambda: not halted_processes())


@pytest.mark.parametrize("phase", HANGS)
def test_a_chain_that_hangs_is_run_again(tmp_path, expected, phase):
    root = tmp_path / "checkpoints"
    started = time.monotonic()
    run(model(2, chains=1, vae=False), root, [f"chain:{phase}:2"], recovery=RecoveryPolicy(timeout=3.0))
    assert time.monotonic() - started < 60
    assert len(list((tmp_path / "faults").iterdir())) == 1
    assert digests(Checkpoints(root), "round-002") == digests(expected(2, vae=False), "round-002")
    wait_until(lambda: not halted_processes())


@pytest.mark.parametrize("phase", ["stop", "gil"])
def test_a_coordinator_that_does_not_answer_is_restarted_by_its_driver(tmp_path, expected, phase):
    root = tmp_path / "checkpoints"
    events = run(model(2, chains=1, vae=False), root, [f"coordinator:{phase}:2"], answer=4.0)
    assert add_to_table("coordinator", phase, 2, events, root, expected(2, vae=False))
    sentences = [timed.event.message for timed in events if timed.event.event == "log"]
    assert "the coordinator did not answer within 4 s; its process is started again" in sentences
    wait_until(lambda: not halted_processes())


@pytest.mark.parametrize(
    ("target", "phase", "round"), [("gmm", "starting", 0), ("data", "saving", 0), ("gmm", "saving", 2)]
)
def test_a_module_that_is_stopped_outside_of_an_update_is_restarted(tmp_path, target, phase, round):
    root = tmp_path / "checkpoints"
    events = run(model(2, vae=False), root, [f"{target}:{phase}:{round}"], recovery=RecoveryPolicy(timeout=3.0))
    assert len(deaths(root)) == 1
    died = deaths(root)[target, phase, round]
    back = next_event(events, ("recovered", "resumed", "commit"), next_event(events, ("lost",), died) or died)
    recovery_table.ROWS.append((target, phase, round, back - died, True))
    expected = run_undisturbed(model(2, vae=False), tmp_path / "undisturbed" / "checkpoints")
    assert digests(Checkpoints(root), "round-002") == digests(expected, "round-002")
    wait_until(lambda: not halted_processes())


def test_two_modules_that_are_stopped_at_once_are_restarted(tmp_path):
    root = tmp_path / "checkpoints"
    graph, places, stopped = model(60, vae=False), {}, []  # long enough that the first events are read before its end

    def stop_two(event):
        if event.event == "placed":
            places[event.module] = event.pid
        if event.event == "commit" and event.round == 1 and not stopped:
            stopped.extend(places[name] for name in ("gmm", "mm"))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)

    events = run(graph, root, observe=stop_two, recovery=RecoveryPolicy(timeout=3.0))
    assert len(stopped) == 2
    assert {timed.event.module for timed in events if timed.event.event == "lost"} == {"gmm", "mm"}
    expected = run_undisturbed(graph, tmp_path / "undisturbed" / "checkpoints")
    assert digests(Checkpoints(root), "round-060") == digests(expected, "round-060")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in stopped))


@pytest.mark.parametrize("phase", ["saving", "committed"])
def test_a_coordinator_that_is_stopped_around_a_commit_is_restarted_by_its_driver(tmp_path, expected, phase):
    """Between a commit and its event, nothing tells the driver of the commit; it is recorded once."""
    root = tmp_path / "checkpoints"
    events = run(model(2, chains=1, vae=False), root, [f"coordinator:{phase}:1"], answer=4.0)
    assert len(deaths(root)) == 1
    commits = [timed.event.name for timed in events if timed.event.event == "commit"]
    assert commits.count("round-001") == (phase == "saving")
    assert commits.count("round-002") == 1
    assert Checkpoints(root).names() == ["round-000", "round-001", "round-002"]
    for name in ("round-001", "round-002"):
        assert digests(Checkpoints(root), name) == digests(expected(2, vae=False), name)
    wait_until(lambda: not halted_processes())


def halted_processes():
    """Return the processes of modules, chains and coordinators that are left, by their titles."""
    return [title for title in process_titles() if re.match(r"ray::(ModuleActor|CoordinatorActor|chain-)", title)]


def test_a_run_whose_module_keeps_dying_can_be_resumed(tmp_path, expected):
    root = tmp_path / "checkpoints"
    with pytest.raises(ModuleFailedError, match=r"module 'gmm' died 3 times during update \(round 2, step 0\)"):
        run(model(2, chains=1, vae=False), root, ["gmm:before:2:3"])
    assert Checkpoints(root).newest_whole(pytest.fail).name == "round-001"
    run(model(2, chains=1, vae=False), root)
    assert digests(Checkpoints(root), "round-002") == digests(expected(2, vae=False), "round-002")


def test_the_results_are_bit_identical_after_the_coordinator_dies_while_it_restarts_a_module(tmp_path, expected):
    root = tmp_path / "checkpoints"
    events = run(model(2, chains=1, vae=False), root, ["gmm:inside:2", "coordinator:reviving:2"])
    assert add_to_table("coordinator", "reviving", 2, events, root, expected(2, vae=False))


def test_a_chain_that_dies_is_run_again(tmp_path, expected):
    root = tmp_path / "checkpoints"
    run(model(2, chains=1, vae=False), root, ["chain:inside:2:2"])
    assert len(list((tmp_path / "faults").iterdir())) == 2
    assert digests(Checkpoints(root), "round-002") == digests(expected(2, vae=False), "round-002")


def test_no_actor_remains_after_a_run_with_deaths(tmp_path):
    run(model(1, vae=False), tmp_path / "checkpoints", ["coordinator:inside:1", "gmm:after:1"])
    wait_until(lambda: not named_actors())
