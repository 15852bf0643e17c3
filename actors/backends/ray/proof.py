"""The proof of a run's coordinator: that it knows the secret which the run's driver created.

The coordinator stores a keyed digest of the run's name in the key-value table of its cluster. A command reads it there
as bytes before it joins the cluster, and compares it with its own: what a cluster without the proof says is never
unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError, RpcError
from ray.experimental.internal_kv import _internal_kv_put

PUBLISH_SECONDS = 30.0
"""Seconds for which a coordinator tries to store its proof; the run does not need it to go on."""

_NAMESPACE = b"serket"
_POLL_SECONDS = 0.2


def proof_of(secret: str, run: str) -> bytes:
    """Return the proof for the run's secret."""
    return hmac.new(secret.encode(), f"serket:{run}".encode(), hashlib.sha256).hexdigest().encode()


def publish_proof(secret: str, run: str) -> None:
    """Store the proof on the cluster of this process; does nothing without a secret."""
    deadline = time.monotonic() + PUBLISH_SECONDS
    while secret:
        with suppress(RayError, RpcError, RuntimeError, OSError):
            _internal_kv_put(_key(run), proof_of(secret, run), overwrite=True, namespace=_NAMESPACE)
            return
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def is_proven(client: Any, secret: str, run: str, *, wait: float) -> bool:
    """Return whether the cluster of a GCS client has the proof, perhaps after some seconds (a starting coordinator)."""
    deadline = time.monotonic() + wait
    while True:
        found = client.internal_kv_get(_key(run), _NAMESPACE)
        if isinstance(found, bytes) and hmac.compare_digest(found, proof_of(secret, run)):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _key(run: str) -> bytes:
    return f"coordinator:{run}".encode()
