"""A trained run, loaded into this process: modules with the states of the last commit, and new data for the sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

from actors.backends.in_process import InProcessBackend
from actors.coordination.backend import Ref
from actors.coordination.coordinator import Coordinator
from actors.storage.manifest import Manifest
from actors.types import Array, State
from runner.data.errors import DataError
from runner.data.scaling import Scaling, scaling_in
from runner.data.sources import (
    Data,
    check_new_rows,
    common_lengths,
    count_rows,
    scale_as_learnt,
    source_states,
    values_of,
)
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError


class TrainedRun(NamedTuple):
    """A run's directory, a coordinator in this process, and the modules' states of the last commit."""

    directory: RunDirectory
    coordinator: Coordinator
    states: dict[str, Ref]


def load_trained_run(run: OpenedRun, seed: int | None = None) -> TrainedRun:
    """Load a run's last commit into this process.

    Parameters
    ----------
    run : OpenedRun
    seed : int, optional
        Seed of the modules' random draws; by default the run's seed.

    Raises
    ------
    RunDirectoryError
        If no module has learnt yet.
    """
    return load_last_commit(run.directory, run.config.seed if seed is None else seed)


def load_last_commit(directory: RunDirectory, seed: int) -> TrainedRun:
    """Load the last commit of the run in `directory` into this process.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    graph = directory.graph
    manifest = directory.checkpoints.latest()
    if manifest is None or manifest.round == 0:  # round-000 has the modules as they were before they learnt
        raise RunDirectoryError(f"{directory.path}: the run is not trained yet (no round is committed)")
    trained = [name for name in manifest.modules if name not in graph.sources]  # untrained modules raise an error
    states = {name: Ref(directory.checkpoints.state(manifest, name)) for name in trained}
    coordinator = Coordinator(graph, InProcessBackend(), run=directory.name, seed=seed)
    return TrainedRun(directory, coordinator, states)


def new_source_states(trained: TrainedRun, data: Data) -> dict[str, State]:
    """Return the states of a run's sources for new data; a source without data has only missing rows.

    Raises
    ------
    ModuleError
        If a module cannot use the rows.
    DataError
        If a source without data is one of a merged run.
    """
    directory = trained.directory
    data = scale_as_learnt(data, scaled_states(directory))
    check_new_rows(directory.graph, data, cast("Mapping[str, State]", trained.states))
    missing = [name for name in directory.graph.sources if name not in data]
    committed = directory.checkpoints.latest() if missing else None
    if unknown := [name for name in missing if committed and name not in committed.modules]:
        raise DataError(
            f"{directory.path}: the run was {'imported' if directory.imported() else 'merged from others'} and has no "
            f"rows of its own, so that the form of missing ones is not known: give rows of source {unknown[0]}, too"
        )
    learnt = {name: directory.checkpoints.state(committed, name) for name in missing if committed}
    shapes = {name: values_of(state).shape[1:] for name, state in learnt.items()}
    return source_states(directory.graph, data, shapes)


def scaled_states(directory: RunDirectory) -> dict[str, State]:
    """Return the states of those sources of a run whose columns are scaled, by name."""
    graph = directory.graph
    names = [name for name in graph.sources if graph.modules[name].parameters.get("scaled")]
    manifest = directory.checkpoints.latest() if names else None
    if manifest is None:
        return {}
    if any(name not in manifest.modules for name in names):  # an imported run without rows
        return directory.scales(names)
    return {name: directory.checkpoints.state(manifest, name) for name in names}


def scalings_above(directory: RunDirectory) -> dict[str, Scaling]:
    """Return how the rows were scaled by each module right above a single source, and above nothing else."""
    scales = {name: scaling_in(state) for name, state in scaled_states(directory).items()}
    below: dict[str, list[str]] = {}
    for each in directory.graph.connections if scales else []:
        below.setdefault(each.upper, []).append(each.lower)
    found = {name: scales.get(lower[0]) for name, lower in below.items() if len(lower) == 1}
    return {name: scaling for name, scaling in found.items() if scaling is not None}


def recognize_rows(trained: TrainedRun, data: Data, *, ordered: bool) -> dict[str, dict[str, Array]]:
    """Return the outputs of each module except the sources for new rows, by module and name."""
    sources = {name: Ref(state) for name, state in new_source_states(trained, data).items()}
    answers = trained.coordinator.recognize(trained.states, sources, ordered=ordered)
    learners = [name for name in answers if name not in trained.directory.graph.sources]
    return {name: dict(outputs_of(answers[name])) for name in learners}


def find_missing_lengths(directory: RunDirectory, data: Data, remedy: str) -> str | None:
    """Return a sentence if the run learnt from sequences, but new rows in order came without lengths; else None."""
    if common_lengths(data) is not None:
        return None
    manifest = directory.checkpoints.latest()
    learnt = 0 if manifest is None else max(_count_sequences(directory, manifest), default=0)
    if learnt < 2:
        return None
    return (
        f"{directory.name} learnt from {learnt} sequences, but the {count_rows(data)} rows came without lengths and so "
        f"are one sequence; {remedy}"
    )


def _count_sequences(directory: RunDirectory, manifest: Manifest) -> Iterator[int]:
    """Yield the number of sequences of each source of a commit that has lengths, or of an imported run."""
    yield int(directory.imported().get("sequences", 0))
    for name in directory.graph.sources:
        lengths = directory.checkpoints.state(manifest, name).get("lengths") if name in manifest.modules else None
        if lengths is not None:
            yield len(lengths)


def outputs_of(reference: Ref | None) -> Mapping[str, Array]:
    """Return the outputs of a reference in this process, where the reference is the object itself."""
    return cast("Mapping[str, Array]", reference)
