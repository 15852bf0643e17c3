"""Tests of ``runner.Model``: what model files say in Python, with the same bits, for rows as people have them."""

import copy
import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import runner
from actors.errors import GraphError, ModuleError
from runner import GMM, Model
from runner.cli.app import app
from runner.commands.train import train
from runner.config.model_names import included_models
from runner.config.python_models import default_schedule
from runner.config.run_config import ConfigError, load_config
from runner.data.datasets import load
from runner.data.errors import DataError
from runner.data.given import Given, store_rows
from runner.report.clustering_metrics import score
from runner.report.model_drawing import draw_model
from runner.report.progress import Progress
from runner.runs.run_files import RunDirectoryError
from runner.runs.timing import Clock

ROOT = Path(__file__).parents[2]
GMM_MM = {
    "gmm": {"type": "gmm", "classes": 4, "iterations": 2, "prior_scale": "data", "start": "sequence"},
    "mm": {"type": "markov", "estimate": "variational"},
}
SCHEDULE = {"rounds": 2, "steps": [{"steps": ["gmm", "mm"], "repeat": 3, "chains": 1}, "gmm"]}
ONE_UPDATE = {"rounds": 1, "steps": ["gmm"]}


@pytest.fixture(scope="module")
def cycle():
    """A hundred points around four centres in turn, with their centres."""
    return load("cycle")


def model(**changes):
    return Model(**{**GMM_MM, "connections": "data -> gmm -> mm", "schedule": SCHEDULE, **changes})


def mixture(**changes):
    return Model(gmm={"type": "gmm", "classes": 2, "iterations": 2, "start": "kmeans", **changes}, schedule=ONE_UPDATE)


@pytest.fixture(scope="module")
def trained(cycle):
    return model().fit(cycle.observations, categories=cycle.categories, progress=False)


def states_of(path):
    """Return the SHA-256 of the state of every module of the last commit."""
    commits = sorted((path / "checkpoints").glob("round-*"))
    files = sorted(commits[-1].glob("*.state.safetensors"))
    assert files
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def by_command(cycle, tmp_path_factory):
    """Train the equal model file, written by hand, as ``serket run`` does; return the run's directory."""
    tmp_path, data = tmp_path_factory.mktemp("by_command"), cycle
    np.save(tmp_path / "rows.npy", data.observations)
    np.save(tmp_path / "labels.npy", data.categories)
    content = {
        "name": "by_hand",
        "data": {"source": "files", "observations": "rows.npy", "categories": "labels.npy"},
        "modules": GMM_MM,
        "connections": ["data -> gmm", "gmm -> mm"],
        "schedule": SCHEDULE,
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runner.commands.driver.prepare_drawing", lambda _: None)
        patch.setattr("runner.runs.artifacts.draw_plots", lambda _: [])  # pictures take longest
        return train_as_command(tmp_path)


def train_as_command(tmp_path):
    config = load_config(tmp_path / "model.yaml")
    clock, progress = Clock(time.time()), Progress(config.graph)
    return train(config, clock=clock, progress=progress, runs=tmp_path / "runs", local=True)[0].path


# --- the same as a model file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        ("Model", "torch ray sklearn scipy pandas matplotlib numba pydantic"),
        (
            "GMM, MarkovModel, Observation",
            "torch ray sklearn scipy pandas matplotlib numba yaml rich runner.runs runner.commands runner.config "
            "actors.coordination runner.data",
        ),
    ],
)
def test_the_interface_is_imported_without_anything_heavy(names, absent):
    code = f"from runner import {names}; import sys; print([name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_fit_has_the_bits_of_the_command_with_the_equal_model_file(trained, by_command):
    assert states_of(trained.run.path) == states_of(by_command)


@pytest.mark.ray
def test_a_fit_on_ray_has_the_same_bits(trained, cycle, ray_cluster):
    on_ray = model().fit(cycle.observations, categories=cycle.categories, ray=True, progress=False)
    assert states_of(on_ray.run.path) == states_of(trained.run.path)
    assert on_ray.run.summary["accuracy"] == trained.run.summary["accuracy"]


def test_the_model_file_that_a_run_leaves_repeats_it(trained):
    again = Model.from_file(trained.run.path / "config.yaml").fit(progress=False)
    assert states_of(again.run.path) == states_of(trained.run.path)


def test_a_model_of_a_file_is_that_file_with_what_replaces_its_values():
    made = Model.from_file(ROOT / "configs" / "hmm.yaml", schedule={"rounds": 1}, **{"modules.gmm.classes": 5}, seed=3)
    assert repr(made) == "<Model 'hmm': data -> gmm (5 classes) -> mm; not trained>"
    given = ["schedule.rounds=1", "modules.gmm.classes=5", "seed=3"]
    assert made.to_yaml() == load_config(ROOT / "configs" / "hmm.yaml", given).to_yaml()


@pytest.mark.slow
def test_a_model_of_a_file_learns_from_the_rows_that_the_file_names(tmp_path):
    made = Model.from_file(ROOT / "configs" / "hmm.yaml", schedule={"rounds": 1}, **{"modules.gmm.classes": 5}, seed=3)
    config = load_config(ROOT / "configs" / "hmm.yaml", ["schedule.rounds=1", "modules.gmm.classes=5", "seed=3"])
    by_command, _ = train(
        config, clock=Clock(time.time()), progress=Progress(config.graph), runs=tmp_path, name="hmm", local=True
    )
    assert states_of(made.fit(progress=False).run.path) == states_of(by_command.path)


@pytest.mark.parametrize(
    "made",
    [
        lambda: Model({**GMM_MM}, ["data -> gmm", ("gmm", "mm")], schedule=SCHEDULE),
        lambda: Model({**GMM_MM}, schedule=SCHEDULE),  # a chain in the order of the modules
        lambda: Model(handles(), schedule=SCHEDULE),
        lambda: Model(handles(), "data -> gmm -> mm", schedule=SCHEDULE),
        lambda: Model(dict(zip(("gmm", "mm"), handles(), strict=True)), schedule=SCHEDULE),
        lambda: Model(connected_handles(), schedule=SCHEDULE),
    ],
    ids=["pairs", "chain", "handles", "handles and text", "named handles", "connected handles"],
)
def test_each_way_to_write_a_model_gives_the_same_model_file(made):
    assert made().to_yaml() == model().to_yaml()


