"""What a person uses: configs, data, command line, run directories, the script interface.

``import runner as srk`` gives a script its handles; they are loaded on first use, so that the command line does not
pay for them.
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

# Ray reads its environment when it is imported. A local cluster asks for a token by itself; a driver that joins one
# must say beforehand that it brings a token.
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
        from runner import script as model

        return getattr(model, name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
