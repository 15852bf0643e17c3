"""The state codec: what it accepts comes back with equal types and bits, all else is refused by name."""

import json
import math
import struct
from contextlib import suppress
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from actors.errors import CheckpointError, ModuleError, show_value
from actors.limits import MAX_INTEGER_BITS, MAX_STATE_ENTRIES, MAX_STATE_TEXT_BYTES
from actors.storage.state_codec import pack_state, storage_error, unpack_state


class Colour(IntEnum):
    RED = 1


def same(one, other):
    """Return whether two values have equal types and bits; arrays also equal byte orders and shapes."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return (one.dtype, one.dtype.byteorder, one.shape, one.tobytes()) == (
            other.dtype,
            other.dtype.byteorder,
            other.shape,
            other.tobytes(),
        )
    if isinstance(one, np.generic):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return one == other


def check_round_trip(state):
    """Check that a state comes back as it is, or is refused in both functions alike."""
    if problem := storage_error(state):
        with pytest.raises(ModuleError) as refused:
            pack_state(state)
        assert problem in str(refused.value)
        return
    if any(isinstance(value, float | np.floating) and math.isnan(value) for value in state.values()):
        with pytest.raises(ModuleError, match=r"is nan$"):
            pack_state(state)
        return
    unpacked = unpack_state(pack_state(state), "file")
    assert unpacked.keys() == state.keys()
    assert [name for name, value in state.items() if not same(value, unpacked[name])] == []


DTYPES = st.one_of(
    st_np.boolean_dtypes(),
    st_np.integer_dtypes(endianness="?"),
    st_np.unsigned_integer_dtypes(endianness="?"),
    st_np.floating_dtypes(endianness="?", sizes=(16, 32, 64, 128)),
    st_np.complex_number_dtypes(),
    st_np.unicode_string_dtypes(),
    st_np.byte_string_dtypes(),
    st_np.datetime64_dtypes(),
)
ARRAYS = st_np.arrays(DTYPES, st_np.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
VIEWS = st.one_of(ARRAYS, ARRAYS.map(np.transpose), ARRAYS.map(lambda array: array[..., ::-1] if array.ndim else array))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**1100), 2**1100),
    st.floats(),
    st.text(st.characters()),
    st.text(st.characters(categories=["Cs"]), max_size=3),
    st_np.from_dtype(np.dtype("f4")),
    st_np.from_dtype(np.dtype("f2")),
    st_np.from_dtype(np.dtype("f8")),
    st_np.from_dtype(np.dtype("u8")),
    st_np.from_dtype(np.dtype("i1")),
    st_np.from_dtype(np.dtype("?")),
    st_np.from_dtype(np.dtype("M8[s]")),
    st.text(max_size=3).map(np.str_),
    st.complex_numbers(),
    st.binary(max_size=3),
    st.tuples(st.integers()),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.integers(), st.integers(), max_size=2),
    st.just(Colour.RED),
)
NAMES = st.one_of(
    st.text(max_size=8), st.sampled_from(["__metadata__", "__scalars__", "__types__", "../x", "a\0b"]), st.integers()
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, st.one_of(VIEWS, SCALARS), max_size=4))
def test_a_state_comes_back_with_equal_types_and_bits_or_is_refused(state):
    check_round_trip(state)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.inf,
        2**64,
        -(2**MAX_INTEGER_BITS) + 1,
        "grün \U0001f600 \0 \x1b",
        np.float32(0.1),
        np.float16(-0.0),
        np.longlong(3),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.str_("word"),
        np.arange(3, dtype=">f8"),
        np.array(5, dtype=">i2"),
        np.zeros((2**59, 0)),
        np.zeros((1,) * 64),
        np.asfortranarray(np.eye(3)),
        np.arange(10)[::-3],
        np.broadcast_to(np.arange(3.0), (4, 3)),
        np.array([np.nan, -np.nan, np.inf, -0.0]),
    ],
    ids=show_value,
)
def test_a_value_comes_back_with_equal_type_and_bits(value):
    assert storage_error({"a": value}) is None
    check_round_trip({"a": value})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({3: 4}, "is dict, expected an array or a bool, int, float, str or None; use one entry for each"),
        ((1, 2), "is tuple"),
        ([1, 2], "is list"),
        (Colour.RED, "is Colour"),
        (np.ma.array([1.0, 2.0], mask=[True, False]), "is a masked array, whose mask would be lost"),
        (np.array([{}]), "is an array of object"),
        (np.zeros(2, [("a", "f8")]), "is an array of .*'a'"),
        (np.zeros(2, np.longdouble), "is an array of float128, expected numbers or booleans; use at most 64 bits"),
        (np.array([1j]), "is an array of complex128"),
        (np.array(["a"]), "is an array of <U1"),
        (np.array(["2020"], "M8[s]"), "is an array of datetime64"),
        (np.eye(2).view(np.matrix), "is a matrix, expected a plain array"),
        (np.longdouble(1), "is a scalar of type float128"),
        (np.timedelta64(1, "s"), "is a scalar of type timedelta64"),
        (2**MAX_INTEGER_BITS, "is an integer of more than 1024 bits"),
        (10**5000, "is an integer of more than 1024 bits"),
        ("\ud83d\ude00", "is a text with surrogates"),
        (b"bytes", "is bytes"),
        (float("nan"), "is nan"),
        (np.float32("nan"), "is nan"),
    ],
    ids=lambda value: show_value(value)[:30],
)
def test_a_value_that_would_be_changed_is_refused_by_name(value, reason):
    with pytest.raises(ModuleError, match=f"cannot be stored: 'weights' {reason}"):
        pack_state({"weights": value})


@pytest.mark.parametrize(
    "name",
    ["", 3, None, "__metadata__", "__scalars__", "\ud800", "x" * 2000, "x" * 50_000_000],
    ids=lambda name: show_value(name)[:30],
)
def test_a_name_that_would_be_changed_is_refused(name):
    for value in (1, np.zeros(2)):
        with pytest.raises(ModuleError, match="name") as refused:
            pack_state({name: value})
        assert len(str(refused.value)) < 200


def test_a_tensor_is_refused_with_the_remedy():
    torch = pytest.importorskip("torch")
    with pytest.raises(ModuleError, match=r"'a' is a torch Tensor, expected a numpy array; use tensor\.detach"):
        pack_state({"a": torch.zeros(2)})


def test_states_whose_header_would_be_too_large_are_refused():
    with pytest.raises(ModuleError, match=f"has {MAX_STATE_ENTRIES + 1} entries"):
        pack_state({str(i): i for i in range(MAX_STATE_ENTRIES + 1)})
    with pytest.raises(ModuleError, match="characters of text"):
        pack_state({"a": "x" * MAX_STATE_TEXT_BYTES, "b": "y"})
    check_round_trip({"a": "\1" * MAX_STATE_TEXT_BYTES})  # six bytes each in JSON, and the longest that is accepted


def test_a_memory_map_comes_back_as_an_array(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4.0))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(unpack_state(pack_state({"a": mapped}), "file")["a"], np.arange(4.0))


# --- reading ----------------------------------------------------------------------------------------------------------


def document(header, body=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_a_document_of_an_earlier_version_is_read():
    """It has no __types__, and its scalars may be lists and dicts."""
    array = {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}
    scalars = {"count": 3, "rate": 0.5, "old": [1, {"2": 3}], "none": None}
    data = document({"__metadata__": {"__scalars__": json.dumps(scalars)}, "w": array}, struct.pack("<2d", 1.0, 2.0))
    state = unpack_state(data, "file")
    np.testing.assert_array_equal(state.pop("w"), [1.0, 2.0])
    assert state == scalars


@pytest.mark.parametrize(
    "metadata",
    [
        {"__scalars__": "[1]"},
        {"__scalars__": "3"},
        {"__scalars__": "{"},
        {"__scalars__": "[" * 100_000},
        {"__scalars__": '{"w": 1}'},
        {"__scalars__": '{"a": 1}', "__types__": "[]"},
        {"__scalars__": '{"a": 1}', "__types__": '{"b": "int8"}'},
        {"__scalars__": '{"a": 1}', "__types__": '{"a": "object"}'},
        {"__scalars__": '{"a": 300}', "__types__": '{"a": "int8"}'},
        {"__scalars__": '{"a": 0.1}', "__types__": '{"a": "float32"}'},
        {"__scalars__": '{"a": 1}', "__types__": '{"a": ["int8"]}'},
        {"__types__": '{"w": ">f4"}'},
        {"__types__": '{"w": "O"}'},
        {"__types__": '{"w": 3}'},
    ],
)
def test_metadata_that_are_not_valid_are_refused_with_the_name_of_the_file(metadata):
    array = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    data = document({"__metadata__": metadata, "w": array}, bytes(8))
    with pytest.raises(CheckpointError, match="round-001/vae: the state is not readable"):
        unpack_state(data, "round-001/vae")


WHOLE = pack_state({"w": np.arange(6.0).reshape(2, 3), "b": np.arange(3, dtype=">i4"), "n": np.float32(1), "t": "text"})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(WHOLE)))
def test_damaged_documents_are_read_or_refused(changes, length):
    data = bytearray(WHOLE)
    for at, byte in changes:
        data[at] = byte
    with suppress(CheckpointError):
        unpack_state(bytes(data[:length]), "file")
