"""The model of a script: its cluster, coordinator and run directory, made at the first update of a handle."""

from __future__ import annotations

import atexit
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from actors.backends.step_parameters import sharing_problems
from actors.coordination.events import Emit, ignore
from actors.coordination.session import RunSpec
from actors.errors import GraphError, ModuleError
from actors.graph.graph import Graph
from actors.graph.spec import Connection, ModuleSpec
from actors.types import Array, State
from runner.commands.monitor import RunMonitor
from runner.commands.predict import check_steps, predict_rows
from runner.commands.trained_run import find_missing_lengths, load_last_commit, recognize_rows
from runner.config.python_models import config_of_script
from runner.config.run_config import ConfigError
from runner.config.user_code import collect_code
from runner.data.datasets import Dataset
from runner.data.errors import DataError
from runner.data.rows import check_category_counts
from runner.data.sources import check_modules, check_sources, describe_data, source_states
from runner.report.printable import brief
from runner.report.progress import Progress, make_script_progress
from runner.runs.directory import RunDirectory
from runner.runs.learnt import check_learnt
from runner.runs.local_client import LocalClient
from runner.runs.records import build_result
from runner.runs.state import RunRecord, new_secret, recorded
from runner.script import Handle, Lengths, Observation, Rows, read_rows, with_lengths
from runner.tracking.feed import Tracking
from runner.tracking.loading import make_callbacks

if TYPE_CHECKING:
    from runner.runs.client import RunClient


