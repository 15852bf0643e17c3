"""Malicious bytes are refused quickly, with little memory, and without executing anything."""

import pickle
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import msgpack
import numpy as np
import pytest

from actors.limits import MAX_HEADER_BYTES
from actors.messaging.codec import decode, encode, make_message, pack_header
from actors.messaging.codec import unpack_header as unpack
from tests.actors.messaging.test_messages import arrays_of, header, log_rows, message
from tests.support.message_bytes import (
    ROUTE,
    VALID,
    check_decodes_or_raises,
    decode_error,
    document,
    fields_of,
    header_with,
    tree,
)


def blob_of(array):
    return np.ascontiguousarray(array).tobytes()


class TestErrorsNameTheRoute:
    """Every error after a readable header names sender, receiver, port and kind."""

    @pytest.mark.parametrize(
        ("fields", "blobs", "expected"),
        [
            (
                fields_of(),
                [bytes(79)],
                "mean has shape (5, 2) and needs 80 bytes, but 79 are declared and 79 are present",
            ),
            (
                fields_of(),
                [bytes(81)],
                "mean has shape (5, 2) and needs 80 bytes, but 81 are declared and 81 are present",
            ),
            (fields_of(), b"\x91\xc6\xff\xff\xff\xff" + bytes(80), "4294967295 are declared and 80 are present"),
            (fields_of(), b"\x91\xc4\x50" + bytes(40), "80 are declared and 40 are present"),
            (fields_of(), b"\x91\xc5\x00", " 0 are present"),
            (fields_of(), b"\x91", "expected bytes, found the end of the document"),
            (fields_of(), ["text"], "expected bytes, found another type"),
            (fields_of(), [bytes(80), b""], "expected 'arrays' with a list of 1 arrays"),
            (fields_of(), [], "expected 'arrays' with a list of 1 arrays"),
            (fields_of(), msgpack.packb([bytes(80)]) + b"\xc0", "1 unexpected bytes after the message"),
            (fields_of(), [blob_of(np.full((5, 2), np.nan))], "mean is not finite in row 0 (5 such rows)"),
            (fields_of(), [blob_of(np.full((5, 2), np.inf))], "mean is not finite"),
            (fields_of(schema=99), [bytes(80)], "has schema 99, expected schema 1"),
            (fields_of(arrays=[["mean", "<i8", [5, 2]]]), [bytes(80)], "mean has dtype '<i8', expected <f4 or <f8"),
            (fields_of(arrays=[["mean", "<f8", [2**60, 2]]]), [bytes(80)], "80 are declared and 80 are present"),
            (fields_of(arrays=[["mean", "<f8", [2**60, 0]]]), [b""], "with no size of 0"),
            (fields_of(arrays=[["mean", "<f8", [0, 2**60]]]), [b""], "with no size of 0"),
            (fields_of(arrays=[["mean", "<f8", [2**61 + 5, 2]]]), [bytes(80)], "80 are declared and 80 are present"),
            (fields_of(arrays=[["mean", "<f8", [2**63, 2**63]]]), [b""], "0 are declared and 0 are present"),
            (fields_of(arrays=[["mean", "<f8", [5, 2]]] * 2), [bytes(80)] * 2, "duplicate array name"),
        ],
    )
    def test_of_latent_vectors(self, fields, blobs, expected):
        error = decode_error(document(fields, blobs))
        assert error.startswith(ROUTE.format("latent_vectors"))
        assert expected in error

    def test_of_a_truncated_document(self):
        assert decode_error(VALID[:-20]).startswith(ROUTE.format("class_posteriors"))

    def test_of_an_unknown_kind(self):
        error = decode_error(document(fields_of(kind="gossip"), []))
        assert error.startswith("gmm -> mm.evidence (gossip): unknown kind 'gossip'; known kinds are class_means")

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"schema": 2, "tone": "kind"}, "has schema 2, expected schema 1"),
            ({"schema": 2, "run": None}, "has schema 2, expected schema 1"),
            ({"tone": "kind"}, "missing or unknown header fields: tone"),
            ({"run": None}, "missing or unknown header fields: run"),
            ({"round": -1}, "round is -1, expected 0 or more"),
            ({"arrays": 7}, "expected arrays to be a list"),
            ({"arrays": [["mean", ">f8", [5, 2]]]}, "mean has dtype '>f8'"),
            ({"arrays": [["mean", "<f8", [-5, 2]]]}, "the shape of mean is [-5, 2]"),
        ],
    )
    def test_of_a_header_that_is_only_partly_readable(self, changed, expected):
        for error in (
            decode_error(document(fields_of(**changed), [bytes(80)])),
            decode_error(msgpack.packb(fields_of(**changed)), unpack),
        ):
            assert error.startswith(ROUTE.format("latent_vectors"))
            assert expected in error

    @pytest.mark.parametrize(("value", "expected"), [(np.nan, "contains NaN"), (np.inf, "+inf"), (-np.inf, "-inf")])
    def test_of_a_row_that_is_not_a_log_distribution(self, value, expected):
        rows = log_rows()
        rows[2] = value
        assert expected in decode_error(document(fields_of("transition_prior"), [blob_of(rows)]))

    @pytest.mark.parametrize(
        ("lengths", "expected"),
        [
            ([2**62] * 4 + [5], f"sums to {2**64 + 5}, but there are 5 rows"),
            ([6, -1], "contains a sequence length that is not positive"),
            ([2, 2], "sums to 4"),
        ],
    )
    def test_of_invalid_lengths(self, lengths, expected):
        fields = fields_of(arrays=[["mean", "<f8", [5, 2]], ["lengths", "<i8", [len(lengths)]]])
        error = decode_error(document(fields, [bytes(80), blob_of(np.array(lengths))]))
        assert error.startswith(ROUTE.format("latent_vectors"))
        assert expected in error

    @pytest.mark.parametrize("byte", [2, 127, 255])
    def test_of_booleans_that_are_neither_0_nor_1(self, byte):
        fields = fields_of(arrays=[["mean", "<f8", [5, 2]], ["mask", "|b1", [5]]])
        assert "mask contains bytes other than 0 and 1" in decode_error(
            document(fields, [bytes(80), bytes([0, 1, byte, 0, 0])])
        )


