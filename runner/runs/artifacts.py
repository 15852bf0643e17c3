"""Collects from a run's commits what :mod:`runner.report.plots` draws, and has it drawn into the run's directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.types import Array
from runner.report import plots as report
from runner.report.clustering_metrics import confusion, match
from runner.runs.directory import RunDirectory


@dataclass(frozen=True)
class Collected:
    """The outputs of all modules in one commit, and whose classes are measured by which labels."""

    outputs: Mapping[str, Mapping[str, Array]]
    classes: Array | None = None
    categories: Array | None = None

    def find(self, output: str) -> Array | None:
        """Return the output of that name of the first module that has one."""
        return next((found[output] for found in self.outputs.values() if output in found), None)


def collect(directory: RunDirectory, commit: str) -> Collected:
    """Read the outputs of a commit."""
    manifest = directory.checkpoints.manifest(commit)
    outputs = {
        module: directory.checkpoints.outputs(manifest, module)
        for module in manifest.modules
        if module not in directory.graph.sources
    }
    classifier = next((module for module, found in outputs.items() if "class" in found), None)
    if classifier is None:
        return Collected(outputs)
    return Collected(outputs, outputs[classifier]["class"], directory.categories_of(classifier))


def draw(directory: RunDirectory) -> list[Path]:
    """Draw a finished run's pictures into its directory.

    Returns
    -------
    list of Path
        The pictures that there was something to draw for.
    """
    commits = [name for name in directory.checkpoints.names() if name != "round-000"]
    if not commits:
        return []
    first, last = collect(directory, commits[0]), collect(directory, commits[-1])
    drawn = [_draw_progress(directory), *_draw_classes(directory.path, last)]
    transitions = last.find("trans_prob")
    if transitions is not None:
        drawn.append(directory.path / "transitions.png")
        report.draw_transitions(transitions, drawn[-1], order=class_order(transitions, last))
    before, after = first.find("z"), last.find("z")
    if before is not None and after is not None:
        drawn.append(directory.path / "latents.png")
        colours = last.classes if last.categories is None else last.categories
        names = tuple(f"after {name.replace('-', ' ')}" for name in (commits[0], commits[-1]))
        report.draw_latents(before, after, colours, drawn[-1], names)
    return [*drawn, *_draw_means(directory, last)]


def class_order(transitions: Array, collected: Collected) -> list[int]:
    """Return the classes in the order in which they are best shown.

    By the categories that they match, where there are labels; else along the likeliest transitions from class 0.
    """
    count = len(transitions)
    if collected.classes is not None and collected.categories is not None:
        matched = match(collected.classes, collected.categories)
        return sorted(range(count), key=lambda k: (matched.get(k, count), k))
    order = [0]
    while len(order) < count:
        candidates = np.array(transitions[order[-1]], dtype=np.float64)
        candidates[order] = -1.0
        order.append(int(candidates.argmax()))
    return order


def _draw_progress(directory: RunDirectory) -> Path:
    rows = directory.metrics()
    path = directory.path / "progress.png"
    accuracy = [row["accuracy"] for row in rows]
    rounds = [int(row["round"] or 0) for row in rows]
    shown = None if all(value is None for value in accuracy) else accuracy
    report.draw_progress(rounds, shown, [row["evidence"] for row in rows], path)
    return path


def _draw_classes(path: Path, collected: Collected) -> list[Path]:
    if collected.classes is None or collected.categories is None:
        return []
    table = confusion(collected.classes, collected.categories)
    report.draw_confusion(table.matrix, list(table.categories), list(table.classes), path / "confusion.png")
    return [path / "confusion.png"]


def _draw_means(directory: RunDirectory, collected: Collected) -> list[Path]:
    """Draw the class means as the module below decoded them at the end of the run."""
    drawn = []
    for module in directory.graph.modules:
        images = directory.read_output(module, "mu_hat", "learn")
        if images is None:
            continue
        matched: dict[int, int] = {}
        if collected.classes is not None and collected.categories is not None:
            matched = match(collected.classes, collected.categories)
        order = sorted(range(len(images)), key=lambda k: (matched.get(k, len(images)), k))
        titles = [f"class {k} = {matched[k]}" if k in matched else f"class {k}" for k in order]
        drawn.append(directory.path / "class_means.png")
        report.draw_images(images[order], drawn[-1], titles)
    return drawn
