"""The environment of a run, on which its bits may depend: versions and machine, for ``environment.json``."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("serket-actors", "ray", "torch", "numpy", "numba", "scipy", "msgpack")
_COMPARED = ("python", "machine", "processor")
"""Fields other than package versions on which the bits of a run may depend."""


def current_environment() -> dict[str, Any]:
    """Return the versions of Python and packages, and a description of this machine."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
    }


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two environments that may change the bits of a run, one text each."""
    new = {**now["packages"], **{name: now[name] for name in _COMPARED}}
    old = {**before.get("packages", {}), **{name: before.get(name) for name in _COMPARED}}
    return [f"{name}: {old.get(name)} before, {value} now" for name, value in new.items() if old.get(name) != value]


def _processor_name() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return match.group(1) if match else platform.processor()
