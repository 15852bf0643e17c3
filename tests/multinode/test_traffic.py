"""Between two hosts cross the messages that a module on the other one learns from, once each, and little more."""

import pytest

from tests.faults.hosts import allowed
from tests.faults.programs import perform

pytestmark = [
    pytest.mark.ray,
    pytest.mark.multinode,
    pytest.mark.skipif(not allowed(), reason="hosts are network namespaces, which only root may make"),
]


def test_a_round_costs_little_more_than_its_messages(tmp_path):
    came = perform("traffic", (), tmp_path, 200, package="tests.multinode")["traffic"]
    rows = list(zip(came["crossed"], came["limit"], came["seconds"], strict=True))
    print(f"the coordinator on {came['placed']['coordinator']}, the GMM on {came['placed']['gmm']}")
    for number, (crossed, limit, seconds) in enumerate(rows, 1):
        print(f"round {number}: {crossed / 1e6:.2f} MB crossed, {limit / 1e6:.2f} MB had to, in {seconds:.1f} s")
    assert came["placed"]["gmm"] == came["placed"]["data"] != came["placed"]["vae"] == came["placed"]["mm"]
    for number, (crossed, limit, _) in enumerate(rows, 1):
        assert 1.0 <= crossed / limit <= 1.4, f"round {number}"
