"""Tests of waiting for Ray with periodic checks."""

import numpy as np
import pytest
import ray
from ray.exceptions import GetTimeoutError

from actors.backends.ray import polling
from actors.errors import ModuleDiedError

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@ray.remote(num_cpus=0)
def never():
    import time

    time.sleep(1e6)


@ray.remote(num_cpus=0)
def soon():
    import time

    time.sleep(0.5)
    return "answer"


@pytest.fixture
def endless():
    reference = never.remote()
    yield reference
    ray.cancel(reference, force=True)


@pytest.fixture(autouse=True)
def short_interval(monkeypatch):
    monkeypatch.setattr(polling, "CHECK_INTERVAL_SECONDS", 0.05)


def make_check(*failures):
    """Return a check that fails as given, the last value repeated, and the list of its calls."""
    calls = []

    def check():
        calls.append(None)
        if failures[min(len(calls), len(failures)) - 1]:
            raise ModuleDiedError("its node died")

    return check, calls


def test_an_answer_that_arrives_is_returned():
    assert polling.get_with_checks(soon.remote(), None, make_check(False)[0]) == "answer"


def test_waiting_ends_after_several_failed_checks(endless):
    check, calls = make_check(True)
    with pytest.raises(ModuleDiedError, match="its node died"):
        polling.get_with_checks(endless, None, check)
    assert len(calls) == polling.MAX_FAILED_CHECKS


def test_a_successful_check_resets_the_count(endless):
    check, calls = make_check(True, True, False, True)
    with pytest.raises(ModuleDiedError):
        polling.get_with_checks(endless, None, check)
    assert len(calls) == 3 + polling.MAX_FAILED_CHECKS


def test_the_timeout_holds_with_successful_checks(endless):
    with pytest.raises(GetTimeoutError):
        polling.get_with_checks(endless, 0.3, make_check(False)[0])


def test_only_an_object_whose_nodes_all_died_is_lost(monkeypatch):
    here = ray.put(np.zeros(100_000))
    assert polling.find_lost_object([here, None, never]) == ""
    monkeypatch.setattr(polling, "alive_nodes", dict)
    assert polling.find_lost_object([None, here]) == str(here)
