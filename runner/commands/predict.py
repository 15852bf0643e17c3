"""What a trained run expects to come after the rows that it is shown.

The rows to come are rows like any others, only *missing*: appended behind the data, they go up and down through the
model with them, and what the Markov model says of a missing row's class is its prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from actors.coordination.coordinator import Coordinator
from actors.errors import GraphError
from actors.types import Array, FloatArray, State
from runner.commands.recognize import load_run, states_of
from runner.data.sources import Data, common_categories, rows_in
from runner.report.clustering_metrics import match
from runner.report.plots import draw_images

LIKELY = 0.05
"""Probability from which a class is worth showing beside the likeliest one."""

MOST_SHOWN = 3
"""Classes of one step that are shown at most."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The classes of the rows that come next.

    Parameters
    ----------
    run : str
    rows : int
        How many rows were observed.
    probabilities : ndarray of float64, shape (M, K)
        P(class of the m-th row to come | the rows observed).
    images : ndarray, shape (K, …), or None
        What each class looks like; None where no module decodes.
    categories : dict of int to int
        The category that a class is matched to, as far as the observed rows have labels.
    """

    run: str
    rows: int
    probabilities: FloatArray
    images: Array | None = None
    categories: dict[int, int] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """Return what ``--json`` says: all probabilities, and the likeliest class (and its category) of each step."""
        classes = self.probabilities.argmax(axis=1).tolist()
        found = {"run": self.run, "rows": self.rows, "predicted": self.probabilities.tolist(), "classes": classes}
        return {**found, "categories": [self.categories.get(k) for k in classes]} if self.categories else found

    def likely(self) -> list[list[int]]:
        """Return the classes of each step that are worth showing, the likeliest first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :MOST_SHOWN]
        return [
            [int(k) for k in classes if k == classes[0] or self.probabilities[step, k] >= LIKELY]
            for step, classes in enumerate(order)
        ]

    def show(self, console: Console | None = None) -> None:
        """Print the likely classes of each step."""
        console = console or Console()
        table = Table("step", "class", *(["category"] if self.categories else []), "probability", box=None)
        for step, classes in enumerate(self.likely()):
            for k in classes:
                category = [str(self.categories.get(k, "–"))] if self.categories else []
                place = str(step + 1) if k == classes[0] else ""
                table.add_row(place, str(k), *category, f"{self.probabilities[step, k]:.3f}")
        console.print(table)

    def draw(self, path: Path) -> bool:
        """Draw what the likely classes of each step look like (PNG); say whether there was anything to draw.

        Each class has a picture of its own: the expectation over several would be a blur of them.
        """
        if self.images is None:
            return False
        shown = [(step, k) for step, classes in enumerate(self.likely()) for k in classes]
        titles = []
        for step, k in shown:
            category = f" = {self.categories[k]}" if k in self.categories else ""
            titles.append(f"step {step + 1}\nclass {k}{category}, p={self.probabilities[step, k]:.2f}")
        draw_images(self.images[[k for _, k in shown]], path, titles)
        return True


def predict(path: Path, data: Data, steps: int) -> Prediction:
    """Let a run say what comes after `data`, in this process, from its last commit; learns nothing.

    Parameters
    ----------
    path : Path
        The run's directory.
    data : mapping of str to Dataset
        By source. Rows in the order in which they happened; of several sequences the last one goes on.
    steps : int
        M, how many rows ahead.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    GraphError
        If no module of the run knows in which order classes come.
    ModuleError
        If the rows don't fit what was learnt.
    """
    directory, coordinator, states = load_run(path)
    sources = {name: _continued(state, steps) for name, state in states_of(directory, data).items()}
    outputs = coordinator.recognize(states, sources, ordered=True)
    smoothed = _last(outputs, "smoothed")
    if smoothed is None:
        raise GraphError(f"{path}: no module of this run learns in which order classes come; predict needs a markov")
    rows = rows_in(data)
    classes, labels = _last(outputs, "class"), common_categories(data)
    categories = {} if classes is None or labels is None else match(classes[:rows], labels)
    return Prediction(directory.name, rows, smoothed[rows:], _decoded(coordinator), categories)


def _continued(state: State, steps: int) -> State:
    """Return a source's data with `steps` missing rows at the end of the last sequence."""
    values, rows = state["values"], len(state["values"])
    # What stands in a missing row is never looked at.
    longer = np.concatenate([values, np.zeros((steps, *values.shape[1:]), values.dtype)])
    mask = np.concatenate([state.get("mask", np.zeros(rows, np.bool_)), np.ones(steps, np.bool_)])
    continued = {**state, "values": longer, "mask": mask}
    if "lengths" in state:
        continued["lengths"] = np.append(state["lengths"][:-1], state["lengths"][-1] + steps)
    return continued


def _last(outputs: dict[str, dict[str, Array]], name: str) -> Array | None:
    """Return the output of that name of the most abstract module that has one."""
    return next((found[name] for found in reversed(outputs.values()) if name in found), None)


def _decoded(coordinator: Coordinator) -> Array | None:
    """Return what the classes look like to the module that decodes them, (K, …); None where there is none."""
    graph = coordinator.graph
    shown = (coordinator.generate(name) for name in graph.modules if name not in graph.sources)
    return next((found["mu_hat"] for found in shown if "mu_hat" in found), None)
