"""Write a model file for data of one's own: ``serket new-model``.

What the data are like decides the modules: counts become topics (MLDA), few columns classes (GMM), pictures and other
wide rows classes of latent vectors (VAE or PCA below the GMM); a Markov model learns the order of rows in time.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.limits import MAX_LISTED_NAMES, MAX_NAME_CHARACTERS
from actors.messaging.message import missing_rows
from actors.messaging.stored_rows import StoredRows, read_array
from actors.types import Array
from runner.config.error_messages import ConfigError, suggest
from runner.config.run_config import load_config
from runner.data import datasets
from runner.data.datasets import Dataset
from runner.data.errors import DataError
from runner.data.sources import check_modules
from runner.data.table_outline import TableOutline, read_outline
from runner.data.tables import TableOptions, is_time_name
from runner.report.printable import printable_line

BUILT_IN = ("mnist", "digits", "words", "clumps", "cycle")

MANY_COLUMNS = 30
"""Columns from which a module that makes latent vectors of the rows is put below the mixture."""

MOST_CLASSES = 30
"""The most classes that a model finds whose number is not given."""

_SAMPLE_ROWS = 2_000
_LEAST_ZEROS = 0.3
_UNEQUAL_SCALES = 10.0


class NewModelError(ConfigError):
    """A model file cannot be written as it was asked for; says why and what to do."""


@dataclass(frozen=True)
class Request:
    """What a model file is asked for.

    Parameters
    ----------
    data : str
        A file or folder, or the name of a built-in data set.
    classes : int or "auto", optional
        How many classes there are; by default as many as there are labels.
    columns : sequence of str
        Columns of a table to learn from; by default all that hold neither labels nor sequences.
    labels, lengths : str
        A column of the table, or a file; empty for none.
    ordered : bool
        Whether the rows are in temporal order.
    """

    data: str
    classes: int | str | None = None
    columns: tuple[str, ...] = ()
    labels: str = ""
    lengths: str = ""
    ordered: bool = True


@dataclass(frozen=True)
class Facts:
    """What the rows are like.

    Parameters
    ----------
    rows, columns : int
        `columns` values in each row.
    kind : {"counts", "pictures", "wide", "narrow"}
    labels : int
        How many different labels there are, 0 without labels.
    sequences : int
    missing : int
        Rows without any value.
    divide_by : int
        By how much the values are to be divided, 1 for not at all.
    remarks : list of str
        Sentences about what a person should know of these rows.
    """

    rows: int
    columns: int
    kind: str
    labels: int = 0
    sequences: int = 1
    missing: int = 0
    divide_by: int = 1
    remarks: list[str] = field(default_factory=list)


class Written(NamedTuple):
    """A model file, and what the rows are like."""

    path: Path
    facts: Facts


def write_model(request: Request, path: Path, name: str) -> Written:
    """Write a model file which ``serket run`` accepts, with comments.

    Parameters
    ----------
    request : Request
    path : Path
        The model file, which must not exist.
    name : str
        The model's name.

    Raises
    ------
    NewModelError
        If the file exists or cannot be written, if what a column holds is not said, or if the number of classes is
        missing or not possible.
    DataError
        If the data cannot be read.
    """
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise NewModelError(f"{path}: a model file's name ends in .yaml; give another --output")
    if not path.parent.is_dir():
        raise NewModelError(f"{path}: there is no folder {path.parent}; create it, or give another --output")
    section = data_section(request, path.parent)
    data = load_section(section, path.parent)
    facts = look_at(data, counted=section.get("source") == "words")
    classes = _check_classes(request.classes, facts)
    text = model_text(name, section, facts, classes, ordered=request.ordered)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise NewModelError(f"{path}: exists already; give another --output, or delete it") from None
    except OSError as error:
        raise NewModelError(f"{path}: cannot be written ({error.strerror}); give another --output") from None
    try:
        config = load_config(path)
        check_modules(config.graph, config.load_data())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Written(path, facts)


def name_for(data: str) -> str:
    """Return a name for a model of these data: that of the file, with only what a run's name may have."""
    stem = Path(data).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:MAX_NAME_CHARACTERS] or "model"


