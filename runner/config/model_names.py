"""Where the model files lie that come with the package.

In an installed package they are in the folder ``models`` of :mod:`runner`; in a working copy in ``configs/``, where the
build takes them from (``package-dir`` in pyproject.toml).
"""

from __future__ import annotations

from pathlib import Path

import runner


def included_models() -> dict[str, Path]:
    """Return the model files that come with the package, by name; empty if the installation lacks them."""
    package = Path(runner.__file__).parent
    directory = package / "models"
    if not directory.is_dir() and (package.parent / "pyproject.toml").is_file():
        directory = package.parent / "configs"
    return {path.stem: path for path in sorted(directory.glob("*.yaml"))}
