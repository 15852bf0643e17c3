"""Requests to a coordinator whose process is being restarted are repeated; to one that was ended, they fail."""

import time

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from runner.runs import coordinator_client
from runner.runs.coordinator_client import CoordinatorClient, CoordinatorEndedError, CoordinatorRestartingError


class FakeCoordinator:
    """Answers requests like a handle of the actor: each name and arguments become the reference."""

    def __getattr__(self, name):
        class Method:
            @staticmethod
            def remote(*arguments):
                return (name, *arguments)

        return Method


@pytest.fixture
def answers(monkeypatch):
    """A list of what the next requests return or raise."""
    following = []

    def get(reference, timeout=None):
        answer = following.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(reference) if callable(answer) else answer

    monkeypatch.setattr(coordinator_client.ray, "get", get)
    monkeypatch.setattr(coordinator_client, "POLL_SECONDS", 0.0)
    return following


def restarting():
    return ActorUnavailableError("The actor is restarting.", b"\0" * 16)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_coordinator_that_is_being_restarted_is_asked_again(answers, times):
    client = CoordinatorClient(FakeCoordinator(), wait=5.0)
    answers += [*(restarting() for _ in range(times)), {"coordinator": {"pid": 7}}]
    assert client.describe() == {"coordinator": {"pid": 7}}
    answers += [*(restarting() for _ in range(times)), ("i", [], {"ended": "done"})]
    assert client.ended() == "done"
    answers += [*(restarting() for _ in range(times)), ["outputs"], {"x_hat": 1}]
    assert client.generate("vae") == {"x_hat": 1}


def test_it_is_asked_no_longer_than_the_run_waits(answers):
    client = CoordinatorClient(FakeCoordinator(), wait=0.05)

    def still_restarting(_reference):
        answers.append(still_restarting)
        time.sleep(0.01)
        raise restarting()

    answers.append(still_restarting)
    with pytest.raises(CoordinatorRestartingError, match="being restarted"):
        client.describe()


def test_a_coordinator_that_was_ended_is_not_asked_again(answers):
    answers.append(ActorDiedError())
    with pytest.raises(CoordinatorEndedError):
        CoordinatorClient(FakeCoordinator()).describe()
    assert not answers


def test_a_run_whose_coordinator_restarts_at_its_end_is_followed_until_its_end(answers):
    def status(ended):
        return {"node_id": "n", "pid": 1, "ended": ended, "job": "rounds"}

    answers += [("a", [], status("done")), restarting(), ("b", [], status("")), ("b", [], status("done")), None]
    stream = CoordinatorClient(FakeCoordinator(), wait=5.0).follow()
    assert [seen["ended"] for _, seen in stream] == ["done", "", "done"]
    assert not answers


@pytest.mark.parametrize(("resumed", "killed"), [(False, ["coordinator", "gmm"]), (True, ["coordinator"])])
def test_who_ends_a_run_late_does_not_end_the_modules_of_one_that_was_resumed(answers, monkeypatch, resumed, killed):
    old, new, ended = FakeCoordinator(), FakeCoordinator(), []
    actors = {"coordinator": new if resumed else old, "gmm": object()}
    listed = [{"namespace": "serket:toy", "name": name} for name in actors]
    monkeypatch.setattr(coordinator_client.ray, "kill", lambda actor: ended.append(actor))
    monkeypatch.setattr(coordinator_client.ray, "get_actor", lambda name, _namespace: actors[name])
    monkeypatch.setattr(coordinator_client.ray.util, "list_named_actors", lambda **_all: listed)
    answers.append(ActorDiedError())
    CoordinatorClient(old, namespace="serket:toy").stop()
    assert ended == [{"coordinator": old, "gmm": actors["gmm"]}[name] for name in killed]
