"""A mistake that shows only when modules learn: found before Ray starts where it can be, and told truly afterwards."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from runner.cli.app import app

SENSORS = """
name: arm
data: {source: files, observations: rows.csv}
modules:
  vae: {type: vae, latent_dim: 2, epochs: 1, likelihood: bce}
  gmm: {type: gmm, classes: 2, iterations: 1}
connections: [data -> vae -> gmm]
schedule: {rounds: 1}
report: false
"""
OWN = """
name: own
code: [code]
data: {source: files, observations: rows.csv}
modules: {gmm: {type: "own:Own", classes: 2, iterations: 1}}
connections: [data -> gmm]
schedule: {rounds: 2}
report: false
"""
CODE = """
from actors.modules.mixture.gmm import GMM

class Own(GMM):
    def update(self, inbox, context):
        if context.round == ROUND:
            raise ValueError("these rows are odd")
        return super().update(inbox, context)
"""
FAILED = "module 'gmm' raised an error: ValueError: these rows are odd"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    np.savetxt("rows.csv", np.random.default_rng(0).normal(size=(40, 3)) * [1, 50, 1000], delimiter=",")
    Path("arm.yaml").write_text(SENSORS)
    Path("own.yaml").write_text(OWN)
    Path("code").mkdir()
    return tmp_path


def serket(*words):
    done = CliRunner().invoke(app, words, prog_name="serket")
    return done.exit_code, done.output


def own_module(name, failing_round):
    """Write a module under a name of its own, as modules stay imported in this process."""
    Path("own.yaml").write_text(OWN.replace("own:Own", f"{name}:Own"))
    Path("code", f"{name}.py").write_text(CODE.replace("ROUND", str(failing_round)))


def no_cluster(*_args, **_options):
    raise AssertionError("a cluster was started")


@pytest.mark.parametrize("step", [None, "set"])
def test_a_likelihood_that_does_not_fit_the_rows_is_found_before_ray_and_leaves_the_name_free(place, monkeypatch, step):
    """Also one that only a step of the schedule sets."""
    if step:
        model = SENSORS.replace("likelihood: bce", "likelihood: mse")
        steps = "schedule: {rounds: 1, steps: [{module: vae, set: {likelihood: bce}}, gmm]}"
        Path("arm.yaml").write_text(model.replace("schedule: {rounds: 1}", steps))
    monkeypatch.setattr("runner.cluster.connection.cluster", no_cluster)
    for way in ((), ("--local",)):
        status, output = serket("run", "arm.yaml", *way)
        assert status == 2
        assert "module 'vae': observations of data span" in output
        assert "likelihood 'bce' is for values in [0, 1]" in output
        assert output.strip().endswith("scale them, or use 'mse'")
    assert not Path("runs").exists() or not list(Path("runs").iterdir())
    for command in ("inspect", "resume"):
        status, output = serket(command, "arm")
        assert (status, "arm: no such run" in output) == (2, True), output
    status, output = serket(
        "run",
        "arm.yaml",
        "--local",
        "--set",
        "modules.vae.likelihood=mse",
        "--set",
        "schedule.steps=[vae, gmm]",
        "--set",
        "data.scale=standard",
    )
    assert status == 0, output
    assert [path.name for path in Path("runs").iterdir()] == ["arm"]


@pytest.mark.parametrize(
    "module", ["{type: pca, latent_dim: 4}", "{type: gmm, classes: 41}", "{type: mlda, topics: 2}"]
)
def test_modules_look_at_the_rows_before_ray(place, monkeypatch, module):
    model = f"name: arm\ndata: {{source: files, observations: rows.csv}}\nmodules: {{it: {module}}}\n"
    Path("arm.yaml").write_text(model + "connections: [data -> it]\nschedule: {rounds: 1}\n")
    monkeypatch.setattr("runner.cluster.connection.cluster", no_cluster)
    status, output = serket("run", "arm.yaml")
    assert (status, output.splitlines()[-1].startswith("serket: module 'it': ")) == (2, True), output
    assert not Path("runs").exists()


def test_a_failure_in_the_first_round_is_told_truly_and_frees_the_name(place):
    own_module("fails_at_once", 1)
    status, output = serket("run", "own.yaml", "--local")
    assert status == 1
    assert f"serket: {FAILED}; the traceback is in runs/own/error.txt" in output
    assert "in update" in Path("runs/own/error.txt").read_text()
    status, output = serket("inspect", "own")
    assert status == 0
    lines = output.splitlines()
    assert lines[1] == f"failed: {FAILED}"
    assert lines[2].endswith("correct the cause, or it fails again; then continue with: serket resume own")
    assert (
        lines[3]
        == "it has learnt nothing yet: a corrected model file can take its name with serket run MODEL --overwrite"
    )
    status, output = serket("resume", "own", "--local")
    assert (status, FAILED in output) == (1, True)
    status, output = serket("resume", "own", "--local", "--set", "modules.gmm.classes=3")
    assert status == 2
    assert "start another run (as it has learnt nothing, serket run MODEL --overwrite gives its name):" in output
    Path("own.yaml").write_text(OWN.replace("own:Own", "gmm"))
    status, output = serket("run", "own.yaml", "--local", "--overwrite")
    assert status == 0, output
    assert [path.name for path in Path("runs").iterdir()] == ["own"]
    assert yaml.safe_load(Path("runs/own/config.yaml").read_text())["modules"]["gmm"]["type"] == "gmm"


def test_a_run_that_failed_later_goes_on_when_its_cause_is_corrected(place, monkeypatch):
    own_module("fails_later", 2)
    assert serket("run", "own.yaml", "--local")[0] == 1
    status, output = serket("inspect", "own")
    assert "1 commit" not in output.splitlines()[0]
    assert "it has learnt nothing yet" not in output
    corrected = importlib.import_module("fails_later").Own.__mro__[1]
    monkeypatch.setattr(importlib.import_module("fails_later").Own, "update", corrected.update)  # as an editor would
    status, output = serket("resume", "own", "--local")
    assert status == 0, output
    assert "continuing from round-001" in output
    assert "failed" not in serket("inspect", "own")[1]