class ScriptRun:
    """Run a model of connected handles: cluster, coordinator and run directory.

    Parameters
    ----------
    handles : list of Handle
        All connected handles.

    Raises
    ------
    GraphError
        If there is no observation among them, the modules cannot be connected, or categories do not match the rows.
    ModuleError
        If a module cannot use the rows, or cannot learn from so few.
    DataError
        If several observations whose rows are joined do not describe the same rows.
    """

    _next_number: ClassVar[int] = 0  # of the next module's output directory in this process
    _connection: ClassVar[ExitStack] = ExitStack()  # of this process to a cluster, as long as any of its runs needs it
    _connected: ClassVar[list[ScriptRun]] = []

    def __init__(self, handles: list[Handle]) -> None:
        observations = [handle for handle in handles if isinstance(handle, Observation)]
        if not observations:
            raise GraphError("no observation is connected; a model needs at least one")
        source = observations[0]
        self._seed = source.seed
        self._observations = observations
        callbacks = make_callbacks(source.callbacks)
        _assign_names(handles)
        folder = TemporaryDirectory(prefix="serket-networks-")
        atexit.register(folder.cleanup)  # what was learnt is used by this code, also after the run
        code = Path(folder.name)
        for handle in handles:
            handle.complete(code)
        categories = {h.name: h.category for h in handles if h.category is not None}
        loaded = {h.name: h.learnt for h in handles if h.learnt is not None}
        graph = _make_graph(handles)
        data = check_sources({handle.name: handle.data for handle in observations}, graph)
        check_category_counts(categories, data, graph)
        for handle in handles:
            if handle.learnt is not None and handle.load_dir is not None:
                check_learnt(handle.learnt, graph.modules[handle.name], handle.load_dir)
        check_modules(graph, data, recognizing=loaded)
        self.directory = RunDirectory.create(
            Path("runs"),
            source.run,
            graph,
            categories=categories,
            outputs=Path.cwd(),
            numbers=self._number(graph, {handle.name: handle for handle in handles}),
            recognizing=frozenset(loaded),
        )
        spec = RunSpec(
            graph,
            self.directory.name,
            source.seed,
            root=str(self.directory.checkpoints.root),
            scheduled=False,
            recognizing=tuple(loaded),
        )
        progress = make_script_progress(graph, verbose=source.verbose)
        if self.directory.name != source.run:
            taken = Path("runs", source.run)
            progress.log(f"{taken} is there already; this run is {self.directory.name}")
        for line in [*describe_data(data), *(f"{h.name}: {note}" for h in handles for note in h.notes)]:
            progress.log(line)
        config = self._write_config(handles, source, code, progress)
        self._tracking = Tracking(callbacks, progress.log, single=True)
        self._round, self._updated = 1, list[Handle]()
        self._began = time.time()
        self._failure: BaseException | None = None  # of the last update
        self._closed = False
        self._client: RunClient | None = None
        self._stack = ExitStack()
        atexit.register(self._close_at_exit)
        self._begin(spec, progress, source, config, {**source_states(graph, data), **loaded})
        for handle in handles:
            handle._runs.append(self)

    @classmethod
    def _number(cls, graph: Graph, handles: Mapping[str, Handle]) -> dict[str, int]:
        """Return the numbers of the modules: in order of connection, after those of this process's earlier models."""
        for name in graph.modules:
            if handles[name].number is None:
                handles[name].number, cls._next_number = cls._next_number, cls._next_number + 1
        return {name: handle.number for name, handle in handles.items() if handle.number is not None}

    def _begin(
        self,
        spec: RunSpec,
        progress: Progress,
        source: Observation,
        config: dict[str, Any],
        states: Mapping[str, State],
    ) -> None:
        """Start the modules, and tell the callbacks; if that fails, the run is closed."""
        try:
            client, observe = self._start(spec, progress, source)
            self._client = client
            self._monitor = RunMonitor(self.directory, progress, single=True, observe=observe, tracking=self._tracking)
            self._tracking.begin(self.directory, config)
            self._monitor.follow(client.begin(states, scheduled=False))
        except BaseException as error:
            self.close(error)
            raise

    def _start(self, spec: RunSpec, progress: Progress, source: Observation) -> tuple[RunClient, Emit]:
        """Start the coordinator, in this process or on a cluster; return its client and what observes its metrics."""
        self._stack.enter_context(self.directory.lock())
        if source.local:
            self.directory.write_environment("", own=True)
            return LocalClient(spec), ignore
        from actors.backends.ray.metrics import PrometheusMetrics
        from runner.cluster.connection import cluster
        from runner.commands.driver import watched
        from runner.runs.coordinator_client import CoordinatorClient

        own = source.address is None
        self._connected.append(self)
        address = self._connection.enter_context(cluster(source.address, collect_code(spec.graph)))
        self.directory.write_environment(address)
        record = RunRecord(address, own=own, secret=new_secret())
        client = CoordinatorClient.launch(replace(spec, secret=record.secret))
        self._stack.enter_context(recorded(self.directory.path, record))
        left = f"what the modules have learnt is in {self.directory.path}/"
        self._stack.enter_context(watched(self.directory, progress, own=own, remedy=left))
        return client, PrometheusMetrics(self.directory.name).observe

    def close(self, error: BaseException | None = None, *, exiting: bool = False) -> None:
        """End the run, if it is open, and tell its callbacks why.

        Parameters
        ----------
        error : BaseException, optional
            Why the run ends; by default the error of the last update, if that has failed.
        exiting : bool
            Whether this process ends, and with it all that the run has started.
        """
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._close_at_exit)
        error = error or self._failure
        try:
            self._tracking.end_round()
            if error is None:
                self._finish()
            if self._client is not None and not exiting:
                self._client.stop()
            self._stack.close()
            if self in self._connected:
                self._connected.remove(self)
                if not self._connected:
                    self._connection.close()
        finally:
            self._tracking.close(error)

    def _close_at_exit(self) -> None:
        """End the run with the script; with the error that ends that, which an interactive session outlives."""
        self.close(None if hasattr(sys, "ps1") else getattr(sys, "last_value", None), exiting=True)

    def _finish(self) -> None:
        """Write ``result.json`` of a run that has learnt something, and tell the callbacks that it is complete."""
        seconds = time.time() - self._began
        result = build_result(self._monitor.scores, self.directory.name, seconds, self._monitor.module_seconds)
        if self._updated or self._round > 1:
            with suppress(OSError):  # at the end of a script its directory may have been moved or deleted
                self.directory.write_json("result.json", result)
        self._tracking.finish(result)

    def _write_config(
        self, handles: list[Handle], source: Observation, code: Path, progress: Progress
    ) -> dict[str, Any]:
        """Write the config by which others can use what is learnt, with the networks that classes define.

        Returns
        -------
        dict
            The config as plain data; empty if there is no model file of the script.
        """
        path = self.directory.path
        copied = path.absolute() / "code"
        if any(code.iterdir()):
            shutil.copytree(code, copied)
        try:
            config = config_of_script(handles, self.directory.name, source.seed, copied, path.absolute())
        except ConfigError as error:
            reason = str(error).partition("\n")[0]
            progress.log(f"{path}: only this script can use what is learnt, as there is no model file of it ({reason})")
            return {}
        self.directory.write_config(config)
        return config.plain()

    def update(self, handle: Handle) -> None:
        """Update one module; a second update of a module in the same round starts the next round."""
        if self._closed or self._client is None:
            raise GraphError(f"{handle.name}: its run is closed; connect new modules to learn more")
        if handle in self._updated:
            self._tracking.end_round()
            self._round, self._updated = self._round + 1, []
        step = len(self._updated)
        try:
            self._monitor.follow(self._client.update(handle.name, self._round, step))
        except BaseException as error:
            self._failure = error
            raise
        self._failure = None
        self._updated.append(handle)
        self.directory.write_models()

    def recognize(self, handle: Handle, data: Rows, lengths: Lengths | None, *, ordered: bool) -> Mapping[str, Array]:
        """Return the outputs of a module for new rows, computed in this process from the last commit."""
        if not isinstance(ordered, bool | np.bool_):
            raise DataError(f"ordered is {brief(ordered)}, expected True or False")
        if lengths is not None and not ordered:
            raise DataError("lengths go with rows in order; leave out lengths, or ordered=False")
        rows = self._new_rows(data, lengths, ordered=ordered)
        trained = load_last_commit(self.directory, self._seed)
        return recognize_rows(trained, rows, ordered=ordered).get(handle.name, {})

    def predict(self, data: Rows, lengths: Lengths | None, steps: int) -> Array:
        """Return the class probabilities of the rows that follow new rows, computed in this process."""
        steps = check_steps(steps)
        rows = self._new_rows(data, lengths, ordered=True)
        return predict_rows(load_last_commit(self.directory, self._seed), rows, steps).probabilities

    def _new_rows(self, data: Rows, lengths: Lengths | None, *, ordered: bool) -> dict[str, Dataset]:
        """Return new rows by source, checked; report rows in order without lengths if the model learnt sequences."""
        sources = self.directory.graph.sources
        given = dict(data) if isinstance(data, Mapping) else {sources[0]: data}
        if not isinstance(data, Mapping) and len(sources) > 1:
            raise DataError(f"this model has the observations {', '.join(sources)}: give a map from name to rows")
        spans = dict(lengths) if isinstance(lengths, Mapping) else dict.fromkeys(given, lengths)
        unknown = [name for name in given if name not in sources]
        if unknown or not given:
            raise DataError(
                f"rows of {', '.join(unknown) or 'nothing'} came, the observations are {', '.join(sources)}"
            )
        if odd := [name for name in spans if name not in given]:
            raise DataError(f"lengths of {', '.join(odd)} came, but no rows; rows came of {', '.join(given)}")
        reading = {handle.name: handle.reading for handle in self._observations}  # as the rows that were learnt from
        read = {name: read_rows(values, name, **reading[name]) for name, values in given.items()}
        new = {name: with_lengths(each, spans.get(name)) for name, each in read.items()}
        rows = check_sources(new, self.directory.graph)
        if ordered and (sentence := find_missing_lengths(self.directory, rows, "give lengths=")):
            self._monitor.progress.log(sentence)
        return rows

    def outputs(self, handle: Handle) -> Mapping[str, Array]:
        """Return the outputs of the last update of a module."""
        manifest = self.directory.checkpoints.latest()
        if manifest is None or handle.name not in manifest.modules:
            return {}
        outputs = self.directory.checkpoints.outputs(manifest, handle.name)
        # A file of tensors has them in an order of its own, which differs between runs.
        return {name: outputs[name] for name in sorted(outputs)} if isinstance(outputs, dict) else outputs


def _make_graph(handles: list[Handle]) -> Graph:
    """Return the graph of connected handles; raise ModuleError for a module that cannot share its rows as asked."""
    specs = [ModuleSpec(h.name, h.type, h.parameters, h.threads, h.resources, h.code, h.sharing) for h in handles]
    graph = Graph(specs, [Connection(lower.name, h.name) for h in handles for lower in h.below])
    for problem in sharing_problems(graph).values():
        raise ModuleError(problem)
    return graph


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
