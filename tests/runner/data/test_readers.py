"""Reading of valid files, and errors for files that are not valid."""

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

from runner.data.datasets import DataError, Dataset, load, load_array, load_categories
from tests.runner.conftest import LABELS, ROWS, refused

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def idx(array: np.ndarray[Any, Any]) -> bytes:
    """Encode an array as IDX."""
    code = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


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


def test_npz_returns_its_only_array_or_the_one_with_the_expected_name(tmp_path: Path) -> None:
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


def test_a_first_line_with_one_number_is_no_header_of_a_csv(tmp_path: Path) -> None:
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
    (tmp_path / "a.gif").write_bytes(b"x")
    (tmp_path / "data").write_bytes(b"x")
    refused(tmp_path / "a.gif", match=r"\.gif is not supported; use \.txt")
    refused(tmp_path / "data", match="a name with no suffix is not supported")
    for path in ("a\0b.txt", "n" * 5000 + ".txt", "a.gif/b.txt"):
        with pytest.raises(DataError, match=r"cannot be opened|no such file"):
            load_array(path, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", "1 2\n\n# note\n3 4 5\n", "line 4: has 3 columns where 2 were expected"),
        ("a.csv", "x,y\n1,2\n3\n", "line 3: has 1 columns where 2 were expected"),
        ("a.txt", "1 2\n3 four\n", "line 2: holds 'four' where a number belongs"),
        ("a.txt", "1 2\n3 1_0\n", "line 2: holds '1_0'"),
        ("a.txt", "# note\n1 2\n\n3 inf\n", "line 4: holds NaN or an infinity"),
        ("a.csv", "x,y\n1,2\n1e999,0\n", "line 3: holds NaN or an infinity"),
        ("a.txt", "", "holds no rows of numbers"),
        ("a.txt", "# nothing\n\n", "holds no rows of numbers"),
        ("a.csv", "x,y\n", "holds no rows of numbers"),
    ],
)
def test_text_that_is_not_valid_is_refused_with_its_line(tmp_path: Path, name: str, content: str, match: str) -> None:
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, match=match)


@pytest.mark.parametrize(("name", "content"), [("a.csv", "1,2\n3,\n"), ("a.txt", "# note\n1 2\n\n3 nan\n")])
def test_text_may_lack_values(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    np.testing.assert_array_equal(load_array(name, root=tmp_path), [[1, 2], [3, np.nan]])
    data = load("files", observations=name, root=tmp_path)
    np.testing.assert_array_equal(data.mask, [[False, False], [False, True]])


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"1 2\n3 \xff\n")
    refused(tmp_path / "a.txt", match="line 2: holds")


def test_categories_that_are_not_valid_are_refused(files: Path) -> None:
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


class _FailsWhenUnpickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


def test_pickles_are_refused_and_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([_FailsWhenUnpickled()], dtype=object), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(_FailsWhenUnpickled()))
    np.savez(tmp_path / "object.npz", np.array([_FailsWhenUnpickled()], dtype=object))
    refused(tmp_path / "object.npy", match="holds pickled Python objects")
    refused(tmp_path / "object.npz", match="holds pickled Python objects")
    refused(tmp_path / "bare.npy", match="is not a .npy file")


def test_npy_that_does_not_hold_rows_of_real_numbers_is_refused(tmp_path: Path) -> None:
    bad = {
        "not an array of real numbers": [np.ones(3, complex), np.array(["a"]), np.zeros(2, [("x", "f8")])],
        "holds no rows": [np.array(3.0), np.zeros((0, 4)), np.zeros((4, 0))],
        "row 2: holds NaN": [np.array([[1.0, 2.0], [np.inf, 0.0]]), np.array([1.0, np.inf])],
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


def test_a_header_with_a_wrong_size_allocates_nothing(tmp_path: Path) -> None:
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
    refused(tmp_path / "a.npz", match=f"or would expand to the {2**123} bytes that its header announces")


# arbitrary bytes


def check_reading(path: Path, content: bytes) -> None:
    """Check that reading gives a valid data set or a DataError, without a warning."""
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
    check_reading(tmp_path / "a.idx", content)
    check_reading(tmp_path / "a.idx.gz", content)
    check_reading(tmp_path / "b.idx.gz", gzip.compress(content))


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), dtype=st.sampled_from(["u1", "i1", "i2", "i4", "f8"]))
@FUZZ
def test_idx_is_read_back_as_written(tmp_path: Path, shape: list[int], dtype: str) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    (tmp_path / "a.idx").write_bytes(idx(array))
    scale = 255 if dtype == "u1" else 1
    np.testing.assert_allclose(load_array(tmp_path / "a.idx"), array.reshape(shape[0], -1) / scale, rtol=1e-6)


@given(st.text(alphabet="0123456789.eE+-, \t\n\r#\"'_xnaif", max_size=60).map(str.encode) | st.binary(max_size=60))
@FUZZ
def test_no_bytes_break_the_text_reader(tmp_path: Path, content: bytes) -> None:
    check_reading(tmp_path / "a.txt", content)
    check_reading(tmp_path / "a.csv", content)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), tail=st.binary(max_size=20))
@FUZZ
def test_no_single_wrong_byte_breaks_the_numpy_readers(tmp_path: Path, position: int, value: int, tail: bytes) -> None:
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        np.save(path, ROWS) if name == "a.npy" else np.savez(path, observations=ROWS, categories=LABELS)
        content = bytearray(path.read_bytes())
        content[position % len(content)] = value
        check_reading(path, bytes(content))
        check_reading(path, bytes(content[: position % len(content)]) + tail)
