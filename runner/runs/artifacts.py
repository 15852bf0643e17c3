"""Plots of a run, drawn from its commits into its directory (see :mod:`runner.report.plots`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from actors.kernels.row_sample import spread_rows
from actors.limits import MAX_PLOTTED_ROWS, MAX_REPORT_READ_BYTES
from actors.storage.parts import CommittedOutputs
from actors.types import Array, IntArray
from runner.report import plots
from runner.report.clustering_metrics import confusion, match
from runner.report.printable import format_bytes
from runner.runs.directory import RunDirectory


@dataclass(frozen=True)
class CommitOutputs:
    """The outputs of all modules in one commit, with the classes and the categories that they are compared with."""

    outputs: Mapping[str, Mapping[str, Array]]
    classes: Array | None = None
    categories: Array | None = None

    def find(self, output: str) -> Array | None:
        """Return the output `output` of the first module that has it, None if there is none."""
        return next((own[output] for own in self.outputs.values() if output in own), None)

    def points(self, output: str, module: str = "") -> tuple[Array, IntArray, int] | None:
        """Return rows of an output for a plot, at most MAX_PLOTTED_ROWS, their numbers, and that of all rows.

        They are those of `module`, by default of the first one that has the output.
        """
        of = [self.outputs[module]] if module else self.outputs.values()
        own = next((own for own in of if output in own), None)
        if own is None:
            return None
        if not isinstance(own, CommittedOutputs):
            chosen = spread_rows(len(own[output]), MAX_PLOTTED_ROWS)
            return own[output][chosen], chosen, len(own[output])
        chosen = spread_rows(own.total, MAX_PLOTTED_ROWS)
        picked = []
        for first, part in own.by_part():
            inside = chosen[slice(*np.searchsorted(chosen, (first, first + len(part[output]))))]
            picked.append(part[output][inside - first])
        return np.concatenate(picked), chosen, own.total


def read_commit(directory: RunDirectory, commit: str, *, classes: bool = True) -> CommitOutputs:
    """Read the outputs of a commit; without `classes`, no classes and categories."""
    manifest = directory.checkpoints.manifest(commit)
    outputs = {
        module: directory.checkpoints.outputs(manifest, module)
        for module in manifest.modules
        if module not in directory.graph.sources
    }
    classifier = next((module for module, own in outputs.items() if "class" in own), None)
    if classifier is None or not classes:
        return CommitOutputs(outputs)
    found = outputs[classifier]["class"]
    return CommitOutputs(outputs, found, directory.categories_of(classifier, len(found)))


def draw_plots(directory: RunDirectory) -> list[Path]:
    """Draw the plots of a finished run into its directory.

    Returns
    -------
    list of Path
        The files that were written; a plot without data is left out.
    """
    commits = [name for name in directory.checkpoints.names() if name != "round-000"]
    if not commits:
        return []
    first, last = read_commit(directory, commits[0], classes=False), read_commit(directory, commits[-1])
    drawn = [_draw_progress(directory), *_draw_classes(directory, last)]
    transitions = last.find("trans_prob")
    if transitions is not None:
        order = class_order(transitions, last)
        drawn.append(_save(directory, "transitions.png", lambda file: plots.draw_transitions(transitions, file, order)))
        drawn += _draw_states(directory, last)
    before, after = first.points("z"), last.points("z")
    if before is not None and after is not None:
        z, rows, total = after
        colours = last.classes if last.categories is None else last.categories
        colours = colours[rows] if colours is not None and len(colours) == total else None
        some = f", {len(rows):,} of {total:,} rows" if len(rows) < total else ""
        names = tuple(f"after {name.replace('-', ' ')}{some}" for name in (commits[0], commits[-1]))
        draw = partial(plots.draw_latents, before[0], z, colours, names=names)
        drawn.append(_save(directory, "latents.png", draw))
    return [*drawn, *_draw_means(directory, last)]


def sequence_lengths(directory: RunDirectory, rows: int) -> Array | None:
    """Return the lengths of the sequences of `rows` training rows; None for one sequence.

    Raises
    ------
    ValueError
        If a source is too large to be read for a picture.
    """
    manifest = directory.checkpoints.latest()
    for name in directory.graph.sources:
        record = manifest.modules.get(name) if manifest is not None else None
        if record is None or manifest is None:
            continue
        size = sum(file.size for label, file in record.files.items() if label.partition("#")[0] == "state")
        if size > MAX_REPORT_READ_BYTES:
            raise ValueError(f"the rows of {name} have {format_bytes(size)}, too much to be read for a picture")
        lengths = directory.checkpoints.state(manifest, name).get("lengths")
        if lengths is not None and np.sum(lengths) == rows:
            return np.asarray(lengths)
    return None


def _draw_states(directory: RunDirectory, commit: CommitOutputs) -> list[Path]:
    """Draw the classes of rows in order over time; not those of more rows than are read for a picture."""
    if commit.classes is None:
        return []
    try:
        lengths = sequence_lengths(directory, len(commit.classes))
    except ValueError:
        return []
    draw = partial(plots.draw_states, commit.classes, commit.categories, lengths)
    return [_save(directory, "states.png", draw)]


def class_order(transitions: Array, commit: CommitOutputs) -> list[int]:
    """Return the order in which the classes are shown.

    With labels, the order of the matched categories; otherwise along the most probable transitions from class 0.
    """
    count = len(transitions)
    if commit.classes is not None and commit.categories is not None:
        matched = match(commit.classes, commit.categories)
        return sorted(range(count), key=lambda k: (matched.get(k, count), k))
    order = [0]
    while len(order) < count:
        candidates = np.array(transitions[order[-1]], dtype=np.float64)
        candidates[order] = -1.0
        order.append(int(candidates.argmax()))
    return order


def _draw_progress(directory: RunDirectory) -> Path:
    rows = directory.metrics_file.rows()
    accuracy = [row["accuracy"] for row in rows]
    rounds = [int(row["round"] or 0) for row in rows]
    shown = None if all(value is None for value in accuracy) else accuracy
    draw = partial(plots.draw_progress, rounds, shown, [row["evidence"] for row in rows])
    return _save(directory, "progress.png", draw)


def _draw_classes(directory: RunDirectory, commit: CommitOutputs) -> list[Path]:
    if commit.classes is None or commit.categories is None:
        return []
    table = confusion(commit.classes, commit.categories)
    draw = partial(plots.draw_confusion, table.matrix, list(table.categories), list(table.classes))
    return [_save(directory, "confusion.png", draw)]


def _draw_means(directory: RunDirectory, commit: CommitOutputs) -> list[Path]:
    """Draw the class means, as decoded by the module below at the end of the run."""
    drawn = []
    for module in directory.graph.modules:
        images = directory.read_output(module, "mu_hat", "learn")
        if images is None:
            continue
        matched: dict[int, int] = {}
        if commit.classes is not None and commit.categories is not None:
            matched = match(commit.classes, commit.categories)
        order = sorted(range(len(images)), key=lambda k: (matched.get(k, len(images)), k))
        titles = [f"class {k} = {matched[k]}" if k in matched else f"class {k}" for k in order]
        draw = partial(plots.draw_images, images[order], titles=titles)
        drawn.append(_save(directory, "class_means.png", draw))
    return drawn


def _save(directory: RunDirectory, name: str, draw: Callable[[BinaryIO], None]) -> Path:
    """Draw a plot into a file of the run directory; return its path."""
    with directory.new_file(name) as file:
        draw(file)
    return directory.path / name
