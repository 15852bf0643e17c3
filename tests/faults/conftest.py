"""Fixtures of the fault-injection tests, and the table of recovery times that is printed after them."""

import os
import secrets
import shutil
from pathlib import Path

import pytest

from tests.faults import recovery_table
from tests.faults.commands import MODEL, Gates, digests, serket, standing_cluster


def pytest_terminal_summary(terminalreporter):
    if recovery_table.ROWS:
        terminalreporter.section("recovery times")
        for line in recovery_table.lines():
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def address():
    """The address of a cluster that outlives its drivers and ends the actors of finished runs after 4 seconds.

    Commands that are started in this process know its token.
    """
    directory = Path("/tmp") / f"serket-{os.getpid()}"  # the path of a socket must be short
    directory.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        with standing_cluster(directory, SERKET_LINGER_SECONDS="4") as address:
            yield address
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """The path of a model file with toy modules."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="session")
def expected(config, address, tmp_path_factory):
    """The digests of an uninterrupted run."""
    runs = tmp_path_factory.mktemp("expected")
    serket("run", config, "--runs", runs, "--address", address)
    return digests(runs / "small")


@pytest.fixture
def gates(tmp_path):
    """Gates of which the one in the first step of the second round is closed."""
    return Gates(tmp_path / "gates", "2-0")
