"""Cases of messages of 100 MB: encoding and decoding, checks included, beside copying their bytes into new memory."""

from __future__ import annotations

import numpy as np

from actors.messaging.codec import decode, encode, make_message
from actors.messaging.message import Header
from tests.benchmarks.harness import Case

NUMBERS = 25_000_000


def cases() -> list[Case]:
    """Return encoding and decoding, of observations and of latent vectors."""
    found = []
    for kind, name, columns in ("observations", "values", 1000), ("latent_vectors", "mean", 20):
        values = np.random.default_rng(0).normal(size=(NUMBERS // columns, columns)).astype(np.float32)
        message = make_message(Header(kind, "data", "observations", run="run"), {name: values})
        document, memory = encode(message), memoryview(values).cast("B")
        size = f"{kind}, {len(values)} x {columns} float32"
        # Bound by default arguments, as the loop goes on.
        found += [
            Case(f"encode {size}", lambda m=message: encode(m), lambda v=memory: bytes(v), "bytes(memoryview)"),
            Case(f"decode {size}", lambda d=document: decode(d), lambda v=memory: bytes(v), "bytes(memoryview)"),
        ]
    return found
