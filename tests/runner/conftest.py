"""Fixtures of the runner's tests: two small data files, a cache of the digits, and modules without numerical work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.graph import registry
from runner.data.datasets import DataError, load
from runner.runs.directory import RunDirectory
from tests.actors.coordination.test_coordinator import learn, model
from tests.support.model_files import FAKES

ROWS = np.arange(12, dtype=np.float64).reshape(6, 2)
LABELS = np.array([1, 1, 0, 0, 2, 2])


def toy_run(runs: Path, rounds: int) -> RunDirectory:
    """Train the toy model and return the directory of its run, which holds commits only."""
    directory = RunDirectory.create(runs, "toy", model(rounds))
    learn(model(rounds), directory.checkpoints)
    return directory


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the built-in modules by modules without numerical work."""
    for name, cls in FAKES.items():
        monkeypatch.setitem(registry.BUILT_IN, name, f"{cls.__module__}:{cls.__name__}")


@pytest.fixture(scope="session")
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cached(cache_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the digits once in a session, and leave the user's cache unchanged."""
    monkeypatch.setenv("SERKET_CACHE_DIR", str(cache_directory))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.savetxt(tmp_path / "data.txt", ROWS)
    np.savetxt(tmp_path / "category.txt", LABELS)  # as floats, as in the tutorial
    return tmp_path


def refused(path: Path, *, match: str | None, **arguments: Any) -> None:
    """Check that a file is refused with an error of one line that names it."""
    with pytest.raises(DataError, match=match) as caught:
        load("files", observations=path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
