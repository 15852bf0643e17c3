"""Bytes that may be a message, or nearly one, and what is said when they are refused."""

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
"""What reading may take besides a multiple of what came: the header's own limit times what Python makes of it."""


def fields_of(like="latent_vectors", /, **changed):
    """A header like that of a message of kind `like`, as msgpack sees it."""
    plain = {**msgpack.unpackb(pack_header(message(like).header)), **changed}
    return {name: value for name, value in plain.items() if value is not None}


def document(fields, blobs):
    """The bytes of a message of which the parts may be anything, bytes being taken as they are."""
    packed = [part if isinstance(part, bytes) else msgpack.packb(part) for part in (fields, blobs)]
    return b"\x82\xa6header" + packed[0] + b"\xa6arrays" + packed[1]


def header_with(raw, field="kind"):
    """Header bytes in which `field` holds the msgpack bytes `raw`."""
    plain = fields_of()
    body = b"".join(msgpack.packb(name) + (raw if name == field else msgpack.packb(v)) for name, v in plain.items())
    return bytes([0x80 | len(plain)]) + body


def tree(depth, leaf, width=60):
    return leaf if depth == 0 else b"\xdc" + struct.pack(">H", width) + tree(depth - 1, leaf, width) * width


def said_about(data, read=decode):
    """What is said when `data` is refused; also that refusing took little time and memory, and no warning."""
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
    said = str(raised.value)
    assert len(said) < 20_000
    return said


VALID = encode(message("class_posteriors", lengths=[2, 3], mask=[False] * 5))
ROUTE = "gmm -> mm.evidence ({})"


def message_or_refusal(read, data):
    try:
        came = read(data)
    except MessageError:
        return
    assert read is unpack or encode(came)  # valid then, and nothing less
