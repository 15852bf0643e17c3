"""Fast made-up inputs: valid documents in which structure, values, bytes or sizes are changed at random.

Hypothesis spends milliseconds on an input and finds small ones; these take microseconds, so that a million is soon
read. About one in ten is left as it is, so that the valid is read too.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgpack
import numpy as np
import pandas

from tests.fuzz import command_line, targets

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
    model = rng.choice((targets.MODEL, targets.LARGE_MODEL))
    return changed(rng, model) if rng.random() < 0.6 else damaged_text(rng, targets.MODEL_TEXT)


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


_CONVERTED = {"a.parquet": targets._parquet(targets.ROWS), "a.png": targets._picture(targets.ROWS)}


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
    if rng.random() < 0.1:
        name = rng.choice(tuple(_CONVERTED))
        return name, damaged(rng, _CONVERTED[name])
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


ODD_WORDS = (*ODD_TEXTS, "9" * 5000, "-9" * 3000, "1" + "0" * 4400, "--", "--json", "--set", "--runs", "--name=x", "-h", "--no-ray",
             "--size", "N=" + "9" * 999, "modules.gmm.classes=" + "9" * 5000, "seed=" + "9" * 5000, "old", "runs/old", "..", ".",
             "model.yaml", "rows.npy", "data=rows.npy", "data=", "=", "gmm", "tests:x", ":", "a:b:c", "mnist", "\udcff", "0x10",
             "1e3", "K=4", "...=2x2", "cats.txt", "runs", "n1\n", "ünï", "a b", "%s", "{}", "[red]", "*", "$HOME", "-1", "0", "257")  # fmt: skip


def command(rng: Random) -> list[str]:
    """Return a command line: a valid one in which arguments are replaced, changed, removed, added or exchanged."""
    found: Any = rng.choice(targets.COMMANDS)
    if found and found[0] in command_line.SLOW and rng.random() < 0.7:
        found = rng.choice(targets.COMMANDS)
    words = list(found)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        place = rng.randrange(len(words) + 1)
        match rng.randrange(7):
            case 0 | 1:
                words[place : place + 1] = [rng.choice(ODD_WORDS)]
            case 2:
                words.insert(place, rng.choice(ODD_WORDS))
            case 3 if place < len(words):
                words[place] = damaged_text(rng, words[place], (*YAML_TRAPS, *ODD_TEXTS))
            case 4:
                del words[place : place + 1]
            case 5:
                words += rng.choice(targets.COMMANDS)[1:]
            case _:
                words[place:place] = words[place - 1 : place] * rng.choice((1, 2, 300))
    return [word.replace("\0", "") for word in words]


def variables(rng: Random) -> list[tuple[str, str]]:
    """Return names and values of environment variables."""
    valid = ("0", "1", "token", "disabled", "30", "1.5", "auto", "127.0.0.1:6379", "gmm:inside:2", "tmp", "a/b", "80")
    return [
        (
            rng.choice(targets.VARIABLES),
            damaged_text(rng, rng.choice((*valid, *ODD_TEXTS)), (*YAML_TRAPS, *ODD_WORDS)).replace("\0", ""),
        )
        for _ in range(rng.choice((1, 1, 2, 3)))
    ]


def names(rng: Random) -> tuple[str, ...]:
    """Return names of a run, a module and a source."""
    given = list(targets.NAMES)
    for _ in range(rng.choice((0, 1, 1, 2))):
        place = rng.randrange(3)
        given[place] = rng.choice(
            (*ODD_TEXTS, damaged_text(rng, given[place], (*ODD_TEXTS, ".", "_", "-", "9", "/", "\n")))
        )
    return tuple(given)


_ENCODINGS = (
    "utf-8",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "utf-7",
    "cp1252",
    "shift_jis",
)
_OPTIONS = {"header": (True, False), "index": (True, False), "divide_by": (255.0, 1e-300, 1e300, 3), "sequences": (True,),
            "count": (1, 0, -1, 10**12, 2**63), "offset": (1, -1, 10**12, 2**63), "order": ("shuffled", "cyclic", "x")}  # fmt: skip


def table_with_options(rng: Random) -> tuple[str, bytes, dict[str, Any], dict[str, bytes], Any]:
    """Return a table in some encoding, perhaps gzipped, with options, categories and lengths, and the numbers in it."""
    known = None
    if rng.random() < 0.4:
        known = np.array(
            [[rng.choice((0.5, -3.25, 1e-12, 7e5, rng.random())) for _ in range(rng.choice((1, 2, 5)))]]
            * rng.choice((1, 3))
        )
        known = known + np.arange(len(known))[:, None] * 0.1
        separator, header = rng.choice(((",", ""), (",", "header"), (" ", "")))
        lines = [separator.join(map(repr, row)) for row in known.tolist()]
        if header:
            lines.insert(0, ",".join(f"feature é{place}" for place in range(known.shape[1])))
        text = rng.choice(("\n", "\r\n")).join(lines) + rng.choice(("\n", "", "\n\n"))
        encoding = (
            rng.choice(("utf-8", "utf-8-sig", "utf-16"))
            if header
            else rng.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1"))
        )
        content, comma = text.encode(encoding), separator == ","
    else:
        content = rng.choice(targets.TABLES)
        comma = b"," in content
        text = damaged_text(rng, content.decode(), _TABLE_PARTS)
        content = text.encode(rng.choice(_ENCODINGS), errors="replace")
        content = damaged(rng, content) if rng.random() < 0.3 else content
    packed = rng.random() < 0.3
    if packed:
        content = gzip.compress(content, 1)
        if known is None and rng.random() < 0.3:
            content = damaged(rng, content)
    options = {name: rng.choice(values) for name, values in _OPTIONS.items() if rng.random() < 0.12}
    others = {role: _labels(rng) for role in ("categories", "lengths") if rng.random() < 0.25}
    name = f"t{rng.choice(('.csv', '.CSV')) if comma else '.txt'}{'.gz' * packed}"
    return name, content, options, others, known


def _labels(rng: Random) -> bytes:
    content = rng.choice(
        (b"1\n2\n", b"a\nb\nc\n", b"2\n1\n", b"3", b",label\n0,x\n1,y\n2,x\n", b"cup\n\nball\n", b"1.5\n2\n", b"0 1 2")
    )
    return (
        damaged_text(rng, content.decode(), _TABLE_PARTS).encode(rng.choice(_ENCODINGS), errors="replace")
        if rng.random() < 0.6
        else content
    )


def _frame(rng: Random, array: Any) -> Any:
    """Return a data frame or a series of an array, some columns of other types."""
    if array.ndim == 1:
        return pandas.Series(array)
    if array.ndim != 2 or array.dtype.kind == "V":
        return array
    frame = pandas.DataFrame(
        array, columns=[rng.choice(("x", "y", "", 0, None, "id", "\x1b[31m")) for _ in range(array.shape[1])]
    )
    if rng.random() < 0.5:
        frame["more"] = pandas.Series(
            rng.choice(([1, None] * len(frame), ["a"] * len(frame), [1.5] * len(frame)))[: len(frame)],
            dtype=rng.choice((None, "Int64", "category", "string", object)) if rng.random() < 0.3 else None,
        )
    return frame


_DTYPES_OF_SCRIPTS = (
    "f8",
    "f4",
    "f2",
    ">f8",
    "g",
    "i1",
    "u1",
    "i8",
    "u8",
    "?",
    "c16",
    "O",
    "U3",
    "S2",
    "M8[s]",
    "m8[s]",
    "V4",
)


def script_values(rng: Random) -> tuple[Any, int]:
    """Return what a script may give in place of rows, categories or lengths, and a number of rows."""
    rows = rng.choice((0, 1, 2, 3, 6))
    choice = rng.random()
    if choice < 0.3:
        return odd(rng, 3), rows
    if choice < 0.4:
        return [[odd(rng, 1) for _ in range(2)] for _ in range(rows)], rows
    values = np.array([rng.choice((0, 1, 2, 3, 100)) for _ in range(rows * 2)]).reshape(
        rng.choice(((rows, 2), (rows * 2,), (rows, 1, 2), (1, rows, 2)))
    )
    try:
        array: Any = values.astype(rng.choice(_DTYPES_OF_SCRIPTS))
    except (ValueError, TypeError):
        array = values
    if array.dtype.kind in "fgO" and array.size and rng.random() < 0.5:
        with np.errstate(all="ignore"):
            array.reshape(-1)[rng.randrange(array.size)] = rng.choice(
                (float("nan"), float("inf"), 1e300, 5e-324, -0.0, 0.5)
            )
    if array.dtype.kind == "O" and array.size:
        array.reshape(-1)[rng.randrange(array.size)] = odd(rng, 1)
    if array.dtype.kind in "iu" and array.size and rng.random() < 0.5:
        array.reshape(-1)[0] = rng.choice((np.iinfo(array.dtype).max, np.iinfo(array.dtype).min))
    wrap = rng.randrange(9)
    if wrap == 0 and array.dtype.kind != "V":
        array = np.ma.masked_array(
            array,
            mask=[[rng.random() < 0.3] * array.shape[-1]]
            if array.ndim == 0
            else np.resize([rng.random() < 0.3, False], array.shape),
        )
    if wrap == 1:
        with contextlib.suppress(ValueError, TypeError):  # of pandas
            array = _frame(rng, array)
    if wrap == 2:
        array = array.tolist()
    if wrap == 3 and isinstance(array, np.ndarray) and array.ndim > 1:
        array = [*array, *array[:1]] if array.dtype.kind != "V" else array
    if wrap == 4:
        array = array[::-1].T
    return array, rows


def _forged_safetensors(rng: Random, content: bytes) -> bytes:
    size = int.from_bytes(content[:8], "little")
    text = json.dumps(changed(rng, json.loads(content[8 : 8 + size]))).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def commit(rng: Random) -> tuple[str, bytes, bool]:
    """Return the name and the content of a file of a commit, and whether the manifest is to know the change."""
    name = rng.choice(sorted(targets.COMMIT_FILES))
    content = targets.COMMIT_FILES[name]
    if name.endswith(".json"):
        content = targets.signed(changed(rng, json.loads(content)))
    elif name.endswith(".safetensors") and rng.random() < 0.6:
        content = _forged_safetensors(rng, content)
    elif name.endswith(".message") and rng.random() < 0.6:
        try:
            content = bytes(msgpack.packb(changed(rng, msgpack.unpackb(content))))
        except (ValueError, TypeError, OverflowError):
            content = b""
    else:
        content = damaged(rng, content)
    return name, content, rng.random() < 0.8


def run_file(rng: Random) -> tuple[str, bytes]:
    """Return the name and the content of a file of a run directory."""
    name = rng.choice(sorted(targets.RUN_FILES))
    content = targets.RUN_FILES[name]
    if rng.random() < 0.4:
        return name, damaged(rng, content)
    if name.endswith(".json"):
        return name, json.dumps(changed(rng, json.loads(content))).encode()
    if name.endswith(".jsonl"):
        lines = content.splitlines()
        for _ in range(rng.choice((1, 2, 5))):
            place = rng.randrange(len(lines))
            lines[place] = json.dumps(changed(rng, json.loads(targets.RUN_FILES[name].splitlines()[place]))).encode()
        return name, b"\n".join(lines) + rng.choice((b"", b"\n"))
    return name, damaged_text(rng, content.decode(), (*YAML_TRAPS, *_TABLE_PARTS)).encode(errors="surrogatepass")


def learnt_model(rng: Random) -> bytes:
    """Return the file that a script leaves of a module: a valid one with another header, or with other bytes."""
    content = rng.choice((targets.LEARNT, targets.LEARNT, targets.STATE))
    if rng.random() < 0.3:
        return damaged(rng, content)
    size = int.from_bytes(content[:8], "little")
    text = json.dumps(changed(rng, json.loads(content[8 : 8 + size]))).encode()
    body = content[8 + size :]
    return len(text).to_bytes(8, "little") + text + (damaged(rng, body) if rng.random() < 0.3 else body)


def exported(rng: Random) -> bytes:
    """Return an exported run: one with other bytes, or with another member under a digest that fits."""
    if rng.random() < 0.3:
        return damaged(rng, targets.EXPORTED)
    name = rng.choice(targets.EXPORTED_NAMES)

    def change(content: bytes) -> bytes:
        if name.endswith(".json") and rng.random() < 0.7:
            return json.dumps(changed(rng, json.loads(content))).encode()
        if name.endswith(".yaml") and rng.random() < 0.7:
            return damaged_text(rng, content.decode()).encode(errors="surrogatepass")
        return damaged(rng, content)

    return targets.resealed(targets.EXPORTED, name, change)


def _make_npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, observations=targets.ROWS, categories=np.arange(6))
    return stream.getvalue()


def bag(rng: Random) -> tuple[str, bytes]:
    """Return the name and the content of a ROS bag."""
    name = rng.choice(sorted(targets.BAGS))
    return name, damaged(rng, targets.BAGS[name])


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
    "command lines": (command, 2),
    "variables": (variables, 6),
    "names": (names, 2),
    "tables": (table_with_options, 8),
    "arrays": (script_values, 10),
    "learnt models": (learnt_model, 4),
    "commits": (commit, 8),
    "runs": (run_file, 1),
    "exported runs": (exported, 1),
}
"""Functions that make inputs, and their shares, by the reader's name; the slow readers get fewer."""

if targets.BAGS:
    MAKERS["ROS bags"] = bag, 1
