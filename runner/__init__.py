"""What a person uses: configs, data, command line, run directories, the script interface.

``import runner as srk`` gives a script its handles; they are loaded on first use, so that the command line does not
pay for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.model import (
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
        from runner import model

        return getattr(model, name)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
