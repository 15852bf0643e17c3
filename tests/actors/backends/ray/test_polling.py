"""Waiting for Ray with a way out."""

import numpy as np
import pytest
import ray
from ray.exceptions import GetTimeoutError

from actors.backends.ray import polling as ray_waiting
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
def short(monkeypatch):
    monkeypatch.setattr(ray_waiting, "SLICE_SECONDS", 0.05)


def check(*found):
    """A check that finds what it is told to find, the last again and again; and how often it was asked."""
    looks = []

    def look():
        looks.append(None)
        if found[min(len(looks), len(found)) - 1]:
            raise ModuleDiedError("its node is gone")

    return look, looks


def test_an_answer_that_comes_is_returned():
    assert ray_waiting.get(soon.remote(), None, check(False)[0]) == "answer"


def test_an_answer_that_cannot_come_is_given_up_after_some_looks(endless):
    look, looks = check(True)
    with pytest.raises(ModuleDiedError, match="its node is gone"):
        ray_waiting.get(endless, None, look)
    assert len(looks) == ray_waiting.PATIENCE


def test_one_look_that_finds_hope_again_begins_the_count_anew(endless):
    look, looks = check(True, True, False, True)
    with pytest.raises(ModuleDiedError):
        ray_waiting.get(endless, None, look)
    assert len(looks) == 3 + ray_waiting.PATIENCE


def test_a_timeout_holds_whatever_the_looks_say(endless):
    with pytest.raises(GetTimeoutError):
        ray_waiting.get(endless, 0.3, check(False)[0])


def test_only_an_object_that_lies_on_dead_nodes_alone_is_gone(monkeypatch):
    here = ray.put(np.zeros(100_000))
    assert ray_waiting.gone([here, None, never]) == ""
    monkeypatch.setattr(ray_waiting, "alive", dict)
    assert ray_waiting.gone([None, here]) == str(here)
