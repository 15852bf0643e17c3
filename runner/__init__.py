"""Run models: configs, data sets, command line, run directories and the script interface.

:class:`Model` is the interface for notebooks and programs (:mod:`runner.model`), :class:`SequenceClusterer` and
:class:`ModelClusterer` are scikit-learn estimators (:mod:`runner.estimators`), and ``import runner as srk`` gives
access to the handles of :mod:`runner.script`. All are loaded on first use: imports and the command line stay fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.estimators import ModelClusterer, SequenceClusterer
    from runner.model import Generated, Model
    from runner.script import (
        ARGMM,
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
        SwitchingMarkov,
        TorchNN,
        TorchVAE,
        dpgmm,
        gmm,
        hac,
        mlda,
        mm,
        nn,
        torch_nn,
        torch_vae,
        vae,
    )
    from runner.tracking.callback import Callback
    from runner.tracking.mlflow import MLflow
    from runner.tracking.tensorboard import TensorBoard

# Ray reads its environment when it is imported. It enables token authentication by itself for a local cluster, but not
# in a driver that joins one.
if "ray" not in sys.modules:
    os.environ["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE") or "token"  # Ray takes an empty one for disabled
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def _import_own_actors() -> None:
    """Import the package ``actors`` beside this one, if a file or folder of that name would hide it.

    Raises
    ------
    ImportError
        If another one has been imported already.
    """
    own = Path(__file__).parent.parent / "actors" / "__init__.py"
    if not own.is_file():  # on a joined cluster Ray puts each package that it is sent into a folder of its own
        return
    imported = sys.modules.get("actors")
    if imported is not None:
        if not (imported.__file__ and own.samefile(imported.__file__)):
            raise ImportError(f"{imported.__file__} hides the package 'actors' of serket-actors: rename it")
        return
    found = importlib.util.find_spec("actors")
    if found is not None and found.origin and own.samefile(found.origin):
        return
    spec = importlib.util.spec_from_file_location("actors", own, submodule_search_locations=[str(own.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"the package 'actors' of serket-actors is not at {own.parent}: install it again")
    sys.modules["actors"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["actors"])


_import_own_actors()

__all__ = [
    "ARGMM",
    "DPGMM",
    "GMM",
    "MLDA",
    "PCA",
    "VAE",
    "Callback",
    "Generated",
    "MLflow",
    "MarkovModel",
    "Model",
    "ModelClusterer",
    "Module",
    "Network",
    "Observation",
    "Product",
    "SequenceClusterer",
    "SwitchingMarkov",
    "TensorBoard",
    "TorchNN",
    "TorchVAE",
    "dpgmm",
    "gmm",
    "hac",
    "mlda",
    "mm",
    "nn",
    "torch_nn",
    "torch_vae",
    "vae",
]

_HOMES = {
    "Callback": "runner.tracking.callback",
    "Generated": "runner.model",
    "MLflow": "runner.tracking.mlflow",
    "Model": "runner.model",
    "ModelClusterer": "runner.estimators",
    "SequenceClusterer": "runner.estimators",
    "TensorBoard": "runner.tracking.tensorboard",
}
"""Where names are that are not of :mod:`runner.script`."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "runner.script")), name)
    if not name.startswith("_"):
        from runner.spellings import absent_module

        if reason := absent_module(name):
            raise ImportError(reason)
    raise AttributeError(f"module 'runner' has no attribute {name!r}")