# --- the data ---------------------------------------------------------------------------------------------------------


def data_section(request: Request, folder: Path) -> dict[str, Any]:
    """Return the section ``data`` of a model file in a folder.

    Raises
    ------
    NewModelError, DataError
        If there are no such data, or if what a column of a table holds is not said.
    """
    source = Path(request.data)
    if request.data in BUILT_IN and not source.exists():
        for option, value in (
            ("--columns", request.columns),
            ("--labels", request.labels),
            ("--lengths", request.lengths),
        ):
            if value:
                raise NewModelError(f"{option} goes with files; {request.data} is a built-in data set, leave it out")
        return {"source": request.data, **({} if request.data == "cycle" else {"order": "cyclic"})}
    if not source.exists():
        raise DataError(
            f"{source}: there is no such file, and no built-in data set of this name; give a file of rows, or one of "
            f"{', '.join(BUILT_IN)}"
        )
    table = read_outline(source)
    names = () if table is None else table.names
    section: dict[str, Any] = {"source": "files", "observations": _relative(source, folder)}
    if request.columns:
        section["columns"] = _check_columns(request.columns, source, table)
    elif table is not None:
        _check_unsaid(request, source, table)
    for option, value, file_key, column_key in (
        ("--lengths", request.lengths, "lengths", "sequence_column"),
        ("--labels", request.labels, "categories", "category_column"),
    ):
        if value in names:
            section[column_key] = value
        elif value and not Path(value).exists():
            raise DataError(f"{value}: there is neither such a file nor such a column; correct {option}")
        elif value:
            section[file_key] = _relative(Path(value), folder)
    return section


def _check_columns(columns: Sequence[str], source: Path, table: TableOutline | None) -> list[str | int]:
    """Return columns as a model file names them; refuse those that are not there, or hold texts."""
    if table is None and not all(name.isascii() and name.isdecimal() for name in columns):
        raise NewModelError(f"{source}: --columns names columns of a table with a header, which this is not")
    if table is None:
        return [int(name) for name in columns]
    for name in columns:
        is_place = name.isascii() and name.isdecimal() and 1 <= int(name[:9]) <= len(table.names)
        if name not in table.names and not is_place:
            listed = ", ".join(printable_line(each, 40) for each in table.names[:MAX_LISTED_NAMES])
            hint = suggest(name, table.names) or f"; its columns are {listed}"
            raise NewModelError(f"{source}: has no column {printable_line(name, 60)!r}{hint}")
        if name in table.texts:
            raise NewModelError(
                f"{source}: column {name!r} holds {printable_line(table.texts[name], 40)!r}, which is no number; leave "
                "it out of --columns, or give it as --labels or --lengths"
            )
    return list(columns)


def _check_unsaid(request: Request, source: Path, table: TableOutline) -> None:
    """Refuse columns that are hardly values, where it is not said what they are."""
    said = (request.labels, request.lengths)
    guesses = {table.sequence_column: "--lengths", table.label_column: "--labels"}
    unsaid = [name for name in (*guesses, *table.texts) if name and name not in said and not is_time_name(name)]
    unsaid = [name for name in table.names if name in unsaid]
    if not unsaid:
        return
    many = len(unsaid) > 1
    what = "hold texts" if many else "holds texts"
    if any(name not in table.texts for name in unsaid):
        what = "seem to be no values" if many else "seems to be no value"
    listed = " and ".join(repr(printable_line(name, 40)) for name in unsaid[:MAX_LISTED_NAMES])
    remedies = [f"{guesses[name]} {name}" for name in unsaid if guesses.get(name)]
    values = table.values(*said, *unsaid)[:MAX_LISTED_NAMES]
    choice = f"choose what to learn from, --columns {','.join(values) or 'A,B'}"
    raise NewModelError(
        f"{source}: column{'s' * many} {listed} {what}; "
        + (f"say what {'they are' if many else 'it is'} ({' '.join(remedies)}), or {choice}" if remedies else choice)
    )


