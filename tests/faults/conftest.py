"""Prints what was seen of the deaths, and keeps a cluster that outlives the drivers of its runs."""

import os
import secrets
import shutil
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.commands import MODEL, Gates, digests, serket, standing_cluster


def pytest_terminal_summary(terminalreporter):
    if table.ROWS:
        terminalreporter.section("deaths")
        for line in table.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def address():
    """The address of a cluster that stands by itself, where runs that ended are soon forgotten.

    Its token is known to the commands that are started here.
    """
    directory = Path("/tmp") / f"serket-{os.getpid()}"  # a socket's name must be short
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with standing_cluster(directory, SERKET_LINGER_SECONDS="4") as address:
            yield address
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A model file whose rounds take a while."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="session")
def expected(config, address, tmp_path_factory):
    """What an uninterrupted run leaves."""
    runs = tmp_path_factory.mktemp("expected")
    serket("run", config, "--runs", runs, "--address", address)
    return digests(runs / "small")


@pytest.fixture
def gates(tmp_path):
    """A gate that is closed in the first step of the second round."""
    return Gates(tmp_path / "gates", "2-0")
