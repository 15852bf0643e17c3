"""Where the Python files lie that a model file names by ``package.module:Class``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.config.error_messages import Fault

_DOTTED = re.compile(r"([A-Za-z_]\w*)(\.\w+)*:[A-Za-z_]\w*")


def code_directories(given: Mapping[str, Any], root: Path) -> tuple[Any, list[Fault]]:
    """Return the directories in which to look for the Python files that a model file names.

    They are what stands under ``code``, and the model file's directory or the current one where a name that is not
    found there begins with a file or a package that lies in them: so a run finds its modules again wherever its
    config is read.

    Parameters
    ----------
    given : mapping
        The model file.
    root : Path
        The directory that it is in.

    Returns
    -------
    list of Path
        Absolute. Anything else that stood there is returned as it is, for the section to refuse.
    list of Fault
        Which directories are not there.
    """
    listed = given.get("code")
    if not isinstance(listed, list | None) or not all(isinstance(each, str | Path) for each in listed or ()):
        return listed, []
    found = [_absolute(root / Path(each).expanduser()) for each in listed or ()]
    faults: list[Fault] = [
        (("code", index), f"there is no directory {directory}")
        for index, directory in enumerate(found)
        if not directory.is_dir()
    ]
    for name in dict.fromkeys(top_names([given.get("modules"), given.get("schedule")])):
        home = next((here for here in [*found, _absolute(root), Path.cwd()] if holds(here, name)), None)
        if home is not None and home not in found:
            found.append(home)
    return found, faults


def top_names(node: Any) -> Iterator[str]:
    """Give the first part of every ``package.module:Class`` in what YAML holds."""
    if isinstance(node, str):
        dotted = _DOTTED.fullmatch(node)
        if dotted:
            yield dotted[1]
    elif isinstance(node, list | dict):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from top_names(inner)


def holds(directory: Path, name: str) -> bool:
    """Whether a module or a package of this name lies in a directory."""
    return (directory / f"{name}.py").is_file() or (directory / name).is_dir()


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (follows no links)
