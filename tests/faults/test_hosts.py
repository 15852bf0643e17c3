"""Tests of a host whose link is cut while a module learns on it: the results stay bit-identical."""

import pytest

from tests.faults.hosts import namespaces_allowed
from tests.faults.scenario_programs import add_to_table, run_program

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.skipif(not namespaces_allowed(), reason="hosts are network namespaces, which only root may create"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return run_program("hosts", (), tmp_path_factory.mktemp("hosts"), 300)


def test_a_module_on_a_disconnected_host_continues_on_the_other_host(reports):
    report = add_to_table("host", reports, "a_spare_node")
    assert report["identical"]
    assert report["events"][0] == "lost"


def test_a_module_continues_on_its_host_once_the_host_is_back(reports):
    report = add_to_table("host", reports, "the_host_comes_back")
    assert report["identical"]
    assert any("and no node has that free" in sentence for sentence in report["log"])
