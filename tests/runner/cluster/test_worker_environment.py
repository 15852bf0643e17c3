"""Tests of the environment of a run's processes."""

import os
import platform
import subprocess
import sys

import pytest

from runner.cluster.connection import worker_environment

COUNT_HEAPS = """
import ctypes, sys, threading
libc, barrier = ctypes.CDLL("libc.so.6"), threading.Barrier(8)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
libc.fopen.argtypes, libc.fclose.argtypes = [ctypes.c_char_p, ctypes.c_char_p], [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]

def allocate():
    libc.malloc(5000)  # more than glibc keeps for each thread apart from the heaps
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


def count_heaps(path, **environment):
    """Return the number of heaps that glibc gives to a process of Python in which 8 threads allocate."""
    inherited = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    subprocess.run([sys.executable, "-c", COUNT_HEAPS, str(path)], check=True, env={**inherited, **environment})
    return path.read_text().count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_threads_of_a_process_share_two_heaps(tmp_path, monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert count_heaps(tmp_path / "with.xml", **worker_environment()) <= 2
    assert count_heaps(tmp_path / "without.xml") > 2


def test_a_number_of_heaps_that_the_user_has_set_is_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    assert worker_environment()["MALLOC_ARENA_MAX"] == "7"
