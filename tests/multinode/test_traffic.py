"""Test of the traffic between two hosts: little more than each message to a module on the other host, once."""

import pytest

from tests.faults.hosts import namespaces_allowed
from tests.faults.scenario_programs import run_program

pytestmark = [
    pytest.mark.ray,
    pytest.mark.multinode,
    pytest.mark.skipif(not namespaces_allowed(), reason="hosts are network namespaces, which only root may create"),
]


def test_the_traffic_of_a_round_is_little_more_than_its_messages(tmp_path):
    report = run_program("traffic", (), tmp_path, 200, package="tests.multinode")["traffic"]
    rows = list(zip(report["crossed"], report["required"], report["seconds"], strict=True))
    placed = report["placed"]
    print(f"the coordinator on {placed['coordinator']}, the GMM on {placed['gmm']}")
    for number, (crossed, required, seconds) in enumerate(rows, 1):
        print(f"round {number}: {crossed / 1e6:.2f} MB crossed, {required / 1e6:.2f} MB had to, in {seconds:.1f} s")
    assert placed["gmm"] == placed["data"] != placed["vae"] == placed["mm"]
    for number, (crossed, required, _) in enumerate(rows, 1):
        assert 1.0 <= crossed / required <= 1.4, f"round {number}"
