"""Build and train a model from a script: handles that connect modules and update them one at a time.

A handle refers to a module, which runs in an actor of its own. The first ``update()`` starts a Ray cluster on this
machine (or joins the one given to :class:`Observation`); every ``update()`` is a step of the coordinator and a commit,
and writes the directory of the module (``module001_vae``, …) into the working directory.
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
from typing import Any, ClassVar, TypeAlias

import numpy.typing as npt

from actors.coordination.session import RunSpec
from actors.errors import GraphError
from actors.graph.graph import Graph
from actors.graph.registry import validated_parameters
from actors.graph.spec import Connection, ModuleSpec, Resources
from actors.limits import MAX_NAME_CHARACTERS
from actors.types import Array, IntArray
from runner.commands.monitor import RunMonitor
from runner.commands.predict import predict_rows
from runner.commands.trained_run import find_missing_lengths, load_last_commit, recognize_rows
from runner.config.user_code import collect_code
from runner.data.datasets import Dataset
from runner.data.errors import DataError
from runner.data.intake import check_categories, check_lengths, check_observations
from runner.data.sources import check_modules, check_same_rows, describe_data, source_states
from runner.report.progress import make_progress
from runner.runs.directory import RunDirectory
from runner.runs.state import RunRecord, new_secret, recorded

Rows: TypeAlias = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""Rows of one observation, or of several by name."""


