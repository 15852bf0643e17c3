"""Damaged copies of valid inputs, by the hundred thousand: ``python -m tests.fuzz.mutation COUNT [SEED]``.

Hypothesis spends milliseconds on an input; a mutation takes microseconds, so that most of a million inputs can be
mutations. Each target of :mod:`tests.fuzz.targets` has its valid inputs here.
"""

from __future__ import annotations

import copy
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.fuzz import targets as t
from tests.support.bounded import Watched

SHARES = {
    "messages": 0.4,
    "states": 0.25,
    "manifests": 0.12,
    "events": 0.08,
    "results": 0.08,
    "data files": 0.04,
    "--set": 0.015,
    "model files": 0.015,
}
"""Shares of the targets; the fast readers get most of the inputs."""

_ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    10,
    1.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    2**31,
    2**53,
    2**63,
    -(2**63),
    2**64,
    10**50,
    "",
    "a",
    "a" * 300,
    "../x",
    "/etc/passwd",
    "\0",
    "\x1b[31m",
    "\ud800",
    "=1+1",
    "-",
    "<<",
    "1e999",
    "nan",
    "9" * 400,
    "a.b:C",
    "é",
    "data -> gmm",
    [],
    {},
    [[]],
    {"": ""},
    [None],
    {"a": {"a": {}}},
    ["gmm"] * 5,
]
_WORDS = [
    "name",
    "seed",
    "data",
    "modules",
    "gmm",
    "classes",
    "connections",
    "schedule",
    "steps",
    "rounds",
    "0",
    "1",
    "code",
    "cluster",
    "recovery",
    "checkpoints",
    "resources",
    "observations",
    "label_selector",
    "together",
    "iterations",
    "type",
    "keep",
    "wait",
]


class Bulk(NamedTuple):
    """A reader's name, its function, and the function that makes an input from a source of random numbers."""

    name: str
    read: Callable[[Path, Any], Any]
    make: Callable[[random.Random], Any]


