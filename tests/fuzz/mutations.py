"""Fast made-up inputs: valid documents in which structure, values, bytes or sizes are changed at random.

Hypothesis spends milliseconds on an input and finds small ones; these take microseconds, so that a million is soon
read. About one in ten is left as it is, so that the valid is read too.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack
import numpy as np

from tests.fuzz import targets

ODD_TEXTS = ("", "a" * 300, "../x", "/etc/passwd", "\0", "\x1b[31m", "\ud800", "=1+1", "-", "<<", "1e999", "nan", "yes",
             "9" * 400, "a.b:C", "on", "0o17", "1_000", "12:30:45", "2001-01-01", "~", "\u202e", "\ufeff", ".inf", "gmm",
             "data", "round-001", "state", "float64", "é" * 60)  # fmt: skip
ODD_NUMBERS = (0, -1, 1, 2, 255, 256, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**50, 10**400, 0.5, -0.0, 1e308,
               float("inf"), float("nan"), 5e-324)  # fmt: skip
YAML_TRAPS = ("yes", "on", "~", "0x1F", "0o17", "1_000", "12:30:45", "2001-01-01", "&a ", "*a", "<<: *a", "!!python/none x",
              "!!binary aa==", "!!set {a}", "? a", "[", "]", "{", "}", ": ", "- ", "\n", "  ", "\t", "#", "|\n", ">\n", "'", '"',
              "---\n", "...\n", "%YAML 1.1\n", "\u2028", "1e3", ".inf", ".nan", "!x ", "=", "a: &a [1]\nb: [*a, *a]\n",
              "[&x [1], *x]", "{<<: {classes: 3}}", "\x07", "\ud800", "\ufeff")  # fmt: skip


def odd(rng: Random, depth: int = 2) -> Any:
    """Return a value that no field expects, or that several do."""
    choice = rng.random()
    if choice < 0.4:
        return rng.choice(ODD_TEXTS)
    if choice < 0.75 or depth == 0:
        return rng.choice((*ODD_NUMBERS, None, True, False))
    if choice < 0.87:
        return [odd(rng, depth - 1) for _ in range(rng.choice((0, 1, 2, 5)))]
    return {rng.choice(ODD_TEXTS): odd(rng, depth - 1) for _ in range(rng.choice((0, 1, 2, 5)))}


def changed(rng: Random, document: Any) -> Any:
    """Return a document in which no, one or a few places are replaced, removed, doubled, retyped or added to."""
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 2, 2, 3))):
        document = _change_one(rng, document)
    return document


def _change_one(rng: Random, document: Any) -> Any:
    if isinstance(document, dict) and document:
        key = rng.choice(list(document))
        if rng.random() < 0.75:
            return {**document, key: _change_one(rng, document[key])}
        rest = {name: value for name, value in document.items() if name != key}
        if rng.random() < 0.5:
            return rest
        return {**document, rng.choice((*ODD_TEXTS, *document)): rng.choice((document[key], odd(rng)))}
    if isinstance(document, list) and document:
        index = rng.randrange(len(document))
        if rng.random() < 0.75:
            return [*document[:index], _change_one(rng, document[index]), *document[index + 1 :]]
        return document[:index] + document[index + 1 :] if rng.random() < 0.5 else document + [document[index]] * 3
    if isinstance(document, bool) or document is None:
        return rng.choice((True, False, None, odd(rng)))
    if isinstance(document, int | float) and abs(document) < 1e300 and rng.random() < 0.6:
        return rng.choice((document + 1, document - 1, -document, document * 2, 1.0, repr(document)[:99], 0, 3))
    if isinstance(document, str) and document and rng.random() < 0.6:
        place = rng.randrange(len(document))
        return document[:place] + rng.choice(("", "x", document, rng.choice(ODD_TEXTS))) + document[place + 1 :]
    return odd(rng)


def damaged(rng: Random, content: bytes) -> bytes:
    """Return bytes of which some are changed, removed, repeated or added, or from which the end is cut."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4, 8))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 | 1:
                data[place : place + 1] = bytes([rng.choice((rng.randrange(256), 0, 255, 127, 128))])
            case 2:
                data[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
            case 3:
                del data[place : place + rng.choice((1, 2, 8, 10**6))]
            case 4:
                data[place:place] = data[place : place + rng.choice((1, 8, 64))] * rng.choice((1, 2, 50))
            case _:
                data += rng.randbytes(rng.randrange(17))
    return bytes(data)


def damaged_text(rng: Random, text: str, tokens: Sequence[str] = YAML_TRAPS) -> str:
    """Return a text in which tokens are put, or from which parts are removed or repeated."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        place = rng.randrange(len(text) + 1)
        end = place + rng.choice((0, 0, 1, 4, 20))
        text = text[:place] + rng.choice((rng.choice(tokens), "", text[place:end] * 2)) + text[end:]
    return text


# --- one maker for each reader ------------------------------------------------------------------------------------


def model_file(rng: Random) -> Any:
    """Return a model file."""
    return changed(rng, targets.MODEL) if rng.random() < 0.5 else damaged_text(rng, targets.MODEL_TEXT)


SETTINGS = ("seed=3", "modules.gmm.classes=5", "schedule.rounds=4", "data.source=digits", "recovery.tries=1", "name=x",
            "connections=[data -> gmm]", "modules.mm=null", "schedule.steps.0.repeat=2", "cluster.together=[[gmm, mm]]",
            "modules.gmm={type: gmm, classes: 4}", "checkpoints.keep=3", "code=.")  # fmt: skip


def settings(rng: Random) -> list[str]:
    """Return settings of ``--set``."""
    tokens = (*YAML_TRAPS, *ODD_TEXTS, ".", "=", "0", "modules", "gmm", "-1", "99999999")
    return [damaged_text(rng, rng.choice(SETTINGS), tokens) for _ in range(rng.choice((1, 1, 2)))]


_DTYPES = (
    "<f8",
    ">f8",
    "<f4",
    "|u1",
    "<i2",
    ">i8",
    "|O",
    "<U3",
    "|S2",
    "|b1",
    "<c16",
    "<f2",
    [("a", "<f8")],
    "<M8[s]",
    "f8,i4",
)


def npy(rng: Random) -> bytes:
    """Return an array in .npy format, of a type, shape and length that may not agree."""
    if rng.random() < 0.3:
        return damaged(rng, targets._npy(targets.ROWS, rng.choice(((1, 0), (2, 0)))))
    shape = rng.choice(
        ((6, 2), (12,), (), (3, 2, 2), (0, 2), (1, 2**40), (-1, 2), (2**70,), (2, 0, 2**62), (True,), 3, "x")
    )
    header = {"descr": rng.choice(_DTYPES), "fortran_order": rng.choice((False, False, True, None)), "shape": shape}
    text = f"{header!r}\n".encode()
    body = targets.ROWS.astype(rng.choice(("<f8", "<f4", "|u1"))).tobytes()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + rng.choice((body, body[:-1], b"", body * 2))


def npz(rng: Random) -> bytes:
    """Return an archive of arrays."""
    if rng.random() < 0.5:
        return damaged(rng, NPZ)
    names = ("observations.npy", "categories.npy", "values.npy", "lengths.npy", "../x.npy", "/a", "a.npy", "a", "")
    return targets._zip([(rng.choice(names) or "b", npy(rng)) for _ in range(rng.choice((0, 1, 1, 2)))])


def idx(rng: Random) -> bytes:
    """Return an IDX file."""
    shape = rng.choice(((2, 3), (6,), (2, 3, 1), (0,), (2**32 - 1,), (2**31, 2**31), (), (1,) * 255, (2**32 - 1,) * 9))
    code, body = rng.choice((8, 8, 8, 9, 11, 12, 13, 14, 0, 10)), rng.randbytes(rng.choice((6, 12, 24, 48, 0)))
    return damaged(rng, targets._idx(shape, body, code))


_TABLES = (b"x,y\n1,2\n3,4\n", b"1 2\n3 4\n5 6\n", b"# c\n1\n2\n", b"1,2.5,1e3\r\n4,5,-6\r\n", b"0\n1\n0\n1\n")
_TABLE_PARTS = (",", " ", "\n", "\r", "\t", "nan", "inf", "1e999", "0x1", "1_0", '"', "#", "é", "\0", "9" * 400, "1;2",
                "\x1b", "\ufeff", "\u2028", "-", "e", "\n\n\n", "1,2\n" * 40)  # fmt: skip


def table(rng: Random) -> bytes:
    """Return a table of numbers as text."""
    content = rng.choice(_TABLES)
    if rng.random() < 0.4:
        return damaged(rng, content)
    return damaged_text(rng, content.decode(), _TABLE_PARTS).encode(errors="surrogatepass")


def data_file(rng: Random) -> tuple[str, bytes]:
    """Return the name and the content of a data file."""
    make, name = rng.choice(
        ((table, "a.txt"), (table, "a.csv"), (npy, "a.npy"), (npz, "a.npz"), (idx, "a.idx"), (idx, "a.idx.gz"))
    )
    content = make(rng)
    if name.endswith(".gz"):
        content = gzip.compress(content, 1)
        content = damaged(rng, content) if rng.random() < 0.4 else content
    return name, content


def packed_message(rng: Random) -> bytes:
    """Return a message or a header: a valid one with other fields, or with other bytes."""
    content = rng.choice((*targets.MESSAGES, *targets.HEADERS))
    if rng.random() < 0.4:
        return damaged(rng, content)
    document = changed(rng, msgpack.unpackb(content))
    try:
        return bytes(msgpack.packb(document))
    except (ValueError, TypeError, OverflowError):
        return damaged(rng, content)


def state(rng: Random) -> bytes:
    """Return a packed state: a valid one with another header, or with other bytes."""
    if rng.random() < 0.3:
        return damaged(rng, targets.STATE)
    size = int.from_bytes(targets.STATE[:8], "little")
    header = changed(rng, json.loads(targets.STATE[8 : 8 + size]))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + targets.STATE[8 + size :]


def manifest(rng: Random) -> Any:
    """Return a manifest."""
    return changed(rng, targets.MANIFEST) if rng.random() < 0.7 else damaged(rng, json.dumps(targets.MANIFEST).encode())


def events(rng: Random) -> Any:
    """Return lines of an event log."""
    if rng.random() < 0.7:
        return [changed(rng, targets.EVENT) for _ in range(rng.choice((1, 1, 2, 3)))]
    return damaged(rng, json.dumps(targets.EVENT).encode() + b"\n")


def result(rng: Random) -> Any:
    """Return ``result.json`` or ``metrics.csv``."""
    if rng.random() < 0.6:
        return changed(rng, targets.RESULT)
    return damaged(rng, rng.choice((json.dumps(targets.RESULT).encode(), targets.METRICS)))


def record(rng: Random) -> Any:
    """Return the record of a running run."""
    return _json(rng, targets.RECORD)


def environment(rng: Random) -> Any:
    """Return ``environment.json``."""
    return _json(rng, targets.ENVIRONMENT)


def saved_events(rng: Random) -> Any:
    """Return events of a status file."""
    return _json(rng, targets.SAVED_EVENTS)


def _json(rng: Random, document: Any) -> Any:
    return changed(rng, document) if rng.random() < 0.75 else damaged(rng, json.dumps(document).encode())


def output(rng: Random) -> tuple[str, bytes]:
    """Return an output file."""
    return rng.choice(((".txt", table(rng)), (".npy", npy(rng))))


_ODD_ANSWERS = (np.array(["a"]), np.array(None), np.array([None]), np.float64(1), np.float16("nan"), np.timedelta64(1),
                np.zeros((0, 3)), np.zeros((1,) * 20), np.longdouble(1), np.ma.masked_array([1], [True]), np.matrix("1"),
                np.zeros(3, "<M8[s]"), np.zeros(2, [("a", "f8")]), b"x", 1j, object(), print, {1: 2}, {None: 1}, (1,), {1},
                np.bool_(True), range(3), bytearray(b"x"), float, NotImplemented, ...)  # fmt: skip


def answer(rng: Random) -> Any:
    """Return what a module might give back."""
    document = changed(rng, targets.ANSWER)
    if isinstance(document, dict) and document and rng.random() < 0.6:
        name = rng.choice((*document, *ODD_TEXTS, "seconds", "acc", "1", 1, None, b"x", ("a",)))
        return {**document, name: rng.choice(_ODD_ANSWERS)}
    return document if rng.random() < 0.8 else rng.choice(_ODD_ANSWERS)


def _make_npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, observations=targets.ROWS, categories=np.arange(6))
    return stream.getvalue()


NPZ = _make_npz()
MAKERS: dict[str, tuple[Callable[[Random], Any], int]] = {
    "model files": (model_file, 2),
    "--set": (settings, 2),
    "data files": (data_file, 12),
    "messages": (packed_message, 26),
    "states": (state, 14),
    "manifests": (manifest, 14),
    "events": (events, 10),
    "results": (result, 8),
    "records of runs": (record, 6),
    "environments": (environment, 6),
    "status files": (saved_events, 4),
    "outputs": (output, 6),
    "answers of modules": (answer, 8),
}
"""Functions that make inputs, and their shares, by the reader's name; the slow readers get fewer."""
