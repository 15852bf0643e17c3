"""The head dies and is started again: with its tables on disk the run goes on, on the nodes that have stayed."""

from __future__ import annotations

import json
import time

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import MODEL, Gates, digests
from tests.multinode.heads import Ray, free_port, may_hide, serket

pytestmark = [pytest.mark.ray, pytest.mark.multinode]


@pytest.mark.skipif(not may_hide(), reason="process namespaces, which only root may make, hide the nodes")
def test_a_run_survives_its_head(tmp_path):
    (tmp_path / "small.yaml").write_text(MODEL)
    gates = Gates(tmp_path / "gates", "2-0")
    address, tables = f"127.0.0.1:{free_port()}", tmp_path / "tables"
    tables.mkdir()
    start = ["--head", f"--port={address.partition(':')[2]}", "--num-cpus=0", "--include-dashboard=false"]
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tables)}
    (tmp_path / "head").mkdir()
    nodes = [Ray(tmp_path, *start, apart=True, **kept)]
    try:
        nodes[0].await_answer(address)
        nodes.append(Ray(tmp_path, f"--address={address}", "--num-cpus=2", '--resources={"here": 1}'))
        wish = "cluster={nodes: 2, modules: {encoder: {num_cpus: 0.1}, mirror: {num_cpus: 0.1}}}"
        serket(tmp_path, nodes[0], "run", "small.yaml", "--address", address, "--detach", "--set", wish, *gates.setting)
        gates.reached("2-0")
        struck = time.monotonic()
        nodes[0].kill()
        nodes.append(Ray(tmp_path, *start, apart=True, **kept))
        nodes[2].await_answer(address)
        back = time.monotonic() - struck
        gates.open()
        path = tmp_path / "runs" / "small"
        wait_until(lambda: Checkpoints(path / "checkpoints").names()[-1:] == ["round-003"], 120)
        print(f"the head answers again after {back:.1f} s, the run is done after {time.monotonic() - struck:.1f} s")
        serket(tmp_path, nodes[2], "attach", path)
        assert json.loads((path / "result.json").read_text())["rounds"] == 3
        found = digests(path)
        serket(tmp_path, nodes[2], "run", "small.yaml", "--address", address, "--runs", "calm", "--set", wish)
        assert found == digests(tmp_path / "calm" / "small")
    finally:
        for node in reversed(nodes):
            node.end()