def handles():
    return [
        runner.GMM(4, iterations=2, prior_scale="data", start="sequence"),
        runner.MarkovModel(estimate="variational"),
    ]


def connected_handles():
    gmm, mm = handles()
    mm.connect(gmm)
    return [gmm, mm]


def test_handles_may_be_given_to_several_models():
    gmm, mm = handles()
    first, second = Model([gmm, mm], schedule=SCHEDULE), Model({"mixture": gmm, "chain": mm}, schedule={"rounds": 1})
    assert first.to_yaml() == model().to_yaml()
    assert repr(second) == "<Model 'model': data -> mixture (4 classes) -> chain; not trained>"
    assert (gmm.name, gmm.below, mm.below) == ("", [], [])


def test_weights_of_modalities_are_those_in_the_order_of_connection():
    made = Model(
        {"sight": GMM(3), "topics": runner.MLDA(3, [100, None, 50])},
        ["a -> sight -> topics", "b -> topics", "c -> topics"],
        data={"a": {}, "b": {}, "c": {}},
    )
    assert yaml.safe_load(made.to_yaml())["modules"]["topics"]["weights"] == {"sight": 100, "c": 50}


NETWORKS = """
import sys
import numpy as np
import torch
from runner import GMM, VAE, Model

class Linear(VAE):
    def build_encoder(self, input_dim, latent_dim):
        class Encoder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.mean = torch.nn.Linear(input_dim[0], latent_dim)
                self.log_variance = torch.nn.Linear(input_dim[0], latent_dim)

            def forward(self, rows):
                return self.mean(rows), self.log_variance(rows)
        return Encoder()

    def build_decoder(self, input_dim, latent_dim):
        return torch.nn.Sequential(torch.nn.Linear(latent_dim, input_dim[0]), torch.nn.Sigmoid())

rows = np.random.default_rng(0).random((40, 6))
np.save("rows.npy", rows)
model = Model([Linear(2, epochs=2), GMM(2)], schedule={"rounds": 1})
print(*model.copy().fit(rows).predict(rows))
model.fit(rows).save("saved")
"""