def _relative(path: Path, folder: Path) -> str:
    """Return a path as it is written into a model file of a folder."""
    return os.path.relpath(path, folder) if not path.is_absolute() else str(path)


def load_section(section: Mapping[str, Any], folder: Path) -> Dataset:
    """Load the data of a section that :func:`data_section` made for a folder."""
    items = dict(section)
    columns = items.pop("columns", None)
    table = TableOptions(
        columns=None if columns is None else tuple(columns),
        sequence_column=items.pop("sequence_column", None),
        category_column=items.pop("category_column", None),
    )
    return datasets.load(**items, table=table, root=folder)


def look_at(data: Dataset, *, counted: bool = False) -> Facts:
    """Return what rows are like: their number, kind and scale, and what is missing."""
    stored = isinstance(data.observations, StoredRows)
    values = data.observations[:_SAMPLE_ROWS] if stored else data.observations
    present = np.asarray(read_array(values), np.float64).reshape(len(values), -1)
    missing = missing_rows(data.mask)
    if data.mask is not None and data.mask.ndim > 1:  # the kind and the scale of values are those of whole rows
        whole = ~data.mask.reshape(len(data.mask), -1).any(axis=1)
        present = present[whole if whole.any() else ~missing if missing is not None else slice(None)]
    elif missing is not None and not stored:
        present = present[~missing]
    kind, divide_by = _kind_of(present, counted=counted)
    return Facts(
        rows=len(data.observations),
        columns=present.shape[1],
        kind=kind,
        labels=0 if data.categories is None else len(np.unique(data.categories)),
        sequences=1 if data.lengths is None else len(data.lengths),
        missing=0 if missing is None else int(missing.sum()),
        divide_by=divide_by,
        remarks=[*data.notes, *data.clock_notes(), *_remarks(present, kind)],
    )


def _kind_of(values: Array, *, counted: bool) -> tuple[str, int]:
    """Return the kind of rows, and by how much pixels are to be divided."""
    low, high = float(values.min()), float(values.max())
    whole = low >= 0 and bool((values == np.round(values)).all())
    columns = values.shape[1]
    if columns > MANY_COLUMNS and low >= 0 and high <= 1 and not counted:
        return "pictures", 1
    if columns > MANY_COLUMNS and whole and 100 < high <= 255 and _is_square(columns):
        return "pictures", 255
    if counted or (whole and high > 1 and columns >= 3 and float((values == 0).mean()) >= _LEAST_ZEROS):
        return "counts", 1
    return ("wide" if columns > MANY_COLUMNS else "narrow"), 1


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _remarks(values: Array, kind: str) -> list[str]:
    """Return sentences about columns without information, and about scales."""
    if kind in ("counts", "pictures"):
        return []
    deviations = values.std(axis=0)
    constant = int((deviations == 0).sum())
    remarks = (
        [f"{constant} of the columns hold one value in every row; they say nothing, and are left out"]
        if constant
        else []
    )
    spread = deviations[deviations > 0]
    if kind == "wide" and len(spread) and spread.max() > _UNEQUAL_SCALES * spread.min():
        remarks.append(
            f"the columns' deviations go from {spread.min():.3g} to {spread.max():.3g}; the PCA sees the largest ones "
            "alone, so bring them to one scale if all count alike"
        )
    return remarks


