"""How a model file says where modules go, and what a dry run says of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import psutil
import pytest
from actors.graph.spec import Resources
from rich.console import Console

from actors.coordination.placement import Placement
from runner.cluster import dry_run
from runner.cluster.connection import this_machine
from tests.support.model_files import MODEL, faults, load


@pytest.mark.usefixtures("fakes")
class TestModelFile:
    def test_resources_of_a_module(self, tmp_path: Path) -> None:
        wish = "modules.vae.resources={num_cpus: 1, memory: 1.5 GiB, label_selector: {zone: a}, custom: {arm: 1}}"
        assert load(tmp_path, wish).graph().modules["vae"].resources == Resources(
            1.0, memory=1.5 * 2**30, label_selector={"zone": "a"}, custom={"arm": 1.0}
        )

    @pytest.mark.parametrize("value", ["a", "!a.b-c_d", "in(a, b)", "!in(a,b)"])
    def test_labels_as_ray_has_them(self, tmp_path: Path, value: str) -> None:
        config = load(tmp_path, f"modules.vae.resources.label_selector={{ray.io/zone: '{value}'}}")
        assert config.graph().modules["vae"].resources.label_selector == {"ray.io/zone": value}

    def test_what_a_cluster_has_for_a_module_replaces_what_the_model_says(self, tmp_path: Path) -> None:
        graph = load(tmp_path, "cluster.modules.vae={num_gpus: 2, accelerator_type: A100}").graph()
        assert graph.modules["vae"].resources == Resources(num_gpus=2.0, accelerator_type="A100")

    def test_layout(self, tmp_path: Path) -> None:
        config = load(tmp_path, "cluster={strategy: spread, together: [[vae, gmm]]}")
        assert config.cluster.item() == Placement("spread", (("vae", "gmm"),))
        assert load(tmp_path, text=config.to_yaml()) == config

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("cluster.strategy=scatter", "cluster.strategy: expected 'pack' or 'spread', got 'scatter'"),
            ("cluster.together=[[vae, gmn]]", "cluster.together.0: unknown module"),
            ("cluster.together=[[vae, gmm], [gmm, mm]]", "cluster.together.1: 'gmm' stands there twice"),
            ("cluster.together=[[gmm]]", "cluster.together.0: expected two modules at least, got ['gmm']"),
            ("cluster.modules.vea={}", "cluster.modules.vea: unknown module"),
            ("modules.vae.resources.memory=much", "modules.vae.resources.memory: expected bytes, or a size as '2 GiB'"),
            ("modules.vae.resources.num_gpus=1.5", "modules.vae.resources.num_gpus: expected a part of one GPU or a"),
            ("modules.vae.resources.num_cpus=1e-5", "modules.vae.resources.num_cpus: expected at least 0.0001, got 1e"),
            ("modules.vae.resources.custom={arm: 1e-5}", "modules.vae.resources.custom.arm: expected at least 0.0001"),
            ("modules.vae.resources.label_selector={zone: '!in(a'}", "modules.vae.resources.label_selector.zone: exp"),
            ("modules.vae.resources.label_selector={zone: a b}", "modules.vae.resources.label_selector.zone: expected"),
            (
                "modules.vae.resources.label_selector={zo ne: a}",
                "modules.vae.resources.label_selector: expected labels",
            ),
            ("modules.vae.resources.custom={GPU: 1}", "modules.vae.resources.custom.GPU: has a key of its own"),
        ],
    )
    def test_faults(self, tmp_path: Path, override: str, said: str) -> None:
        assert any(line.startswith(said) for line in faults(tmp_path, MODEL, override))


@pytest.mark.usefixtures("fakes")
class TestDryRun:
    def test_this_machine_holds_a_model_that_asks_for_nothing(self, tmp_path: Path) -> None:
        spots = dry_run.dry_run(load(tmp_path, "modules.vae.resources={}"), None).spots
        assert {spot.node.name for spot in spots if spot.node} == {this_machine().name}
        assert [spot.bundle.modules for spot in spots] == [("data",), ("vae",), ("gmm",), ("mm",)]

    def test_what_is_missing_is_printed(self, tmp_path: Path) -> None:
        forecast = dry_run.dry_run(load(tmp_path, "modules.gmm.resources.num_cpus=4096"), None)
        dry_run.show(forecast, Console(file=(said := io.StringIO()), width=200))
        assert "missing: module 'gmm' asks for 4096 CPU, and no node has that free: " in said.getvalue()
        assert json.loads(dry_run.as_json(forecast))["gmm"]["node"] is None

    def test_nodes_that_the_run_would_wait_for_are_missing(self, tmp_path: Path) -> None:
        forecast = dry_run.dry_run(load(tmp_path, "cluster.nodes=3"), None)
        assert forecast.missing == ["cluster.nodes asks for 3, the cluster has 1: start more nodes, or ask for fewer"]
        assert json.loads(dry_run.as_json(forecast))["cluster.nodes"] == {"asks": 3, "there": 1}
        assert not dry_run.dry_run(load(tmp_path), None).missing

    def test_what_ray_keeps_for_its_objects_is_not_there_for_modules(self, tmp_path: Path) -> None:
        available = psutil.virtual_memory().available
        assert dry_run.dry_run(load(tmp_path, f"modules.gmm.resources.memory={int(0.9 * available)}"), None).missing