class Handle:
    """Refer to one module of a model.

    Parameters
    ----------
    *values
        The values of the parameters listed in ``positional``, in that order.
    name : str, optional
        Name of the module; by default its short name, numbered if there are several.
    category : array_like (N,), optional
        True classes, integers or texts, to compute the accuracy; they are not used for learning.
    threads : int
        Number of threads of the process.
    num_gpus : float or "auto"
        Number of GPUs; "auto" uses one if there is one.
    **parameters
        Parameters of the module type.

    Raises
    ------
    ModuleError
        If a parameter is invalid.
    """

    type: str
    short: str
    positional: ClassVar[tuple[str, ...]] = ()
    _counter: ClassVar[Iterator[int]] = itertools.count()

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
            raise TypeError(f"{type(self).__name__} takes at most {len(self.positional)} positional arguments")
        given = {**dict(zip(self.positional, values, strict=False)), **parameters}
        self.name = name
        label = f"{type(self).__name__}: category"
        self.category: IntArray | None = None
        self.notes: tuple[str, ...] = ()
        if category is not None:
            self.category, self.notes = check_categories(category, label)
        self.parameters = validated_parameters(self.type, given)
        self.threads = threads
        self.resources = Resources(num_gpus=num_gpus)
        self.below: list[Handle] = []
        self.above: list[Handle] = []
        self._model: Model | None = None
        self._number = next(self._counter)

    def connect(self, *lower: Handle) -> None:
        """Connect this module to the modules below it, whose messages it receives."""
        for handle in (self, *lower):
            if handle._model is not None:
                raise GraphError(f"{handle.name} has been updated already: connect all modules before the first update")
        self.below.extend(lower)
        for handle in lower:
            handle.above.append(self)

    def update(self) -> None:
        """Update the module from the latest messages that it received, and send its own messages."""
        if self._model is None:
            Model(self._connected_handles())
        assert self._model is not None
        self._model.update(self)

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Outputs of the last update of the module, by name (``z``, ``class``, ``trans_prob``, …)."""
        return {} if self._model is None else self._model.outputs(self)

    def recognize(
        self, data: Rows, *, lengths: npt.ArrayLike | None = None, ordered: bool = True
    ) -> Mapping[str, Array]:
        """Return the outputs of the module for new rows, from what the model has learnt so far; nothing is learnt.

        Parameters
        ----------
        data : array_like (M, …), or mapping of str to array_like
            New rows; where the model has several observations, those of each, by name. An observation that is left
            out has only missing rows.
        lengths : array_like of int (S,), optional
            Lengths of the new sequences; by default all rows are one sequence.
        ordered : bool
            Whether the rows are in temporal order.

        Raises
        ------
        GraphError
            If the model was not updated yet.
        DataError
            If the lengths do not fit the rows, or the observations do not describe the same rows.
        """
        if self._model is None:
            raise GraphError("nothing was learnt yet: update the modules before they recognize")
        return self._model.recognize(self, data, lengths, ordered=ordered)

    def _connected_handles(self) -> list[Handle]:
        """Return all handles connected with this one, directly or indirectly, in the order of their creation."""
        reached: list[Handle] = []
        pending = [self]
        while pending:
            handle = pending.pop()
            if handle not in reached:
                reached.append(handle)
                pending.extend([*handle.below, *handle.above])
        return sorted(reached, key=lambda handle: handle._number)


class Observation(Handle):
    """Provide the data of a model.

    Parameters
    ----------
    data : array_like (N, …)
        An array, lists, a masked array or a data frame of real numbers. Rows without any value (NaN or masked) are
        missing; what is missing in a part of a row, and what a conversion to float64 would change, is refused.
    lengths : array_like of int (S,), optional
        Lengths of the sequences; by default all rows are one sequence.
    sequences : bool
        Whether the first axis numbers the sequences: S × T × features, or a list of S arrays T_s × features. By default
        the first axis numbers rows.
    divide_by : float, optional
        What all values are divided by, such as 255 for pixels.
    seed : int
        Seed of all random draws of the model.
    address : str, optional
        Address of a Ray cluster; by default the value of RAY_ADDRESS, else a cluster is started on this machine.
    run : str, optional
        Name of the run, whose commits are stored in ``runs/``; by default the name of the script.
    name : str, optional
        Name of the source; by default ``data``, numbered if a model has several. If there are several sources, the
        seed, the address and the name of the run are those of the source created first.
    """

    type, short = "observation", "data"

    def __init__(
        self,
        data: npt.ArrayLike,
        *,
        lengths: npt.ArrayLike | None = None,
        sequences: bool = False,
        divide_by: float | None = None,
        seed: int = 0,
        address: str | None = None,
        run: str | None = None,
        name: str = "",
    ) -> None:
        super().__init__(name=name)
        rows = check_observations(data, "data", divide_by=divide_by, sequences=sequences)
        if lengths is not None and sequences:
            raise DataError("lengths: sequences gives the lengths itself; leave out one of them")
        spans = rows.lengths if lengths is None else check_lengths(lengths, "lengths", len(rows.values))
        self.data = Dataset(rows.values, None, spans, "the script", rows.mask, rows.notes)
        self.reading: dict[str, Any] = {"divide_by": divide_by, "sequences": sequences}
        self.seed = seed
        self.address = address or os.environ.get("RAY_ADDRESS")
        self.run = run or _script_name()


class VAE(Handle):
    """A variational autoencoder: ``VAE(latent_dim, itr=…, batch_size=…)``; parameters as in ``serket modules``."""

    type, short, positional = "vae", "vae", ("latent_dim",)


class GMM(Handle):
    """A Gaussian mixture: ``GMM(classes, category=…)``; parameters as in ``serket modules``."""

    type, short, positional = "gmm", "gmm", ("classes",)


class MarkovModel(Handle):
    """A Markov model: ``MarkovModel()``; parameters as in ``serket modules``."""

    type, short = "markov", "mm"

    def predict(self, data: Rows, steps: int = 1, *, lengths: npt.ArrayLike | None = None) -> Array:
        """Return P(class) of the `steps` rows that follow new rows, (steps, K), from what the model has learnt.

        Parameters
        ----------
        data, lengths
            As for :meth:`recognize`; of several sequences, the last one is continued.
        steps : int
            At least 1.

        Raises
        ------
        GraphError, DataError
            As :meth:`recognize`.
        """
        if self._model is None:
            raise GraphError("nothing was learnt yet: update the modules before they predict")
        return self._model.predict(data, lengths, steps)


class MLDA(Handle):
    """Multimodal latent Dirichlet allocation: ``MLDA(topics, weights={…})``; parameters as in ``serket modules``."""

    type, short, positional = "mlda", "mlda", ("topics",)


class DPGMM(Handle):
    """A Dirichlet process Gaussian mixture: ``DPGMM()``; infers K; parameters as in ``serket modules``."""

    type, short = "dp_gmm", "dp_gmm"


class PCA(Handle):
    """Principal components: ``PCA(latent_dim)``; parameters as in ``serket modules``."""

    type, short, positional = "pca", "pca", ("latent_dim",)


class Product(Handle):
    """The product of the class posteriors of several modules: ``Product()``; parameters as in ``serket modules``."""

    type, short = "product", "product"


class Network(Handle):
    """A supervised mapping from messages to observations: ``Network()``; parameters as in ``serket modules``."""

    type, short = "network", "network"


class Module(Handle):
    """A module of any type: ``Module("package.module:Class", …)``.

    Parameters
    ----------
    type : str
        As in a model file: the short name of a built-in module or a plug-in, or ``package.module:Class``.
    **options
        As for :class:`Handle`.
    """

    def __init__(self, type: str, **options: Any) -> None:
        self.type = type
        self.short = re.sub(r"\W", "_", type.rpartition(":")[2].lower())
        super().__init__(**options)


# The names of the tutorial: `from runner import vae, gmm, mm`.
vae = SimpleNamespace(VAE=VAE)
gmm = SimpleNamespace(GMM=GMM)
mm = SimpleNamespace(MarkovModel=MarkovModel)


class Model:
    """Run a model of connected handles: cluster, coordinator and run directory.

    Parameters
    ----------
    handles : list of Handle
        All connected handles.

    Raises
    ------
    GraphError
        If there is no observation among them, or the modules cannot be connected.
    ModuleError
        If a module cannot use the rows.
    DataError
        If several observations do not describe the same rows.
    """

    def __init__(self, handles: list[Handle]) -> None:
        from actors.backends.ray.metrics import PrometheusMetrics
        from runner.cluster.connection import cluster
        from runner.commands.driver import watched
        from runner.runs.coordinator_client import CoordinatorClient

        observations = [handle for handle in handles if isinstance(handle, Observation)]
        if not observations:
            raise GraphError("no observation is connected; a model needs at least one")
        source = observations[0]
        self._seed = source.seed
        self._observations = observations
        _assign_names(handles)
        data = check_same_rows({handle.name: handle.data for handle in observations})
        graph = Graph(
            [ModuleSpec(h.name, h.type, h.parameters, h.threads, h.resources) for h in handles],
            [Connection(lower.name, h.name) for h in handles for lower in h.below],
        )
        categories = {h.name: h.category for h in handles if h.category is not None}
        for name, labels in categories.items():
            if len(labels) != len(source.data.observations):
                rows = len(source.data.observations)
                raise GraphError(f"module {name!r}: {len(labels)} categories for {rows} rows of data")
        check_modules(graph, data)
        progress = make_progress(graph, terminal=False)
        self.directory = RunDirectory.create(Path("runs"), source.run, graph, categories=categories, outputs=Path.cwd())
        for line in [*describe_data(data), *(f"{h.name}: {note}" for h in handles for note in h.notes)]:
            progress.log(line)
        self._stack = ExitStack()
        atexit.register(self._stack.close)
        address = self._stack.enter_context(cluster(source.address, collect_code(graph)))
        self.directory.write_environment(address)
        self._stack.enter_context(self.directory.lock())
        root = str(self.directory.checkpoints.root)
        record = RunRecord(address, own=source.address is None, secret=new_secret())
        self._client = CoordinatorClient.launch(
            RunSpec(graph, self.directory.name, source.seed, root=root, scheduled=False, secret=record.secret)
        )
        self._stack.enter_context(recorded(self.directory.path, record))
        left = f"what the modules have learnt is in {self.directory.path}/"
        self._stack.enter_context(watched(self.directory, progress, own=source.address is None, remedy=left))
        self._monitor = RunMonitor(
            self.directory,
            progress,
            single=True,
            observe=PrometheusMetrics(self.directory.name).observe,
        )
        self._monitor.follow(self._client.begin(source_states(graph, data), scheduled=False))
        self._round, self._updated = 1, list[Handle]()
        for handle in handles:
            handle._model = self

    def update(self, handle: Handle) -> None:
        """Update one module; a second update of a module in the same round starts the next round."""
        if handle in self._updated:
            self._round, self._updated = self._round + 1, []
        step = len(self._updated)
        self._monitor.follow(self._client.update(handle.name, self._round, step))
        self._updated.append(handle)
        self.directory.write_models()

    def recognize(
        self, handle: Handle, data: Rows, lengths: npt.ArrayLike | None, *, ordered: bool
    ) -> Mapping[str, Array]:
        """Return the outputs of a module for new rows, computed in this process from the last commit."""
        if lengths is not None and not ordered:
            raise DataError("lengths go with rows in order; leave out lengths, or ordered=False")
        rows = self._new_rows(data, lengths, ordered=ordered)
        trained = load_last_commit(self.directory, self._seed)
        return recognize_rows(trained, rows, ordered=ordered).get(handle.name, {})

    def predict(self, data: Rows, lengths: npt.ArrayLike | None, steps: int) -> Array:
        """Return the class probabilities of the rows that follow new rows, computed in this process."""
        if steps < 1:
            raise DataError(f"steps is {steps}, the number of rows to predict; use at least 1")
        rows = self._new_rows(data, lengths, ordered=True)
        return predict_rows(load_last_commit(self.directory, self._seed), rows, steps).probabilities

    def _new_rows(self, data: Rows, lengths: npt.ArrayLike | None, *, ordered: bool) -> dict[str, Dataset]:
        """Return new rows by source, checked; report rows in order without lengths if the model learnt sequences."""
        sources = self.directory.graph.sources
        given = dict(data) if isinstance(data, Mapping) else {sources[0]: data}
        if not isinstance(data, Mapping) and len(sources) > 1:
            raise DataError(f"this model has the observations {', '.join(sources)}: give a map from name to rows")
        unknown = [name for name in given if name not in sources]
        if unknown or not given:
            raise DataError(
                f"rows of {', '.join(unknown) or 'nothing'} came, the observations are {', '.join(sources)}"
            )
        reading = {handle.name: handle.reading for handle in self._observations}  # as the rows that were learnt from
        read = {name: check_observations(values, name, **reading[name]) for name, values in given.items()}
        new: dict[str, Dataset] = {}
        for name, each in read.items():
            known = each.lengths if lengths is None else check_lengths(lengths, "lengths", len(each.values))
            new[name] = Dataset(each.values, None, known, "the script", each.mask, each.notes)
        rows = check_same_rows(new)
        if ordered and (sentence := find_missing_lengths(self.directory, rows, "give lengths=")):
            self._monitor.progress.log(sentence)
        return rows

    def outputs(self, handle: Handle) -> Mapping[str, Array]:
        """Return the outputs of the last update of a module."""
        manifest = self.directory.checkpoints.latest()
        if manifest is None or handle.name not in manifest.modules:
            return {}
        return self.directory.checkpoints.outputs(manifest, handle.name)


def _script_name() -> str:
    """Return the name of the script as a name of a run; ``script`` for one that comes from a pipe or a console."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", Path(sys.argv[0]).stem).lstrip(".-")
    return name[:MAX_NAME_CHARACTERS] if name and sys.argv[0] not in ("-", "-c") else "script"


def _assign_names(handles: list[Handle]) -> None:
    """Give each unnamed handle its short name, numbered if it is taken."""
    taken = {handle.name for handle in handles}
    for handle in handles:
        number = 1
        while not handle.name:
            name = handle.short if number == 1 else f"{handle.short}{number}"
            if name not in taken:
                handle.name = name
                taken.add(name)
            number += 1
