"""Generate rows with a trained run: ``serket generate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from actors.types import Array
from runner.commands.trained_run import TrainedRun, load_trained_run, outputs_of, scalings_above
from runner.data.errors import DataError
from runner.report.plots import draw_images
from runner.report.printable import printable_line
from runner.runs.directory import OpenedRun
from runner.runs.levels import generated_classes, module_of_classes


def generate(
    run: OpenedRun,
    rows: int,
    out: Path | None = None,
    seed: int | None = None,
    *,
    noise: bool = False,
    must_write: bool = True,
) -> tuple[dict[str, dict[str, Array]], str]:
    """Generate rows: a sequence of classes drawn from the learned transitions, decoded to data.

    Parameters
    ----------
    run : OpenedRun
    rows : int
        N.
    out : Path, optional
        A file for the rows: ``.csv``, with the class of each, or ``.npy``; any other name is that of a PNG file for
        pictures of rows that a module decodes from classes.
    seed : int, optional
        By default the run's seed.
    noise : bool
        Whether latent vectors are drawn from their classes, so that rows of a class differ; else they are class means.
    must_write : bool
        Whether it is an error if no module decodes pictures; otherwise the sentence says so.

    Returns
    -------
    dict of str to dict of str to ndarray
        By module: ``class`` (N,), ``x_hat`` (N, …) or ``x`` (N, D), in the units that the rows had before they were
        scaled.
    str
        A sentence about what was written.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    DataError
        If no module generates rows for a file of rows, or `must_write` and none decodes pictures.
    """
    trained = load_trained_run(run, seed)
    outputs = generate_from(trained, rows, noise=noise)
    decoded = next((own["x_hat"] for own in outputs.values() if "x_hat" in own), None)
    classes = generated_classes(trained.coordinator.graph, outputs)
    drawn = next((own["x"] for own in outputs.values() if "x" in own), None)
    values = decoded if decoded is not None else drawn
    if out is None:
        return outputs, ""
    if out.suffix.lower() in (".csv", ".npy"):
        return outputs, _write_rows(out, values, classes)
    if decoded is not None and classes is not None:
        names = _names_of_classes(trained, outputs)
        draw_images(decoded, out, [f"class {k}" + (f" = {names[k]}" if k in names else "") for k in classes.tolist()])
        return outputs, f"pictures in {out}"
    remedy = "; --out FILE.csv writes the rows" if drawn is not None else ""
    sentence = f"no module of this model decodes pictures{remedy}"
    if must_write:
        raise DataError(f"--out {printable_line(out)}: {sentence}")
    return outputs, sentence


def _names_of_classes(trained: TrainedRun, outputs: Mapping[str, Mapping[str, Array]]) -> dict[int, str]:
    """Return the category to which each generated class was matched, where the run had categories."""
    graph = trained.coordinator.graph
    source = module_of_classes(graph, outputs)
    below = [each.lower for each in graph.connections if each.upper == source and each.lower not in graph.sources]
    known = (trained.directory.names_of_classes(name) for name in [source, *below[:1]] if name is not None)
    return next((names for names in known if names), {})


def _write_rows(out: Path, values: Array | None, classes: Array | None) -> str:
    """Write generated rows, as text with their classes; return a sentence about it."""
    if values is None:
        raise DataError(f"--out {printable_line(out)}: no module of this model generates rows; leave out --out")
    if out.suffix.lower() == ".npy":
        np.save(out, values)
        return f"rows in {out}"
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    names, formats = [f"column{d + 1}" for d in range(flat.shape[1])], ["%.8g"] * flat.shape[1]
    if classes is not None:
        flat, names, formats = np.column_stack([flat, classes]), [*names, "class"], [*formats, "%d"]
    np.savetxt(out, flat, fmt=formats, delimiter=",", header=",".join(names), comments="")
    return f"rows in {out}"


def generate_from(trained: TrainedRun, rows: int, *, noise: bool = False) -> dict[str, dict[str, Array]]:
    """Generate rows, as :func:`generate` does, with a run that is loaded already."""
    directory, coordinator, states = trained
    generated = coordinator.generate_rows(states, rows, noise=noise)
    outputs = {name: dict(outputs_of(each)) for name, each in generated.items()}
    for name, scaling in scalings_above(directory).items():
        own = outputs.get(name, {})
        own.update({output: scaling.undo(own[output]) for output in ("x_hat", "x") if output in own})
    return outputs
