"""Predict the classes of the rows that follow given rows: ``serket predict``.

The future rows are appended to the data as *missing* rows and recognized together with them; the Markov model's
posterior over the class of a missing row is the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from actors.coordination.backend import Ref
from actors.errors import GraphError
from actors.limits import MAX_PREDICTED_ROWS
from actors.messaging.stored_rows import read_array
from actors.types import Array, FloatArray, State
from runner.commands.trained_run import TrainedRun, load_trained_run, new_source_states, outputs_of, scalings_above
from runner.data.errors import DataError
from runner.data.sources import Data, common_categories, count_rows, values_of
from runner.report.category_names import category_name
from runner.report.clustering_metrics import match
from runner.report.console import SafeConsole
from runner.report.plots import draw_images
from runner.report.printable import brief
from runner.runs.directory import OpenedRun
from runner.runs.levels import modules_of_regimes

MIN_SHOWN_PROBABILITY = 0.05
"""Minimal probability of a class that is shown besides the most probable one."""

MAX_SHOWN = 3
"""Maximal number of classes that are shown for one step."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predicted classes of the next rows.

    Parameters
    ----------
    run : str
    rows : int
        Number of observed rows.
    probabilities : ndarray of float64, shape (M, K)
        P(class of the m-th future row | observed rows).
    images : ndarray, shape (K, …), or None
        The decoded mean of each class; None if no module decodes.
    categories : dict of int to int
        The category to which each class is matched; empty if the observed rows have no labels.
    names : dict of int to str
        The name of that category, where it has one.
    """

    run: str
    rows: int
    probabilities: FloatArray
    images: Array | None = None
    categories: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """Return the output of ``--json``: all probabilities, and each step's most probable class and category."""
        classes = self.probabilities.argmax(axis=1).tolist()
        result = {"run": self.run, "rows": self.rows, "predicted": self.probabilities.tolist(), "classes": classes}
        return {**result, "categories": [self.categories.get(k) for k in classes]} if self.categories else result

    def shown_classes(self) -> list[list[int]]:
        """Return the classes that are shown for each step, the most probable first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :MAX_SHOWN]
        return [
            [int(k) for k in classes if k == classes[0] or self.probabilities[step, k] >= MIN_SHOWN_PROBABILITY]
            for step, classes in enumerate(order)
        ]

    def show(self, console: Console | None = None) -> None:
        """Print the most probable classes of each step."""
        console = console or SafeConsole()
        table = Table("step", "class", *(["category"] if self.categories else []), "probability", box=None)
        for step, classes in enumerate(self.shown_classes()):
            for k in classes:
                category = [self._category_of(k) or "–"] if self.categories else []
                place = str(step + 1) if k == classes[0] else ""
                table.add_row(place, str(k), *category, f"{self.probabilities[step, k]:.3f}")
        console.print(table)

    def draw(self, path: Path) -> bool:
        """Draw the images of the most probable classes of each step (PNG); return False if there are no images.

        The classes are drawn separately, as the expected image over several classes would be blurred.
        """
        if self.images is None:
            return False
        shown = [(step, k) for step, classes in enumerate(self.shown_classes()) for k in classes]
        titles = []
        for step, k in shown:
            named = f" = {category}" if (category := self._category_of(k)) else ""
            titles.append(f"step {step + 1}\nclass {k}{named}, p={self.probabilities[step, k]:.2f}")
        draw_images(self.images[[k for _, k in shown]], path, titles)
        return True

    def _category_of(self, k: int) -> str:
        """Return the name of a class's category, else its number; nothing where it has none."""
        return self.names.get(k) or (str(self.categories[k]) if k in self.categories else "")


def predict(run: OpenedRun, data: Data, steps: int) -> Prediction:
    """Predict the rows that follow `data` with the run's last commit, in this process, without learning.

    Parameters
    ----------
    run : OpenedRun
    data : mapping of str to Dataset
        By source. Rows in temporal order; of several sequences, the last one is continued.
    steps : int
        M, the number of future rows.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    GraphError
        If no module of the run learns the order of the classes.
    ModuleError
        If the rows do not match the trained model.
    """
    return predict_rows(load_trained_run(run), data, steps)


def predict_rows(trained: TrainedRun, data: Data, steps: int) -> Prediction:
    """Predict the rows that follow `data`, as :func:`predict` does, with a run that is loaded already."""
    directory, coordinator, states = trained
    sources = {
        name: Ref(_append_missing_rows(state, steps)) for name, state in new_source_states(trained, data).items()
    }
    answers = coordinator.recognize(states, sources, ordered=True)
    outputs = {name: outputs_of(each) for name, each in answers.items()}
    above = modules_of_regimes(coordinator.graph)  # of which no row has a class of its own
    smoothed = _find_output({name: own for name, own in outputs.items() if name not in above}, "smoothed")
    if smoothed is None:
        raise GraphError(
            f"{directory.path}: no module of this run learns the order of the classes; predict needs a markov module"
        )
    rows = count_rows(data)
    classes, labels = _find_output(outputs, "class"), common_categories(data)
    categories = {} if classes is None or labels is None else match(classes[:rows], labels)
    names = {k: category_name(labels, label) for k, label in categories.items()}
    return Prediction(directory.name, rows, smoothed[rows:], _decode_class_means(trained), categories, names)


def check_steps(given: Any, what: str = "steps") -> int:
    """Return a number of rows that is asked for.

    Raises
    ------
    DataError
        If it is no integer of at least 1 and at most :data:`actors.limits.MAX_PREDICTED_ROWS`.
    """
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not 1 <= given <= MAX_PREDICTED_ROWS:
        purpose = "predict" if what == "steps" else "draw"
        raise DataError(
            f"{what} is {brief(given)}, the number of rows to {purpose}; use an integer of at least 1 and at most "
            f"{MAX_PREDICTED_ROWS:,}"
        )
    return int(given)


def _append_missing_rows(state: State, steps: int) -> State:
    """Return a source's data with `steps` missing rows appended to the last sequence."""
    values = read_array(values_of(state))
    rows = len(values)
    # The values of a missing row are never used.
    extended_values = np.concatenate([values, np.zeros((steps, *values.shape[1:]), values.dtype)])
    known = state.get("mask", np.zeros(rows, np.bool_))
    mask = np.concatenate([known, np.ones((steps, *known.shape[1:]), np.bool_)])
    rest = {name: value for name, value in state.items() if name != "stored"}
    extended = {**rest, "values": extended_values, "mask": mask}
    if "lengths" in state:
        extended["lengths"] = np.append(state["lengths"][:-1], state["lengths"][-1] + steps)
    return extended


def _find_output(outputs: Mapping[str, Mapping[str, Array]], name: str) -> Array | None:
    """Return the output `name` of the most abstract module that has it."""
    return next((own[name] for own in reversed(list(outputs.values())) if name in own), None)


def _decode_class_means(trained: TrainedRun) -> Array | None:
    """Return the class means (K, …) as decoded by the first module that can, in the units of the rows, or None."""
    coordinator, graph = trained.coordinator, trained.coordinator.graph
    for name in graph.modules:
        own = outputs_of(coordinator.generate(name)) if name not in graph.sources else {}
        if "mu_hat" in own:
            scaling = scalings_above(trained.directory).get(name)
            return own["mu_hat"] if scaling is None else scaling.undo(own["mu_hat"])
    return None
