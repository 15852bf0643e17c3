"""The code that a run's processes on other machines need: this software's packages, and the modules' own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from actors.graph import Graph
from actors.registry import find

_OWN = ("actors", "runner")


def code_of(graph: Graph) -> list[str]:
    """Return the directories of packages, and files of modules, that the modules of a model are made of.

    Parameters
    ----------
    graph : Graph
    """
    found = {package: _location(package) for package in (*_OWN, *_packages(graph))}
    return [str(path) for path in found.values() if path is not None]


def _packages(graph: Graph) -> Iterable[str]:
    return dict.fromkeys(find(spec.type).__module__.partition(".")[0] for spec in graph.modules.values())


def _location(package: str) -> Path | None:
    """Return where a package or a module lies; None where it is no file (built into the interpreter, in an archive)."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    path = Path(places[0]) if places else Path(spec.origin or "")
    return path if path.is_dir() or path.suffix == ".py" else None