def _check_classes(classes: int | str | None, facts: Facts) -> int | None:
    """Return the number of classes; None if it is to be found."""
    if classes is None and facts.labels >= 2:
        return facts.labels
    if classes is None:
        raise NewModelError(
            "the number of classes is not given, and there are no labels to count; give --classes K, or --classes auto"
        )
    if classes == "auto":
        if facts.kind == "counts":
            raise NewModelError("--classes auto is for measurements; of counts, give the number of topics, --classes K")
        return None
    if not str(classes).isascii() or not str(classes).isdecimal() or len(str(classes)) > 9:
        raise NewModelError(f"--classes is {str(classes)[:40]!r}; give a whole number, or auto")
    if not 2 <= int(classes) <= facts.rows - facts.missing:
        raise NewModelError(
            f"--classes is {classes}; give at least 2, and at most as many as there are rows with values, "
            f"{facts.rows - facts.missing:,}"
        )
    return int(classes)


# --- the text ---------------------------------------------------------------------------------------------------------


def model_text(name: str, section: Mapping[str, Any], facts: Facts, classes: int | None, *, ordered: bool) -> str:
    """Return a model file with comments."""
    modules = [*_below(facts), *_classes(facts, classes, ordered=ordered), *(_order(facts) if ordered else [])]
    names = [line.strip().partition(":")[0] for line in modules if re.match(r"  \w+:", line)]
    head = [
        f"# {facts.rows:,} rows × {facts.columns} columns"
        + (f" in {facts.sequences:,} sequences" if facts.sequences > 1 else "")
        + (f"; {facts.missing:,} rows without any value are predicted, not learnt from" if facts.missing else "")
        + f". {_WHY[facts.kind]}",
        *(f"# {remark[:1].upper()}{remark[1:]}." for remark in facts.remarks),
        "# docs/model_files.md describes every key; serket modules TYPE lists the parameters of a module.",
        f"name: {_quote(name)}",
        "seed: 0                        # determines all random draws; try others",
        "",
        "data:",
        *_data_lines(section, facts),
        "",
        "modules:",
        *modules,
        "",
        f"connections: [{' -> '.join(['data', *names])}]",
        "",
        *_schedule(names),
    ]
    return "\n".join(head) + "\n"


_WHY = {
    "counts": "They are counts, so that each class is a topic: a distribution over the columns",
    "pictures": "Wide rows in one range, such as pictures: a network makes few latent dimensions of them",
    "wide": "Many columns: principal components make few latent dimensions of them",
    "narrow": "Few columns: each class is a Gaussian over these",
}


def _data_lines(section: Mapping[str, Any], facts: Facts) -> list[str]:
    comments = {
        "observations": "one row an observation, in temporal order",
        "categories": "labels, for measuring alone: no module sees them",
        "lengths": "the lengths of the sequences; no transition crosses from one to the next",
        "columns": "what a row is made of",
        "sequence_column": "names the sequence of each row; no transition crosses from one to the next",
        "category_column": "labels, for measuring alone: no module sees them",
        "order": "one row of each class in turn",
    }
    items = {**section, **({"divide_by": facts.divide_by} if facts.divide_by != 1 else {})}
    return [_line(f"  {key}: {_quote(value)}", comments.get(key, "")) for key, value in items.items()]


def _quote(value: Any) -> str:
    """Return a value as YAML; texts that are more than a plain word are quoted."""
    if isinstance(value, list):
        return f"[{', '.join(map(_quote, value))}]"
    text = str(value)
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", text, re.ASCII) and text.lower() not in ("null", "true", "false")
    if not isinstance(value, str) or plain:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _line(text: str, comment: str = "") -> str:
    return f"{text:<30} # {comment}" if comment else text


