"""The environment variables that this software reads, with their types and bounds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from actors.kernels.variables import (
    VariableError,
    read_choice,
    read_flag,
    read_number,
    read_path,
    read_secret,
    read_text,
)
from actors.limits import MAX_FAULTS, MAX_HEAPS, MAX_PRINTED_LINE, MAX_SECONDS, MAX_TERMINAL_WIDTH

__all__ = ["VariableError"]

_FAULT = re.compile(r"[^\s:]{1,100}:[a-z]{1,20}:\d{1,9}(:-?\d{1,9})?")


def linger_seconds() -> float:
    """Return the time for which a detached run that has ended waits for a driver (``SERKET_LINGER_SECONDS``)."""
    return read_number("SERKET_LINGER_SECONDS", 30.0, MAX_SECONDS)


def local_runs() -> bool:
    """Return whether scripts run without Ray by default (``SERKET_LOCAL``)."""
    return read_flag("SERKET_LOCAL")


def writes_reports() -> bool:
    """Return whether runs end with a report (``SERKET_REPORT``, which is 1 by default)."""
    return read_choice("SERKET_REPORT", ("1", "0")) == "1"


def trusts_clusters() -> bool:
    """Return whether clusters are joined whose directories others can write (``SERKET_TRUST_CLUSTER``)."""
    return read_flag("SERKET_TRUST_CLUSTER")


def cache_path() -> Path | None:
    """Return the directory of caches (``SERKET_CACHE_DIR``)."""
    return read_path("SERKET_CACHE_DIR")


def state_path() -> Path | None:
    """Return the directory of the user's state (``SERKET_STATE_DIR``)."""
    return read_path("SERKET_STATE_DIR")


def injected_faults() -> list[str]:
    """Return the faults that a run is to have (``SERKET_FAULTS``).

    Raises
    ------
    VariableError
        If one is not of the form ``target:phase:round`` or ``target:phase:round:times``.
    """
    faults = read_text("SERKET_FAULTS").split()
    odd = next((fault for fault in faults if not _FAULT.fullmatch(fault)), None)
    if odd is not None or len(faults) > MAX_FAULTS:
        what = f"has {len(faults)} faults" if odd is None else f"has {odd[:60]!a}"
        raise VariableError(
            f"SERKET_FAULTS {what}, expected at most {MAX_FAULTS} of the form target:phase:round or "
            "target:phase:round:times; correct it, or unset it"
        )
    return faults


def ray_address() -> str:
    """Return the address of the cluster that is joined by default (``RAY_ADDRESS``); empty if there is none."""
    address = read_text("RAY_ADDRESS")
    if len(address) > MAX_PRINTED_LINE:
        raise VariableError(
            f"RAY_ADDRESS has {len(address):,} characters, expected an address HOST:PORT; correct it, or unset it"
        )
    return address


def ray_requires_token() -> bool:
    """Return whether clusters require a token (``RAY_AUTH_MODE``).

    Ray takes each value that it does not know, and an empty one, for ``disabled``.
    """
    return read_choice("RAY_AUTH_MODE", ("token", "disabled")) == "token"


def ray_token() -> str:
    """Return the token of the cluster, if it is given in the environment (``RAY_AUTH_TOKEN``)."""
    return read_secret("RAY_AUTH_TOKEN")


def ray_token_path() -> Path | None:
    """Return the file of the token (``RAY_AUTH_TOKEN_PATH``)."""
    return read_path("RAY_AUTH_TOKEN_PATH")


def mlflow_uri() -> str:
    """Return where MLflow tracks runs (``MLFLOW_TRACKING_URI``, of MLflow itself); empty if that is not said."""
    return read_text("MLFLOW_TRACKING_URI")


def heaps(default: int) -> int:
    """Return the number of heaps among which glibc divides the threads of a process (``MALLOC_ARENA_MAX``)."""
    return int(read_number("MALLOC_ARENA_MAX", default, MAX_HEAPS, whole=True))


READERS: dict[str, Callable[[], object]] = {
    "SERKET_LINGER_SECONDS": linger_seconds,
    "SERKET_LOCAL": local_runs,
    "SERKET_REPORT": writes_reports,
    "SERKET_TRUST_CLUSTER": trusts_clusters,
    "SERKET_CACHE_DIR": cache_path,
    "SERKET_STATE_DIR": state_path,
    "SERKET_FAULTS": injected_faults,
    "MLFLOW_TRACKING_URI": mlflow_uri,
    "RAY_ADDRESS": ray_address,
    "RAY_AUTH_MODE": ray_requires_token,
    "RAY_AUTH_TOKEN": ray_token,
    "RAY_AUTH_TOKEN_PATH": ray_token_path,
    "RAY_TMPDIR": lambda: read_path("RAY_TMPDIR"),
    "XDG_CACHE_HOME": lambda: read_path("XDG_CACHE_HOME"),
    "MALLOC_ARENA_MAX": lambda: heaps(0),
    "TERMINAL_WIDTH": lambda: read_number("TERMINAL_WIDTH", 0, MAX_TERMINAL_WIDTH, whole=True),  # read by typer
}
"""The variables, each with the function that reads it."""


def check_variables() -> None:
    """Read all variables, so that a wrong one is known before anything is started.

    Raises
    ------
    VariableError
        If one has a value that it cannot have.
    """
    for read in READERS.values():
        read()
