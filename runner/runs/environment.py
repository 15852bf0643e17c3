"""What a run's bits may depend on, and where it lives: the contents of ``environment.json``."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("serket-actors", "ray", "torch", "numpy", "numba", "scipy", "msgpack")
_BITS = ("python", "machine", "processor")
"""What, beside packages, the bits of a sum may depend on."""


def environment() -> dict[str, Any]:
    """Return versions and machine."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what is otherwise than it was, a sentence each, and may change a run's bits."""
    there = {**now["packages"], **{name: now[name] for name in _BITS}}
    then = {**before.get("packages", {}), **{name: before.get(name) for name in _BITS}}
    return [f"{name}: {then.get(name)} before, {value} now" for name, value in there.items() if then.get(name) != value]


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found.group(1) if found else platform.processor()
