"""Tests of signals and broken streams in every phase of a command that starts a cluster of its own."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import ROOT, Command, digests, environment, serket

pytestmark = pytest.mark.faults

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def processes_with(mark):
    """Return the processes whose environment has this mark: those of a command and of its cluster."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark:
                found.append(process.name())
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("delay", [0.0, 0.5, 2.0, 5.0], ids="{} s after its cluster is started".format)
def test_a_signal_during_the_start_of_ray_ends_the_command_with_a_sentence(config, tmp_path, number, delay):
    command = Command("run", config, "--runs", tmp_path, MARK=str(tmp_path))
    wait_until(lambda: "gcs_server" in processes_with(str(tmp_path)), 60)
    time.sleep(delay)
    command.send(number)
    last = command.wait(code=None).splitlines()[-1]
    if command.process.returncode != 0:  # otherwise the run was complete
        assert command.process.returncode == 1
        assert last == "serket: interrupted" or "continue with serket resume" in last
    wait_until(lambda: not processes_with(str(tmp_path)), 10)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("delay", [0.0, 0.2, 1.0])
def test_a_signal_after_the_result_is_written_has_no_effect(config, tmp_path, expected, number, delay):
    command, path = Command("run", config, "--runs", tmp_path, MARK=str(tmp_path)), tmp_path / "small"
    wait_until(lambda: (path / "result.json").exists() or command.process.poll() is not None, 90)
    time.sleep(delay)
    command.send(number)
    assert f"results in {path}/" in command.wait(code=0)
    assert digests(path) == expected
    wait_until(lambda: not processes_with(str(tmp_path)), 10)


@pytest.mark.parametrize("redirection", ["2>&1 | head -1", ">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_run_completes_whatever_happens_to_its_streams(config, tmp_path, expected, redirection):
    line = f"{sys.executable} -m runner.cli run {config} --runs {tmp_path} {redirection}"
    finished = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=ROOT, env=environment(), capture_output=True)
    assert finished.returncode == 0, finished.stderr
    assert b"Traceback" not in finished.stdout + finished.stderr
    assert digests(tmp_path / "small") == expected


ENDS = {
    "Ctrl-C": lambda command: command.press_ctrl_c(),
    "SIGTERM": lambda command: command.send(signal.SIGTERM),
    "SIGHUP": lambda command: command.send(signal.SIGHUP),
    "SIGKILL": lambda command: command.process.kill(),
    "GCS": lambda command: os.kill(_part(command, "gcs_server"), signal.SIGKILL),
    "raylet": lambda command: os.kill(_part(command, "raylet"), signal.SIGKILL),
}


def _part(command, name):
    children = psutil.Process(command.process.pid).children(recursive=True)
    return next(child.pid for child in children if child.name() == name)


@pytest.mark.parametrize("gate", ["1-0", "1-1", "2-0", "3-1"])
@pytest.mark.parametrize("end", ENDS)
def test_an_interrupted_run_goes_on_with_the_same_bits(config, tmp_path, address, expected, end, gate):
    gates, path = tmp_path / "gates", tmp_path / "small"
    gates.mkdir()
    (gates / gate).touch()
    command = Command("run", config, "--runs", tmp_path, "--set", f"modules.encoder.gates={gates}", MARK=str(tmp_path))
    wait_until((gates / f"waiting-{gate}").exists, 90)
    ENDS[end](command)
    time.sleep(1.0)
    for file in gates.iterdir():
        file.unlink()
    output = command.wait(code=None)
    assert command.process.returncode == (-signal.SIGKILL if end == "SIGKILL" else 1), output
    assert end == "SIGKILL" or f"continue with serket resume {path}" in output
    wait_until(lambda: not processes_with(str(tmp_path)), 60 if end == "SIGKILL" else 10)
    latest = Checkpoints(path / "checkpoints").latest()
    # Processes of a killed driver's cluster end within a second or two; until then the run goes on, perhaps to its end.
    assert end == "SIGKILL" or latest.round < 3 or latest.step is not None
    serket("resume", path, "--address", address)
    assert digests(path) == expected
