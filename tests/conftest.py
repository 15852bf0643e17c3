"""One Ray cluster a test session, started when the first test asks for it."""

import os
import sys
import time
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def pytest_addoption(parser):
    parser.addoption("--faults", action="store_true", help="also run the tests in which processes die on purpose")
    parser.addoption("--guide", action="store_true", help="also follow the guide and try the package of a new module")
    parser.addoption("--slow", action="store_true", help="also run the tests that take long and say little more")
    parser.addoption("--multinode", action="store_true", help="also run the tests on clusters of several nodes")


def pytest_collection_modifyitems(config, items):
    passed_over = [name for name in ("faults", "guide", "multinode", "slow") if not config.getoption(f"--{name}")]
    left = [item for item in items if any(item.get_closest_marker(name) for name in passed_over)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True)
def _kinds_of_message_are_forgotten():
    """What a test's modules say to each other is unknown to the next test."""
    from actors.messaging import kinds

    before, whose = dict(kinds.KINDS), dict(kinds._WHOSE)
    yield
    for known, were in ((kinds.KINDS, before), (kinds._WHOSE, whose)):
        known.clear()
        known.update(were)


@pytest.fixture
def one_thread():
    """Two threads of torch that wait for each other would take longer than a test's small sums."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory in front of ``sys.path`` to install distributions into; what is imported from there is forgotten."""
    from actors.graph import registry
    from tests.support.distributions import Site

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    registry._warn_once.cache_clear()
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def ray_cluster():
    """A local cluster of two cores without a dashboard; its address."""
    import ray

    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=1 << 30,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def wait_until(condition, seconds: float = 30.0):
    """Return the first true value of `condition()`, asked again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not become true within {seconds} s")


def private_bytes(pid: int) -> int:
    """Return the memory that a process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
