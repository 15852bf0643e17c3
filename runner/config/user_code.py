"""Users' Python files: the directories that hold them, and the code that a run sends to other machines."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.graph.graph import Graph
from actors.graph.registry import find
from actors.limits import MAX_TYPE_CHARACTERS
from runner.config.error_messages import Problem
from runner.config.sections import find_path_problem

_OWN_PACKAGES = ("actors", "runner")
_DOTTED = re.compile(r"([A-Za-z_]\w{0,99})(\.\w{1,100})*:[A-Za-z_]\w{0,99}")


def find_code_directories(given: Mapping[str, Any], root: Path) -> tuple[Any, list[Problem]]:
    """Return the directories of the Python files that a model file names by ``package.module:Class``.

    These are the directories under ``code`` and, for a name that none of them has, the model file's directory or the
    current one if a file or package of that name is there. A run therefore finds its modules again from any directory.

    Parameters
    ----------
    given : mapping
        The model file.
    root : Path
        Its directory.

    Returns
    -------
    list of Path
        Absolute. A value of another type is returned unchanged, for the section to reject.
    list of Problem
        Directories that do not exist.
    """
    listed = given.get("code")
    if not isinstance(listed, list | None) or not all(isinstance(each, str | Path) for each in listed or ()):
        return listed, []
    directories: list[Path] = []
    problems: list[Problem] = []
    for index, each in enumerate(listed or ()):
        problem = find_path_problem(each)
        directory = root if problem else _absolute(root / os.path.expanduser(each))  # noqa: PTH111 (never fails)
        if not problem and not os.path.isdir(directory):  # noqa: PTH112 (never fails)
            problem = f"there is no directory {directory}"
        directories.append(directory)
        problems += [(("code", index), problem)] if problem else []
    for name in dict.fromkeys(_top_level_names([given.get("modules"), given.get("schedule"), given.get("tracking")])):
        candidates = [*directories, _absolute(root), Path.cwd()]
        home = next((directory for directory in candidates if _contains_module(directory, name)), None)
        if home is not None and home not in directories:
            directories.append(home)
    return directories, problems


def collect_code(graph: Graph) -> list[str]:
    """Return the packages' directories and the module files that the processes of a run need on other machines.

    These are this software's packages, those of the model's module types, and those that parameters name
    (``package.module:Class``) if they are in the model's code directories; installed packages (torch) are expected on
    every machine.

    Parameters
    ----------
    graph : Graph
    """
    types = [find(spec.type).__module__.partition(".")[0] for spec in graph.modules.values()]
    paths = map(_find_package, dict.fromkeys((*_OWN_PACKAGES, *types, *_packages_in_parameters(graph))))
    return [str(path) for path in paths if path is not None]


def own_packages() -> list[str]:
    """Return the directories of this software's packages, which processes on other machines need."""
    return [str(path) for path in map(_find_package, _OWN_PACKAGES) if path is not None]


def _packages_in_parameters(graph: Graph) -> Iterator[str]:
    overrides = [dict(step.overrides) for step in graph.schedule.leaves()]
    directories = {Path(directory) for spec in graph.modules.values() for directory in spec.code}
    for name in _top_level_names([*(dict(spec.parameters) for spec in graph.modules.values()), *overrides]):
        if any(_contains_module(directory, name) for directory in directories):
            yield name


def _find_package(name: str) -> Path | None:
    """Return the path of a package or module; None if it is no file (built into the interpreter, in an archive)."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    directories = list(spec.submodule_search_locations or [])
    path = Path(directories[0]) if directories else Path(spec.origin or "")
    return path if path.is_dir() or path.suffix == ".py" else None


def _top_level_names(node: Any) -> Iterator[str]:
    """Yield the first part of every ``package.module:Class`` in parsed YAML."""
    if isinstance(node, str):
        dotted = _DOTTED.fullmatch(node) if len(node) <= MAX_TYPE_CHARACTERS else None
        if dotted:
            yield dotted[1]
    elif isinstance(node, list | dict):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _top_level_names(inner)


def _contains_module(directory: Path, name: str) -> bool:
    return os.path.isfile(directory / f"{name}.py") or os.path.isdir(directory / name)  # noqa: PTH112, PTH113 (never fail)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (follows no links)
