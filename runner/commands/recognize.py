"""Recognize new data with a trained run, without learning: ``serket recognize``."""

from __future__ import annotations

from typing import Any

from actors.coordination.backend import Ref
from actors.types import Array
from runner.commands.trained_run import load_trained_run, new_source_states, outputs_of
from runner.data.sources import Data, common_categories, count_rows
from runner.report.clustering_metrics import score
from runner.runs.directory import OpenedRun


def recognize(run: OpenedRun, data: Data, *, ordered: bool) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """Recognize new data with the run's last commit, in this process.

    Parameters
    ----------
    run : OpenedRun
    data : mapping of str to Dataset
        By source. A source without data has only missing rows.
    ordered : bool
        Whether the rows are in temporal order.

    Returns
    -------
    outputs : dict of str to dict of str to ndarray
        By module and name; also written to the modules' directories as ``<name>_recog``.
    result : dict
        ``run``, ``rows`` and, with categories, ``accuracy``, ``ari`` and ``nmi``.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    directory, coordinator, states = load_trained_run(run)
    sources = {name: Ref(state) for name, state in new_source_states(directory, data).items()}
    answers = coordinator.recognize(states, sources, ordered=ordered)
    outputs = {name: dict(outputs_of(each)) for name, each in answers.items() if name not in directory.graph.sources}
    result: dict[str, Any] = {"run": directory.name, "rows": count_rows(data)}
    categories = common_categories(data)
    for module, own in outputs.items():
        directory.write_outputs(module, own, "recog", categories)
        if categories is not None and "class" in own:
            scores = score(own["class"], categories)
            result.update(accuracy=scores.accuracy, ari=scores.ari, nmi=scores.nmi)
    return outputs, result
