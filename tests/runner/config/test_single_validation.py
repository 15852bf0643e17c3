"""A model file is resolved once: each module's parameters are validated once, and the graph is built once."""

from __future__ import annotations

from collections import Counter
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from actors.backends.module_host import ModuleHost
from actors.graph.graph import Graph
from runner.cli.app import app
from runner.config.run_config import RunConfig
from runner.runs.directory import open_run
from tests.support.model_files import MODEL, load, write

pytestmark = pytest.mark.usefixtures("fakes")

MODULES = {"VAEParameters": 1, "GMMParameters": 1, "MarkovParameters": 1}
"""One validation of each module that the model file lists."""

SOURCES = {"ObservationParameters": 1}
"""One validation of the source, which has no parameters in a model file: when its host makes the module."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count pydantic's validations of parameters, by their dataclass, and the graphs that are built."""
    calls: Counter[str] = Counter()
    validate, build = TypeAdapter.validate_python, Graph.__init__

    def counted_validate(adapter: TypeAdapter[Any], *arguments: Any, **options: Any) -> Any:
        made = validate(adapter, *arguments, **options)
        if is_dataclass(made):  # the command line's own arguments are validated, too
            calls[type(made).__name__] += 1
        return made

    def counted_build(graph: Graph, *arguments: Any, **options: Any) -> None:
        calls["Graph"] += 1
        build(graph, *arguments, **options)

    monkeypatch.setattr(TypeAdapter, "validate_python", counted_validate)
    monkeypatch.setattr(Graph, "__init__", counted_build)
    return calls


def make_hosts(config: RunConfig) -> list[ModuleHost]:
    return [ModuleHost(spec, config.graph.slots(name)) for name, spec in config.graph.modules.items()]


def test_loading_a_model_file_and_making_its_modules(tmp_path: Path, counts: Counter[str]) -> None:
    config = load(tmp_path)
    assert counts == {**MODULES, "Graph": 1}
    hosts = make_hosts(config)
    assert counts == {**MODULES, **SOURCES, "Graph": 1}
    assert [host.module.parameters for host in hosts[1:3]] == [
        type(host.module).Parameters(**config.modules[host.spec.name].parameters) for host in hosts[1:3]
    ]


def test_a_step_with_parameters_of_its_own_is_one_more_validation(tmp_path: Path, counts: Counter[str]) -> None:
    steps = "schedule.steps=[vae, {module: gmm, set: {iterations: 3}}, {steps: [{module: gmm, set: {iterations: 4}}]}]"
    make_hosts(load(tmp_path, steps))
    assert counts == {**MODULES, **SOURCES, "GMMParameters": 3, "Graph": 1}


def test_opening_a_run_uses_the_graph_of_its_config(tmp_path: Path, counts: Counter[str]) -> None:
    (tmp_path / "config.yaml").write_text(MODEL)
    config, directory = open_run(tmp_path)
    assert directory.graph is config.graph
    assert counts == {**MODULES, "Graph": 1}


def test_the_command_that_plans_a_run(tmp_path: Path, counts: Counter[str]) -> None:
    result = CliRunner().invoke(app, ["run", str(write(tmp_path, MODEL)), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert counts == {**MODULES, "Graph": 1}


@pytest.mark.parametrize("command", ["recognize", "predict"])
def test_the_commands_on_a_trained_run(
    tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    received: list[Any] = []

    def receive(run: Any, *arguments: Any, **options: Any) -> Any:
        received.append(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(f"runner.commands.{command}.{command}", receive)
    (tmp_path / "config.yaml").write_text(MODEL)
    CliRunner().invoke(app, [command, str(tmp_path), "digits", "--count", "3"])
    (config, directory), *others = received
    assert not others
    assert directory.graph is config.graph
    assert counts == {**MODULES, "Graph": 1}
