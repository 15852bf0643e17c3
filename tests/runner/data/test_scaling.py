"""Columns are scaled by the rows that are learnt from, as scikit-learn scales them, and new rows are scaled alike."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from typer.testing import CliRunner

import runner as srk
from actors.errors import ModuleError
from actors.messaging.stored_rows import StoredRows
from runner import Model
from runner.cli.app import app
from runner.commands.export import export
from runner.commands.generate import generate_from
from runner.commands.import_run import import_run
from runner.commands.merge import merge
from runner.commands.trained_run import load_trained_run
from runner.data import scaling
from runner.data.datasets import Dataset, load
from runner.data.errors import DataError
from runner.data.scaling import scale_new_rows, scale_rows
from runner.runs.directory import RunDirectoryError

FACTORS = np.array([1e-12, 1.0, 4e5])
OFFSETS = np.array([3e-12, -40.0, 1e7])


def _rows(count: int = 120, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=8.0, size=(3, 3))
    return centres[np.arange(count) % 3] + rng.normal(size=(count, 3))


def _data(rows: np.ndarray, mask: np.ndarray | None = None, columns: tuple[str, ...] = ()) -> Dataset:
    return Dataset(rows, None, None, "test", mask, (), columns)


def _model(**data: object) -> Model:
    return Model(
        gmm={"type": "gmm", "classes": 3, "prior_scale": "data"},
        mm={"type": "markov"},
        connections=["data -> gmm -> mm"],
        schedule={"rounds": 1, "steps": [{"steps": ["gmm", "mm"], "repeat": 3}]},
        data=data,
    )


@pytest.mark.parametrize(("kind", "scaler"), [("standard", StandardScaler()), ("unit", MinMaxScaler())])
def test_columns_are_scaled_as_scikit_learn_does(kind, scaler, monkeypatch):
    monkeypatch.setattr(scaling, "_BLOCK_BYTES", 8 * 3 * 50)  # several blocks
    rows = _rows() * FACTORS + OFFSETS
    made = scale_rows(_data(rows), kind, "data")
    np.testing.assert_allclose(made.observations, scaler.fit_transform(rows), rtol=0, atol=1e-12)
    new = _rows(7, seed=1) * FACTORS + OFFSETS
    again = scale_new_rows(_data(new), made.scaling, "data").observations
    np.testing.assert_allclose(again, scaler.transform(new), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(made.scaling.undo(again), new, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-290, 1e-12, 1e290])
@pytest.mark.parametrize("kind", ["standard", "unit"])
def test_any_unit_gives_the_same_scaled_rows(kind, factor):
    rows = _rows()
    expected = scale_rows(_data(rows), kind, "data").observations
    np.testing.assert_allclose(scale_rows(_data(rows * factor), kind, "data").observations, expected, atol=1e-12)


def test_missing_rows_are_left_out_and_stay_zero():
    rows, mask = _rows(), np.arange(120) % 4 == 1
    made = scale_rows(_data(np.where(mask[:, None], 0.0, rows), mask), "standard", "data")
    np.testing.assert_allclose(made.observations[~mask], StandardScaler().fit_transform(rows[~mask]), atol=1e-12)
    assert not made.observations[mask].any()


def test_columns_are_chosen_by_name_number_and_all_others():
    rows, names = _rows() + 5.0, ("force", "angle", "time")
    made = scale_rows(_data(rows, columns=names), {"angle": "none", 3: "unit", "*": "standard"}, "data")
    expected = [StandardScaler().fit_transform(rows)[:, 0], rows[:, 1], MinMaxScaler().fit_transform(rows)[:, 2]]
    np.testing.assert_allclose(made.observations, np.transpose(expected), atol=1e-12)
    assert made.notes == ("1 of 3 columns are scaled (standard); 1 of 3 columns are scaled (unit)",)


@pytest.mark.parametrize("kind", ["standard", "unit"])
def test_a_column_of_one_value_becomes_zero_and_is_named(kind):
    rows = np.column_stack([_rows()[:, 0], np.full(120, 0.1)])
    made = scale_rows(_data(rows, columns=("force", "lamp")), kind, "data")
    assert not made.observations[:, 1].any()
    assert made.notes[-1] == "column 2 ('lamp') has one value in all rows and becomes 0"
    faint = np.column_stack([rows[:, 0], np.where(np.arange(120) == 5, 0.1 + 1e-15, 0.1)])
    assert len(np.unique(scale_rows(_data(faint), kind, "data").observations[:, 1])) == 2  # no threshold


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ({"speed": "unit"}, "data: scale: there is no column 'speed'; the columns are a, b, c, and numbers are 1 to 3"),
        ({4: "unit"}, "data: scale: there is no column 4"),
        ({"a": "unit", 1: "standard"}, "data: scale: column 1 is given twice"),
        ("log", "data: scale is 'log'; use standard, unit, none, or a map from columns to these"),
    ],
)
def test_a_scale_that_fits_no_column_is_refused(scale, message):
    with pytest.raises(DataError) as caught:
        scale_rows(_data(_rows(), columns=("a", "b", "c")), scale, "data")
    assert message in str(caught.value)


def test_new_rows_of_other_columns_or_beyond_their_type_are_refused():
    learnt = scale_rows(_data((_rows() * 1e-30).astype(np.float32)), "standard", "data").scaling
    with pytest.raises(DataError, match="has 2 columns where 3 were expected"):
        scale_new_rows(_data(_rows()[:, :2]), learnt, "data")
    with pytest.raises(DataError, match="row 1: column 1 is too far from the rows that the scale was learnt from"):
        scale_new_rows(_data(np.full((1, 3), 1e30, np.float32)), learnt, "data")


# --- rows on disk ---------------------------------------------------------------------------------------------------


def test_rows_on_disk_are_scaled_as_they_are_read_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "_BLOCK_BYTES", 8 * 3 * 50)
    rows = (_rows() * FACTORS + OFFSETS).astype(np.float32)
    rows[17] = np.nan
    np.save(tmp_path / "x.npy", rows)
    in_memory, on_disk = (load("files", observations=tmp_path / "x.npy", on_disk=stay) for stay in (False, True))
    expected, made = (scale_rows(each, "standard", "data").observations for each in (in_memory, on_disk))
    assert isinstance(made, StoredRows)
    assert np.array_equal(made.read(), expected)
    assert np.array_equal(made[10:20].read(), expected[10:20])
    assert np.array_equal(StoredRows.from_text(made.to_text()).take(np.array([18, 17])), expected[[18, 17]])


def test_a_damaged_scale_of_rows_on_disk_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", _rows())
    made = scale_rows(load("files", observations=tmp_path / "x.npy", on_disk=True), "unit", "data").observations
    text = made.to_text()
    width = text[text.index('"width"') :]
    for damaged in (text.replace(width, '"width": [0, 1, 1]}'), text.replace(width, '"width": [1, 1]}')):
        with pytest.raises(ModuleError, match="is damaged"):
            StoredRows.from_text(damaged)
    assert '"center"' not in load("files", observations=tmp_path / "x.npy", on_disk=True).observations.to_text()


# --- models ---------------------------------------------------------------------------------------------------------


def test_a_model_of_rows_in_other_units_has_the_same_classes():
    rows, new = _rows(), _rows(30, seed=1)
    plain = _model(scale="standard").fit(rows, progress=False)
    other = _model(scale="standard").fit(rows * FACTORS + OFFSETS, progress=False)
    assert np.array_equal(plain.run.classes["gmm"], other.run.classes["gmm"])
    assert np.array_equal(plain.predict(new), other.predict(new * FACTORS + OFFSETS))


def test_a_model_scales_as_by_hand_keeps_the_scale_and_shows_what_it_learnt_in_the_units_of_the_rows(tmp_path):
    rows, new = _rows() * FACTORS + OFFSETS, _rows(30, seed=1) * FACTORS + OFFSETS
    scaler = StandardScaler().fit(rows)
    by_hand = _model().fit(scaler.transform(rows), progress=False)
    _model(scale="standard").fit(rows, progress=False).save(tmp_path / "kept")
    kept = Model.load(tmp_path / "kept")
    np.testing.assert_allclose(kept.predict_proba(new), by_hand.predict_proba(scaler.transform(new)), atol=1e-7)
    expected = scaler.inverse_transform(by_hand.run.means["gmm"])
    np.testing.assert_allclose((kept.run.means["gmm"] - OFFSETS) / FACTORS, (expected - OFFSETS) / FACTORS, atol=1e-6)
    drawn = generate_from(load_trained_run(by_hand._opened(), seed=4), 5)["gmm"]["x"]
    generated = (kept.generate(5, seed=4).rows - OFFSETS) / FACTORS
    np.testing.assert_allclose(generated, (scaler.inverse_transform(drawn) - OFFSETS) / FACTORS, atol=1e-5)


def test_columns_of_a_frame_are_scaled_by_name_and_those_on_disk_by_number(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    rows = _rows() * [1.0, 1e3, 1.0]
    frame = pandas.DataFrame(rows, columns=["force", "angle", "speed"])
    by_name = _model(scale={"angle": "standard"}).fit(frame, progress=False)
    np.save(tmp_path / "x.npy", rows)
    on_disk = _model(scale={"2": "standard"}, on_disk=True).fit(tmp_path / "x.npy", progress=False)
    assert by_name._opened().config.sources["data"].scale == {2: "standard"}
    assert np.array_equal(by_name.run.posteriors["gmm"], on_disk.run.posteriors["gmm"])
    assert np.array_equal(by_name.predict(frame), on_disk.predict(tmp_path / "x.npy"))


def test_a_script_scales_its_rows_and_those_that_it_recognizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    rows, new = _rows() * FACTORS + OFFSETS, _rows(30, seed=1) * FACTORS + OFFSETS
    classes = []
    for number, (given, later, scale) in enumerate(
        [
            (rows, new, "standard"),
            (StandardScaler().fit_transform(rows), StandardScaler().fit(rows).transform(new), None),
        ]
    ):
        source = srk.Observation(given, scale=scale, run=f"run{number}", local=True)
        gmm = srk.GMM(3, prior_scale="data")
        gmm.connect(source)
        gmm.update()
        classes.append((gmm.outputs["class"], gmm.recognize(later)["class"]))
    assert np.array_equal(classes[0][0], classes[1][0])
    assert np.array_equal(classes[0][1], classes[1][1])
    loaded = Model.load("run0", runs=tmp_path / "runs")
    assert np.array_equal(loaded.predict(new), classes[0][1])


def test_runs_with_scales_of_their_own_are_not_merged(tmp_path: Path):
    for name, seed in (("a", 0), ("b", 1)):
        _model(scale="standard").fit(_rows(seed=seed), progress=False).save(tmp_path / name)
    with pytest.raises(RunDirectoryError, match="is scaled by its own rows"):
        merge([tmp_path / "a", tmp_path / "b"], "c", runs=tmp_path, log=print)


def test_columns_of_frames_name_data_sequences_and_labels_also_of_new_rows(tmp_path: Path):
    pandas = pytest.importorskip("pandas")
    rows, trial = _rows(), np.repeat(["a", "b"], [70, 50])
    frame = pandas.DataFrame(rows, columns=["force", "angle", "speed"])
    frame.insert(0, "note", "text")
    labelled = frame.assign(trial=trial, label=np.arange(120) % 3)
    options = {"exclude": ["note"], "sequence_column": "trial", "category_column": "label", "scale": {"angle": "unit"}}
    model = _model(**options).fit(labelled, progress=False)
    by_hand = _model(scale={2: "unit"}).fit(rows, [70, 50], np.arange(120) % 3, progress=False)
    assert np.array_equal(model.run.posteriors["mm"], by_hand.run.posteriors["mm"])
    assert model.run.summary["accuracy"] == by_hand.run.summary["accuracy"]
    model.save(tmp_path / "kept")
    kept = Model.load(tmp_path / "kept")
    expected = by_hand.predict(rows, [70, 50])
    assert np.array_equal(kept.predict(labelled), expected)
    assert np.array_equal(kept.predict(frame, [70, 50]), expected)
    with pytest.raises(DataError, match="there is no column 'speed'"):
        _model(columns=["force", "speed"]).fit(frame[["force", "angle"]], progress=False)
    with pytest.raises(DataError, match="has no columns with names"):
        _model(columns=[1, 2]).fit(rows, progress=False)


# --- on Ray, by workers, resumed, handed on --------------------------------------------------------------------------


def _probabilities(model: Model) -> np.ndarray:
    return model.predict_proba(_rows(30, seed=1) * FACTORS + OFFSETS)


@pytest.mark.slow
@pytest.mark.ray
def test_scaled_rows_have_the_same_bits_on_ray_as_in_this_process(ray_cluster):
    rows = _rows() * FACTORS + OFFSETS
    here = _model(scale="standard").fit(rows, progress=False)
    there = _model(scale="standard").fit(rows, progress=False, address=ray_cluster)
    assert np.array_equal(here.run.posteriors["gmm"], there.run.posteriors["gmm"])
    assert np.array_equal(here.run.means["gmm"], there.run.means["gmm"])
    assert np.array_equal(_probabilities(here), _probabilities(there))


def _shared(workers: int | None, scale: str = "standard") -> Model:
    sharing = {} if workers is None else {"workers": workers, "chunk": 32}
    gmm = {"type": "gmm", "classes": 3, "engine": "vb", "prior_scale": "data", "start": "kmeans", **sharing}
    schedule = {"rounds": 2, "steps": ["gmm"]}
    return Model(gmm=gmm, connections=["data -> gmm"], schedule=schedule, data={"scale": scale})


@pytest.mark.slow
def test_workers_share_scaled_rows_with_the_same_bits_for_any_number():
    rows = _rows() * FACTORS + OFFSETS
    one, three = (_shared(workers).fit(rows, progress=False) for workers in (1, 3))
    assert np.array_equal(one.run.posteriors["gmm"], three.run.posteriors["gmm"])
    assert np.array_equal(one.run.means["gmm"], three.run.means["gmm"])
    assert np.array_equal(_probabilities(one), _probabilities(three))
    plain = _shared(1, scale="none").fit(StandardScaler().fit_transform(rows), progress=False)
    assert np.array_equal(one.run.classes["gmm"], plain.run.classes["gmm"])


@pytest.mark.slow
def test_a_run_of_scaled_rows_goes_on_with_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After one round and a second one it has what two rounds at once have."""
    monkeypatch.chdir(tmp_path)
    np.savetxt("rows.csv", _rows() * FACTORS + OFFSETS, delimiter=",", fmt="%.17g")
    text = _shared(None).to_yaml().replace("given-by-python.npy", "rows.csv")
    (tmp_path / "model.yaml").write_text(text)
    for words in (
        ("run", "model.yaml", "--local", "--name", "whole"),
        ("run", "model.yaml", "--local", "--name", "parts", "--set", "schedule.rounds=1"),
        ("resume", "parts", "--local", "--set", "schedule.rounds=2"),
    ):
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.output
    whole, parts = Model.load("whole"), Model.load("parts")
    assert len(parts.run.metrics["round"]) == 2
    assert np.array_equal(whole.run.posteriors["gmm"], parts.run.posteriors["gmm"])
    assert np.array_equal(_probabilities(whole), _probabilities(parts))


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_model_that_is_handed_on_scales_new_rows_as_it_has_learnt(tmp_path: Path, with_rows: bool):
    model = _model(scale={1: "standard", 3: "unit"}).fit(_rows() * FACTORS + OFFSETS, progress=False)
    export(model._opened(), tmp_path / "file", with_rows=with_rows)
    import_run(tmp_path / "file", name="theirs", runs=tmp_path / "runs")
    theirs = Model.load(tmp_path / "runs" / "theirs")
    assert np.array_equal(_probabilities(theirs), _probabilities(model))
    if with_rows:
        assert np.array_equal(theirs.run.means["gmm"], model.run.means["gmm"])
    assert np.array_equal(theirs.generate(5, seed=2).rows, model.generate(5, seed=2).rows)
