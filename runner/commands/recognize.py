"""What a trained run says of new data (recognition) and makes up by itself (generation), learning nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.types import Array, State
from runner.data.sources import Data, common_categories, rows_in, source_states
from runner.report.clustering_metrics import score
from runner.report.plots import draw_images
from runner.runs.directory import RunDirectory, RunDirectoryError, open_run


def recognize(path: Path, data: Data, *, ordered: bool) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """Let the modules of a run answer for new data, in this process, from the run's last commit.

    Parameters
    ----------
    path : Path
        The run's directory.
    data : mapping of str to Dataset
        By source. Of a source without data all rows are missing.
    ordered : bool
        Whether the rows come in the order in which they happened.

    Returns
    -------
    outputs : dict of str to dict of str to ndarray
        By module and name; also written as ``<name>_recog`` into the modules' directories.
    result : dict
        ``run``, ``rows`` and, with categories, ``accuracy``, ``ari`` and ``nmi``.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    directory, coordinator, states = load_run(path)
    graph = directory.graph
    answers = coordinator.recognize(states, states_of(directory, data), ordered=ordered)
    outputs = {name: found for name, found in answers.items() if name not in graph.sources}
    result: dict[str, Any] = {"run": directory.name, "rows": rows_in(data)}
    categories = common_categories(data)
    for module, found in outputs.items():
        directory.write_outputs(module, found, "recog", categories)
        if categories is not None and "class" in found:
            scores = score(found["class"], categories)
            result.update(accuracy=scores.accuracy, ari=scores.ari, nmi=scores.nmi)
    return outputs, result


def states_of(directory: RunDirectory, data: Data) -> dict[str, State]:
    """Return new data as a run's sources hold them."""
    missing = [name for name in directory.graph.sources if name not in data]
    committed = directory.checkpoints.latest() if missing else None
    learnt = {name: directory.checkpoints.state(committed, name) for name in missing if committed}
    shapes = {name: state["values"].shape[1:] for name, state in learnt.items()}
    return source_states(directory.graph, data, shapes)


def generate(
    path: Path, rows: int, picture: Path | None = None, seed: int | None = None
) -> dict[str, dict[str, Array]]:
    """Let a run make up rows: classes drawn from the learnt transitions, and what they look like.

    Parameters
    ----------
    path : Path
        The run's directory.
    rows : int
        N.
    picture : Path, optional
        Where a contact sheet of the rows is drawn (PNG), if the model has a module that decodes them.
    seed : int, optional
        By default the run's.

    Returns
    -------
    dict of str to dict of str to ndarray
        By module: ``class`` (N,), ``x_hat`` (N, …).

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    _, coordinator, states = load_run(path, seed)
    outputs: dict[str, dict[str, Array]] = coordinator.make_up(states, rows)
    decoded = next((found["x_hat"] for found in outputs.values() if "x_hat" in found), None)
    classes = next((found["class"] for found in outputs.values() if "class" in found), None)
    if picture is not None and decoded is not None and classes is not None:
        draw_images(decoded, picture, [f"class {k}" for k in classes])
    return outputs


def load_run(path: Path, seed: int | None = None) -> tuple[RunDirectory, Coordinator, dict[str, State]]:
    """Return a run's directory, a coordinator in this process, and the states of the last commit.

    Parameters
    ----------
    path : Path
        The run's directory.
    seed : int, optional
        Of what the modules draw; by default the run's.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    config, directory = open_run(path)
    graph = directory.graph
    manifest = directory.checkpoints.latest()
    if manifest is None:
        raise RunDirectoryError(f"{path}: nothing was learnt yet (no round is committed)")
    learnt = [name for name in manifest.modules if name not in graph.sources]  # the others say so themselves
    states = {name: directory.checkpoints.state(manifest, name) for name in learnt}
    coordinator = Coordinator(graph, InProcess(), run=directory.name, seed=config.seed if seed is None else seed)
    return directory, coordinator, states