def mutate(rng: random.Random, document: Any) -> Any:
    """Return a copy of a document in which one to three places are replaced, removed, doubled or added to."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        document = _mutate_once(rng, document)
    return document


def _mutate_once(rng: random.Random, node: Any) -> Any:
    if isinstance(node, dict) and node and rng.random() < 0.8:
        key = rng.choice(list(node))
        match rng.randrange(8):
            case 0:
                del node[key]
            case 1:
                node[rng.choice(_WORDS)] = node[key]
            case 2:
                node[str(rng.choice(_ODD))] = rng.choice(_ODD)
            case _:
                node[key] = _mutate_once(rng, node[key])
        return node
    if isinstance(node, list) and node and rng.random() < 0.8:
        index = rng.randrange(len(node))
        match rng.randrange(6):
            case 0:
                del node[index]
            case 1:
                node.insert(index, copy.deepcopy(node[index]))
            case _:
                node[index] = _mutate_once(rng, node[index])
        return node
    if isinstance(node, str) and node and rng.random() < 0.4:
        index = rng.randrange(len(node))
        return node[:index] + rng.choice(["", "\0", "\n", " ", "..", "/", "é", ":", node]) + node[index + 1 :]
    if isinstance(node, int | float) and rng.random() < 0.3:
        return node + rng.choice([-1, 1, 0.5, 1000])
    return copy.deepcopy(rng.choice(_ODD))


def damage(rng: random.Random, content: bytes) -> bytes:
    """Return bytes that differ from `content` in one to four places, are cut off, or are longer."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if place < len(data):
                data[place] ^= 1 << rng.randrange(8)
            case 1 if place < len(data):
                data[place] = rng.randrange(256)
            case 2:
                data[place : place + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
            case 3:
                del data[place:]
            case 4:
                data += rng.randbytes(rng.randint(1, 16))
            case 5:  # a part of the input at another place
                start = rng.randrange(len(data) + 1)
                data[place:place] = data[start : start + rng.randint(1, 16)]
            case 6:
                data[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    return bytes(data)


def _model(rng: random.Random) -> Any:
    if rng.random() < 0.7:
        return mutate(rng, t.MODEL)
    return damage(rng, t.MODEL_TEXT.encode()).decode(errors="replace")


def _settings(rng: random.Random) -> list[str]:
    def value() -> str:
        syntax = "".join(rng.choices("[]{}:,-&*!<>|'\"#?~a1 .\t", k=rng.randint(0, 12)))
        return rng.choice([str(rng.choice(_ODD)), json.dumps(rng.choice(_ODD)), syntax])

    return [f"{'.'.join(rng.choices(_WORDS, k=rng.randint(1, 4)))}={value()}" for _ in range(rng.randint(1, 2))]


_DATA = [
    ("a.txt", b"1 2\n3 4\n5 6\n"),
    ("a.csv", b"x,y\n1,2\n3,4\n"),
    ("a.csv", b",x,y\n0,1,2\n1,3,4\n"),
    ("a.npy", t._npy(t.ROWS)),
    ("a.npy", t._npy(np.arange(4), (2, 0))),
    ("a.npz", t._npz(observations=t.ROWS, categories=np.arange(6))),
    ("a.idx", t._idx((2, 3), b"abcdef")),
    ("a.idx.gz", gzip.compress(t._idx((2, 3), b"abcdef"))),
    ("a.txt.gz", gzip.compress(b"1 2\n3 4\n")),
]


def _data(rng: random.Random) -> tuple[str, bytes]:
    name, content = rng.choice(_DATA)
    return name, damage(rng, content)


def _lines(rng: random.Random) -> Any:
    if rng.random() < 0.4:
        return damage(rng, json.dumps(t.EVENT).encode() + b"\n")
    return [mutate(rng, t.EVENT) for _ in range(rng.randint(1, 3))]


def _result(rng: random.Random) -> Any:
    match rng.randrange(3):
        case 0:
            return mutate(rng, t.RESULT)
        case 1:
            return damage(rng, json.dumps(t.RESULT).encode())
    return damage(rng, t.METRICS)


def _manifest(rng: random.Random) -> Any:
    return mutate(rng, t.MANIFEST) if rng.random() < 0.7 else damage(rng, json.dumps(t.MANIFEST).encode())


_MAKERS: dict[str, Callable[[random.Random], Any]] = {
    "messages": lambda rng: damage(rng, rng.choice([*t.MESSAGES, *t.HEADERS])),
    "states": lambda rng: damage(rng, t.STATE),
    "manifests": _manifest,
    "events": _lines,
    "results": _result,
    "data files": _data,
    "--set": _settings,
    "model files": _model,
}
BULK = [Bulk(target.name, target.read, _MAKERS[target.name]) for target in t.TARGETS if target.name in _MAKERS]


def fuzz(bulk: Bulk, folder: Path, count: int, seed: int) -> Watched:
    """Read `count` inputs; return the largest time and growth of memory of one, and the number that was read."""
    rng, watched = random.Random(seed), Watched()
    for index in range(count):
        made = bulk.make(rng)
        try:
            watched(lambda made=made: bulk.read(folder, made))
        except BaseException:
            sys.stderr.write(f"{bulk.name}: input {index} of seed {seed}: {made!r:.2000}\n")
            raise
    return watched


def main() -> None:
    """Fuzz every reader with its share of the inputs, in a folder in memory."""
    total, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        for bulk in BULK:
            started = time.perf_counter()
            watched = fuzz(bulk, Path(folder), max(int(SHARES[bulk.name] * total), 1), seed)
            seconds = time.perf_counter() - started
            print(
                f"{bulk.name}: {watched.calls:,} inputs in {seconds:.0f} s ({watched.calls / seconds:.0f}/s), at most "
                f"{watched.seconds:.3f} s and {watched.bytes / 1e6:.0f} MB each",
                flush=True,
            )


if __name__ == "__main__":
    main()
