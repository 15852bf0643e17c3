"""Fixtures and helpers of all tests, among them one Ray cluster for each test session."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Under nohup or as a background job of a shell these are ignored, here and in all processes that tests start.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
os.environ["SERKET_REPORT"] = "0"  # some tests of many runs would wait for theirs; those of the report ask for it
os.environ["SERKET_STATE_DIR"] = tempfile.mkdtemp(prefix="serket-state-")
atexit.register(shutil.rmtree, os.environ["SERKET_STATE_DIR"], ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption("--browser", action="store_true", help="run the pages in a headless chromium")
    parser.addoption("--chromium", default="/usr/bin/chromium", help="the browser of these tests")
    parser.addoption("--faults", action="store_true", help="also run the fault-injection tests")
    parser.addoption("--fuzz", action="store_true", help="run the fuzz tests with --fuzz-examples examples")
    parser.addoption("--fuzz-examples", type=int, default=1_000_000, help="number of examples over all readers")
    parser.addoption("--guide", action="store_true", help="also run the guide and the package of a new module")
    parser.addoption("--slow", action="store_true", help="also run slow tests, which add little to the fast ones")
    parser.addoption("--soak", action="store_true", help="run the soak of --soak-rounds rounds")
    parser.addoption("--soak-rounds", type=int, default=5000, help="number of rounds of the soak")
    parser.addoption("--multinode", action="store_true", help="also run the tests on clusters of several nodes")


def pytest_collection_modifyitems(config, items):
    names = ("browser", "faults", "fuzz", "guide", "multinode", "slow", "soak")
    excluded = [name for name in names if not config.getoption(f"--{name}")]
    deselected = [item for item in items if any(item.get_closest_marker(name) for name in excluded)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.fixture(autouse=True)
def _restore_message_kinds():
    """Unregister the message kinds that a test registers."""
    from actors.messaging import kinds

    registries = (kinds.KINDS, kinds._DECLARED_BY)
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture(autouse=True)
def _restore_signal_handlers():
    """Restore the handlers of the signals that a command ignores when it is done."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def one_thread():
    """Limit torch to one thread: for small tensors, synchronising two takes longer than computing."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory at the start of ``sys.path`` for distributions; modules imported from it are unloaded afterwards."""
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
    """The address of a local Ray cluster with two cores and no dashboard."""
    import ray

    from actors.backends.ray.lean_start import lean_start
    from actors.backends.ray.temporary import ray_directory
    from runner.cluster.connection import OWN_CLUSTER, worker_environment

    os.environ.update(worker_environment())
    with lean_start():
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=1 << 30,
            _temp_dir=ray_directory(),
            _system_config=OWN_CLUSTER,
        )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def wait_until(condition, seconds: float = 30.0):
    """Poll `condition()` and return its first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"the condition was not true within {seconds} s")


def private_bytes(pid: int) -> int:
    """Return the number of bytes of private memory of a process, which no other process shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
