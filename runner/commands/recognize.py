"""Recognize new data with a trained run, without learning: ``serket recognize``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actors.kernels.sequences import boundaries
from actors.types import Array, IntArray
from runner.commands.trained_run import load_trained_run, recognize_rows
from runner.data.sources import Data, common_categories, common_lengths, count_rows
from runner.report.clustering_metrics import matched_classes
from runner.report.printable import printable_line
from runner.runs.artifacts import classes_of
from runner.runs.directory import OpenedRun, RunDirectoryError, compare


def recognize(
    run: OpenedRun, data: Data, *, ordered: bool, out: Path | None = None
) -> tuple[dict[str, dict[str, Array]], dict[str, Any]]:
    """Recognize new data with the run's last commit, in this process.

    Parameters
    ----------
    run : OpenedRun
    data : mapping of str to Dataset
        By source. A source without data has only missing rows.
    ordered : bool
        Whether the rows are in temporal order: one sequence, or those of the data's lengths.
    out : Path, optional
        A new directory for the modules' directories; by default the run's, where what an earlier recognition has
        written is replaced.

    Returns
    -------
    outputs : dict of str to dict of str to ndarray
        By module and name; also written to the modules' directories as ``<name>_recog``, and beside them the sequences
        (:func:`describe_sequences`) as ``sequences_recog.txt``.
    result : dict
        ``run``, ``rows``; in order also ``sequences``, their number; with categories, ``accuracy``, ``ari``, ``nmi``
        and ``ece`` of the most abstract module, and ``modules`` with those of each if several have classes; with
        lengths, ``per_sequence``, a list of :func:`describe_sequences`' columns for each sequence.

    Raises
    ------
    RunDirectoryError
        If the run has no commit yet, or `out` is a file or a directory with files.
    """
    trained = load_trained_run(run)
    directory = trained.directory
    if out is not None:
        directory.outputs = _check_new(out)
    outputs = recognize_rows(trained, data, ordered=ordered)
    if out is not None:
        out.mkdir(exist_ok=True)
    categories, lengths = common_categories(data), common_lengths(data)
    starts = boundaries(count_rows(data), lengths)
    if ordered:
        directory.write_rows("recog", lengths, classes_of(outputs), categories)
    per_sequence: dict[str, Array] = {}
    for module, own in outputs.items():
        columns = describe_sequences(starts, own, categories) if ordered else {}
        directory.delete_outputs(module, "recog")
        directory.write_outputs(module, own, "recog", categories)
        directory.write_sequences(module, columns, "recog")
        per_sequence.update(columns)
    result: dict[str, Any] = {"run": directory.name, "rows": count_rows(data)}
    if ordered:
        result["sequences"] = len(starts) - 1
    result.update(_score(outputs, categories))
    if lengths is not None:
        rows = zip(*(column.tolist() for column in per_sequence.values()), strict=True)
        result["per_sequence"] = [dict(zip(per_sequence, row, strict=True)) for row in rows]
    return outputs, result


def _score(outputs: Mapping[str, Mapping[str, Array]], categories: IntArray | None) -> dict[str, Any]:
    """Return the scores of the most abstract module with classes; if several have some, also those of each."""
    if categories is None:
        return {}
    by_module = {
        module: asdict(compare(module, own, categories))
        for module, own in outputs.items()
        if "class" in own and len(own["class"]) == len(categories)
    }
    last = next(reversed(by_module.values()), {})
    return {**last, "modules": by_module} if len(by_module) > 1 else last


def _check_new(out: Path) -> Path:
    """Return a directory that can be made or is empty; raise RunDirectoryError for any other path."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunDirectoryError(f"--out {printable_line(str(out))}: exists already; give a new directory")
    if not out.absolute().parent.is_dir():
        raise RunDirectoryError(f"--out {printable_line(str(out))}: there is no folder {out.parent}; create it")
    return out


def describe_sequences(starts: IntArray, outputs: Mapping[str, Array], categories: IntArray | None) -> dict[str, Array]:
    """Return what is known of each sequence, as columns of length S.

    Parameters
    ----------
    starts : ndarray of int64, shape (S + 1,)
        The first row of each sequence, and the number of rows.
    outputs : mapping of str to ndarray
        A module's outputs.
    categories : ndarray of int64, shape (N,), optional
        The true categories.

    Returns
    -------
    dict of str to ndarray
        ``sequence`` (numbered from 0), ``first_row`` (from 0), ``length``; with categories and classes, ``accuracy``:
        the share of rows whose class is the one matched to their category, in one matching for all rows; where the
        module reports it, ``log_evidence``, in nats.
    """
    columns: dict[str, Array] = {
        "sequence": np.arange(len(starts) - 1),
        "first_row": starts[:-1],
        "length": np.diff(starts),
    }
    classes = outputs.get("class")
    if categories is not None and classes is not None and len(classes) == starts[-1]:
        agree = matched_classes(classes, categories) == categories
        columns["accuracy"] = np.add.reduceat(agree.astype(np.float64), starts[:-1]) / columns["length"]
    evidence = outputs.get("log_evidence")
    if evidence is not None and len(evidence) == len(starts) - 1:
        columns["log_evidence"] = evidence
    return columns
