"""Rows that stay on disk: they are what the files hold, in every type, and no other file is taken for theirs."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from actors.errors import MessageError, ModuleError
from actors.messaging.codec import decode, encode, make_message, pack_header
from actors.messaging.message import Header
from actors.messaging.stored_rows import RowFile, StoredRows, file_version
from actors.messaging.validation import MAX_MESSAGE_BYTES
from actors.module import Context, Inbox
from actors.modules.observation import Observation
from actors.sharing.chunks import Extent, ShardRows

VALUES = np.random.default_rng(0).normal(size=(50, 2, 3)) * 40


def save(path, array):
    """Save an array and return what describes its file."""
    np.save(path, array)
    size, version = file_version(str(path))
    return RowFile(str(path), size - array.nbytes, len(array), size, version)


def stored(tmp_path, *parts, divide_by=None):
    files = tuple(save(tmp_path / f"{number}.npy", part) for number, part in enumerate(parts))
    rows = sum(map(len, parts))
    return StoredRows(files, parts[0].dtype.str, parts[0].shape[1:], divide_by, 0, rows)


@pytest.mark.parametrize("dtype", ["u1", "i1", "?", "<i2", ">u2", "<i4", "f2", "<f4", ">f4", "f8"])
def test_rows_on_disk_have_the_values_of_their_files(tmp_path, dtype):
    array = np.abs(VALUES).astype(dtype)
    rows = stored(tmp_path, array)
    assert rows.shape == array.shape
    assert rows.dtype == (np.float64 if dtype in ("<i4", "f8") else np.float32)
    np.testing.assert_array_equal(rows.read(), array)
    assert rows.read().dtype == rows.dtype
    assert rows.read().dtype.isnative
    np.testing.assert_array_equal(np.asarray(rows), array)
    chosen = np.array([49, 3, 3, 17])
    np.testing.assert_array_equal(rows.take(chosen), array[chosen])


def test_several_files_are_one_array_wherever_it_is_cut(tmp_path):
    array = VALUES.astype("f4")
    rows = stored(tmp_path, array[:7], array[7:8], array[8:31], array[31:])
    for start in range(0, 50, 3):
        for stop in range(start + 1, 51, 4):
            part = rows[start:stop]
            np.testing.assert_array_equal(part.read(), array[start:stop])
            np.testing.assert_array_equal(
                part[1:].read() if len(part) > 1 else part.read()[1:], array[start + 1 : stop]
            )
            assert len(part.files) <= 4
    assert len(rows[0:7].files) == 1
    assert len(rows[7:9].files) == 2


def test_values_are_divided_in_their_own_precision(tmp_path):
    pixels = np.arange(256, dtype=np.uint8).reshape(-1, 2)
    expected = pixels.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(stored(tmp_path, pixels, divide_by=255.0).read(), expected)


def test_missing_rows_are_zero_and_values_missing_in_part_are_refused(tmp_path):
    array = VALUES.astype("f4")
    array[5] = np.nan
    rows = stored(tmp_path, array, divide_by=2.0)
    np.testing.assert_array_equal(rows.read(), np.nan_to_num(array) / 2)
    array[5, 0] = 1
    with pytest.raises(ModuleError, match=r"0\.npy: holds NaN or an infinity"):
        stored(tmp_path, array).read()


@pytest.mark.parametrize("change", ["longer", "shorter", "newer", "gone", "a directory"])
def test_a_file_that_changes_is_refused_in_a_sentence(tmp_path, change):
    rows = stored(tmp_path, VALUES)
    path = tmp_path / "0.npy"
    if change == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "shorter":
        os.truncate(path, 1000)
    elif change == "newer":
        np.save(path, VALUES + 1)
    else:
        path.unlink()
        if change == "a directory":
            path.mkdir()
    expected = "cannot be read" if change in ("gone", "a directory") else "has changed since the run began"
    for read in (rows.read, rows[3:4].read, lambda: rows.take(np.array([2])), rows.check_unchanged):
        with pytest.raises(ModuleError, match=expected) as raised:
            read()
        assert str(path) in str(raised.value)


def test_a_file_truncated_behind_its_time_is_refused_too(tmp_path):
    rows = stored(tmp_path, VALUES)
    os.truncate(tmp_path / "0.npy", 600)
    size, version = file_version(str(tmp_path / "0.npy"))
    same = replace(rows, files=(replace(rows.files[0], size=size, version=version),))
    with pytest.raises(ModuleError, match="has changed"):
        same.read()


def test_a_url_is_read_in_ranges(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    save(tmp_path / "x.npy", VALUES)
    memory.pipe_file("/stored/x.npy", (tmp_path / "x.npy").read_bytes())
    url = "memory://stored/x.npy"
    size, version = file_version(url)
    rows = StoredRows((RowFile(url, size - VALUES.nbytes, 50, size, version),), "<f8", (2, 3), None, 0, 50)
    asked = []
    original = type(memory).cat_file

    def cat_file(self, path, start=None, end=None, **rest):
        asked.append((start, end))
        return original(self, path, start=start, end=end, **rest)

    type(memory).cat_file = cat_file
    try:
        np.testing.assert_array_equal(rows[10:20].read(), VALUES[10:20])
    finally:
        type(memory).cat_file = original
    assert asked == [(size - VALUES.nbytes + 10 * 48, size - VALUES.nbytes + 20 * 48)]
    memory.pipe_file("/stored/x.npy", b"x" * size)
    with pytest.raises(ModuleError, match="has changed since the run began"):
        rows.read()


def test_an_unknown_protocol_is_named():
    with pytest.raises(ModuleError, match=r"gopher://x/y\.npy: cannot be opened"):
        file_version("gopher://x/y.npy")


# messages and states


def observe(rows, **more):
    module = Observation(Observation.Parameters())
    module.load_state({"stored": rows.to_text(), **more})
    return module


def test_a_source_sends_rows_without_reading_them(tmp_path):
    rows = stored(tmp_path, VALUES.astype("f4"))
    module = observe(rows, lengths=np.array([20, 30]))
    assert module.state()["stored"] == rows.to_text()
    outbox = module.update(Inbox([]), Context("data"))
    header = Header("observations", "data", "observations")
    message = make_message(header, outbox.messages[0].arrays)
    assert message.arrays["values"] == rows
    np.testing.assert_array_equal(message["values"], VALUES.astype("f4"))
    again = decode(encode(message))
    assert again.arrays["values"] == rows
    assert pack_header(again.header) == pack_header(message.header)
    assert len(encode(message)) < 1000


def test_a_source_refuses_a_file_that_has_changed(tmp_path):
    module = observe(stored(tmp_path, VALUES))
    np.save(tmp_path / "0.npy", VALUES + 1)
    with pytest.raises(ModuleError, match="has changed since the run began"):
        module.update(Inbox([]), Context("data"))


def test_a_chunk_reads_its_rows_alone(tmp_path):
    rows = stored(tmp_path, VALUES[:33].astype("f4"), VALUES[33:].astype("f4"))
    message = make_message(Header("observations", "data", "observations"), {"values": rows})
    chunks = ShardRows([(message, 0)], Extent(50, 16).part(0, 1))
    for index in range(4):
        own = chunks.chunk(index)
        np.testing.assert_array_equal(
            next(iter(own.inbox))["values"], VALUES[16 * index : 16 * index + 16].astype("f4")
        )
    joined = chunks.sample([0, 2])[0]
    np.testing.assert_array_equal(joined["values"], np.concatenate([VALUES[:16], VALUES[32:48]]).astype("f4"))


def test_rows_on_disk_may_exceed_what_a_message_may_hold(tmp_path):
    rows = stored(tmp_path, np.zeros((2, 3), "u1"))
    large = replace(rows.files[0], rows=MAX_MESSAGE_BYTES, size=3 * MAX_MESSAGE_BYTES + rows.files[0].offset)
    many = replace(rows, files=(large,), stop=MAX_MESSAGE_BYTES)
    message = make_message(Header("observations", "data", "observations"), {"values": many})
    assert decode(encode(message)).arrays["values"] == many


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("files", []),
        ("files", [["x.npy", 0, 50, 10, "1"]]),
        ("files", [["x\0.npy", 128, 50, 10**6, "1"]]),
        ("files", [["x.npy", 128, 50, 10**6]]),
        ("files", [["x.npy", 128.0, 50, 10**6, "1"]]),
        ("files", [["x.npy", 128, True, 10**6, "1"]]),
        ("files", [[7, 128, 50, 10**6, "1"]]),
        ("stored", "|O8"),
        ("stored", ["<f4"]),
        ("row_shape", [0]),
        ("row_shape", []),
        ("row_shape", [2**70]),
        ("row_shape", "ab"),
        ("divide_by", 0.0),
        ("divide_by", "2"),
        ("divide_by", 1e300),
        ("start", -1),
        ("start", 50),
        ("stop", 51),
        ("more", 1),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, name, value):
    rows = stored(tmp_path, VALUES.astype("f4"))
    text = json.dumps({**json.loads(rows.to_text()), name: value})
    with pytest.raises(ModuleError, match="description of rows on disk is damaged"):
        StoredRows.from_text(text)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, None, 3, b"{}", '{"files": NaN}'])
def test_what_is_no_description_is_refused(text):
    with pytest.raises(ModuleError, match="description of rows on disk is damaged"):
        StoredRows.from_text(text)


def test_only_observations_may_be_on_disk(tmp_path):
    rows = stored(tmp_path, np.abs(VALUES[:, 0]))
    header = Header("class_posteriors", "gmm", "class_posteriors", "mm")
    arrays = {"log_prob": np.log(np.full((50, 3), 1 / 3)), "log_norm": np.zeros(50)}
    packed = encode(make_message(header, arrays))
    begin, end = packed.index(arrays["log_prob"].tobytes()), arrays["log_prob"].nbytes
    text = rows.to_text().encode()
    head = packed[: begin - 3]
    assert packed[begin - 3] == 0xC5
    with pytest.raises(MessageError, match="cannot be on disk"):
        decode(head + b"\xda" + len(text).to_bytes(2, "big") + text + packed[begin + end :])
