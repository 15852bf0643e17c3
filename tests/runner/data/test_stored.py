"""Observations that stay on disk: found, checked before anything starts, and the same run as from memory."""

import json

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.messaging.stored_rows import StoredRows
from runner.config.run_config import load_config
from runner.data import stored
from runner.data.datasets import load
from runner.data.errors import DataError
from runner.data.scaling import scale_rows
from runner.data.sources import check_modules, load_sources, values_of

X = np.random.default_rng(0).normal(size=(60, 4)).astype("f4")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored, "_BLOCK_BYTES", 7 * 16)


def put(path, array):
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)
    return path


def read(path, **options):
    return load("files", observations=path, **options)


def test_many_rows_stay_on_disk_and_few_do_not(tmp_path, monkeypatch):
    path = put(tmp_path / "x.npy", X)
    assert isinstance(read(path).observations, np.ndarray)
    monkeypatch.setattr(stored, "MEMORY_BYTES", 100)
    data = read(path)
    assert isinstance(data.observations, StoredRows)
    np.testing.assert_array_equal(data.observations.read(), X)
    assert data.describe() == "60 rows × 4 columns in 1 sequence, from x.npy; rows stay on disk"
    assert isinstance(read(path, on_disk=False).observations, np.ndarray)
    assert isinstance(read(path, order="shuffled").observations, np.ndarray)
    monkeypatch.setattr(stored, "MEMORY_BYTES", 10**6)
    assert isinstance(read(path, on_disk=True).observations, StoredRows)


def test_a_directory_and_a_list_are_one_array_in_the_order_of_names_and_of_the_list(tmp_path):
    for name, part in (("b.npy", X[20:21]), ("a.npy", X[:20]), ("c.npy", X[21:])):
        put(tmp_path / "parts" / name, part)
    (tmp_path / "parts" / "notes.txt").write_text("nothing")
    data = read(tmp_path / "parts")
    assert isinstance(data.observations, StoredRows)
    np.testing.assert_array_equal(data.observations.read(), X)
    data = read([tmp_path / "parts/c.npy", tmp_path / "parts/a.npy"])
    np.testing.assert_array_equal(np.asarray(data.observations), np.concatenate([X[21:], X[:20]]))
    data = read(tmp_path / "parts", on_disk=False)
    assert isinstance(data.observations, np.ndarray)
    np.testing.assert_array_equal(data.observations, X)


def test_a_url_is_read_like_a_file(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, part in (("a.npy", X[:20]), ("b.npy", X[20:])):
        memory.pipe_file(f"/urls/{name}", put(tmp_path / name, part).read_bytes())
    np.testing.assert_array_equal(np.asarray(read("memory://urls/a.npy").observations), X[:20])
    np.testing.assert_array_equal(np.asarray(read("memory://urls").observations), X)
    with pytest.raises(DataError, match=r"memory://urls/none\.npy: cannot be read"):
        read("memory://urls/none.npy")
    with pytest.raises(DataError, match=r"gopher://x\.npy: cannot be opened"):
        read("gopher://x.npy")


def test_offset_count_lengths_and_sequences_are_those_of_rows_in_memory(tmp_path):
    path = put(tmp_path / "x.npy", X.reshape(6, 10, 4))
    for options in (
        {"sequences": True},
        {"sequences": True, "count": 25, "offset": 7},
        {"count": 3},
    ):
        memory, disk = read(path, **options), read(path, on_disk=True, **options)
        np.testing.assert_array_equal(np.asarray(disk.observations), memory.observations)
        assert (disk.lengths is None) == (memory.lengths is None)
        if memory.lengths is not None:
            np.testing.assert_array_equal(disk.lengths, memory.lengths)


def test_missing_rows_are_found_block_by_block(tmp_path):
    array = X.copy()
    array[[0, 13, 59]] = np.nan
    array[20:30] = np.nan  # more than a block
    path = put(tmp_path / "x.npy", array)
    memory, disk = read(path), read(path, on_disk=True)
    np.testing.assert_array_equal(disk.mask, memory.mask)
    np.testing.assert_array_equal(np.asarray(disk.observations), memory.observations)
    assert disk.notes == (*memory.notes, "rows stay on disk")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x: x.__setitem__((41, 2), np.inf), r"row 42: holds NaN or an infinity: column 3 is inf"),
        (lambda x: x.fill(np.nan), r"holds NaN in every row"),
    ],
)
def test_what_a_run_in_memory_refuses_is_refused(tmp_path, change, expected):
    array = X.copy()
    change(array)
    array[40] = np.nan
    path = put(tmp_path / "x.npy", array)
    for on_disk in (True, False):
        with pytest.raises(DataError, match=expected):
            read(path, on_disk=on_disk)


@pytest.mark.parametrize("scale", [None, "standard"])
def test_rows_on_disk_lack_what_rows_in_memory_do(tmp_path, scale):
    array = X.copy()
    array[41, 2], array[7] = np.nan, np.nan
    path = put(tmp_path / "x.npy", array)
    stored, memory = (scale_rows(read(path, on_disk=on_disk), scale, "data") for on_disk in (True, False))
    assert np.argwhere(stored.mask).tolist() == [*([7, column] for column in range(X.shape[1])), [41, 2]]
    np.testing.assert_array_equal(stored.mask, memory.mask)
    np.testing.assert_array_equal(stored.observations.read(), memory.observations)
    again = StoredRows.from_text(stored.observations.to_text())
    np.testing.assert_array_equal(again.take(np.array([41, 7])), memory.observations[[41, 7]])
    assert "1 value is missing in 1 other row" in stored.notes
    whole = StoredRows.from_text(read(put(tmp_path / "w.npy", X), on_disk=True).observations.to_text())
    assert not whole.gaps
    assert "gaps" not in whole.to_text()


