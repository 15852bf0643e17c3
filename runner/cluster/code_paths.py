"""The directories that Ray's workers search for code first, without those that hide this software's packages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

OWN_PACKAGES = ("actors", "runner")
_HOME = Path(__file__).parent.parent.parent
"""The directory of this software's packages."""


def hides_own_packages(directory: Path) -> str:
    """Return the name of a file or folder that Python would import in place of this software's; perhaps empty."""
    for package in OWN_PACKAGES:
        for name in (f"{package}.py", package):
            path = directory / name
            if path.exists() and directory.resolve() != _HOME.resolve():
                return name
    return ""


class _CodePaths(list[str]):
    """A list that takes up no directory that hides this software's packages.

    Ray appends the directories of the script and of the command to it, and the workers search them first.
    """

    def extend(self, paths: Iterable[str]) -> None:
        super().extend(path for path in paths if not hides_own_packages(Path(path)))


def directories_of_code() -> list[str]:
    """Return the list of directories for Ray's workers."""
    return _CodePaths()
