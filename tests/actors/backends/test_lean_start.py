"""Tests of a cluster that starts without the processes of Ray that a run does not need."""

import shlex
import socket
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from actors.backends.ray.lean_start import lean_command
from tests.conftest import wait_until

LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1].partition("=")[2]))) as server:
    while True:
        client = server.accept()[0]
        client.sendall(b"agent")
        client.close()
"""


def raylet_command(tmp_path):
    agent = subprocess.list2cmdline([sys.executable, "-c", LISTEN, "--runtime-env-agent-port=0"])
    return [
        "raylet",
        "--node_ip_address=127.0.0.1",
        f"--session_dir={tmp_path}",
        "--node_id=1f",
        "--labels={}",
        f"--runtime_env_agent_command={agent}",
        "--dashboard_agent_command=python agent.py --node-id=1f",
        "--head",
    ]


def option(command, name):
    (value,) = [word.partition("=")[2] for word in command if word.startswith(f"--{name}=")]
    return shlex.split(value)


def answer(port):
    """Return what the process at a port says, None if there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            return client.recv(10)
    except OSError:
        return None


def test_the_agent_for_environments_starts_when_somebody_connects_to_the_port_that_the_raylet_knows(tmp_path):
    command = option(lean_command(raylet_command(tmp_path), metrics=False), "runtime_env_agent_command")
    (file,) = tmp_path.glob("runtime_env_agent_port_*")
    port = int(file.read_text())
    stand_in = psutil.Popen(command)
    try:
        wait_until(lambda: any(each.laddr.port == port for each in stand_in.net_connections()))
        assert LISTEN not in stand_in.cmdline()[:3]
        assert wait_until(lambda: answer(port) or None) == b"agent"
        assert stand_in.is_running()  # the raylet watches this process
        assert stand_in.cmdline()[-1] == f"--runtime-env-agent-port={port}"
    finally:
        stand_in.kill()
        stand_in.wait()


def test_a_stand_in_ends_with_the_raylet(tmp_path):
    command = option(lean_command(raylet_command(tmp_path), metrics=False), "dashboard_agent_command")
    code = """
import os, subprocess, sys
os.environ["RAY_RAYLET_PID"] = str(os.getpid())
print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stand_in = psutil.Process(int(parent.stdout.readline()))
    assert stand_in.is_running()
    parent.kill()
    parent.communicate(timeout=10)
    wait_until(lambda: not stand_in.is_running() or stand_in.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("metrics", [False, True])
def test_the_agent_for_metrics_starts_at_once_where_it_can_export_them(tmp_path, metrics):
    given = raylet_command(tmp_path)
    command = lean_command(given, metrics=metrics)
    assert ("agent.py" in option(command, "dashboard_agent_command")) is metrics
    assert bool([*tmp_path.glob("metrics_export_port_*")]) is not metrics  # with it, the agent writes the port itself
    agents = ("--dashboard_agent_command", "--runtime_env_agent_command")
    assert [word for word in command if not word.startswith(agents)] == [w for w in given if not w.startswith(agents)]


@pytest.mark.ray
def test_a_cluster_has_only_the_control_service_the_raylet_and_its_workers(ray_cluster):
    raylets = [each for each in psutil.Process().children() if each.name() in ("gcs_server", "raylet")]
    assert len(raylets) == 2
    words = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # of another test, which ends meanwhile
            words += each.cmdline()[:4]
    assert not [word for word in words if word.endswith(("monitor.py", "dashboard.py", "agent.py"))]
