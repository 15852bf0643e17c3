"""Generate rows with a trained run: ``serket generate``."""

from __future__ import annotations

from pathlib import Path

from actors.types import Array
from runner.commands.trained_run import TrainedRun, load_trained_run, outputs_of, scalings_above
from runner.report.plots import draw_images
from runner.runs.directory import OpenedRun


def generate(
    run: OpenedRun, rows: int, picture: Path | None = None, seed: int | None = None
) -> dict[str, dict[str, Array]]:
    """Generate rows: a sequence of classes drawn from the learned transitions, decoded to data.

    Parameters
    ----------
    run : OpenedRun
    rows : int
        N.
    picture : Path, optional
        A PNG file for images of the rows; written only if a module of the model decodes them.
    seed : int, optional
        By default the run's seed.

    Returns
    -------
    dict of str to dict of str to ndarray
        By module: ``class`` (N,), ``x_hat`` (N, …), in the units that the rows had before they were scaled.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    outputs = generate_from(load_trained_run(run, seed), rows)
    decoded = next((own["x_hat"] for own in outputs.values() if "x_hat" in own), None)
    classes = next((own["class"] for own in outputs.values() if "class" in own), None)
    if picture is not None and decoded is not None and classes is not None:
        draw_images(decoded, picture, [f"class {k}" for k in classes])
    return outputs


def generate_from(trained: TrainedRun, rows: int) -> dict[str, dict[str, Array]]:
    """Generate rows, as :func:`generate` does, with a run that is loaded already."""
    directory, coordinator, states = trained
    generated = coordinator.generate_rows(states, rows)
    outputs = {name: dict(outputs_of(each)) for name, each in generated.items()}
    for name, scaling in scalings_above(directory).items():
        own = outputs.get(name, {})
        own.update({output: scaling.undo(own[output]) for output in ("x_hat", "x") if output in own})
    return outputs
