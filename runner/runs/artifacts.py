"""Plots of a run, drawn from its commits into its directory (see :mod:`runner.report.plots`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
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
from runner.report.category_names import category_name
from runner.report.clustering_metrics import confusion, match
from runner.report.printable import format_bytes
from runner.runs.directory import RunDirectory
from runner.runs.levels import modules_of_regimes


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


@dataclass(frozen=True)
class Album:
    """Where plots are drawn: into the run's directory, or into a folder of the user's, in one of PICTURE_FORMATS."""

    directory: RunDirectory
    folder: Path | None = None
    suffix: str = "png"

    def draw(self, name: str, draw: Callable[[BinaryIO | Path], None]) -> Path:
        """Draw a plot into a file called `name` with the suffix; return its path."""
        if self.folder is not None:
            draw(self.folder / f"{name}.{self.suffix}")
            return self.folder / f"{name}.{self.suffix}"
        with self.directory.new_file(f"{name}.png") as file:
            draw(file)
        return self.directory.path / f"{name}.png"


MAX_REGIMES_DRAWN = 8
PICTURE_FORMATS = ("png", *plots.VECTOR_FORMATS)


def draw_plots(directory: RunDirectory, folder: Path | None = None, suffix: str = "png") -> list[Path]:
    """Draw the plots of a finished run into its directory, or into a folder, which is made if it does not exist.

    Parameters
    ----------
    directory : RunDirectory
    folder : Path, optional
    suffix : {"png", "svg", "pdf"}
        Of the files in a folder.

    Returns
    -------
    list of Path
        The files that were written; a plot without data is left out.
    """
    commits = [name for name in directory.checkpoints.names() if name != "round-000"]
    if not commits:
        return []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    album = Album(directory, folder, suffix)
    first, last = read_commit(directory, commits[0], classes=False), read_commit(directory, commits[-1])
    drawn = [_draw_progress(album, last), *_draw_classes(album, last)]
    transitions = last.find("trans_prob")
    if transitions is not None:
        order = class_order(transitions, last)
        draw = partial(
            plots.draw_transitions, transitions, order=order, names=matched_names(last.classes, last.categories)
        )
        drawn.append(album.draw("transitions", lambda file: draw(path=file)))
        drawn += [*_draw_states(album, last), *_draw_regimes(album, last)]
    before, after = first.points("z"), last.points("z")
    if before is not None and after is not None:
        z, rows, total = after
        colours = last.classes if last.categories is None else last.categories
        colours = colours[rows] if colours is not None and len(colours) == total else None
        some = f", {len(rows):,} of {total:,} rows" if len(rows) < total else ""
        names = tuple(f"after {_commit_title(name)}{some}" for name in (commits[0], commits[-1]))
        draw = partial(plots.draw_latents, before[0], z, colours, names=names)
        drawn.append(album.draw("latents", draw))
    return [*drawn, *_draw_means(album, last)]


def _commit_title(name: str) -> str:
    """Return ``round 1`` for ``round-001``, and ``round 1, step 2`` for a commit within a round."""
    round_, _, step = name.removeprefix("round-").partition("-step-")
    return f"round {int(round_)}" + (f", step {int(step)}" if step else "")


def classes_of(outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return the classes of rows, by module; of a Markov model, the most probable path."""
    found = {module: own.get("class", own.get("viterbi")) for module, own in outputs.items()}
    return {module: classes for module, classes in found.items() if classes is not None}


def write_row_table(directory: RunDirectory) -> None:
    """Write ``rows_learn.csv`` of a finished run, unless it has too many rows for a table."""
    newest = directory.checkpoints.latest()
    if newest is None:
        return
    commit = read_commit(directory, newest.name)
    with suppress(ValueError):  # too many rows
        classes = classes_of(commit.outputs)
        lengths = sequence_lengths(directory, next((len(each) for each in classes.values()), 0))
        directory.write_rows("learn", lengths, classes, commit.categories)


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


def _draw_states(album: Album, commit: CommitOutputs, name: str = "states") -> list[Path]:
    """Draw the classes of rows in order over time; not those of more rows than are read for a picture."""
    if commit.classes is None:
        return []
    try:
        lengths = sequence_lengths(album.directory, len(commit.classes))
    except ValueError:
        return []
    draw = partial(plots.draw_states, commit.classes, commit.categories, lengths)
    return [album.draw(name, draw)]


def _draw_regimes(album: Album, commit: CommitOutputs) -> list[Path]:
    """Draw the transitions in each regime, and transitions and path of the module above, whose classes they are."""
    drawn, above = list[Path](), modules_of_regimes(album.directory.graph)
    names = matched_names(commit.classes, commit.categories)
    for module, own in commit.outputs.items():
        if "regime_trans_prob" in own:
            order = class_order(own["trans_prob"], commit)
            for r, values in enumerate(own["regime_trans_prob"][:MAX_REGIMES_DRAWN]):
                draw = partial(plots.draw_transitions, values, order=order, names=names)
                drawn.append(album.draw(f"transitions_{module}_{r}", draw))
        if module in above and "trans_prob" in own:
            draw = partial(plots.draw_transitions, own["trans_prob"])
            drawn.append(album.draw(f"transitions_{module}", draw))
        if module in above and "viterbi" in own:
            path = CommitOutputs(commit.outputs, own["viterbi"], album.directory.categories_of(module))
            drawn += _draw_states(album, path, f"states_{module}")
    return drawn


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


def matched_names(classes: Array | None, categories: Array | None) -> dict[int, str]:
    """Return the name of the category to which each class is matched; empty without categories."""
    if classes is None or categories is None:
        return {}
    return {k: category_name(categories, label) for k, label in match(classes, categories).items()}


def _draw_progress(album: Album, commit: CommitOutputs) -> Path:
    rows = album.directory.metrics_file.rows()
    accuracy = [row["accuracy"] for row in rows]
    rounds = [int(row["round"] or 0) for row in rows]
    shown = None if all(value is None for value in accuracy) else accuracy
    losses = {module: own["loss"] for module, own in commit.outputs.items() if np.size(own.get("loss", ())) > 1}
    draw = partial(plots.draw_progress, rounds, shown, [row["evidence"] for row in rows], losses=losses)
    return album.draw("progress", draw)


def _draw_classes(album: Album, commit: CommitOutputs) -> list[Path]:
    if commit.classes is None or commit.categories is None:
        return []
    table = confusion(commit.classes, commit.categories)
    names = [category_name(commit.categories, k) for k in table.categories.tolist()]
    draw = partial(plots.draw_confusion, table.matrix, names, list(table.classes))
    return [album.draw("confusion", draw)]


def _draw_means(album: Album, commit: CommitOutputs) -> list[Path]:
    """Draw the class means, as decoded by the module below at the end of the run."""
    drawn = list[Path]()
    for module in album.directory.graph.modules:
        images = album.directory.read_output(module, "mu_hat", "learn")
        if images is None:
            continue
        matched: dict[int, int] = {}
        if commit.classes is not None and commit.categories is not None:
            matched = match(commit.classes, commit.categories)
        order = sorted(range(len(images)), key=lambda k: (matched.get(k, len(images)), k))
        names = matched_names(commit.classes, commit.categories)
        titles = [f"class {k} = {names[k]}" if k in names else f"class {k}" for k in order]
        draw = partial(plots.draw_images, images[order], titles=titles)
        drawn.append(album.draw(f"class_means_{module}" if drawn else "class_means", draw))
    return drawn
