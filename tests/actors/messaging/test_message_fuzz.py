"""Whatever bytes come: a message or a MessageError, quickly, in little memory, and nothing runs."""

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
from tests.support.message_bytes import ROUTE, VALID, document, fields_of, header_with, message_or_refusal, said_about

fuzz = settings(max_examples=150, deadline=None)

# --- what a sender may say ------------------------------------------------------------------------------------------

names = st.text(max_size=40)
counts = st.integers(0, 2**63 - 1)


@st.composite
def messages(draw):
    """Any valid message of any kind."""
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
    how = draw(st.sampled_from(["plain", "big endian", "strided", "fortran"]))
    integers = {name: draw(counts) for name in ("round", "step", "sequence")}
    texts = {name: draw(names) for name in ("sender", "receiver", "port", "run")}
    return make_message(Header(kind, **texts, **integers), {name: awkward(arrays[name], how) for name in order})


def awkward(array, how):
    """The same numbers, differently laid out."""
    if how == "big endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "strided":
        return np.repeat(array, 2, axis=0)[::2]
    return np.asfortranarray(array) if how == "fortran" else array


@fuzz
@given(messages())
def test_any_valid_message_comes_back_bit_for_bit(sent):
    came = decode(encode(sent))
    assert came.header == sent.header == unpack(pack_header(sent.header))
    assert list(came.arrays) == list(sent.arrays)
    for name, array in sent.arrays.items():
        assert (came[name].dtype, came[name].shape) == (array.dtype, array.shape)
        assert came[name].tobytes() == array.tobytes()
    assert encode(came) == encode(sent)


# --- what anybody may send ------------------------------------------------------------------------------------------


@fuzz
@given(st.data(), messages())
def test_a_message_cut_off_anywhere_is_refused(data, sent):
    whole = encode(sent)
    with pytest.raises(MessageError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_every_cut_of_one_message_is_refused():
    for end in range(len(VALID)):
        with pytest.raises(MessageError):
            decode(VALID[:end])
    head = pack_header(message("class_means").header)
    for end in range(len(head)):
        with pytest.raises(MessageError):
            unpack(head[:end])


@fuzz
@given(st.data(), messages())
def test_flipped_bytes_give_a_message_or_a_refusal(data, sent):
    whole = bytearray(encode(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    message_or_refusal(decode, bytes(whole))


def test_every_flipped_bit_of_one_header_gives_a_header_or_a_refusal():
    head = pack_header(message("class_means").header)
    for at in range(len(head)):
        for bit in range(8):
            changed = bytearray(head)
            changed[at] ^= 1 << bit
            message_or_refusal(unpack, bytes(changed))
            message_or_refusal(decode, document(bytes(changed), []))


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
def test_a_header_with_anything_in_one_of_its_fields_is_read_or_refused(name, value):
    fields = {**fields_of(), name: value}
    message_or_refusal(unpack, msgpack.packb(fields))
    message_or_refusal(decode, document(fields, [message("latent_vectors")["mean"].tobytes()]))


@fuzz
@given(st.lists(anything, min_size=3, max_size=3) | anything)
def test_anything_in_place_of_an_array_header_is_refused(item):
    packed = msgpack.packb(fields_of(arrays=[item]))
    with pytest.raises(MessageError):
        unpack(packed)


@fuzz
@given(st.lists(anything, max_size=3) | anything)
def test_anything_in_place_of_the_arrays_is_refused(blobs):
    assert said_about(document(fields_of(), blobs)).startswith(ROUTE.format("latent_vectors"))


@fuzz
@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32, 2**60, 2**62, 2**63]), max_size=9))
def test_no_announced_shape_reserves_memory(shape):
    if shape == [5, 2]:
        return
    blob = message("latent_vectors")["mean"].tobytes()
    said_about(document(fields_of(arrays=[["mean", "<f8", shape]]), [blob]))
    fields = fields_of("observations", arrays=[["values", "<f4", shape]])
    message_or_refusal(decode, document(fields, [blob]))
    message_or_refusal(decode, document(fields, [b""]))
