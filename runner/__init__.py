"""Run models: configs, data sets, command line, run directories and the script interface.

``import runner as srk`` gives access to the handles of :mod:`runner.script`. They are loaded on first use, which keeps
the command line fast to start.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.script import (
        DPGMM,
        GMM,
        MLDA,
        PCA,
        VAE,
        MarkovModel,
        Module,
        Network,
        Observation,
        Product,
        gmm,
        mm,
        vae,
    )

# Ray reads its environment when it is imported. It enables token authentication by itself for a local cluster, but not
# in a driver that joins one.
if "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__all__ = [
    "DPGMM",
    "GMM",
    "MLDA",
    "PCA",
    "VAE",
    "MarkovModel",
    "Module",
    "Network",
    "Observation",
    "Product",
    "gmm",
    "mm",
    "vae",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from runner import script

        return getattr(script, name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
