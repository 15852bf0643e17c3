"""The script interface: handles that connect modules and let them learn, one update at a time.

A handle says how to reach a module, it is not the module: that lives in its actor. The first ``update()`` starts a
Ray cluster on this machine (or joins the one that :class:`Observation` was told of); every ``update()`` is a step of
the coordinator and a commit, and writes the module's directory (``module001_vae``, …) into the working directory.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from actors.graph.spec import Connection, ModuleSpec, Resources

from actors.coordination.session import Plan
from actors.errors import GraphError
from actors.graph.graph import Graph
from actors.graph.registry import canonical_parameters
from actors.types import Array
from runner.commands.monitor import Follower
from runner.config.shipping import code_of
from runner.data.datasets import Dataset
from runner.data.sources import checked, source_states
from runner.report.progress import make_progress
from runner.runs.directory import RunDirectory


class Handle:
    """How a script reaches one module.

    Parameters
    ----------
    *values
        The parameters named in ``positional``, in that order.
    name : str, optional
        The module's name; by default its short name, numbered where there are several.
    category : array_like (N,), optional
        Correct classes, to measure accuracy by; they are never learnt from.
    threads : int
    num_gpus : float or "auto"
    **parameters
        The module's own parameters.

    Raises
    ------
    ModuleError
        If a parameter is wrong.
    """

    type: str
    short: str
    positional: ClassVar[tuple[str, ...]] = ()
    _made: ClassVar[Iterator[int]] = itertools.count()

    def __init__(
        self,
        *values: Any,
        name: str = "",
        category: npt.ArrayLike | None = None,
        threads: int = 1,
        num_gpus: Any = 0.0,
        **parameters: Any,
    ) -> None:
        if len(values) > len(self.positional):
            raise TypeError(f"{type(self).__name__} takes at most {len(self.positional)} values without a name")
        given = {**dict(zip(self.positional, values, strict=False)), **parameters}
        self.name = name
        self.category = None if category is None else np.asarray(category).astype(np.int64)
        self.parameters = canonical_parameters(self.type, given)
        self.threads = threads
        self.resources = Resources(num_gpus=num_gpus)
        self.below: list[Handle] = []
        self.above: list[Handle] = []
        self._model: Model | None = None
        self._number = next(self._made)

    def connect(self, *lower: Handle) -> None:
        """Connect this module to those below it, whose messages it receives."""
        for handle in (self, *lower):
            if handle._model is not None:
                raise GraphError(f"{handle.name} already learns: connect all modules before the first update")
        self.below.extend(lower)
        for handle in lower:
            handle.above.append(self)

    def update(self) -> None:
        """Let the module learn from the messages that it received, and send what it learnt."""
        if self._model is None:
            Model(self._connected())
        assert self._model is not None
        self._model.update(self)

    @property
    def outputs(self) -> Mapping[str, Array]:
        """What the module's last update gave, by name (``z``, ``class``, ``trans_prob``, …)."""
        return {} if self._model is None else self._model.outputs(self)

    def _connected(self) -> list[Handle]:
        """Return every handle that can be reached from this one, in the order in which they were made."""
        found: list[Handle] = []
        waiting = [self]
        while waiting:
            handle = waiting.pop()
            if handle not in found:
                found.append(handle)
                waiting.extend([*handle.below, *handle.above])
        return sorted(found, key=lambda handle: handle._number)


class Observation(Handle):
    """The data that a model learns from.

    Parameters
    ----------
    data : array_like (N, …)
    lengths : array_like of int (S,), optional
        Lengths of separate sequences; by default all rows are one.
    seed : int
        Every random draw of the model follows from it.
    address : str, optional
        A Ray cluster's; by default the environment variable RAY_ADDRESS's, else one is started on this machine.
    run : str
        Name of the run below ``runs/``, where the commits lie.
    name : str, optional
        The source's name; by default ``data``, numbered where a model has several. Of several, the seed, the address
        and the run's name are those of the one that was made first.
    """

    type, short = "observation", "data"

    def __init__(
        self,
        data: npt.ArrayLike,
        *,
        lengths: npt.ArrayLike | None = None,
        seed: int = 0,
        address: str | None = None,
        run: str | None = None,
        name: str = "",
    ) -> None:
        super().__init__(name=name)
        values = np.asarray(data)
        values = values if values.dtype == np.float32 else values.astype(np.float64)
        self.data = Dataset(values, None, None if lengths is None else np.asarray(lengths, np.int64), "script")
        self.seed = seed
        self.address = address or os.environ.get("RAY_ADDRESS")
        self.run = run or re.sub(r"[^A-Za-z0-9._-]", "_", Path(sys.argv[0]).stem) or "script"


class VAE(Handle):
    """A variational autoencoder: ``VAE(latent_dim, itr=…, batch_size=…)``; parameters as in ``serket modules``."""

    type, short, positional = "vae", "vae", ("latent_dim",)


