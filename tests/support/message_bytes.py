"""Bytes of valid and invalid messages, and the errors when invalid ones are decoded."""

import struct
import time
import tracemalloc
import warnings

import msgpack
import pytest

from actors.errors import MessageError
from actors.messaging.codec import decode, encode, pack_header
from actors.messaging.codec import unpack_header as unpack
from tests.actors.messaging.test_messages import message

FIXED_BYTES = 768 << 10
"""Memory that decoding may take besides a multiple of its input: the Python objects of the largest header."""


def fields_of(like="latent_vectors", /, **changed):
    """Return the fields of the header of a message of kind `like`, as msgpack packs them."""
    plain = {**msgpack.unpackb(pack_header(message(like).header)), **changed}
    return {name: value for name, value in plain.items() if value is not None}


def document(fields, blobs):
    """Return a document with any header and arrays; bytes are inserted as they are."""
    packed = [part if isinstance(part, bytes) else msgpack.packb(part) for part in (fields, blobs)]
    return b"\x82\xa6header" + packed[0] + b"\xa6arrays" + packed[1]


def header_with(raw, field="kind"):
    """Return the bytes of a header whose `field` is the msgpack bytes `raw`."""
    plain = fields_of()
    body = b"".join(msgpack.packb(name) + (raw if name == field else msgpack.packb(v)) for name, v in plain.items())
    return bytes([0x80 | len(plain)]) + body


def tree(depth, leaf, width=60):
    return leaf if depth == 0 else b"\xdc" + struct.pack(">H", width) + tree(depth - 1, leaf, width) * width


def decode_error(data, read=decode):
    """Return the error message for `data`; check that decoding took little time and memory and gave no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        started = time.perf_counter()
        try:
            with pytest.raises(MessageError) as raised:
                read(data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert time.perf_counter() - started < 1.0
    assert peak < 4 * len(data) + FIXED_BYTES
    error = str(raised.value)
    assert len(error) < 20_000
    return error


VALID = encode(message("class_posteriors", lengths=[2, 3], mask=[False] * 5))
ROUTE = "gmm -> mm.evidence ({})"


def check_decodes_or_raises(read, data):
    """Check that `read` returns a valid message or header, or raises MessageError."""
    try:
        message = read(data)
    except MessageError:
        return
    assert read is unpack or encode(message)