@pytest.mark.slow
def test_networks_that_a_class_defines_go_with_the_model(tmp_path):
    (tmp_path / "mine.py").write_text(NETWORKS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"capture_output": True, "text": True, "env": environment, "timeout": 120}
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, **options)
    assert done.returncode == 0, done.stderr
    (tmp_path / "mine.py").unlink()
    other = (tmp_path / "saved").rename(tmp_path / "moved")
    again = subprocess.run([sys.executable, "-c", PREDICT, str(other), "rows.npy"], cwd=tmp_path, **options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[0] == done.stdout.splitlines()[0]


def test_numpy_values_and_tuples_are_those_of_a_model_file():
    given = {"type": "gmm", "classes": np.int64(4), "alpha": np.float64(0.5)}
    assert (
        Model(gmm=given, seed=int(np.uint8(3))).to_yaml()
        == Model(gmm={**given, "classes": 4, "alpha": 0.5}, seed=3).to_yaml()
    )


def test_without_a_schedule_a_model_has_that_of_the_measured_model_files():
    hmm = load_config(ROOT / "configs" / "hmm.yaml")
    assert (
        load_config(ROOT / "configs" / "hmm.yaml", [(["schedule"], default_schedule(hmm.graph))]).schedule
        == hmm.schedule
    )
    digits = load_config(ROOT / "configs" / "digits.yaml")
    assert load_config(ROOT / "configs" / "digits.yaml", [(["schedule"], default_schedule(digits.graph))]).schedule == (
        digits.schedule
    )


# --- rows as people have them -----------------------------------------------------------------------------------------

WHOLE = np.round(np.concatenate([np.random.default_rng(s).normal(9 * s, 2, (30, 3)) for s in (1, 3)]))
"""Whole numbers in 0 … 60, which every numeric type holds."""


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return np.array(WHOLE, dtype=dtype)


def with_gradient():
    import torch

    return torch.tensor(WHOLE, dtype=torch.float64, requires_grad=True)


def memory_map(tmp_path):
    np.save(tmp_path / "map.npy", WHOLE)
    return np.load(tmp_path / "map.npy", mmap_mode="r")


def file_of(tmp_path, name):
    np.savetxt(tmp_path / name, WHOLE, delimiter=" " if name.endswith("txt") else ",")
    return tmp_path / name


LAYOUTS = {
    **{f"{kind}{size}": WHOLE.astype(f"{kind}{size}") for kind in ("i", "u") for size in (1, 2, 4, 8)},
    **{f"f{size}": WHOLE.astype(f"f{size}") for size in (2, 4, 8)},
    "long double": WHOLE.astype(np.longdouble),
    "big-endian": WHOLE.astype(">f8"),
    "big-endian integers": WHOLE.astype(">i4"),
    "Fortran": np.asfortranarray(WHOLE),
    "strided": np.repeat(np.repeat(WHOLE, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": WHOLE[::-1].copy()[::-1],
    "read-only": np.frombuffer(WHOLE.tobytes()).reshape(WHOLE.shape),
    "lists": WHOLE.tolist(),
    "rows": list(WHOLE),
    "frame": pd.DataFrame(WHOLE, columns=["a", "b", "c"]),
    "frame of mixed types": pd.DataFrame(WHOLE).astype({0: "int8", 1: "float32", 2: "Int64"}),
    "frame with an index of dates": pd.DataFrame(WHOLE, index=pd.date_range("2026-01-01", periods=60)),
    "masked": np.ma.masked_array(WHOLE, mask=False),
    "array-like": ArrayLike(),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    return mixture().fit(WHOLE, progress=False)


SIMILAR = ("i2", "i4", "u2", "u4", "u8", "f4", "big-endian integers", "rows", "read-only", "masked")
"""Layouts that differ little from others, which are tried by make test-slow."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SIMILAR)) for name in LAYOUTS])
def test_rows_of_any_type_and_layout_give_equal_results(plain, name):
    fitted = mixture().fit(LAYOUTS[name], progress=False)
    np.testing.assert_array_equal(fitted.run.means["gmm"], plain.run.means["gmm"])
    np.testing.assert_array_equal(fitted.predict(LAYOUTS[name], ordered=False), plain.run.classes["gmm"])


@pytest.mark.parametrize(
    "given",
    [pytest.param(with_gradient, marks=pytest.mark.slow), memory_map, "data.txt", "data.csv"],
    ids=["tensor with a gradient", "memory map", "text", "CSV"],
)
def test_tensors_memory_maps_and_files_give_equal_results(plain, tmp_path, given):
    rows = file_of(tmp_path, given) if isinstance(given, str) else given(*[tmp_path][: given is memory_map])
    fitted = mixture().fit(rows, progress=False)
    np.testing.assert_array_equal(fitted.run.means["gmm"], plain.run.means["gmm"])


def test_truth_values_are_zero_and_one(plain):
    fitted = mixture().fit(WHOLE > 20, progress=False)
    assert set(np.round(fitted.run.means["gmm"].ravel(), 1)) <= {0.0, 0.1, 0.9, 1.0}


def test_rows_that_are_given_are_not_changed():
    rows = WHOLE.copy()
    mixture().fit(rows, progress=False)
    np.testing.assert_array_equal(rows, WHOLE)


def test_a_list_of_arrays_has_a_sequence_in_each(cycle):
    parts = np.split(cycle.observations, [40, 70])
    by_list = model().fit(parts, progress=False)
    by_lengths = model().fit(cycle.observations, lengths=[40, 30, 30], progress=False)
    assert states_of(by_list.run.path) == states_of(by_lengths.run.path)
    np.testing.assert_array_equal(by_list.predict(parts), by_list.predict(cycle.observations, lengths=[40, 30, 30]))
    labels = np.split(np.array(["a", "b", "c", "d"])[cycle.categories], [40, 70])
    labelled = model().fit(parts, categories=labels, progress=False)
    np.testing.assert_array_equal(labelled.run.categories, cycle.categories)
    frames = model().fit([pd.DataFrame(part) for part in parts], progress=False)
    assert states_of(frames.run.path) == states_of(by_lengths.run.path)


def test_an_array_of_three_axes_is_sequences_or_rows_as_the_model_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5, 8, 2)) + 9.0 * (np.arange(8) // 4)[:, None]
    two = {"type": "gmm", "classes": 2, "iterations": 2, "start": "kmeans"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt = Model(gmm=two, data={"sequences": True}, schedule=ONE_UPDATE).fit(X, progress=False, path="arm")
        classes = learnt.predict(X)
        Model(gmm=two, data={"sequences": False}, schedule=ONE_UPDATE).fit(X, progress=False)
        Model(gmm=two, schedule=ONE_UPDATE).fit(X.reshape(-1, 2), [8] * 5, progress=False)
        Model(gmm=two, schedule=ONE_UPDATE).fit(rng.random((9, 3, 3)), progress=False)  # as pictures are
    assert classes.shape == (40,)
    assert score(classes, np.tile(np.arange(8) // 4, 5)).accuracy == 1.0
    with pytest.warns(UserWarning, match="learnt from 5 sequences"):
        assert (learnt.predict(X[1]) == classes[8:16]).all()  # a single one
    assert (Model.load("arm").predict(X) == classes).all()
    np.save("new.npy", X)
    assert CliRunner().invoke(app, ["recognize", "arm", "new.npy", "--runs", "."]).exit_code == 0
    assert (np.loadtxt("arm/module001_gmm/class_recog.txt") == classes).all()
    with pytest.warns(
        UserWarning, match=r"^X: 5 × 8 × 2 numbers are taken as 5 rows of 8×2; for 5 sequences of 8 rows"
    ):
        taken = Model(gmm=two, schedule=ONE_UPDATE).fit(X, progress=False)
    assert taken.predict(X).shape == (5,)


def test_new_rows_without_lengths_are_named_if_the_model_learnt_from_sequences(cycle):
    fitted = model().fit(cycle.observations, lengths=[60, 40], progress=False)
    with pytest.warns(UserWarning, match="learnt from 2 sequences, but the 100 rows came without lengths"):
        fitted.predict(cycle.observations)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.predict(cycle.observations, lengths=[60, 40])


def test_rows_without_any_value_are_missing_and_are_predicted(cycle):
    rows = cycle.observations.astype(np.float64)
    rows[50] = np.nan
    fitted = model().fit(rows, categories=cycle.categories, progress=False)
    assert fitted.run.summary["accuracy"] == 1.0
    assert fitted.predict(rows)[50] == fitted.predict(cycle.observations)[50]


def test_several_observations_go_by_name(cycle):
    made = Model(
        {"left": {"type": "gmm", "classes": 4}, "right": {"type": "gmm", "classes": 4}, "both": {"type": "product"}},
        ["a -> left -> both", "b -> right -> both"],
        data={"a": {}, "b": {"divide_by": 2.0}},
        schedule={"rounds": 1},
    )
    rows = {"a": cycle.observations[:, :1], "b": 2 * cycle.observations[:, 1:]}
    made.fit(rows, progress=False)
    assert sorted(made.run.posteriors) == ["both", "left", "right"]
    assert made.predict(rows, module="right").shape == (100,)
    assert made.predict({"a": rows["a"]}, module="left").shape == (100,)
    assert {name: drawn.shape for name, drawn in made.generate(7).rows.items()} == {"a": (7, 1), "b": (7, 1)}
    np.testing.assert_allclose(sorted(made.run.means["right"].ravel())[0], rows["b"].min() / 2, atol=1.5)


def test_numbers_by_which_rows_are_divided_hold_for_new_rows(tmp_path):
    fitted = Model(gmm={"type": "gmm", "classes": 2}, data={"divide_by": 10}, schedule=ONE_UPDATE)
    fitted.fit(10 * WHOLE, progress=False)
    np.testing.assert_array_equal(fitted.predict(10 * WHOLE, ordered=False), fitted.run.classes["gmm"])
    loaded = Model.load(fitted.save(tmp_path / "saved"))
    np.testing.assert_array_equal(loaded.predict(10 * WHOLE, ordered=False), fitted.run.classes["gmm"])


# --- what was learnt --------------------------------------------------------------------------------------------------


def test_classes_posteriors_and_score_are_those_of_the_run(trained, cycle):
    rows = cycle.observations
    assert score(trained.predict(rows), cycle.categories).accuracy == 1.0
    np.testing.assert_array_equal(trained.predict(rows), trained.run.classes["gmm"])
    probabilities = trained.predict_proba(rows)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), trained.predict(rows))
    np.testing.assert_array_equal(trained.transform(rows), probabilities)
    mm = trained.predict_proba(rows, module="mm")
    np.testing.assert_array_equal(mm.argmax(axis=1), trained.predict(rows, module="mm"))


def test_the_score_is_the_log_density_of_a_row(cycle):
    """Of one class whose parameters have many rows it is that of a Gaussian with the sample's mean and covariance."""
    rows = np.random.default_rng(0).multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 1.0]], 4000)
    one = Model(gmm={"type": "gmm", "classes": 1}, mm={"type": "markov"}, schedule={"rounds": 1}).fit(
        rows, progress=False
    )
    from scipy.stats import multivariate_normal

    exact = multivariate_normal(rows.mean(axis=0), np.cov(rows.T)).logpdf(rows).mean()
    assert one.score(rows) == pytest.approx(exact, abs=2e-3)
    assert one.score(rows, lengths=[1000] * 4) == pytest.approx(exact, abs=2e-3)
    assert one.score(rows, ordered=False) == pytest.approx(exact, abs=2e-3)
    assert trained_is_worse(one, rows)


def trained_is_worse(fitted, rows):
    return fitted.score(rows + 5.0) < fitted.score(rows) - 1.0


def test_what_follows_is_predicted_and_generated_by_the_transitions(trained, cycle):
    following = trained.predict_next(cycle.observations, steps=8)
    assert following.shape == (8, 4)
    np.testing.assert_array_equal(following.argmax(axis=1)[:4], trained.predict(cycle.observations)[:4])  # 100 = 25 × 4
    rows, classes = trained.generate(40)
    assert rows.shape == (40, 2)
    likely = trained.run.transitions["mm"].argmax(axis=1)
    assert (likely[classes[:-1]] == classes[1:]).mean() > 0.8
    np.testing.assert_array_equal(classes, trained.generate(40).classes)
    assert not np.array_equal(classes, trained.generate(40, seed=5).classes)
    drawn = trained.generate(4000)
    means, found = trained.run.means["gmm"], trained.run.classes["gmm"]
    assert (trained.predict(drawn.rows) == drawn.classes).mean() > 0.95
    spread = (cycle.observations - means[found]).std(axis=0)
    np.testing.assert_allclose((drawn.rows - means[drawn.classes]).std(axis=0), spread, rtol=0.25)


def test_a_model_of_a_file_takes_columns_of_frames_by_their_names(tmp_path):
    frame = pd.DataFrame({"a": np.arange(20) % 2 * 9.0, "b": np.full(20, 50.0)}) + np.eye(20, 2)
    frame.to_csv(tmp_path / "x.csv", index=False)
    learnt = mixture().fit(tmp_path / "x.csv", progress=False)
    classes = learnt.predict(frame)
    assert len(np.unique(classes)) == 2
    np.testing.assert_array_equal(learnt.predict(frame[["b", "a"]]), classes)
    np.testing.assert_array_equal(learnt.predict(frame.assign(c=1.0)[["c", "b", "a"]]), classes)
    with pytest.raises(DataError, match="X: has no column b, from which the run has learnt"):
        learnt.predict(frame[["a"]])


def test_rows_of_huge_units_are_learnt_from_without_a_word(recwarn):
    """Their covariances are beyond float64."""
    kinds = np.arange(40) % 2
    rows = (np.random.default_rng(0).normal(size=(40, 2)) + 9.0 * kinds[:, None]) * 1e200
    assert score(mixture(prior_scale="data").fit(rows, progress=False).predict(rows), kinds).accuracy == 1.0
    assert not [str(each.message) for each in recwarn]


def test_rows_of_a_class_differ_if_latent_vectors_are_drawn():
    """Two classes in turn in a plane of five dimensions: moments of drawn rows are those of the rows learnt from."""
    rng = np.random.default_rng(0)
    kinds, axes = np.arange(300) % 2, np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    rows = (rng.normal(size=(300, 2)) * [2.0, 0.5] + 8.0 * kinds[:, None]) @ axes
    gmm = {"type": "gmm", "classes": 2, "iterations": 3, "prior_scale": "data", "start": "kmeans"}
    learnt = Model({"pca": {"type": "pca", "latent_dim": 2}, "gmm": gmm}, ["data -> pca -> gmm"])
    learnt.fit(rows, progress=False)
    plain, drawn = learnt.generate(4000), learnt.generate(4000, noise=True)
    np.testing.assert_array_equal(plain.classes, drawn.classes)
    assert len(np.unique(plain.rows.round(6), axis=0)) == 2
    found = learnt.predict(rows)
    for k in range(2):
        own, given = drawn.rows[drawn.classes == k], rows[found == k]
        np.testing.assert_allclose(own.mean(axis=0), given.mean(axis=0), atol=0.2)
        np.testing.assert_allclose(np.cov(own.T), np.cov(given.T), atol=0.35)


def test_results_are_arrays_and_frames(trained, cycle):
    run = trained.run
    assert {name: array.shape for name, array in run.posteriors.items()} == {"gmm": (100, 4), "mm": (100, 4)}
    assert run.means.only.shape == (4, 2)
    np.testing.assert_allclose(run.transitions["mm"].sum(axis=1), 1.0)
    np.testing.assert_array_equal(run.categories, cycle.categories)
    assert len(run.latents) == len(run.losses) == 0
    frame = run.posteriors.frame("gmm")
    assert (list(frame.columns), frame.index.name) == ([0, 1, 2, 3], "row")
    assert list(run.classes.frame().columns) == ["gmm", "mm"]
    assert run.metrics.frame()["accuracy"].tolist() == [1.0, 1.0]
    assert run.metrics["round"].tolist() == [1, 2]
    assert run.summary["rounds"] == 2


def test_latent_vectors_are_the_transformed_rows():
    rows = np.random.default_rng(0).normal(size=(80, 6)) * [9, 5, 1, 1, 1, 1]
    pca = Model(pca={"type": "pca", "latent_dim": 2}, gmm={"type": "gmm", "classes": 2}, schedule={"rounds": 1})
    pca.fit(rows, progress=False)
    assert pca.transform(rows).shape == (80, 2)
    np.testing.assert_allclose(pca.transform(rows), pca.run.latents["pca"], atol=1e-9)
    assert pca.generate(5).rows.shape == (5, 6)


def test_a_model_that_is_fitted_again_begins_anew(cycle):
    again = model().fit(cycle.observations[:50], progress=False)
    assert again.fit(cycle.observations, progress=False) is again
    fresh = model().fit(cycle.observations, progress=False)
    assert states_of(again.run.path) == states_of(fresh.run.path)


# --- saved and loaded -------------------------------------------------------------------------------------------------

PREDICT = """
import sys, numpy as np
from runner import Model
model = Model.load(sys.argv[1])
print(*model.predict(np.load(sys.argv[2])))
print([name for name in ("torch", "ray") if name in sys.modules])
"""


def test_a_saved_model_is_used_in_another_process(trained, cycle, tmp_path):
    np.save(tmp_path / "rows.npy", cycle.observations)
    saved = copy.deepcopy(trained).save(tmp_path / "saved")
    words = [sys.executable, "-c", PREDICT, str(saved), str(tmp_path / "rows.npy")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    classes, loaded = done.stdout.splitlines()
    assert list(map(int, classes.split())) == trained.predict(cycle.observations).tolist()
    assert loaded == "[]"


def test_a_run_of_the_command_line_is_loaded(trained, cycle, by_command):
    loaded = Model.load("by_hand", runs=by_command.parent)
    np.testing.assert_array_equal(loaded.predict(cycle.observations), trained.predict(cycle.observations))
    np.testing.assert_array_equal(loaded.run.categories, cycle.categories)
    assert loaded.run.path == by_command


def test_the_command_line_uses_a_saved_model(trained, cycle, tmp_path):
    saved = copy.deepcopy(trained).save(tmp_path / "saved")
    np.savetxt(tmp_path / "rows.txt", cycle.observations)
    for words in (["recognize", str(saved), str(tmp_path / "rows.txt")], ["inspect", str(saved)]):
        assert CliRunner().invoke(app, words).exit_code == 0
    classes = np.loadtxt(saved / "module001_gmm" / "class_recog.txt", dtype=int)
    np.testing.assert_array_equal(classes, trained.predict(cycle.observations))


@pytest.mark.slow
def test_a_saved_model_learns_on_by_resume(trained, cycle, tmp_path):
    """Also in another place than that in which it learnt: its rows lie within its directory."""
    saved = copy.deepcopy(trained).save(tmp_path / "saved")
    words = ["resume", str(saved), "--local", "--set", "schedule.rounds=3"]
    assert CliRunner().invoke(app, words).exit_code == 0
    longer = model(schedule={**SCHEDULE, "rounds": 3}).fit(cycle.observations, progress=False)
    assert states_of(saved) == states_of(longer.run.path)


def test_a_run_lies_where_it_was_asked_for(cycle, tmp_path):
    fitted = model().fit(cycle.observations, path=tmp_path / "here", progress=False)
    assert fitted.run.path == tmp_path / "here"
    np.testing.assert_array_equal(Model.load(tmp_path / "here").run.means["gmm"], fitted.run.means["gmm"])


def test_a_temporary_run_is_deleted_with_its_model(cycle):
    fitted = mixture().fit(WHOLE, progress=False)
    place = fitted.run.path
    assert place.exists()
    del fitted
    assert not place.exists()


def test_a_copy_is_trained_like_its_model(trained, cycle):
    copied = copy.deepcopy(trained)
    assert copied.run.path != trained.run.path
    np.testing.assert_array_equal(copied.predict(cycle.observations), trained.predict(cycle.observations))
    assert not trained.copy(seed=1).is_fitted
    assert not copy.deepcopy(model()).is_fitted


def test_a_run_of_a_script_is_loaded(cycle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = runner.Observation(cycle.observations, local=True, run="mine")
    gmm, mm = runner.GMM(4, prior_scale="data", start="sequence"), runner.MarkovModel(rule="smoothed")
    gmm.connect(source)
    mm.connect(gmm)
    for _ in range(2):
        gmm.update()
        mm.update()
    gmm._model._stack.close()  # as at the end of the script
    loaded = Model.load("mine")
    np.testing.assert_array_equal(loaded.predict(cycle.observations), gmm.recognize(cycle.observations)["class"])
    result = CliRunner().invoke(app, ["resume", "mine", "--local"])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "is one of a script" in result.stderr
    assert CliRunner().invoke(app, ["inspect", "mine"]).exit_code == 0


# --- progress, interrupts, pictures -----------------------------------------------------------------------------------


def test_a_function_is_called_with_the_events(cycle):
    events = []
    model().fit(cycle.observations, progress=events.append)
    rounds = [event["round"] for event in events if event["event"] == "scores"]
    assert rounds == [1, 2]
    assert "100 rows × 2 columns in 1 sequence" in events[0]["message"]


def test_nothing_is_written_where_nobody_looks(cycle, capfd):
    model().fit(cycle.observations)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_ends_a_fit_cleanly_and_what_was_learnt_can_be_used(cycle):
    def interrupt(event):
        if event["event"] == "scores" and event["round"] == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopped = model(schedule={**SCHEDULE, "rounds": 40})
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(cycle.observations, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert 2 <= stopped.run.metrics["round"][-1] < 40
    assert score(stopped.predict(cycle.observations), cycle.categories).accuracy == 1.0


def test_the_drawing_is_one_svg_with_what_each_module_learnt(trained):
    for each, words in ((model(), "not trained"), (trained, "accuracy 1.000")):
        page = each._repr_html_()
        root = ET.fromstring(page)  # well-formed
        texts = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"data", "gmm", "mm"} <= set(texts)
        assert words in "".join(root.itertext())
        assert not [word for word in ("<script", "http://fonts", "href", "url(") if word in page]
    assert "4 classes used, 100 rows" in trained._repr_html_()
    assert "transitions, most likely" in trained._repr_html_()


def test_boxes_of_the_drawing_do_not_overlap_and_an_observation_is_right_below_what_reads_it():
    page = Model.from_file(ROOT / "configs" / "vae_gmm_mlda_mm.yaml")._repr_html_()
    name = "{http://www.w3.org/2000/svg}"
    boxes = {}
    for group in ET.fromstring(page).iter(f"{name}g"):
        rect, text = group.find(f"{name}rect"), group.find(f"{name}text")
        boxes[text.text] = tuple(float(rect.get(key)) for key in ("x", "y", "width", "height"))
    assert sorted(boxes) == ["gmm", "mlda", "mm", "pictures", "vae", "words"]
    assert boxes["words"][1] == boxes["gmm"][1] > boxes["mlda"][1]
    for a, (x, y, width, height) in boxes.items():
        for b, (left, top, _, _) in boxes.items():
            assert a == b or abs(x - left) >= width or abs(y - top) >= height


def test_texts_of_the_drawing_are_escaped(trained):
    page = draw_model("<b>&\"'</b>", trained._config.graph, None)
    assert "<b>" not in page
    ET.fromstring(page)


# --- what is refused --------------------------------------------------------------------------------------------------

ROWS = np.zeros((4, 2))
REFUSED_ROWS = {
    "a column without any value": ([[1.0, np.nan], [2.0, np.nan]], "data: column 2 has no value in any row"),
    "an infinity": ([[1.0, np.inf], [2.0, 3.0]], "X, row 1: holds NaN or an infinity: column 2 is inf"),
    "no value at all": (np.full((3, 2), np.nan), "X: holds NaN in every row"),
    "texts": (np.array([["a", "b"]]), "X: holds texts"),
    "dates": (np.array([["2026-01-01"]], dtype="M8[D]"), "X: holds dates"),
    "complex numbers": (np.array([[1j]]), "X: holds complex numbers"),
    "objects": ([[object()]], "X, row 1: holds <object"),
    "no rows": (np.zeros((0, 2)), "X: holds no rows of numbers"),
    "no columns": (np.zeros((2, 0)), "X: holds no rows of numbers"),
    "one number": (3.0, "X: holds no rows of numbers"),
    "nothing": (None, "X: is missing; give the rows to learn from"),
    "ragged rows": ([[1.0, 2.0], [3.0]], "X: row 2 has 1 numbers where 2 were expected"),
    "sequences of different rows": ([np.zeros((3, 2)), np.zeros((3, 4))], "X: sequence 2 has rows of shape (4,)"),
    "a sequence without rows": ([np.zeros((3, 2)), np.zeros((0, 2))], "X: sequence 2 has no rows; leave it out"),
    "texts of numbers": (np.array([["1.5", "2"]]), "X: holds texts, such as '1.5', not real numbers"),
    "columns by name": ({"a": [1.0], "b": [2.0]}, "X: has rows of 'a', 'b'; the observations are data (of columns"),
    "a text column": (pd.DataFrame({"a": ["x"], "b": [1]}), "X: column 'a' holds texts"),
    "an unknown observation": ({"other": ROWS}, "X: has rows of 'other'; the observations are data"),
    "groups of a frame": (pd.DataFrame({"a": [1]}).groupby("a"), "give [part for _, part in X], a list of sequences"),
    "a generator": ((row for row in ROWS), "X: is of type generator"),
    "no such file": ("absent.csv", "absent.csv: there is no such file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_ROWS)
def test_rows_that_cannot_be_used_are_refused_in_one_sentence(name):
    rows, sentence = REFUSED_ROWS[name]
    with pytest.raises((DataError, ModuleError)) as caught:
        mixture().fit(rows, progress=False)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


REFUSED_BESIDE = {
    "lengths of other rows": ({"lengths": [3, 3]}, "lengths: the lengths do not add up to the 4 rows"),
    "fractions of rows": ({"lengths": [2.5, 1.5]}, "lengths, row 1: 2.5 is no integer; lengths are whole numbers"),
    "no lengths": ({"lengths": []}, "lengths: holds no lengths; give one number per sequence"),
    "a negative length": ({"lengths": [5, -1]}, "lengths: has a length that is no positive integer"),
    "lengths of another source": ({"lengths": {"b": [4]}}, "lengths: are given of 'b'"),
    "few categories": ({"categories": [0, 1]}, "categories: holds 2 categories for 4 observations"),
    "no category": ({"categories": [0, 1, None, 1]}, "categories, row 3: has no category"),
    "categories of no module": ({"categories": {"mm": [0] * 4}}, "categories: are given of 'mm', which is no module"),
    "an odd progress": ({"progress": "yes"}, "progress is 'yes', expected True, False or a function"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_BESIDE)
def test_what_is_given_beside_rows_is_refused_in_one_sentence(name, tmp_path):
    given, sentence = REFUSED_BESIDE[name]
    with pytest.raises((DataError, ModuleError)) as caught:
        mixture().fit(ROWS + np.arange(4)[:, None], path=tmp_path / "run", **{"progress": False, **given})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


REFUSED_MODELS = {
    "no module": (lambda: Model(), "no module is given"),
    "an unknown type": (lambda: Model(a={"type": "gnm"}), "modules.a.type: unknown module type 'gnm'"),
    "an unknown parameter": (lambda: Model(gmm={"type": "gmm", "clases": 3}), "modules.gmm.clases: "),
    "a wrong value": (lambda: Model(gmm={"type": "gmm", "classes": "ten"}), "modules.gmm.classes: "),
    "a truth value as a number": (lambda: Model(gmm={"type": "gmm", "alpha": True}), "modules.gmm.alpha: "),
    "no module at all": (lambda: Model(gmm=3), "module 'gmm' is 3; give a handle"),
    "the class of a handle": (lambda: Model([GMM]), "is no module; give handles such as runner.GMM(4)"),
    "a name given twice": (lambda: Model({"gmm": GMM(2)}, gmm=GMM(3)), "module 'gmm' is given twice"),
    "an unknown name": (lambda: Model("data -> gmn", gmm=GMM(2)), "modules: 'data -> gmn' is no module"),
    "a connection to nothing": (lambda: Model({"gmm": GMM(2)}, ["data -> gmn"]), "'gmn'"),
    "half a connection": (lambda: Model({"gmm": GMM(2)}, ["gmm"]), "names one module; give 'lower -> upper'"),
    "an unknown handle": (lambda: Model({"gmm": GMM(2)}, [("data", GMM(3))]), "is none of the modules gmm"),
    "an observation": (lambda: Model([runner.Observation(ROWS), GMM(2)]), "is an observation: leave it out"),
    "a cycle": (lambda: Model(GMM_MM, ["data -> gmm -> mm -> gmm"]), "cycle"),
    "a step of nothing": (lambda: Model(gmm=GMM(2), schedule={"rounds": 1, "steps": ["x"]}), "schedule.steps.0"),
    "rounds that are none": (lambda: Model(gmm=GMM(2), schedule=3), "schedule is 3; give a map"),
    "no rounds": (lambda: Model(gmm=GMM(2), schedule={"steps": ["gmm"]}), "schedule.rounds"),
    "rows as data": (lambda: Model(gmm=GMM(2), data=ROWS), "give rows to fit(rows)"),
    "a negative seed": (lambda: Model(gmm=GMM(2), seed=-1), "seed: "),
    "a name with a slash": (lambda: Model(gmm=GMM(2), name="a/b"), "name: "),
    "no file": (lambda: Model.from_file("absent.yaml"), "absent.yaml: there is no such file"),
    "an unknown override": (lambda: Model.from_file(ROOT / "configs/hmm.yaml", modules={"gnm": {"a": 2}}), "'gnm'"),
    "no run": (lambda: Model.load("absent"), "absent: no such run"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_MODELS)
def test_models_that_cannot_be_made_are_refused_in_one_sentence(name):
    make, sentence = REFUSED_MODELS[name]
    with pytest.raises((ConfigError, GraphError, ModuleError, RunDirectoryError)) as caught:
        make()
    assert sentence in str(caught.value)
    assert "--set" not in str(caught.value)
    assert "\n" not in str(caught.value)


REFUSED_USES = {
    "before it has learnt": (lambda m, _: m.copy().predict(ROWS), "nothing was learnt yet: call fit(rows) before"),
    "results before it has learnt": (lambda m, _: m.copy().run, "nothing was learnt yet"),
    "other columns": (lambda m, _: m.predict(np.zeros((3, 5))), "5"),
    "a module without classes": (lambda m, _: m.predict(ROWS, module="x"), "module 'x' has no classes; those that"),
    "latents of none": (lambda m, _: m.transform(ROWS, module="gmm"), "module 'gmm' has no latent vectors"),
    "no steps": (lambda m, _: m.predict_next(ROWS, steps=0), "steps is 0"),
    "half a row": (lambda m, _: m.generate(1.5), "n is 1.5, the number of rows to draw"),
    "lengths without order": (lambda m, _: m.predict(ROWS, [4], ordered=False), "lengths go with rows in order"),
    "arrays of none": (lambda m, _: m.run.latents["vae"], "there are no latent vectors of 'vae'; no module has any"),
    "one of several": (lambda m, _: m.run.classes.only, "classes are those of gmm, mm, not of one"),
    "a place that is taken": (lambda m, there: m.save(there), "exists already; give another path"),
    "a run that is there": (lambda m, there: m.copy().fit(ROWS, path=there), "exists already; give another path"),
    "a run on one process": (
        lambda m, _: Model({"gmm": {"type": "gmm", "resources": {"num_gpus": 1}}}).fit(ROWS) or m,
        "modules.gmm.resources.num_gpus: ray=False computes on the CPU",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_USES)
def test_uses_that_make_no_sense_are_refused_in_one_sentence(trained, tmp_path, name):
    use, sentence = REFUSED_USES[name]
    with pytest.raises((ValueError, KeyError, RuntimeError)) as caught:
        use(trained, tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_score_needs_a_module_that_reports_evidence():
    topics = Model(mlda={"type": "mlda", "classes": 2, "iterations": 1}, schedule={"rounds": 1})
    topics.fit(np.arange(12).reshape(4, 3), progress=False)
    with pytest.raises(
        GraphError, match="no module of mlda reports the evidence of new rows; a markov module, or a mix"
    ):
        topics.score(np.arange(12).reshape(4, 3))


def test_the_score_of_a_mixture_is_the_density_of_a_row():
    """With many rows in each class it is that of Gaussians with the samples' parameters, weighted by their shares."""
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(3000, 2)), 8.0 + 2.0 * rng.normal(size=(1000, 2))]
    rows = 1e-6 * np.concatenate(parts)
    both = [multivariate_normal((1e-6 * part).mean(axis=0), np.cov(1e-6 * part.T)) for part in parts]
    exact = np.log(0.75 * both[0].pdf(rows) + 0.25 * both[1].pdf(rows))
    two = mixture(prior_scale="data").fit(rows, progress=False)
    assert two.score(rows) == pytest.approx(exact.mean(), abs=5e-3)
    gaps = np.concatenate([rows[:10], np.full((5, 2), np.nan)])
    assert 15 * two.score(gaps) == pytest.approx(exact[:10].sum(), abs=0.1)


def test_frames_need_pandas_and_say_so(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(GraphError, match=r"pip install 'serket-actors\[pandas\]', or use the arrays"):
        trained.run.metrics.frame()


# --- reports and plots, and included models -------------------------------------------------------------------------


def test_a_run_in_python_writes_the_report_and_the_pictures_that_a_command_leaves(trained, tmp_path):
    page = trained.run.report(tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    text = page.read_text()
    assert "Classes of gmm over time" in text
    assert "rows lie in the class that is matched to their label" in text
    drawn = {path.name for path in trained.run.plots(tmp_path / "pictures")}
    assert drawn == {"progress.png", "confusion.png", "transitions.png", "states.png"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == drawn
    assert trained.run.report() == trained.run.path / "report.html"
    with pytest.raises(RunDirectoryError, match="a directory; name the file to write"):
        trained.run.report(tmp_path)


def test_an_included_model_is_found_by_its_name_and_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = Model.from_file("hmm", seed=3)
    assert by_name.to_yaml() == Model.from_file(ROOT / "configs" / "hmm.yaml", seed=3).to_yaml()
    with pytest.raises(ConfigError, match="no included model of this name; did you mean 'mnist'"):
        Model.from_file("mnits")
    (tmp_path / "hmm").write_text((ROOT / "configs" / "hmm.yaml").read_text().replace("name: hmm", "name: mine"))
    assert "'mine'" in repr(Model.from_file("hmm"))


@pytest.mark.parametrize("name", included_models())
def test_each_included_model_learns_from_rows_of_others(name, tmp_path):
    config = load_config(included_models()[name])
    rows = {each: np.ones((200, 3)) for each in config.sources}
    stored = store_rows(config, Given(rows), tmp_path)
    for each, source in stored.sources.items():
        assert (source.source, source.subjects, source.count) == ("files", None, None)
        np.testing.assert_array_equal(np.load(source.observations), rows[each])


def test_how_a_file_of_another_kind_is_read_is_refused_for_the_file_that_is_given(tmp_path):
    np.savetxt(tmp_path / "rows.csv", WHOLE, delimiter=",")
    reads_matlab = Model(
        gmm={"type": "gmm", "classes": 2}, data={"observations": "rows.mat", "variable": "y"}, schedule=ONE_UPDATE
    )
    with pytest.raises(DataError, match=r"^X, data\.variable: goes with a \.mat file, whose variable it names"):
        reads_matlab.fit(tmp_path / "rows.csv", progress=False)


# --- times in data frames -------------------------------------------------------------------------------------------


def timed_frame(rows=60):
    """Two recordings of one channel at two levels in turn, with the seconds of each."""
    frame = pd.DataFrame({"trial": np.repeat(["a", "b"], rows // 2), "time": 0.1 * (np.arange(rows) % (rows // 2))})
    frame["force"] = 5.0 * (np.arange(rows) % 2) + np.random.default_rng(0).normal(size=rows)
    return frame


def timed(**data):
    return mixture_of(data={"sequence_column": "trial", **data})


def mixture_of(**changes):
    gmm = {"type": "gmm", "classes": 2, "iterations": 2, "start": "kmeans"}
    return Model(gmm=gmm, schedule=ONE_UPDATE, **changes)


def test_a_column_of_times_is_no_data_in_a_frame_as_in_a_table_and_that_is_said(tmp_path):
    frame, said = timed_frame(), []
    tell = lambda event: said.append(str(event)) if event["event"] == "log" else None  # noqa: E731
    by_frame = timed().fit(frame, progress=tell)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    by_table = timed().fit(tmp_path / "rows.csv", progress=False)
    np.testing.assert_array_equal(by_frame.run.means["gmm"], by_table.run.means["gmm"])
    assert by_frame.run.means["gmm"].shape == (2, 1)
    # one new row, whose time neither rises nor falls, and rows without times
    assert by_frame.predict(frame[:1]).shape == (1,)
    np.testing.assert_array_equal(by_frame.predict(frame), by_frame.predict(frame.drop(columns="time")))


@pytest.mark.parametrize("kind", ["dates", "texts"])
def test_times_that_are_no_numbers_are_left_out_of_frames(kind):
    frame = timed_frame()
    dates = pd.to_datetime(frame["time"], unit="s")
    frame["time"] = dates if kind == "dates" else dates.astype(str)
    assert timed().fit(frame, progress=False).run.means["gmm"].shape == (2, 1)


def test_times_are_data_if_they_fall_or_are_named():
    frame = timed_frame()
    assert timed(columns=["time", "force"]).fit(frame, progress=False).run.means["gmm"].shape == (2, 2)
    frame["time"] = frame["time"][::-1].to_numpy()
    fallen = timed().fit(frame, progress=False)
    assert fallen.run.means["gmm"].shape == (2, 2)
    assert fallen.predict(timed_frame()).shape == (60,)  # rising ones of new rows are data, too


def test_a_saved_model_is_found_after_the_program_has_gone_to_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = timed().fit(timed_frame(), progress=False, path="kept")
    kept.save("saved")
    loaded = Model.load("saved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(kept.predict(timed_frame()), loaded.predict(timed_frame()))
    assert loaded.run.metrics.frame().shape[0] == 1


# --- columns of new frames ------------------------------------------------------------------------------------------


def test_new_frames_may_have_their_columns_in_another_order_and_others_beside_them():
    """Such as the predicted classes, which a person writes into the frame that was learnt from."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": 9.0 * (np.arange(80) % 2) + rng.normal(size=80), "b": rng.normal(size=80)})
    learnt = mixture_of().fit(frame, progress=False)
    classes = learnt.predict(frame)
    assert score(classes, np.arange(80) % 2).accuracy == 1.0
    np.testing.assert_array_equal(learnt.predict(frame[["b", "a"]]), classes)
    np.testing.assert_array_equal(learnt.predict(frame.assign(classes=classes)[["classes", "b", "a"]]), classes)
    np.testing.assert_array_equal(learnt.predict(frame.rename(columns={"a": "x", "b": "y"})), classes)  # by position
    np.testing.assert_array_equal(learnt.predict(frame.to_numpy()), classes)
    with pytest.raises(DataError, match="there is no column 'b'; the columns are a, c"):
        learnt.predict(frame.rename(columns={"b": "c"}))