class GMM(Handle):
    """A Gaussian mixture: ``GMM(classes, category=…)``; parameters as in ``serket modules``."""

    type, short, positional = "gmm", "gmm", ("classes",)


class MarkovModel(Handle):
    """A Markov model: ``MarkovModel()``; parameters as in ``serket modules``."""

    type, short = "markov", "mm"


class MLDA(Handle):
    """Multimodal latent Dirichlet allocation: ``MLDA(topics, weights={…})``; parameters as in ``serket modules``."""

    type, short, positional = "mlda", "mlda", ("topics",)


class DPGMM(Handle):
    """A Gaussian mixture that finds the number of its classes: ``DPGMM()``; parameters as in ``serket modules``."""

    type, short = "dp_gmm", "dp_gmm"


class PCA(Handle):
    """Principal components: ``PCA(latent_dim)``; parameters as in ``serket modules``."""

    type, short, positional = "pca", "pca", ("latent_dim",)


class Product(Handle):
    """The product of what several modules say of one class: ``Product()``; parameters as in ``serket modules``."""

    type, short = "product", "product"


class Network(Handle):
    """A supervised mapping from messages to observations: ``Network()``; parameters as in ``serket modules``."""

    type, short = "network", "network"


class Module(Handle):
    """A module of any type: ``Module("package.module:Class", …)``.

    Parameters
    ----------
    type : str
        As in a model file: a short name, a plug-in's, or ``package.module:Class``.
    **others
        As of any handle.
    """

    def __init__(self, type: str, **others: Any) -> None:
        self.type = type
        self.short = re.sub(r"\W", "_", type.rpartition(":")[2].lower())
        super().__init__(**others)


# The tutorial's modules: `from runner import vae, gmm, mm`.
vae = SimpleNamespace(VAE=VAE)
gmm = SimpleNamespace(GMM=GMM)
mm = SimpleNamespace(MarkovModel=MarkovModel)


class Model:
    """Connected handles, brought to life: a cluster, a coordinator, a run's directory.

    Parameters
    ----------
    handles : list of Handle
        All handles that are connected with each other.

    Raises
    ------
    GraphError
        If there is no observation among them, or they cannot be connected.
    DataError
        If several observations do not describe the same rows.
    """

    def __init__(self, handles: list[Handle]) -> None:
        from actors.backends.ray.metrics import Meter
        from runner.cluster.connection import cluster
        from runner.runs.coordinator_client import RunningModel

        observations = [handle for handle in handles if isinstance(handle, Observation)]
        if not observations:
            raise GraphError("no observation is connected; a model learns from one at least")
        source = observations[0]
        _name(handles)
        data = checked({handle.name: handle.data for handle in observations})
        graph = Graph(
            [ModuleSpec(h.name, h.type, h.parameters, h.threads, h.resources) for h in handles],
            [Connection(lower.name, h.name) for h in handles for lower in h.below],
        )
        categories = {h.name: h.category for h in handles if h.category is not None}
        for name, labels in categories.items():
            if len(labels) != len(source.data.observations):
                rows = len(source.data.observations)
                raise GraphError(f"module {name!r}: {len(labels)} categories for {rows} rows of data")
        self.directory = RunDirectory.create(Path("runs"), source.run, graph, categories=categories, outputs=Path.cwd())
        self._stack = ExitStack()
        atexit.register(self._stack.close)
        address = self._stack.enter_context(cluster(source.address, code_of(graph)))
        self.directory.write_environment(address)
        self._stack.enter_context(self.directory.lock())
        root = str(self.directory.checkpoints.root)
        self._running = RunningModel.launch(Plan(graph, self.directory.name, source.seed, root=root, scheduled=False))
        self._follower = Follower(
            self.directory, make_progress(graph, terminal=False), single=True, measure=Meter(self.directory.name).take
        )
        self._follower.follow(self._running.begin(source_states(graph, data), scheduled=False))
        self._round, self._learnt = 1, list[Handle]()
        for handle in handles:
            handle._model = self

    def update(self, handle: Handle) -> None:
        """Let one module learn; a module that comes again begins the next round."""
        if handle in self._learnt:
            self._round, self._learnt = self._round + 1, []
        step = len(self._learnt)
        self._follower.follow(self._running.update(handle.name, self._round, step))
        self._learnt.append(handle)
        self.directory.write_models()

    def outputs(self, handle: Handle) -> Mapping[str, Array]:
        """Return what the last update of a module gave."""
        manifest = self.directory.checkpoints.latest()
        if manifest is None or handle.name not in manifest.modules:
            return {}
        return self.directory.checkpoints.outputs(manifest, handle.name)


def _name(handles: list[Handle]) -> None:
    """Give every handle without a name its short one, numbered where it is taken."""
    taken = {handle.name for handle in handles}
    for handle in handles:
        number = 1
        while not handle.name:
            name = handle.short if number == 1 else f"{handle.short}{number}"
            if name not in taken:
                handle.name = name
                taken.add(name)
            number += 1
