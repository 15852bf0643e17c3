"""Tests of the search for a cluster's processes on this machine."""

import subprocess
import sys

import psutil
import pytest

from runner.cluster.processes import find_raylet

FORK = """
import os, sys, time
sys.stdin.readline()  # the child is younger
if os.fork():
    print("forked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def raylet(tmp_path):
    """A process that looks like a raylet, and has forked another one that still looks so."""
    (tmp_path / "raylet").symlink_to(sys.executable)
    command = [tmp_path / "raylet", "-c", FORK, f"--raylet_socket_name={tmp_path}/socket"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        children = psutil.Process(process.pid).children()
        yield process.pid, [child.pid for child in children]
        for each in [*children, process]:
            each.kill()


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_process_that_the_raylet_has_just_forked_is_not_taken_for_it(raylet, tmp_path, monkeypatch, newest_first):
    pid, forked = raylet
    assert len(forked) == 1
    everything = psutil.process_iter

    def in_order(attributes):  # process ids begin anew at some time
        return sorted(everything(attributes), key=lambda each: each.pid, reverse=newest_first)

    monkeypatch.setattr(psutil, "process_iter", in_order)
    assert find_raylet(f"{tmp_path}/socket") == pid
    assert find_raylet(f"{tmp_path}/other") == 0
