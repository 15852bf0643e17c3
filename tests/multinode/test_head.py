"""Test of a head that dies and is restarted: with its tables on disk, the run continues on the other nodes."""

from __future__ import annotations

import json
import time

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import MODEL, Gates, digests
from tests.multinode.ray_nodes import RayNode, free_port, mounts_allowed, serket

pytestmark = [pytest.mark.ray, pytest.mark.multinode]


@pytest.mark.skipif(not mounts_allowed(), reason="process namespaces, which only root may create, hide the nodes")
def test_a_run_survives_its_head(tmp_path):
    (tmp_path / "small.yaml").write_text(MODEL)
    gates = Gates(tmp_path / "gates", "2-0")
    address, tables = f"127.0.0.1:{free_port()}", tmp_path / "tables"
    tables.mkdir()
    arguments = ["--head", f"--port={address.partition(':')[2]}", "--num-cpus=0", "--include-dashboard=false"]
    storage = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tables)}
    (tmp_path / "head").mkdir()
    nodes = [RayNode(tmp_path, *arguments, isolated=True, **storage)]
    try:
        nodes[0].wait_until_healthy(address)
        nodes.append(RayNode(tmp_path, f"--address={address}", "--num-cpus=2", '--resources={"here": 1}'))
        setting = ("--set", "cluster={nodes: 2, modules: {encoder: {num_cpus: 0.1}, mirror: {num_cpus: 0.1}}}")
        serket(tmp_path, nodes[0], "run", "small.yaml", "--address", address, "--detach", *setting, *gates.setting)
        gates.wait_until_reached("2-0")
        killed_at = time.monotonic()
        nodes[0].kill()
        nodes.append(RayNode(tmp_path, *arguments, isolated=True, **storage))
        nodes[2].wait_until_healthy(address)
        back = time.monotonic() - killed_at
        gates.open()
        path = tmp_path / "runs" / "small"
        wait_until(lambda: Checkpoints(path / "checkpoints").names()[-1:] == ["round-003"], 120)
        print(f"the head is back after {back:.1f} s, the run is done after {time.monotonic() - killed_at:.1f} s")
        serket(tmp_path, nodes[2], "attach", path)
        assert json.loads((path / "result.json").read_text())["rounds"] == 3
        actual = digests(path)
        serket(tmp_path, nodes[2], "run", "small.yaml", "--address", address, "--runs", "undisturbed", *setting)
        assert actual == digests(tmp_path / "undisturbed" / "small")
    finally:
        for node in reversed(nodes):
            node.stop()
