"""Whether Ray Tune can be used, without importing Ray."""

from __future__ import annotations

import importlib.util

from actors.errors import ModuleError

EXTRA = "pip install 'serket-actors[sweep]'"


def check_installed() -> None:
    """Check that Ray Tune can be imported.

    Raises
    ------
    ModuleError
        If it cannot.
    """
    missing = [name for name in ("pandas", "pyarrow", "tensorboardX") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleError(
            f"serket sweep needs Ray Tune, for which {missing[0]} is missing; install it with {EXTRA}, or use --local"
        )
