"""What workers send each other as bytes: it comes out as it went in, and what is not a frame is refused."""

import struct

import msgpack
import numpy as np
import pytest

from actors.errors import WorkerConnectionError
from actors.sharing.frames import PREFIX, UnsendableError, aligned_memory, pack_frame, unpack_frame
from actors.sharing.transport import Repeated, pack_triangles, unpack_triangles

G = np.random.default_rng(0)
NAN = (
    np.array([0x7FF8000000000123, 0x8000000000000000, 0x7FF0000000000001]).view("u8").view("f8")
)  # with a payload, -0.0


def through(value):
    """Return a value after the way through a frame."""
    data = b"".join(bytes(part) for part in pack_frame(value))
    header, size = PREFIX.unpack(data[: PREFIX.size])
    body = aligned_memory(size)
    body[:] = np.frombuffer(data[PREFIX.size + header :], np.uint8)
    return unpack_frame(data[PREFIX.size : PREFIX.size + header], body)


def alike(left, right):
    if isinstance(left, np.ndarray):
        order = (left.flags.c_contiguous, left.flags.f_contiguous)
        return (
            type(right) is np.ndarray
            and (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
            and order == (right.flags.c_contiguous, right.flags.f_contiguous)
        )
    if isinstance(left, dict):
        return list(left) == list(right) and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(alike, left, right))
    return type(left) is type(right) and repr(left) == repr(right)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        [1, -(2**63), 2**64 - 1, 0.1, float("nan"), -0.0, "ä\n", b"\x00\xff"],
        {(0, 3): {"sums": G.normal(size=(3, 4, 4)), "rows": NAN}, (2, 1): {}},
        ("call", "accumulate", Repeated(), 7, ("states",), {(1, 0): (G.normal(size=5), None)}),
        [np.zeros((0, 3), "f4"), np.array(2.5), np.array(True), np.arange(5, dtype="i2"), np.float64(0.1), np.bool_(1)],
        np.asfortranarray(G.normal(size=(4, 6))),
        [np.ones(3, bool), np.ones(2, "f4"), G.normal(size=7) * 1j],
    ],
)
def test_a_value_comes_out_as_it_went_in_bit_for_bit(value):
    assert alike(value, through(value))


def test_parts_of_larger_arrays_and_triangles_come_out_as_they_were():
    array = G.normal(size=(10, 8))
    assert np.array_equal(through(array[::2, 1:]), array[::2, 1:])
    matrices = {"scatter": array.T @ array, "chol": np.linalg.cholesky(array.T @ array)}
    assert alike(matrices, unpack_triangles(through(pack_triangles(matrices))))


def test_arrays_are_aligned_and_read_only():
    first, second = through([np.ones(3, "u1"), np.ones(5)])
    assert second.ctypes.data % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 2.0
    assert not first.flags.writeable


@pytest.mark.parametrize(
    "value", [np.array([object()]), {1, 2}, 2**64, np.array(["a"]), np.ma.array([1.0]), print, [[[[]]] * 2] * 2]
)
def test_what_a_frame_cannot_hold_is_refused_before_it_is_sent(value):
    nested = value
    for _ in range(30 if isinstance(value, list) else 0):
        nested = [nested]
    with pytest.raises(UnsendableError):
        pack_frame(nested)


def deep(levels):
    value = ["list"]
    for _ in range(levels):
        value = ["list", value]
    return value


@pytest.mark.parametrize(
    "described",
    [
        ["object", 1],
        ["rows", "O", [1]],
        ["rows", "|O8", [1]],
        ["rows", "<f8", [2**40]],
        ["rows", "<f8", [-1]],
        ["rows", "<f8", [1.5]],
        ["rows", "<f8", "3"],
        ["rows", "<f8", [1] * 99],
        ["rows", "<f8"],
        ["dict", "a"],
        ["dict", ["list"], 1],
        ["triangle", 1, 2, True],
        ["triangle", ["rows", "<f8", [2]], 5, True],
        ["scalar", ["rows", "<f8", [2]]],
        [],
        [1],
        {"a": 1},
        ["list", {"a": 1}],
        msgpack.ExtType(1, b"x"),
        msgpack.Timestamp(1),
        deep(25),
    ],
)
def test_what_is_not_a_frame_is_refused(described):
    with pytest.raises(WorkerConnectionError, match="is not a frame"):
        unpack_frame(msgpack.packb(described), aligned_memory(16))


@pytest.mark.parametrize("description", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 5000, b"\xa5ab", b"\xa1\xff"])
def test_bytes_that_are_not_msgpack_are_refused(description):
    with pytest.raises(WorkerConnectionError, match="is not a frame"):
        unpack_frame(description, aligned_memory(0))


def test_bytes_that_no_array_takes_are_refused():
    with pytest.raises(WorkerConnectionError, match="bytes are left"):
        unpack_frame(msgpack.packb(["rows", "<f8", [1]]), aligned_memory(16))


def test_the_prefix_is_of_two_sizes():
    assert PREFIX.size == struct.calcsize("<IQ") == 12
