"""Rows that are made of windows of rows: their values beside numpy and scipy, and where they are used."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.testing import assert_allclose
from scipy.signal import periodogram
from typer.testing import CliRunner

import runner
from runner.cli.app import app
from runner.config.error_messages import ConfigError
from runner.config.run_config import load_config
from runner.data.datasets import Dataset
from runner.data.errors import DataError
from runner.data.sources import load_new_rows
from runner.data.windows import WindowOptions, band_edges, window_rows

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(50, 2)).cumsum(axis=0)


def dataset(**given):
    return Dataset(**{"observations": ROWS, "categories": None, "lengths": None, "name": "made", **given})


def test_features_are_those_of_numpy_and_of_a_periodogram():
    made = window_rows(dataset(columns=("x", "y")), WindowOptions(12, 5, bands=3), "data")
    starts = range(0, 39, 5)
    windows = [ROWS[start : start + 12] for start in starts]
    assert_allclose(made.observations[:, :2], [each.mean(axis=0) for each in windows])
    assert_allclose(made.observations[:, 2:4], np.sqrt([each.std(axis=0) for each in windows]))
    edges = band_edges(12, 3)
    for number, each in enumerate(windows):
        power = periodogram(each, axis=0, detrend="constant", scaling="spectrum")[1]  # the variance of each frequency
        for column in range(2):
            of_bands = np.add.reduceat(power[1:, column], edges[:-1] - 1)
            assert_allclose(made.observations[number, 4 + 3 * column : 7 + 3 * column] ** 4, of_bands, atol=1e-12)
    assert made.columns[:4] == ("mean of x", "mean of y", "deviation of x", "deviation of y")
    assert len(made.columns) == made.observations.shape[1] == 10
    assert "a row for each window of 12 of the 50 rows, every 5" in made.notes


@pytest.mark.parametrize("rows", range(2, 40))
def test_bands_have_a_frequency_each_and_are_all_frequencies(rows):
    for bands in range(1, rows // 2 + 1):
        edges = band_edges(rows, bands)
        assert edges[0] == 1
        assert edges[-1] == rows // 2 + 1
        assert (np.diff(edges) >= 1).all()
        options = WindowOptions(rows, 1, ("deviation", "spectrum"), bands)
        made = window_rows(dataset(observations=ROWS[:, :1]), options, "data").observations
        assert_allclose((made[:, 1:] ** 4).sum(axis=1), made[:, 0] ** 4, atol=1e-10)  # Parseval


def test_no_window_reaches_over_the_end_of_a_sequence():
    options = WindowOptions(10, 4, ("mean",))
    made = window_rows(dataset(lengths=np.array([23, 27])), options, "data")
    assert made.lengths.tolist() == [4, 5]
    parts = [window_rows(dataset(observations=each), options, "data").observations for each in (ROWS[:23], ROWS[23:])]
    assert_allclose(made.observations, np.concatenate(parts))


def test_a_window_has_the_most_frequent_category_and_is_missing_if_a_value_is():
    labels, mask = np.repeat([3, 1, 1, 2, 2], 10), np.zeros((50, 2), bool)
    mask[34, 1] = True
    made = window_rows(dataset(categories=labels, mask=mask), WindowOptions(10, features=("mean",)), "data")
    assert made.categories.tolist() == [3, 1, 1, 2, 2]
    assert made.mask.tolist() == [False, False, False, True, False]
    shifted = window_rows(dataset(categories=labels), WindowOptions(20, 14, ("mean",)), "data")
    assert shifted.categories.tolist() == [1, 1, 2]  # of the first, ten rows each
    assert shifted.mask is None


def test_short_sequences_are_refused_in_a_sentence():
    with pytest.raises(DataError, match=r"data.windows: sequence 1 has 9 rows, fewer than a window of 10; use smaller"):
        window_rows(dataset(lengths=np.array([41, 9])), WindowOptions(10), "data")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Rows that vibrate, fast or slowly, in four sequences: their mean says nothing."""
    folder = tmp_path_factory.mktemp("vibrating")
    kinds = np.repeat([0, 1, 1, 0], 200)
    phase = np.cumsum(np.where(kinds == 0, 0.4, 2.0))
    np.save(folder / "rows.npy", np.stack([np.sin(phase), np.cos(phase)], axis=1) + 0.1 * RNG.normal(size=(800, 2)))
    np.save(folder / "kinds.npy", kinds)
    windows = {"rows": 20, "step": 10, "bands": 3}
    data = {"source": "files", "observations": "rows.npy", "categories": "kinds.npy", "lengths": [200] * 4}
    modules = {"gmm": {"type": "gmm", "classes": 2, "prior_scale": "data", "start": "kmeans"}}
    raw = {"name": "vibrating", "data": {**data, "windows": windows, "scale": "standard"}, "modules": modules}
    (folder / "model.yaml").write_text(
        yaml.safe_dump({**raw, "connections": ["data -> gmm"], "schedule": {"rounds": 1}})
    )
    return folder / "model.yaml"


def test_a_model_file_learns_from_windows_and_recognizes_windows(model_file, tmp_path):
    run = ["run", str(model_file), "--local", "--runs", str(tmp_path), "--set", "report=false"]
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    classes = np.loadtxt(tmp_path / "vibrating" / "module001_gmm" / "class_learn.txt")
    assert len(classes) == 4 * 19
    config = load_config(tmp_path / "vibrating" / "config.yaml")
    again = load_new_rows(config.sources, [str(model_file.parent / "rows.npy")], graph=config.graph)["data"]
    assert again.observations.shape == (79, 10)  # one sequence
    trained = runner.Model.load(tmp_path / "vibrating")
    rows = np.load(model_file.parent / "rows.npy")
    found = trained.predict(rows, lengths=[200] * 4)
    np.testing.assert_array_equal(found, classes)
    assert len(set(found[:19])) == len(set(found[19:57])) == 1
    assert found[0] != found[19]
    by_file = trained.predict(str(model_file.parent / "rows.npy"), lengths=[200] * 4)
    np.testing.assert_array_equal(by_file, found)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.windows.rows=1", "data.windows.rows: expected an integer of at least 2"),
        ("data.windows.bands=11", "data.windows.bands: expected at most 10, half the rows of a window, got 11"),
        ("data.windows.features=[mean, mean]", "data.windows.features: names a feature twice; leave one out"),
        ("data.windows.features=[median]", "data.windows.features.0: expected 'mean', 'deviation' or 'spectrum'"),
        ("data.on_disk=true", "data.windows: are of rows in memory, in the order given; leave out"),
    ],
)
def test_windows_that_cannot_be_are_refused_by_key(model_file, setting, message):
    with pytest.raises(ConfigError) as raised:
        load_config(Path(model_file), [setting])
    assert message in str(raised.value)
