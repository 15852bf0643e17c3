"""Property tests of the codec: any bytes give a valid message or a MessageError, with little time and memory."""

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import MessageError
from actors.messaging.codec import decode, encode, make_message, pack_header
from actors.messaging.codec import unpack_header as unpack
from actors.messaging.kinds import KINDS
from actors.messaging.message import Header
from tests.actors.messaging.test_messages import arrays_of, message
from tests.support.message_bytes import (
    ROUTE,
    VALID,
    check_decodes_or_raises,
    decode_error,
    document,
    fields_of,
    header_with,
)

fuzz = settings(max_examples=150, deadline=None)

# --- valid messages ------------------------------------------------------------------------------------------------

names = st.text(max_size=40)
counts = st.integers(0, 2**63 - 1)


@st.composite
def messages(draw):
    """Generate valid messages of all kinds."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    n, k, d = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(["<f4", "<f8"]))
    arrays = arrays_of(kind, n, k, d, dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if kind in ("observations", "reconstructions"):
        arrays["values"] = rng.normal(size=(n, *draw(st.lists(st.integers(1, 3), max_size=4)))).astype(dtype)
    if kind == "latent_vectors" and draw(st.booleans()):
        arrays["variance"] = rng.random((n, d)).astype(draw(st.sampled_from(["<f4", "<f8"])))
    if draw(st.booleans()):
        cuts = sorted(draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
        arrays["lengths"] = np.diff([0, *cuts, n])
    if draw(st.booleans()):
        arrays["mask"] = rng.random(n) < 0.5
    order = draw(st.permutations(list(arrays)))
    layout = draw(st.sampled_from(["plain", "big endian", "strided", "fortran"]))
    integers = {name: draw(counts) for name in ("round", "step", "sequence")}
    texts = {name: draw(names) for name in ("sender", "receiver", "port", "run")}
    return make_message(Header(kind, **texts, **integers), {name: with_layout(arrays[name], layout) for name in order})


def with_layout(array, layout):
    """Return an equal array with another memory layout."""
    if layout == "big endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if layout == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    return np.asfortranarray(array) if layout == "fortran" else array


@fuzz
@given(messages())
def test_decoding_an_encoded_message_gives_the_same_bits(sent):
    decoded = decode(encode(sent))
    assert decoded.header == sent.header == unpack(pack_header(sent.header))
    assert list(decoded.arrays) == list(sent.arrays)
    for name, array in sent.arrays.items():
        assert (decoded[name].dtype, decoded[name].shape) == (array.dtype, array.shape)
        assert decoded[name].tobytes() == array.tobytes()
    assert encode(decoded) == encode(sent)


# --- invalid bytes -------------------------------------------------------------------------------------------------


@fuzz
@given(st.data(), messages())
def test_a_truncated_message_is_refused(data, sent):
    encoded = encode(sent)
    with pytest.raises(MessageError):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_every_truncation_of_one_message_is_refused():
    for end in range(len(VALID)):
        with pytest.raises(MessageError):
            decode(VALID[:end])
    head = pack_header(message("class_means").header)
    for end in range(len(head)):
        with pytest.raises(MessageError):
            unpack(head[:end])


@fuzz
@given(st.data(), messages())
def test_flipped_bytes_give_a_message_or_an_error(data, sent):
    encoded = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    check_decodes_or_raises(decode, bytes(encoded))


def test_every_flipped_bit_of_one_header_gives_a_header_or_an_error():
    head = pack_header(message("class_means").header)
    for at in range(len(head)):
        for bit in range(8):
            changed = bytearray(head)
            changed[at] ^= 1 << bit
            check_decodes_or_raises(unpack, bytes(changed))
            check_decodes_or_raises(decode, document(bytes(changed), []))


@fuzz
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data):
    for read in (decode, unpack):
        with pytest.raises(MessageError):
            read(data)
    for hostile in (document(data, []), document(header_with(data), []), document(fields_of(), data)):
        with pytest.raises(MessageError):
            decode(hostile)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 9) | st.binary(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


@fuzz
@given(anything)
def test_arbitrary_msgpack_is_refused(value):
    packed = msgpack.packb(value)
    for read in (decode, unpack):
        with pytest.raises(MessageError):
            read(packed)
    with pytest.raises(MessageError):
        decode(msgpack.packb({"header": value, "arrays": value}))


@fuzz
@given(st.sampled_from([*fields_of(), "more"]), anything)
def test_a_header_with_an_arbitrary_field_is_decoded_or_refused(name, value):
    fields = {**fields_of(), name: value}
    check_decodes_or_raises(unpack, msgpack.packb(fields))
    check_decodes_or_raises(decode, document(fields, [message("latent_vectors")["mean"].tobytes()]))


@fuzz
@given(st.lists(anything, min_size=3, max_size=3) | anything)
def test_an_arbitrary_array_header_is_refused(item):
    packed = msgpack.packb(fields_of(arrays=[item]))
    with pytest.raises(MessageError):
        unpack(packed)


@fuzz
@given(st.lists(anything, max_size=3) | anything)
def test_arbitrary_values_instead_of_arrays_are_refused(blobs):
    assert decode_error(document(fields_of(), blobs)).startswith(ROUTE.format("latent_vectors"))


@fuzz
@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32, 2**60, 2**62, 2**63]), max_size=9))
def test_a_declared_shape_does_not_allocate_memory(shape):
    if shape == [5, 2]:
        return
    blob = message("latent_vectors")["mean"].tobytes()
    decode_error(document(fields_of(arrays=[["mean", "<f8", shape]]), [blob]))
    fields = fields_of("observations", arrays=[["values", "<f4", shape]])
    check_decodes_or_raises(decode, document(fields, [blob]))
    check_decodes_or_raises(decode, document(fields, [b""]))