def test_files_that_do_not_fit_are_named(tmp_path):
    a = put(tmp_path / "a.npy", X)
    for other, expected in (
        (X[:, :3], r"b\.npy: has rows of shape \(3,\) and type float32, but .*a\.npy has \(4,\) and float32"),
        (X.astype("f8"), r"b\.npy: has rows of shape \(4,\) and type float64"),
        (X.astype("i8"), r"b\.npy: has rows of int64, which cannot stay on disk"),
        (np.asfortranarray(X), r"b\.npy: is in Fortran order"),
        (X[:0], r"b\.npy: holds no rows"),
        (X.astype("c8"), r"b\.npy: holds complex64"),
    ):
        with pytest.raises(DataError, match=expected):
            read([a, put(tmp_path / "b.npy", other)])


def test_damaged_files_are_named(tmp_path):
    whole = put(tmp_path / "x.npy", X).read_bytes()
    for content, expected in (
        (whole[:-5], r"x\.npy: is damaged, only 955 of the 960 bytes"),
        (whole + b"1", r"x\.npy: is damaged, more bytes than the 960"),
        (whole[:40], r"x\.npy: is damaged or not what its name says"),
        (b"", r"x\.npy: is not a \.npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"x" * 70000, r"x\.npy: is damaged, its header would have 65,535 bytes"),
    ):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(DataError, match=expected):
            read(tmp_path / "x.npy", on_disk=True)


def test_what_cannot_stay_on_disk_is_said(tmp_path):
    (tmp_path / "x.txt").write_text("1 2\n3 4\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"x\.txt: only rows of \.npy files can stay on disk"):
        read(tmp_path / "x.txt", on_disk=True)
    with pytest.raises(DataError, match=r"empty: is a directory without \.npy, Parquet files or pictures"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match="rows on disk are read in the given order"):
        read(put(tmp_path / "x.npy", X), order="shuffled", on_disk=True)
    with pytest.raises(DataError, match=r"of URLs, only files \.npy are read"):
        read("memory://x/y.csv/")


def config(tmp_path, array, **module):
    put(tmp_path / "x.npy", array)
    model = {
        "name": "t",
        "seed": 0,
        "data": {"source": "files", "observations": "x.npy", "on_disk": True},
        "modules": {"vae": {"type": "vae", "latent_dim": 2, **module}},
        "connections": ["data -> vae"],
        "schedule": {"rounds": 1},
    }
    (tmp_path / "m.yaml").write_text(json.dumps(model))
    return load_config(tmp_path / "m.yaml")


@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_modules_check_every_row_and_name_it(tmp_path, dtype):
    array = np.zeros((60, 4), dtype)
    array[0] = np.nan if dtype == "f4" else 0
    array[47, 1] = 3
    model = config(tmp_path, array, likelihood="bce")
    data = load_sources(model.sources, 0, model.graph)
    with pytest.raises(ModuleError, match=r"module 'vae': observations of data span 0 to 3, .* \(row 48\)"):
        check_modules(model.graph, data)
    model = config(tmp_path, array / 3 if dtype == "f4" else array // 3, likelihood="bce")
    check_modules(model.graph, load_sources(model.sources, 0, model.graph))


def test_the_state_of_a_source_names_its_files(tmp_path):
    from runner.data.sources import source_states

    model = config(tmp_path, X)
    data = load_sources(model.sources, 0, model.graph)
    state = source_states(model.graph, data)["data"]
    assert list(state) == ["stored"]
    np.testing.assert_array_equal(np.asarray(values_of(state)), X)


def test_a_script_learns_from_a_file_what_it_learns_from_its_array(tmp_path, monkeypatch):
    import runner as srk

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stored, "MEMORY_BYTES", 100)
    path, classes = put(tmp_path / "x.npy", X), []
    for number, rows in enumerate([X, "x.npy", path]):
        observation = srk.Observation(rows, local=True, run=f"r{number}", divide_by=2.0)
        gmm = srk.GMM(3, itr=5, engine="vb", workers=1)
        gmm.connect(observation)
        gmm.update()
        classes.append(gmm.recognize(rows, ordered=False)["Pdz"])
    assert isinstance(observation.data.observations, StoredRows)
    np.testing.assert_array_equal(classes[0], classes[1])
    np.testing.assert_array_equal(classes[0], classes[2])
    with pytest.raises(DataError, match="there is no such file"):
        srk.Observation("none.npy")


def test_rows_on_disk_follow_from_those_before_their_chunk_as_rows_in_memory_do(tmp_path, monkeypatch):
    import runner as srk

    monkeypatch.setattr(stored, "MEMORY_BYTES", 100)
    rows, found = np.cumsum(np.random.default_rng(0).normal(size=(150, 2)), axis=0), []
    for given in (rows, put(tmp_path / "x.npy", rows)):
        observation = srk.Observation(given, local=True, run=f"r{len(found)}", lengths=[70, 80])
        mixture = srk.ARGMM(2, order=3, iterations=5, workers=2, chunk=32)
        mixture.connect(observation)
        mixture.update()
        found.append(mixture.recognize(given)["Pdz"])
    assert isinstance(observation.data.observations, StoredRows)
    np.testing.assert_array_equal(*found)
