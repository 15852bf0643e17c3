"""Recognition: what a trained run says of new data, learning nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from actors.coordinator import Coordinator
from actors.kinds import Array
from actors.transport import InProcess
from runner.config import load_config
from runner.datasets import Dataset
from runner.metrics import score
from runner.run import source_states
from runner.rundir import RunDirectory, RunDirectoryError


def recognize(path: Path, data: Dataset, *, ordered: bool) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """Let the modules of a run answer for new data, in this process, from the run's last commit.

    Parameters
    ----------
    path : Path
        The run's directory.
    data : Dataset
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
    config = load_config(path / "config.yaml")
    graph = config.graph()
    directory = RunDirectory(path, graph)
    manifest = directory.checkpoints.latest()
    if manifest is None:
        raise RunDirectoryError(f"{path}: nothing was learnt yet (no round is committed)")
    states = {name: directory.checkpoints.state(manifest, name) for name in graph.modules if name not in graph.sources}
    coordinator = Coordinator(graph, InProcess(), run=directory.name, seed=config.seed)
    answers = coordinator.recognize(states, source_states(graph, data), ordered=ordered)
    outputs = {name: found for name, found in answers.items() if name not in graph.sources}
    result: dict[str, Any] = {"run": directory.name, "rows": len(data.observations)}
    for module, found in outputs.items():
        directory.write_outputs(module, found, "recog", data.categories)
        if data.categories is not None and "class" in found:
            scores = score(found["class"], data.categories)
            result.update(accuracy=scores.accuracy, ari=scores.ari, nmi=scores.nmi)
    return outputs, result
