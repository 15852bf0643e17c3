"""The files of a run directory, which may come from a stranger: opened without links, bounded, and checked.

Every reader and writer of a run directory goes through :class:`RunFiles`, except the commits, which
:mod:`actors.storage.checkpoints` reads and writes through the same :class:`actors.storage.filesystem.LocalStorage`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.limits import MAX_CONFIG_BYTES, MAX_EVENT_BYTES, MAX_MANIFEST_ENTRIES, MAX_RUN_FILE_BYTES
from actors.storage.field_checks import check_flag, check_integer, check_mapping, check_number, check_text, printable
from actors.storage.filesystem import LocalStorage
from actors.storage.safe_files import parse_json, split_path


class RunDirectoryError(ValueError):
    """A run directory is missing, invalid or already in use; names the directory and the remedy."""


class RunFiles(LocalStorage):
    """The files of a directory: a run's own, or the parent of its modules' directories.

    Parameters
    ----------
    path : Path
        May be a link, as the user has named it; links within it are not followed.
    """

    depth = 3

    def __init__(self, path: Path) -> None:
        super().__init__(path.resolve())

    def read_config(self) -> str:
        """Return the text of ``config.yaml``."""
        data = self.read_bounded("config.yaml", MAX_CONFIG_BYTES)
        try:
            return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
        except ValueError as error:
            raise RunDirectoryError(
                f"{self.location('config.yaml')}: cannot be read as text ({printable(error)})"
            ) from error

    def names_in(self, directory: str) -> list[str]:
        """Return the names of the files in a directory, in ascending order; none if there is no such directory."""
        return sorted(name for name, kind in self._entries(split_path(directory)).items() if kind == "file")

    def directories_in(self, directory: str) -> list[str]:
        """Return the names of the directories in a directory, in ascending order; links are left out."""
        return sorted(name for name, kind in self._entries(split_path(directory)).items() if kind == "directory")

    def read_bounded(self, path: str, max_bytes: int) -> bytes:
        """Return the contents of a file.

        Raises
        ------
        RunDirectoryError
            If it is missing, too large, or not a regular file.
        """
        try:
            with self.reader(path, max_bytes) as file:
                return file.read()
        except OSError as error:
            raise self.unreadable(path, error.strerror) from error

    def read_object(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file, each value of which is checked (:data:`_CHECKS`).

        Raises
        ------
        RunDirectoryError
            If it is missing, is not JSON, or has a value that is not valid.
        """
        data = self.read_bounded(name, MAX_RUN_FILE_BYTES)
        try:
            content: dict[str, Any] = dict(check_mapping(parse_json(data), name, MAX_MANIFEST_ENTRIES))
            _check_object(content, _CHECKS.get(name, {}))
        except ValueError as error:
            raise self.unreadable(name, str(error)) from error
        return content

    def unreadable(self, path: str, reason: str | None) -> RunDirectoryError:
        """Return the error for a file that cannot be read."""
        return RunDirectoryError(
            f"{self.location(path)}: cannot be read ({printable(reason)}); is {self.root} a run's directory?"
        )


def _optional_number(value: Any, where: str) -> None:
    if value is not None:
        check_number(value, where, finite=False)


def _seconds_by_name(value: Any, where: str) -> None:
    for name, seconds in check_mapping(value, where, MAX_MANIFEST_ENTRIES).items():
        check_number(seconds, f"{where}.{name}")


def _texts_by_name(value: Any, where: str) -> None:
    for name, text in check_mapping(value, where, MAX_MANIFEST_ENTRIES).items():
        check_text(text, f"{where}.{name}")


def _scores_by_module(value: Any, where: str) -> None:
    for name, scores in check_mapping(value, where, MAX_MANIFEST_ENTRIES).items():
        for key, number in check_mapping(scores, f"{where}.{name}", MAX_MANIFEST_ENTRIES).items():
            _optional_number(number, f"{where}.{name}.{key}")


_Check = Callable[[Any, str], Any]

_CHECKS: Mapping[str, Mapping[str, _Check]] = {
    "environment.json": {
        "packages": _texts_by_name,
        "pid": check_integer,
        "detached": check_flag,
        "own": check_flag,
        "cores": _optional_number,
        **dict.fromkeys(("python", "machine", "processor", "address"), check_text),
    },
    "result.json": {
        "run": check_text,
        "rounds": check_integer,
        "module_seconds": _seconds_by_name,
        "phases": _seconds_by_name,
        "modules": _scores_by_module,
        **dict.fromkeys(
            ("seconds", "evidence", "score", "accuracy", "ari", "nmi", "ece", "overhead_share"), _optional_number
        ),
    },
    "live.json": {
        "time": check_number,
        "round": check_integer,
        "active": lambda value, where: check_text(value, where, MAX_EVENT_BYTES),
    },
    "merged.json": {"runs": _texts_by_name},
    "imported.json": {"run": check_text, "rows": check_flag, "sequences": check_integer},
    "claim.json": {"token": check_text, "storage": lambda value, where: check_text(value, where, 4096)},
}
"""The checks of known fields by file; other fields are texts, numbers, or maps of numbers by name."""


def _check_object(content: Mapping[str, Any], checks: Mapping[str, _Check]) -> None:
    for name, value in content.items():
        if name in checks:
            checks[name](value, name)
        elif isinstance(value, dict):
            _seconds_by_name(value, name)
        elif isinstance(value, str):
            check_text(value, name)
        elif not isinstance(value, bool):
            _optional_number(value, name)