HOSTILE_HEADERS = {
    "deep arrays": header_with(b"\x91" * 10_000 + b"\xc0"),
    "deep arrays that fit": header_with(b"\x91" * 1000 + b"\xc0"),
    "deep arrays without an end": header_with(b"\x91" * 10_000),
    "deep maps": header_with(b"\x81\xa1a" * 10_000 + b"\xc0"),
    "deep maps that fit": header_with(b"\x81\xa1a" * 1000 + b"\xc0"),
    "deep shape": header_with(b"\x91\x93\xa1a\xa3<f8" + b"\x91" * 1000 + b"\xc0", "arrays"),
    "huge array": header_with(b"\xdd\xff\xff\xff\xff"),
    "huge map": header_with(b"\xdf\xff\xff\xff\xff"),
    "nested huge arrays": header_with(b"\xdd\xff\xff\xff\xff" * 1000),
    "nested huge maps": header_with(b"\xdf\xff\xff\xff\xff\xa1a" * 1000),
    "nested arrays of 64": header_with(b"\xdc\x00\x40" * 1000),
    "huge text": header_with(b"\xdb\xff\xff\xff\xff"),
    "huge bytes": header_with(b"\xc6\xff\xff\xff\xff"),
    "huge extension": header_with(b"\xc9\xff\xff\xff\xff\x01"),
    "extension": header_with(msgpack.packb(msgpack.ExtType(1, b"code"))),
    "empty extension": header_with(b"\xc7\x00\x01"),
    "timestamp": header_with(b"\xd6\xff" + bytes(4)),
    "invalid utf-8": header_with(b"\xa2\xff\xfe"),
    "invalid utf-8 in an array name": header_with(b"\x91\x93\xa2\xff\xfe\xa3<f8\x91\x01", "arrays"),
    "a tree of empty lists": header_with(tree(2, b"\x90")),
    "a tree of empty maps": header_with(tree(2, b"\x80")),
    "a tree of short texts": header_with(tree(2, b"\xa2ab", 50)),
    "negative round": header_with(b"\xff", "round"),
    "bool round": header_with(b"\xc3", "round"),
    "float round": header_with(b"\xcb" + bytes(8), "round"),
    "huge round": header_with(b"\xcf" + b"\xff" * 8, "round"),
    "negative shape": header_with(msgpack.packb([["mean", "<f8", [-5, -2]]]), "arrays"),
    "bool shape": header_with(msgpack.packb([["mean", "<f8", [True, 2]]]), "arrays"),
    "float shape": header_with(msgpack.packb([["mean", "<f8", [5.0, 2]]]), "arrays"),
    "many dimensions": header_with(msgpack.packb([["mean", "<f8", [1] * 60]]), "arrays"),
    "object dtype": header_with(msgpack.packb([["mean", "|O", [5, 2]]]), "arrays"),
    "record dtype": header_with(msgpack.packb([["mean", "f8,f8", [5, 2]]]), "arrays"),
    "big-endian dtype": header_with(msgpack.packb([["mean", ">f8", [5, 2]]]), "arrays"),
    "key twice": b"\x8b" + header_with(b"\xa1x")[1:] + b"\xa4kind\xa1x",
    "number as key": b"\x81\x01\x01",
    "list as key": b"\x81\x90\x01",
    "map as key": b"\x81\x80\x01",
    "bytes as keys": msgpack.packb({name.encode(): value for name, value in fields_of().items()}),
    "field missing": msgpack.packb(fields_of(run=None)),
    "field unknown": msgpack.packb(fields_of(extra=1)),
    "too long": msgpack.packb(fields_of(arrays=[["mean", "<f8", [5, 2]]] * 2000)),
    "names too long": msgpack.packb(fields_of(sender="s" * 1025)),
    "nothing": b"",
    "nil": b"\xc0",
    "reserved byte": b"\xc1",
    "pickle": pickle.dumps(fields_of()),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_header_is_refused_alone_and_in_a_document(name):
    raw = HOSTILE_HEADERS[name]
    assert decode_error(raw, unpack)
    assert decode_error(document(raw, [bytes(80)]))
    assert decode_error(raw)


HOSTILE_DOCUMENTS = {
    "a large tree of empty lists": tree(3, b"\x90"),
    "the same as a header": document(tree(3, b"\x90"), []),
    "the same as the arrays": document(fields_of(), tree(3, b"\x90")),
    "a large tree of empty maps as an array": document(fields_of(), b"\x91" + tree(3, b"\x80")),
    "four gigabytes declared": document(fields_of(), b"\x91\xc6\xff\xff\xff\xff"),
    "two to the 32 arrays declared": document(fields_of(), b"\xdd\xff\xff\xff\xff" * 1000),
    "header twice": b"\x82\xa6header" + pack_header(message("observations").header) * 2,
    "the arrays first": msgpack.packb({"arrays": [bytes(80)], "header": fields_of()}),
    "a third part": b"\x83" + document(fields_of(), [bytes(80)])[1:] + b"\xa1x\xc0",
    "two documents": VALID * 2,
    "a pickle": pickle.dumps(VALID),
    "numpy's own format": b"\x93NUMPY\x01\x00" + bytes(100),
    "a megabyte of zeros": bytes(1 << 20),
    "deep nesting": b"\x91" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE_DOCUMENTS)
def test_a_hostile_document_is_refused(name):
    assert decode_error(HOSTILE_DOCUMENTS[name])


def test_a_header_of_the_deepest_nesting_is_refused_also_near_the_recursion_limit():
    def deeper(calls):
        return deeper(calls - 1) if calls else check_decodes_or_raises(unpack, HOSTILE_HEADERS["deep arrays that fit"])

    deeper(sys.getrecursionlimit() // 2)


def test_decoding_a_large_message_takes_a_small_multiple_of_its_bytes():
    whole = encode(message("class_posteriors", log_prob=log_rows(20_000, 10), log_norm=np.zeros(20_000)))
    decode(whole)
    tracemalloc.start()
    decode(whole)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(whole)


@pytest.mark.parametrize(
    ("kind", "described", "blobs"),
    [
        ("observations", [["values", "<f4", [10**6]]], [blob_of(np.full(10**6, np.nan, "<f4"))]),
        ("transition_prior", [["log_prob", "<f4", [10**6, 1]]], [blob_of(np.full(10**6, 3, "<f4"))]),
        ("transition_prior", [["log_prob", "<f4", [10**6, 1]]], [blob_of(np.full(10**6, -np.inf, "<f4"))]),
        ("observations", [["values", "<f4", [1]], ["mask", "|b1", [10**6]]], [bytes(4), b"\7" * 10**6]),
        ("observations", [["values", "<f4", [1]], ["lengths", "<i8", [10**6]]], [bytes(4), blob_of([2**62] * 10**6)]),
    ],
)
def test_a_large_message_with_an_error_in_every_row_takes_a_small_multiple_of_its_bytes(kind, described, blobs):
    assert decode_error(document(fields_of(kind, arrays=described), blobs))


def test_the_memory_for_an_invalid_header_is_limited():
    filled = header_with(tree(2, b"\x80", 89))
    assert len(filled) > MAX_HEADER_BYTES
    decode_error(filled, unpack)


LIMITED = """
import pickle, resource, sys
import actors.messaging.codec as codec
from actors.errors import MessageError
documents = pickle.loads(sys.stdin.buffer.read())  # from the test that started this process
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
for name, data in documents.items():
    for read in (codec.decode, codec.unpack_header):
        try:
            read(data)
        except MessageError:
            continue
        sys.exit(f"{name} was decoded")
print("refused", len(documents))
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="memory cannot be limited on this platform")
def test_a_process_with_little_memory_refuses_all_hostile_bytes():
    hostile = {**HOSTILE_HEADERS, **HOSTILE_DOCUMENTS}
    hostile.update({f"{name} inside": document(raw, [bytes(80)]) for name, raw in HOSTILE_HEADERS.items()})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        input=pickle.dumps(hostile),
        capture_output=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == ["refused", str(len(hostile))]


class Trap:
    """Sets a flag when it is unpickled."""

    unpickled = False

    def __reduce__(self):
        return set_flag, ()


def set_flag():
    Trap.unpickled = True
    return Trap()


def test_decoding_never_unpickles():
    trap = pickle.dumps(Trap())
    for place in ("kind", "arrays"):
        for ext in (trap, msgpack.packb(trap), msgpack.packb(msgpack.ExtType(42, trap))):
            decode_error(header_with(ext, place), unpack)
    for dtype in ("|O", "O", "object"):
        decode_error(document(fields_of("observations", arrays=[["values", dtype, [1]]]), [trap]))
    decode_error(document(fields_of(), [trap]))
    assert not Trap.unpickled
    pickle.loads(trap)
    assert Trap.unpickled


def test_other_bytes_like_objects_can_be_decoded():
    assert decode(bytearray(VALID)).header == decode(memoryview(VALID)).header == decode(VALID).header
    raw = pack_header(make_message(header("latent_vectors"), arrays_of("latent_vectors")).header)
    assert unpack(memoryview(raw)).sender == "gmm"