def _below(facts: Facts) -> list[str]:
    """Return the module that makes latent vectors of wide rows."""
    dimensions = max(2, min(18 if facts.kind == "pictures" else 10, facts.columns // 4, facts.rows - 1))
    if facts.kind == "pictures":
        batch = max(10, min(500, facts.rows // 10))
        return [
            _line("  vae:", f"encodes {facts.columns} values as {dimensions} latent dimensions"),
            "    type: vae",
            f"    latent_dim: {dimensions}",
            _line("    epochs: 50", "passes over the data in each round"),
            f"    batch_size: {batch}",
            "    threads: 2",
            _line("    resources: {num_gpus: auto}", "a GPU, if available"),
        ]
    if facts.kind == "wide":
        return [
            _line("  pca:", f"the {dimensions} directions of the largest variance of {facts.columns} columns"),
            "    type: pca",
            f"    latent_dim: {dimensions}",
        ]
    return []


def _classes(facts: Facts, classes: int | None, *, ordered: bool) -> list[str]:
    """Return the module that finds the classes."""
    if facts.kind == "counts":
        return [
            _line("  mlda:", "finds topics, of which each row has one"),
            "    type: mlda",
            f"    topics: {classes}",
            _line(f"    iterations: {20 if ordered else 100}", "sweeps over all counts in each update"),
        ]
    if classes is None:
        return [
            _line("  gmm:", "finds the classes, and how many there are"),
            "    type: dp_gmm",
            _line(f"    most: {min(MOST_CLASSES, facts.rows - facts.missing)}", "maximum number of classes"),
            _line(f"    iterations: {5 if ordered else 100}", "sweeps in each update"),
            _line("    prior_scale: data", "the units of the columns do not matter"),
            *(
                [_line("    calibrate: true", "weights its likelihood by what neighbouring rows say")]
                if ordered
                else []
            ),
        ]
    return [
        _line("  gmm:", "finds the classes"),
        "    type: gmm",
        f"    classes: {classes}",
        _line(f"    iterations: {2 if ordered else 100}", "sweeps in each update"),
        _line("    prior_scale: data", "the units of the columns do not matter"),
        *(
            [
                _line("    start: sequence", "first classes from what rows have in common with their neighbours"),
                _line("    calibrate: true", "weights its likelihood by what neighbouring rows say"),
            ]
            if ordered
            else [_line("    start: kmeans", "first classes from the best of ten runs of k-means")]
        ),
    ]


def _order(facts: Facts) -> list[str]:
    """Return the module that learns in which order the classes come."""
    return [
        _line("  mm:", "learns which class follows which"),
        "    type: markov",
        _line("    estimate: variational", "a transition has a cost, so that few exceptional rows make none"),
        _line("    test_order: true", "sends no prior if the rows have no order"),
        *([_line("    initial: learnt", "with which class sequences begin")] if facts.sequences > 1 else []),
    ]


def _schedule(names: Sequence[str]) -> list[str]:
    """Return the schedule: modules in turn, those that exchange messages several times in a round."""
    if "mm" not in names:
        rounds = 3 if len(names) > 1 else 1
        return [_line(f"schedule: {{rounds: {rounds}}}", f"each round: {', '.join(names)}")]
    classes = names[-2]
    last = {"gmm": "iterations: 0", "mlda": "iterations: 0"}[classes]
    latent = len(names) > 2  # below, a module learns anew in each round, which takes most of the time
    block = "repeat: 10, tolerance: 5.0, chains: 2" if latent else "repeat: 20, tolerance: 0.01, chains: 4"
    return [
        "schedule:",
        f"  rounds: {3 if latent else 2}",
        "  steps:",
        *(f"    - {name}" for name in names[:-2]),
        "    # Exchanges until the score changes hardly; of several starts, the one of the highest evidence is kept.",
        f"    - {{steps: [{classes}, mm], {block}}}",
        _line(f"    - {{module: {classes}, set: {{{last}}}}}", "classes with the last message of mm"),
    ]


def describe(facts: Facts, say: Callable[[str], None]) -> None:
    """Say what the rows are like, in a sentence or two."""
    say(
        f"{facts.rows:,} rows × {facts.columns} columns in {facts.sequences:,} "
        f"sequence{'s' if facts.sequences > 1 else ''}. {_WHY[facts.kind]}."
    )
    for remark in facts.remarks:
        say(f"note: {remark}")
