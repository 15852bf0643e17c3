"""Why a process of a run died: signal, memory, its own exit. Ray's exceptions rarely say it; its records do."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.core.generated import common_pb2, gcs_pb2

from actors.limits import DEATH_REPORT_SECONDS

_POLL_SECONDS = 0.05
_CRASHES = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}
"""How Python's fault handler calls the signals that end a process."""


def death_reason(pid: int, node_id: str) -> str:
    """Return why a process died according to the cluster, as the end of a sentence that begins with "its process".

    Parameters
    ----------
    pid : int
    node_id : str
        The node of the process, in hexadecimal notation.
    """
    deadline = time.monotonic() + DEATH_REPORT_SECONDS
    while (record := _worker_record(pid, node_id)) is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if record is None:
        return "ended"
    return describe_exit(common_pb2.WorkerExitType.Name(record.exit_type), record.exit_detail)


def describe_exit(kind: str, detail: str) -> str:
    """Return what Ray's record of a dead process says, as the end of a sentence that begins with "its process".

    Parameters
    ----------
    kind : str
        Name of a ``WorkerExitType`` of Ray.
    detail : str
        Ray's explanation.

    Examples
    --------
    >>> describe_exit("SYSTEM_ERROR", "Worker exits unexpectedly. Worker exits with an exit code 4.")
    'ended itself with exit code 4 (sys.exit in its code)'
    """
    if kind == "NODE_OUT_OF_MEMORY":
        return f"was killed by Ray because its node ran out of memory{memory_figures(detail)}"
    if code := re.search(r"exit code (-?\d+)", detail):
        return f"ended itself with exit code {code[1]} (sys.exit in its code)"
    if kind == "SYSTEM_ERROR":
        return "ended without a report (killed by a signal, or ended by os._exit)"
    return "ended"


def memory_figures(text: str) -> str:
    """Return the memory that Ray's report of a full node names, as " (used of limit)"; empty if there is none."""
    used = re.search(r"was ([\d.]+ ?[KMGT]?B) used / ([\d.]+ ?[KMGT]?B) limit", text)
    return f" ({used[1]} of {used[2]} used)" if used else ""


def describe_memory_kills(since: float) -> str:
    """Return a sentence on the processes that Ray has killed since a time because their nodes were full; perhaps empty.

    Parameters
    ----------
    since : float
        Seconds since the epoch.
    """
    kills = [
        record
        for record in _worker_records()
        if record.exit_type == common_pb2.NODE_OUT_OF_MEMORY and record.end_time_ms >= 1000 * since
    ]
    if not kills:
        return ""
    latest = max(kills, key=lambda record: int(record.end_time_ms))
    figures = memory_figures(latest.exit_detail)
    return f"Ray has killed processes because their node ran out of memory{figures}: end others there, or add memory"


def describe_crash(traceback: str, oom_kills: int) -> str:
    """Return what ended a process according to the files of its node; empty if they do not say it.

    Parameters
    ----------
    traceback : str
        What Python's fault handler wrote.
    oom_kills : int
        Processes that the node's kernel has killed for want of memory since the process was started.
    """
    for name, number in _CRASHES.items():
        if traceback.startswith(f"Fatal Python error: {name}"):
            return f"the process received {number}, which a fault in compiled code causes"
    if oom_kills > 0:
        return (
            f"the kernel of its node has killed {oom_kills} processes for want of memory since the module was started: "
            "give the run more memory, or fewer rows"
        )
    return ""


def count_oom_kills(root: Path = Path("/")) -> int:
    """Return how many processes this machine's kernel has killed for want of memory; 0 if it does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", (root / "proc/vmstat").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        return 0
    return int(found[1]) if found else 0


def _worker_record(pid: int, node_id: str) -> Any:
    """Return the cluster's record of a dead process; None if it has none yet."""
    for record in _worker_records():
        if record.pid == pid and not record.is_alive and record.worker_address.node_id.hex() == node_id:
            return record
    return None


def _worker_records() -> Iterator[Any]:
    """Yield the cluster's records of processes."""
    accessor = ray._private.state.state._connect_and_get_accessor()
    for packed in accessor.get_worker_table():
        yield gcs_pb2.WorkerTableData.FromString(packed)
