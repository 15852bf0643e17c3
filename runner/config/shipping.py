"""The code that a run's processes on other machines need: this software's packages, and the modules' own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from actors.graph.graph import Graph
from actors.graph.registry import find
from runner.config.user_code import holds, top_names

_OWN = ("actors", "runner")


def code_of(graph: Graph) -> list[str]:
    """Return the directories of packages, and files of modules, that the modules of a model are made of.

    Those that their parameters name (networks of one's own) too, where they lie with the model's own code: what is
    installed (torch) is everywhere.

    Parameters
    ----------
    graph : Graph
    """
    found = {package: _location(package) for package in dict.fromkeys((*_OWN, *_packages(graph), *_named(graph)))}
    return [str(path) for path in found.values() if path is not None]


def _packages(graph: Graph) -> Iterable[str]:
    return [find(spec.type).__module__.partition(".")[0] for spec in graph.modules.values()]


def _named(graph: Graph) -> Iterable[str]:
    changes = [dict(step.overrides) for step in graph.schedule.leaves()]
    directories = {Path(directory) for spec in graph.modules.values() for directory in spec.code}
    for name in top_names([*(dict(spec.parameters) for spec in graph.modules.values()), *changes]):
        if any(holds(directory, name) for directory in directories):
            yield name


def _location(package: str) -> Path | None:
    """Return where a package or a module lies; None where it is no file (built into the interpreter, in an archive)."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or [])
    path = Path(places[0]) if places else Path(spec.origin or "")
    return path if path.is_dir() or path.suffix == ".py" else None
