"""A refusal names the bound that the value crosses, and no rule that the value keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import runner as srk
from actors.graph.graph import Graph
from actors.graph.spec import ModuleSpec
from runner.config.run_config import ConfigError, load_config
from runner.runs.directory import RunDirectory, RunDirectoryError

MODEL = """
name: a
data: {source: cycle}
modules:
  vae: {type: vae, latent_dim: 2}
  gmm: {type: gmm, classes: 2}
  mm: {type: markov}
  mlda: {type: mlda, topics: 2}
connections: [data -> vae -> gmm -> mm, data -> mlda]
schedule: {rounds: 2, steps: [vae, {steps: [gmm, mm], repeat: 2}]}
"""

REFUSED = {
    "name=" + "a" * 101: "at most 100 characters, got 101",
    "name=a b": "with ' '",
    "name='-'": "which begins with '-'",
    "name=.a": "which begins with '.'",
    "name=é": "with 'é'",
    "name=7": "name: expected a text, got 7",
    "modules={" + "m" * 101 + ": {type: vae}}": "at most 100 characters, got 101",
    "modules={3d: {type: vae}}": "which begins with '3'",
    "modules={a.b: {type: vae}}": "with '.'",
    "seed=-1": "of at least 0",
    "seed=9223372036854775808": "below 9223372036854775808",
    "seed=1.5": "expected an integer",
    "data.count=0": "of at least 1, got 0",
    "data.offset=-1": "of at least 0, got -1",
    "data.order=sorted": "'cyclic' or 'given' or 'shuffled'",
    "data.divide_by=0": "above 0, got 0",
    "data.header=1": "expected true or false, got 1",
    "data.index=true": "goes with source 'files'",
    "data.lengths=[3, 0]": "data.lengths",
    "modules.vae.epochs=-1": "of at least 0, got -1",
    "modules.vae.latent_dim=0": "of at least 1, got 0",
    "modules.vae.batch_size=0": "of at least 1, got 0",
    "modules.vae.learning_rate=0": "above 0, got 0",
    "modules.vae.learning_rate=.inf": "finite",
    "modules.vae.learning_rate=.nan": "got nan",
    "modules.vae.kl_weight=-0.5": "of at least 0, got -0.5",
    "modules.vae.likelihood=gauss": "'bce' or 'mse', got 'gauss'",
    "modules.vae.encoder=nets": "a text that matches ^[\\w.]+:\\w+$, got 'nets'",
    "modules.vae.networks=cnn": "'dense' or 'conv', got 'cnn'",
    "modules.vae.filters=[]": "at least 1 entry, not 0",
    "modules.vae.filters=[16, 0]": "greater than or equal to 1, got 0",
    "modules.vae.shape=[28]": "at least 2 entries, not 1",
    "modules.vae.augment={rotate: 3}": "modules.vae.augment",
    "modules.vae.augment={shift: -1}": "got -1",
    "modules.vae.threads=0": "of at least 1, got 0",
    "modules.gmm.workers=0": "of at least 1 and of at most 4096 or 'auto', got 0",
    "modules.gmm.workers=5000": "of at most 4096 or 'auto', got 5000",
    "modules.gmm.workers=many": "'auto', got 'many'",
    "modules.gmm.chunk=0": "of at least 1, got 0",
    "modules.gmm.sample_rows=1.5": "expected an integer",
    "modules.mlda.workers=2": "module 'mlda' learns by engine 'gibbs', which needs all rows in one process",
    "modules.gmm.classes=0": "got 0",
    "modules.mm.durations=weibull": "'geometric' or 'poisson' or 'negative_binomial', got 'weibull'",
    "modules.mm={type: markov, durations: poisson, max_duration: 10001}": "of at most 10000, got 10001",
    "modules.mm={type: markov, durations: poisson, workers: 2}": "learns durations: poisson, whose segments cross",
    "modules.mm={type: markov, durations: poisson, rule: tutorial}": "durations: poisson needs rule: smoothed",
    "modules.mm={type: markov, max_duration: 30}": "goes with durations: poisson or negative_binomial",
    "schedule.steps.1.steps.1={module: mm, set: {durations: poisson}}": "cannot be set for a step",
    "modules.gmm.iterations=2.5": "expected an integer",
    "modules.gmm.engine=em": "'gibbs' or 'vb' or 'blocked-gibbs', got 'em'",
    "modules.mlda.alpha=1e-7": "of at least 1e-06",
    "modules.mlda.alpha=1e7": "of at most 1000000",
    "modules.mlda.weights={data: 0}": "greater than or equal to 1, got 0",
    "modules.mlda.samples=0": "of at least 1, got 0",
    "schedule.rounds=0": "of at least 1, got 0",
    "schedule.tolerance=.inf": "finite",
    "schedule.steps.1.repeat=0": "of at least 1, got 0",
    "schedule.steps.1.anneal=[0, 1]": "greater than 0, got 0",
    "schedule.steps.1.anneal=[0.5, 2]": "less than or equal to 1, got 2",
    "schedule.steps.1.anneal=[1.0]": "at least 2 entries, not 1",
    "schedule.steps.1.anneal=[0.1, 0.5, 1.0]": "at most 2 entries, not 3",
    "schedule.steps.1.steps=[]": "at least 1 entry, not 0",
    "schedule.steps.1.chains=-1": "of at least 0, got -1",
    "schedule.steps.1.tolerance=0": "above 0, got 0",
    "recovery.tries=0": "of at least 1, got 0",
    "recovery.wait=0": "above 0, got 0",
    "recovery.wait=1e10": "at most 1e+09 seconds, got 1e+10",
    "checkpoints.keep=0": "of at least 1, got 0",
    "cluster.nodes=0": "of at least 1, got 0",
    "modules.vae.resources={num_cpus: -1}": "of at least 0, got -1",
    "modules.vae.resources={num_cpus: 0.00001}": "at least 0.0001, got 1e-05",
    "modules.vae.resources={num_gpus: 1.5}": "a part of one GPU or a whole number of them, got 1.5",
    "modules.vae.resources={memory: 2 cows}": "'2 GiB' or '500 MB', got '2 cows'",
}


@pytest.mark.parametrize(("override", "fragment"), REFUSED.items(), ids=[each[:40] for each in REFUSED])
def test_a_refusal_names_the_bound_that_was_crossed(tmp_path: Path, override: str, fragment: str) -> None:
    (tmp_path / "m.yaml").write_text(MODEL)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "m.yaml", [override])
    first = next(line for line in str(caught.value).splitlines() if line.startswith(override.split("=")[0]))
    assert fragment in first


@pytest.mark.parametrize(
    ("name", "fragment"),
    [("a" * 101, "at most 100 characters, got 101"), ("-", "begins with '-'"), ("a/b", "with '/'"), ("", "got ''")],
)
def test_a_run_name_of_the_command_line_is_refused_by_the_rule_that_it_breaks(
    tmp_path: Path, name: str, fragment: str
) -> None:
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.create(tmp_path, name, Graph([ModuleSpec("data", "observation")], []))
    assert fragment in str(caught.value)
    assert ("letters" in str(caught.value)) == (len(name) <= 100)


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("-", "script"), ("-c", "script"), ("", "script"), ("my model.py", "my_model"), (".hidden.py", "hidden"),
        ("--.py", "script"), ("a" * 150 + ".py", "a" * 100), ("robot.py", "robot"), ("/x/été.py", "_t_"),
    ],
)  # fmt: skip
def test_a_script_has_a_valid_run_name_however_it_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    assert srk.Observation([[1.0]]).run == name
    RunDirectory.create(tmp_path, name, Graph([ModuleSpec("data", "observation")], []))
