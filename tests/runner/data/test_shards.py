"""Parquet files and pictures as observations: converted once, to the values that pyarrow and Pillow read themselves."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from actors.errors import ModuleError
from runner.config.run_config import load_config
from runner.data import parquet, shard_cache, shards
from runner.data.datasets import load
from runner.data.errors import DataError
from runner.data.images import ImageOptions
from runner.data.shards import Converter, ShardOptions, find_shards
from runner.data.sources import check_same_conversions, check_same_files, load_new_rows, load_sources, source_states
from tests.conftest import wait_until

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype("f4")
PIXELS = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


def write(path, columns, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def table(rows):
    return {name: rows[:, number] for number, name in enumerate("abc")}


def three_files(folder):
    for name, part in (("b", X[10:30]), ("a", X[:10]), ("c", X[30:])):
        write(folder / f"{name}.parquet", table(part), row_group_size=7)
    return folder


def pictures(folder):
    for number, picture in enumerate(PIXELS):
        path = folder / ("b" if number >= 7 else "a") / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(picture).save(path)
    return folder


def read(given, *, report=None, columns=None, images=None, cache=None, **options):
    made = ShardOptions(columns, images or ImageOptions(), None if cache is None else str(cache))
    converter = Converter(report=report.append) if report is not None else None
    return load("files", observations=given, shards=made, converter=converter, **options)


def stored(given, **options):
    """Return the rows as they are stored."""
    return read(given, **options).observations.read_raw()


def values(given, **options):
    return np.asarray(read(given, **options).observations)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_files_of_a_directory_are_one_array_in_the_order_of_names_and_rows(tmp_path):
    folder = three_files(tmp_path / "frames")
    (folder / "_SUCCESS").write_text("")
    data = read(folder)
    np.testing.assert_array_equal(np.asarray(data.observations), X)
    assert np.asarray(data.observations).dtype == np.float32
    assert data.name == "frames"
    by_pyarrow = pa.concat_tables([pq.read_table(folder / f"{name}.parquet") for name in "abc"])
    np.testing.assert_array_equal(np.column_stack([column.to_numpy() for column in by_pyarrow.columns]), X)
    np.testing.assert_array_equal(
        values([folder / "c.parquet", folder / "a.parquet"]), np.concatenate([X[30:], X[:10]])
    )
    np.testing.assert_array_equal(values(folder / "b.parquet"), X[10:30])
    in_memory = read(folder, on_disk=False)
    assert isinstance(in_memory.observations, np.ndarray)
    np.testing.assert_array_equal(in_memory.observations, X)
    np.testing.assert_array_equal(values(folder, offset=5, count=20), X[5:25])


def test_rows_do_not_depend_on_how_they_are_cut(tmp_path, monkeypatch):
    folder = three_files(tmp_path / "frames")
    monkeypatch.setattr(shards, "_write_all", lambda jobs, _converter: [print(shards.write_shard(job)) for job in jobs])
    monkeypatch.setattr(parquet, "_BLOCK_BYTES", 100)
    for size in (1, 50, 150, 10**6):
        monkeypatch.setattr(shards, "SHARD_BYTES", size)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        rows = read(folder).observations
        np.testing.assert_array_equal(np.asarray(rows), X)
    assert len(rows.files) == 1


def test_columns_are_chosen_in_their_order(tmp_path):
    path = write(tmp_path / "a.parquet", {**table(X), "label": ["text"] * 60})
    np.testing.assert_array_equal(values(path, columns=("c", "a")), X[:, [2, 0]])
    with pytest.raises(DataError, match=r"a\.parquet: column 'label' holds text \(string\), not .*: \[a, b, c\]"):
        read(path)
    with pytest.raises(DataError, match=r"a\.parquet: has no column 'd'; its columns are 'a', 'b', 'c', 'label'"):
        read(path, columns=("a", "d"))


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((pa.uint8(), pa.uint8()), "|u1"),
        ((pa.uint8(), pa.int8()), "<i2"),
        ((pa.bool_(), pa.bool_()), "|b1"),
        ((pa.float16(), pa.uint8()), "<f2"),
        ((pa.float32(), pa.int16()), "<f4"),
        ((pa.float32(), pa.int32()), "<f8"),
        ((pa.int64(), pa.int64()), "<f8"),
        ((pa.uint32(), pa.uint32()), "<u4"),
        ((pa.float64(), pa.uint8()), "<f8"),
    ],
)
def test_the_type_of_rows_holds_every_value_of_the_columns(tmp_path, types, expected):
    columns = {name: pa.array([1, 0, 1], pa.int64()).cast(kind) for name, kind in zip("ab", types, strict=True)}
    raw = stored(write(tmp_path / "a.parquet", columns))
    assert raw.dtype.str == expected
    np.testing.assert_array_equal(raw, [[1, 1], [0, 0], [1, 1]])


def test_files_whose_types_differ_get_the_type_that_holds_both(tmp_path):
    write(tmp_path / "x/a.parquet", {"a": pa.array([1, 2], pa.uint8())})
    write(tmp_path / "x/b.parquet", {"a": pa.array([300, 4], pa.uint16())})
    raw = stored(tmp_path / "x")
    assert raw.dtype == np.uint16
    np.testing.assert_array_equal(raw[:, 0], [1, 2, 300, 4])


def test_rows_without_any_value_are_missing(tmp_path):
    columns = {"a": pa.array([1, None, 3], pa.uint8()), "v": pa.array([[1, 2], None, [5, 6]], pa.list_(pa.int16()))}
    data = read(write(tmp_path / "a.parquet", columns))
    np.testing.assert_array_equal(data.mask, [False, True, False])
    np.testing.assert_array_equal(np.asarray(data.observations), [[1, 1, 2], [0, 0, 0], [3, 5, 6]])
    assert data.observations.stored == "<f4"
    write(tmp_path / "x/a.parquet", {"a": pa.array([1, 2], pa.uint8())})  # with nulls in another file only
    write(tmp_path / "x/b.parquet", {"a": pa.array([None, 4], pa.uint8())})
    report = []
    data = read(tmp_path / "x", report=report)
    np.testing.assert_array_equal(data.observations.read_raw()[:, 0], [1, 2, np.nan, 4])
    assert "2 Parquet files: some integers are missing, so all become floats (144 B)" in report
    lacking = read(write(tmp_path / "b.parquet", {"a": [1.0, None], "b": [1, 2]}))
    np.testing.assert_array_equal(lacking.mask, [[False, False], [True, False]])
    np.testing.assert_array_equal(np.asarray(lacking.observations), [[1, 1], [0, 2]])


def test_lists_become_the_shape_of_a_row(tmp_path):
    cubes = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    ragged = pa.array(cubes.tolist(), pa.list_(pa.list_(pa.uint8())))
    fixed = pa.array(cubes.reshape(2, 12).tolist(), pa.list_(pa.uint8(), 12))
    raw = stored(write(tmp_path / "a.parquet", {"v": ragged}))
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw, cubes)
    np.testing.assert_array_equal(stored(write(tmp_path / "b.parquet", {"v": fixed})), cubes.reshape(2, 12))
    both = stored(write(tmp_path / "c.parquet", {"n": pa.array([7, 8], pa.uint8()), "v": ragged}))
    np.testing.assert_array_equal(both, np.column_stack([[7, 8], cubes.reshape(2, 12)]))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(cubes)
    np.testing.assert_array_equal(stored(write(tmp_path / "d.parquet", {"t": tensors})), cubes)
    data = read(tmp_path / "a.parquet", sequences=True)
    assert data.observations.shape == (6, 4)
    np.testing.assert_array_equal(data.lengths, [3, 3])


def test_the_index_of_a_data_frame_is_left_out_and_that_is_said(tmp_path):
    import pandas as pd

    pd.DataFrame({"a": [1.0, 2.0]}, index=pd.Index(["r", "s"], name="time")).to_parquet(tmp_path / "a.parquet")
    data = read(tmp_path / "a.parquet")
    assert "the index 'time' is left out" in data.describe()
    np.testing.assert_array_equal(np.asarray(data.observations), [[1], [2]])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"v": pa.array([[1, 2, 3], [4, 5]], pa.list_(pa.uint8()))},
            r"row 2: column 'v' has a list of 2 values where 3",
        ),
        ({"a": pa.array([1, 2**60 + 1])}, r"row 2: column 'a' holds 1152921504606846977 beyond 2\^53"),
        (
            {"a": pa.array([2**63 + 2**20, 2**64 - 1], pa.uint64())},
            r"row 2: column 'a' holds 18446744073709551615 beyond",
        ),
        ({"a": [1.0, np.inf], "b": [1, 2]}, r"row 2: holds NaN or an infinity: column 1 \('a'\) is inf"),
        ({"a": pa.array([0, 1], pa.timestamp("us"))}, r": column 'a' holds times"),
        ({"a": pa.array(["a", "b"]).dictionary_encode()}, r": column 'a' holds text"),
        ({"a": pa.array([b"1", b"2"])}, r": column 'a' holds bytes"),
        ({"a": pa.array([None, None])}, r": column 'a' holds no values"),
        ({"a": pa.array([{"x": 1}])}, r": column 'a' holds values \(struct"),
        ({"a": pa.array([None, None], pa.list_(pa.uint8()))}, r": column 'a' has no values in any file"),
        ({"a": pa.array([[], []], pa.list_(pa.uint8()))}, r": column 'a' holds lists without values"),
        ({"a": pa.array([], pa.uint8())}, r": holds no rows of numbers"),
        ({"a": pa.array([None, None], pa.float32())}, r": holds NaN in every row"),
    ],
)
def test_what_is_no_row_of_numbers_is_named_and_nothing_is_left(tmp_path, cache, columns, expected):
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=rf"^{path}(, )?{expected}"):
        read(path)
    if "every row" not in expected:  # which is known when all are converted
        assert not cache.exists() or not list(cache.iterdir())


def test_rows_on_disk_lack_what_rows_in_memory_do(tmp_path):
    path = write(tmp_path / "a.parquet", {"v": pa.array([[1, 2], [3, None]], pa.list_(pa.uint8()))})
    for on_disk in (None, False):
        assert read(path, on_disk=on_disk).mask.tolist() == [[False, False], [False, True]]


def test_files_that_do_not_fit_are_named(tmp_path):
    write(tmp_path / "x/a.parquet", {"a": [1.0], "b": [2.0]})
    for columns, expected in (
        ({"a": [1.0]}, r"b\.parquet: has no column 'b'"),
        ({"a": [1.0], "b": [1.0], "c": [1.0]}, r"b\.parquet: has a column 'c' that the files before do not have"),
        ({"a": [1.0], "b": [[1.0]]}, r"b\.parquet: column 'b' has numbers within 1 lists, in .*a\.parquet within 0"),
    ):
        write(tmp_path / "x/b.parquet", columns)
        with pytest.raises(DataError, match=expected):
            read(tmp_path / "x")


def test_a_damaged_file_is_named(tmp_path, cache):
    whole = write(tmp_path / "a.parquet", table(X)).read_bytes()
    for content in (b"", b"PAR1", whole[:-20], whole[: len(whole) // 2] + whole[len(whole) // 2 + 9 :], b"x" * 500):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.parquet: is damaged or not what its name says"):
            read(tmp_path / "a.parquet")
    page = bytearray(whole)
    page[4:40] = b"\xff" * 36
    (tmp_path / "a.parquet").write_bytes(page)
    with pytest.raises(DataError, match=r"a\.parquet: is damaged or not what its name says"):
        read(tmp_path / "a.parquet")
    assert not list(cache.iterdir())


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_are_rows_in_the_order_of_their_paths(tmp_path):
    folder = pictures(tmp_path / "pictures")
    (folder / ".DS_Store").write_text("x")
    (folder / "notes.txt").write_text("x")
    (folder / "a" / "._00.png").write_bytes(b"x")
    data = read(folder)
    raw = data.observations.read_raw()
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw, PIXELS)
    assert "1 other file there is left out" in data.describe()
    np.testing.assert_array_equal(values(folder, divide_by=255), (PIXELS / np.float32(255)).astype("f4"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "P"])
def test_each_mode_has_the_values_that_pillow_gives(tmp_path, mode):
    picture = Image.fromarray(PIXELS[0]).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(PIXELS[0].astype("u2") * 200)
    picture.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(image.convert("RGB") if mode == "P" else image)
    np.testing.assert_array_equal(stored(tmp_path / "a.png")[0], expected)


def test_pictures_are_scaled_and_made_grey_if_that_is_asked_for(tmp_path):
    (tmp_path / "x").mkdir()
    Image.fromarray(PIXELS[0]).save(tmp_path / "x/a.png")
    Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / "x/b.bmp")
    raw = stored(tmp_path / "x", images=ImageOptions((3, 2), grey=True))
    for number, name in enumerate(("a.png", "b.bmp")):
        with Image.open(tmp_path / "x" / name) as image:
            expected = np.asarray(image.convert("L").resize((2, 3), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(raw[number], expected)


def test_the_first_picture_that_differs_is_named(tmp_path, cache):
    folder = pictures(tmp_path / "pictures")
    Image.fromarray(PIXELS[0][:4]).save(folder / "a/05.png")
    Image.fromarray(PIXELS[0][:3]).save(folder / "b/09.png")
    with pytest.raises(
        DataError, match=r"a/05\.png: is 4×4 of mode L, but .*a/00\.png is 5×4 of mode L; give pictures"
    ):
        read(folder)
    Image.fromarray(PIXELS[0]).convert("RGB").save(folder / "a/05.png")
    with pytest.raises(DataError, match=r"a/05\.png: is 5×4 of mode RGB, but"):
        read(folder)
    assert not list(cache.iterdir())


def test_what_is_no_picture_is_named(tmp_path):
    folder = pictures(tmp_path / "pictures")
    whole = (folder / "a/03.png").read_bytes()
    for content, expected in (
        (b"hello", r"a/03\.png: is damaged or no picture \(none of PNG, JPEG"),
        (b"", r"a/03\.png: is damaged or no picture"),
        (whole[:-30], r"a/03\.png: is damaged or no picture"),
    ):
        (folder / "a/03.png").write_bytes(content)
        with pytest.raises(DataError, match=expected):
            read(folder)
    pages = [Image.fromarray(PIXELS[number]) for number in (0, 1)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"two\.tif: holds 2 pictures; write each into a file of its own"):
        read(tmp_path / "two.tif")


def test_numbers_in_names_that_texts_order_otherwise_are_told(tmp_path):
    (tmp_path / "x").mkdir()
    for number in (2, 10, 3):
        Image.fromarray(PIXELS[number]).save(tmp_path / f"x/f{number}.png")
    data = read(tmp_path / "x")
    assert "sorted by name as text: f10.png before f2.png" in data.describe()
    np.testing.assert_array_equal(data.observations.read_raw(), PIXELS[[10, 2, 3]])
    assert "sorted by name" not in read(pictures(tmp_path / "pictures")).describe()


# --- which files ------------------------------------------------------------------------------------------------------


def test_files_of_several_kinds_are_refused(tmp_path):
    folder = three_files(tmp_path / "x")
    np.save(folder / "d.npy", X)
    with pytest.raises(DataError, match=r"mixes Parquet files \(.*a\.parquet\) with files \.npy \(.*d\.npy\)"):
        read(folder)
    Image.fromarray(PIXELS[0]).save(tmp_path / "p.png")
    with pytest.raises(DataError, match=r"mixes pictures \(.*p\.png\) with Parquet files"):
        read([tmp_path / "p.png", folder / "a.parquet"])
    with pytest.raises(DataError, match=r"mixes files of another kind \(.*x\.csv\) with Parquet files"):
        read([tmp_path / "x.csv", folder / "a.parquet"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: is a directory without \.npy, Parquet files or pictures"):
        read(tmp_path / "empty")
    with pytest.raises(DataError, match=r"no\.parquet: there is no such file"):
        read(tmp_path / "no.parquet")


def test_options_that_the_files_do_not_have_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", X)
    Image.fromarray(PIXELS[0]).save(tmp_path / "p.png")
    path = write(tmp_path / "a.parquet", table(X))
    for given, options, expected in (
        (tmp_path / "x.npy", {"columns": ("a",)}, r"data\.columns: goes with Parquet files"),
        (tmp_path / "p.png", {"columns": ("a",)}, r"data\.columns: goes with Parquet files"),
        (path, {"images": ImageOptions(grey=True)}, r"data\.grey: goes with pictures"),
        (path, {"images": ImageOptions((2, 2))}, r"data\.image_size: goes with pictures"),
        (tmp_path / "x.npy", {"cache": tmp_path}, r"data\.cache: goes with Parquet files and pictures"),
        (path, {"header": True}, r"these files have neither a header nor an index"),
    ):
        with pytest.raises(DataError, match=expected):
            read(given, **options)


def test_urls_are_read_and_may_hold_the_shards(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    folder = three_files(tmp_path / "frames")
    for path in (*folder.iterdir(), *pictures(tmp_path / "p").rglob("*.png")):
        memory.pipe_file(f"/shards/{path.relative_to(tmp_path)}", path.read_bytes())
    np.testing.assert_array_equal(values("memory://shards/frames"), X)
    np.testing.assert_array_equal(values("memory://shards/frames/b.parquet"), X[10:30])
    report = []
    rows = read("memory://shards/p", cache="memory://shards/cache", report=report).observations
    np.testing.assert_array_equal(rows.read_raw(), PIXELS)
    assert rows.files[0].location.startswith("memory://shards/cache/")
    read("memory://shards/p", cache="memory://shards/cache", report=report)
    assert "converted before" in report[-1]
    memory.pipe_file("/shards/p/a/02.png", b"x")
    before = memory.find("/shards/cache")
    with pytest.raises(DataError, match=r"memory:///shards/p/a/02\.png: is damaged or no picture"):
        read("memory://shards/p", cache="memory://shards/cache")
    assert memory.find("/shards/cache") == before


# --- the cache --------------------------------------------------------------------------------------------------------


def test_files_are_converted_once_and_that_is_said(tmp_path, cache):
    folder = three_files(tmp_path / "frames")
    report = []
    data = read(folder, report=report)
    entry = next(cache.iterdir())
    assert report[0] == f"3 Parquet files: converting once, into {entry} (848 B)"
    assert report[1].startswith("3 Parquet files: converted in ")
    assert f"Parquet files as converted in {entry}" in data.describe()
    before = {path: path.stat().st_mtime_ns for path in entry.iterdir()}
    read(folder, report=report)
    assert report[2:] == [f"3 Parquet files: converted before, so rows are read from {entry}"]
    assert {path: path.stat().st_mtime_ns for path in entry.iterdir()} == before
    assert cache.stat().st_mode & 0o077 == 0


def test_what_changes_the_rows_is_converted_anew(tmp_path, cache):
    folder = three_files(tmp_path / "frames")

    def conversions():
        return len(list(cache.iterdir()))

    read(folder)
    read(folder, columns=("a", "b", "c"))
    assert conversions() == 2
    write(folder / "d.parquet", table(X[:2]))
    assert len(read(folder).observations) == 62
    assert conversions() == 3
    os.utime(folder / "d.parquet", ns=(1, 1))
    read(folder)
    assert conversions() == 4
    read(folder, divide_by=2)
    read(folder, offset=3)
    assert conversions() == 4


def test_a_conversion_that_is_not_whole_is_not_used(tmp_path, cache):
    folder = three_files(tmp_path / "frames")
    first = read(folder).observations
    entry = next(cache.iterdir())
    for damage in (
        lambda: (entry / "part-00000.npy").unlink(),
        lambda: (entry / "part-00000.npy").write_bytes(b"x"),
        lambda: (entry / "index.json").unlink(),
        lambda: (entry / "index.json").write_text('{"shards": [["../x.npy", 3]], "notes": []}'),
        lambda: (entry / "index.json").write_text("[" * 100_000),
        lambda: shutil.rmtree(cache),
    ):
        damage()
        again = read(folder).observations
        np.testing.assert_array_equal(np.asarray(again), X)
        assert again == first  # also to a run that is resumed: the same files, of the same age
    assert [path.name for path in cache.iterdir()] == [entry.name]


def test_an_interrupted_conversion_leaves_nothing_and_old_ones_are_deleted(tmp_path, cache, monkeypatch):
    folder = three_files(tmp_path / "frames")
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", lambda _job: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            read(folder)
    assert not list(cache.iterdir())
    for name, age in ((".x.1.part", 2 * 86400), (".x.2.part", 60)):
        (cache / name).mkdir()
        os.utime(cache / name, (time.time() - age,) * 2)
    read(folder)
    assert sorted(path.name for path in cache.glob(".*")) == [".x.2.part"]


def test_a_second_process_waits_and_uses_what_the_first_one_wrote(tmp_path, cache):
    folder = three_files(tmp_path / "frames")
    read(folder)
    entry = next(cache.iterdir())
    entry.rename(cache / "aside")
    report, results = [], []
    with FileLock(entry.with_suffix(".lock")):
        thread = threading.Thread(target=lambda: results.append(np.asarray(read(folder, report=report).observations)))
        thread.start()
        wait_until(lambda: report)
        assert report == [f"{entry}: waiting for another process that converts the same files"]
        (cache / "aside").rename(entry)
    thread.join(30)
    np.testing.assert_array_equal(results[0], X)
    assert len(report) == 1  # it converted nothing


def test_conversions_beside_each_other_do_not_disturb_each_other(tmp_path, cache, monkeypatch):
    """Even without the lock, which is not known on every file system."""
    folder = three_files(tmp_path / "frames")
    monkeypatch.setattr(shard_cache.LocalShards, "locked", shard_cache.RemoteShards.locked)
    together, results = threading.Barrier(4), []
    own = shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda job: (together.wait(30), own(job))[1])
    threads = [threading.Thread(target=lambda: results.append(values(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, X)
    assert len(list(cache.iterdir())) == 1


def test_a_file_that_changes_meanwhile_is_named(tmp_path, cache, monkeypatch):
    folder = three_files(tmp_path / "frames")
    own = shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda job: (own(job), os.utime(folder / "b.parquet", ns=(5, 5)))[0])
    with pytest.raises(DataError, match=r"b\.parquet: has changed while it was converted; run the command again"):
        read(folder)
    assert not list(cache.iterdir())


def test_a_disk_without_space_is_told_before(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", table(X))
    usage = shutil.disk_usage(tmp_path)._replace(free=500)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(DataError, match=r"rows: has 500 B left, and the rows need 848 B; free some, or name"):
        read(path)


def test_a_cache_that_other_users_can_write_is_refused_unless_it_is_named(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "a.parquet", table(X))
    with monkeypatch.context() as patch:
        patch.setattr(shard_cache, "why_unsafe", lambda path: f"{path} can be written by other users")
        with pytest.raises(DataError, match=r"rows are not kept there, as .* can be written by other users; name"):
            read(path)
        rows = read(path, cache=cache.parent).observations
    assert Path(rows.files[0].location).parents[1] == cache.parent
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot be used \(File exists\); name another directory"):
        read(path, cache=tmp_path / "file")


def test_a_package_that_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", table(X))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(
        DataError, match=r"need a package that is not installed .* run: pip install 'serket-actors\[data\]'"
    ):
        read(path)


# --- runs -------------------------------------------------------------------------------------------------------------


def model(tmp_path, **data):
    text = {
        "name": "t",
        "seed": 0,
        "data": {"source": "files", **data},
        "modules": {"gmm": {"type": "gmm", "classes": 2, "engine": "vb"}},
        "connections": ["data -> gmm"],
        "schedule": {"rounds": 1},
    }
    (tmp_path / "m.yaml").write_text(json.dumps(text))
    return tmp_path / "m.yaml"


def test_a_model_file_says_how_rows_are_made(tmp_path):
    three_files(tmp_path / "frames")
    config = load_config(model(tmp_path, observations="frames", columns=["b", "a"], cache="kept"))
    report = []
    config.convert_data(None, report.append)
    assert report[0].startswith(f"3 Parquet files: converting once, into {tmp_path / 'kept'}/")
    np.testing.assert_array_equal(np.asarray(config.load_data()["data"].observations), X[:, [1, 0]])
    again = load_config(model(tmp_path / "frames", **json.loads(json.dumps(config.model_dump(mode="json")["data"]))))
    assert again.data == config.data
    three_files(tmp_path / "more")
    new = load_new_rows(config.sources, [str(tmp_path / "more")], graph=config.graph)  # read as the rows learnt from
    np.testing.assert_array_equal(np.asarray(new["data"].observations), X[:, [1, 0]])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"source": "digits", "columns": ["a"]}, "data.columns: goes with source 'files'"),
        ({"columns": []}, "data.columns"),
        ({"image_size": [3]}, "data.image_size"),
        ({"image_size": [0, 3]}, "data.image_size"),
        ({"grey": "yes"}, "data.grey"),
        ({"cache": ["a", "b"]}, "data.cache"),
    ],
)
def test_a_model_file_with_a_wrong_option_is_refused(tmp_path, data, expected):
    given = {"observations": "frames", **data} if data.get("source") != "digits" else data
    path = model(tmp_path, **given)
    done = run_command(path)
    assert done.exit_code == 2
    assert expected in done.output


def run_command(path):
    from runner.cli.app import app

    return CliRunner().invoke(app, ["run", str(path), "--dry-run"])


def test_a_command_refuses_files_that_are_no_rows_with_status_2(tmp_path, cache):
    (tmp_path / "x").mkdir()
    write(tmp_path / "x/a.parquet", {"a": ["text"]})
    done = run_command(model(tmp_path, observations="x"))
    assert done.exit_code == 2
    assert done.output.strip().count("\n") == 0
    assert "a.parquet: column 'a' holds text" in done.output
    assert not cache.exists()


def test_a_run_is_not_continued_with_other_files(tmp_path, cache):
    folder = three_files(tmp_path / "frames")
    config = load_config(model(tmp_path, observations="frames"))
    data = load_sources(config.sources, 0, config.graph)
    states = source_states(config.graph, data)
    check_same_conversions(states, config.sources)
    check_same_files(states, load_sources(config.sources, 0, config.graph))
    write(folder / "d.parquet", table(X[:2]))
    refusal = r"data\.observations: are not the files that the run began with"
    with pytest.raises(ModuleError, match=refusal):
        check_same_conversions(states, config.sources)  # which converts nothing
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(ModuleError, match=refusal):
        check_same_files(states, load_sources(config.sources, 0, config.graph))


def test_a_run_is_not_continued_with_more_files_npy(tmp_path):
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames/a.npy", X)
    config = load_config(model(tmp_path, observations="frames"))
    states = source_states(config.graph, load_sources(config.sources, 0, config.graph))
    check_same_conversions(states, config.sources)
    check_same_files(states, load_sources(config.sources, 0, config.graph))
    np.save(tmp_path / "frames/b.npy", X)
    with pytest.raises(ModuleError, match=r"data\.observations: are not the files that the run began with"):
        check_same_files(states, load_sources(config.sources, 0, config.graph))


# --- Ray Data ---------------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_ray_data_writes_the_same_bytes_and_names_the_first_problem(tmp_path, cache, monkeypatch, ray_cluster):
    folder = three_files(tmp_path / "frames")
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    rows = read(folder).observations
    assert len(rows.files) == 10
    np.testing.assert_array_equal(np.asarray(rows), X)
    plan = shards._plan("Parquet", [str(folder / f"{name}.parquet") for name in "abc"], ShardOptions())
    for job, file in zip(plan.jobs, rows.files, strict=True):
        target = tmp_path / f"{job['number']}.npy"
        assert not shards.write_shard({**job, "target": str(target)})
        assert target.read_bytes() == Path(file.location).read_bytes()

    bad = X.copy()
    bad[[25, 50], 1] = np.inf
    for name, part in (("b", bad[10:30]), ("c", bad[30:])):
        write(folder / f"{name}.parquet", table(part), row_group_size=7)
    with pytest.raises(DataError, match=r"b\.parquet, row 16: holds NaN or an infinity: column 2 \('b'\) is inf"):
        read(folder)
    (folder / "c.parquet").unlink()
    write(folder / "b.parquet", table(X[10:30]), row_group_size=7)
    monkeypatch.setattr(shard_cache.LocalShards, "target", lambda _self, name: str(tmp_path / "nowhere" / name))
    with pytest.raises(
        DataError, match=r"nowhere: is not there on the node .*; set data\.cache to a directory or a URL"
    ):
        read(folder)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.ray
def test_ray_data_converts_pictures_in_order(tmp_path, monkeypatch, ray_cluster):
    folder = pictures(tmp_path / "pictures")
    monkeypatch.setattr(shards, "SHARD_FILES", 2)
    rows = read(folder).observations
    assert len(rows.files) == 6
    np.testing.assert_array_equal(rows.read_raw(), PIXELS)
    assert find_shards(folder, tmp_path, ShardOptions()).locations == tuple(file.location for file in rows.files)
