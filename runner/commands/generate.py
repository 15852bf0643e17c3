"""Generate rows with a trained run: ``serket generate``."""

from __future__ import annotations

from pathlib import Path

from actors.types import Array
from runner.commands.trained_run import load_trained_run, outputs_of
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
        By module: ``class`` (N,), ``x_hat`` (N, …).

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet.
    """
    _, coordinator, states = load_trained_run(run, seed)
    generated = coordinator.generate_rows(states, rows)
    outputs = {name: dict(outputs_of(each)) for name, each in generated.items()}
    decoded = next((own["x_hat"] for own in outputs.values() if "x_hat" in own), None)
    classes = next((own["class"] for own in outputs.values() if "class" in own), None)
    if picture is not None and decoded is not None and classes is not None:
        draw_images(decoded, picture, [f"class {k}" for k in classes])
    return outputs
