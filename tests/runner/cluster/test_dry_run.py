"""Test the placement options of model files, and the report of a dry run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from actors.coordination.placement import Placement
from actors.graph.spec import Resources
from runner.cluster import dry_run
from runner.cluster.connection import this_machine
from tests.support.model_files import MODEL, config_errors, load


@pytest.mark.usefixtures("fakes")
class TestModelFile:
    def test_resources_of_a_module(self, tmp_path: Path) -> None:
        override = "modules.vae.resources={num_cpus: 1, memory: 1.5 GiB, label_selector: {zone: a}, custom: {arm: 1}}"
        assert load(tmp_path, override).graph.modules["vae"].resources == Resources(
            1.0, memory=1.5 * 2**30, label_selector={"zone": "a"}, custom={"arm": 1.0}
        )

    @pytest.mark.parametrize("value", ["a", "!a.b-c_d", "in(a, b)", "!in(a,b)"])
    def test_label_selectors_use_the_syntax_of_ray(self, tmp_path: Path, value: str) -> None:
        config = load(tmp_path, f"modules.vae.resources.label_selector={{ray.io/zone: '{value}'}}")
        assert config.graph.modules["vae"].resources.label_selector == {"ray.io/zone": value}

    def test_the_cluster_section_replaces_the_resources_of_a_module(self, tmp_path: Path) -> None:
        graph = load(tmp_path, "cluster.modules.vae={num_gpus: 2, accelerator_type: A100}").graph
        assert graph.modules["vae"].resources == Resources(num_gpus=2.0, accelerator_type="A100")

    def test_strategy_and_shared_nodes_are_read(self, tmp_path: Path) -> None:
        config = load(tmp_path, "cluster={strategy: spread, together: [[vae, gmm]]}")
        assert config.cluster.to_model() == Placement("spread", (("vae", "gmm"),))
        assert load(tmp_path, text=config.to_yaml()) == config

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("cluster.strategy=scatter", "cluster.strategy: expected 'pack' or 'spread', got 'scatter'"),
            ("cluster.together=[[vae, gmn]]", "cluster.together.0: unknown module"),
            ("cluster.together=[[vae, gmm], [gmm, mm]]", "cluster.together.1: 'gmm' is in two groups"),
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
                "modules.vae.resources.label_selector: expected label names",
            ),
            ("modules.vae.resources.custom={GPU: 1}", "modules.vae.resources.custom.GPU: has a key of its own"),
        ],
    )
    def test_invalid_values_are_rejected(self, tmp_path: Path, override: str, message: str) -> None:
        assert any(line.startswith(message) for line in config_errors(tmp_path, MODEL, override))


@pytest.mark.usefixtures("fakes")
class TestDryRun:
    def test_a_model_without_requests_is_placed_on_this_machine(self, tmp_path: Path) -> None:
        assignments = dry_run.dry_run(load(tmp_path, "modules.vae.resources={}"), None).assignments
        assert {assignment.node.name for assignment in assignments if assignment.node} == {this_machine().name}
        assert [assignment.bundle.modules for assignment in assignments] == [("data",), ("vae",), ("gmm",), ("mm",)]

    def test_unmet_requirements_are_printed(self, tmp_path: Path) -> None:
        report = dry_run.dry_run(load(tmp_path, "modules.gmm.resources.num_cpus=4096"), None)
        dry_run.print_report(report, Console(file=(output := io.StringIO()), width=200))
        assert "missing: module 'gmm' asks for 4096 CPU, and no node has that free: " in output.getvalue()
        assert json.loads(dry_run.report_as_json(report))["gmm"]["node"] is None

    def test_too_few_nodes_are_reported(self, tmp_path: Path) -> None:
        report = dry_run.dry_run(load(tmp_path, "cluster.nodes=3"), None)
        assert report.missing == ["cluster.nodes asks for 3, the cluster has 1: start more nodes, or ask for fewer"]
        assert json.loads(dry_run.report_as_json(report))["cluster.nodes"] == {"asks": 3, "there": 1}
        assert not dry_run.dry_run(load(tmp_path), None).missing

    def test_memory_of_the_object_store_is_not_available_to_modules(self, tmp_path: Path) -> None:
        available = psutil.virtual_memory().available
        assert dry_run.dry_run(load(tmp_path, f"modules.gmm.resources.memory={int(0.9 * available)}"), None).missing
