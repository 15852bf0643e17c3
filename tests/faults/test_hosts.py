"""The link of a host is cut while a module learns on it: the run ends with the bits of a run where it was not."""

import pytest

from tests.faults.hosts import allowed
from tests.faults.programs import noted, perform

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
    pytest.mark.skipif(not allowed(), reason="hosts are network namespaces, which only root may make"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return perform("hosts", (), tmp_path_factory.mktemp("hosts"), 300)


def test_a_module_behind_a_cut_link_learns_on_on_the_other_host(found):
    came = noted("host", found, "a_spare_node")
    assert came["same"]
    assert came["events"][0] == "lost"


def test_a_module_learns_on_on_its_host_once_that_is_back(found):
    came = noted("host", found, "the_host_comes_back")
    assert came["same"]
    assert any("and no node has that free" in sentence for sentence in came["log"])
