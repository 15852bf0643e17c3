"""The metrics of a run's rounds: ``metrics.csv``, one line for each committed round."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.coordination.events import Scored
from actors.limits import MAX_MANIFEST_ENTRIES, MAX_METRICS_FILE_BYTES, MAX_NAME_CHARACTERS
from actors.storage.manifest import Manifest
from runner.config.run_config import RunConfig
from runner.report.clustering_metrics import Scores
from runner.report.printable import csv_cell
from runner.runs.run_files import RunDirectoryError, RunFiles

METRICS = ("round", "evidence", "score", "accuracy", "ari", "nmi")
"""The first columns of ``metrics.csv``; :data:`ECE` and those of modules follow (:data:`MODULE_PREFIX`)."""

ECE = "ece"
"""The column of the expected calibration error, where it is known; files of earlier versions lack it."""

MODULE_PREFIX = "accuracy_"
"""Before a module's name, the column of its accuracy, if several modules are labelled."""

_MODULE_COLUMN = re.compile(rf"{ECE}|{MODULE_PREFIX}[A-Za-z0-9_-]{{1,{MAX_NAME_CHARACTERS}}}")


@dataclass(frozen=True)
class RoundScores:
    """The metrics of a commit.

    Parameters
    ----------
    round : int
    evidence : float or None
        That of the most abstract module that reports one, in nats.
    scores : Scores or None
        Agreement of classes and categories; None without categories.
    score : float or None
        The score by which rounds are compared, in nats.
    by_module : mapping of str to Scores
        Agreement of the classes of each labelled module; `scores` are those of the last, the most abstract.
    """

    round: int
    evidence: float | None
    scores: Scores | None
    score: float | None = None
    by_module: Mapping[str, Scores] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Return round, evidence, score, accuracy, ari, nmi and ece; None if unknown."""
        fields: dict[str, Any] = {"round": self.round, "evidence": self.evidence, "score": self.score}
        fields.update({name: getattr(self.scores, name, None) for name in ("accuracy", "ari", "nmi", ECE)})
        # What a module calls its evidence may be a text; it is no value by which rounds can be compared.
        return {name: value if isinstance(value, int | float) else None for name, value in fields.items()}

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracy of each module, if several are labelled."""
        several = self.by_module if len(self.by_module) > 1 else {}
        return {module: scores.accuracy for module, scores in several.items()}

    def event(self) -> Scored:
        """Return the event that reports the scores."""
        return Scored(**self.fields(), accuracies=self.accuracies)


@dataclass(frozen=True)
class MetricsFile:
    """A run's ``metrics.csv``.

    Parameters
    ----------
    path : Path
    files : RunFiles, optional
        The files of its directory, which it shares with others.
    """

    path: Path
    files: RunFiles | None = None

    @property
    def _files(self) -> RunFiles:
        return self.files or RunFiles(self.path.parent)

    def append(self, scores: RoundScores) -> None:
        """Add the line of a round; a module that has an accuracy for the first time gets a column in all lines."""
        columns = self._columns()
        known = {name: value for name, value in scores.fields().items() if name in METRICS or value is not None}
        values = {**known, **{MODULE_PREFIX + name: each for name, each in scores.accuracies.items()}}
        new = [name for name in values if name not in columns]
        if new or not self._files.size(self.path.name):
            kept = [line.rstrip("\r\n") for line in self._lines()[1:]] if self._files.size(self.path.name) else []
            columns = [*columns, *new]
            lines = [",".join(columns), *(line + "," * len(new) for line in kept)]
            self._files.write(self.path.name, "".join(f"{line}\r\n" for line in lines).encode())
        text = io.StringIO()
        csv.DictWriter(text, columns).writerow({name: csv_cell(value) for name, value in values.items()})
        self._files.append(self.path.name, text.getvalue().encode())

    def rows(self) -> list[dict[str, float | None]]:
        """Return one dict for each line, with None for unknown values.

        Raises
        ------
        RunDirectoryError
            If the file is missing, or a line is not valid.
        """
        rows, columns = [], self._columns()
        for number, line in enumerate(self._lines()[1:], start=2):
            row = _parse_line(line, columns)
            if row is None:
                raise RunDirectoryError(
                    f"{self.path}, line {number}: expected {len(columns)} numbers; delete the file, which is written "
                    "again from the commits"
                )
            rows.append(row)
        return rows

    def rewind(self, round: float = math.inf) -> None:
        """Remove the lines of rounds after `round`, and incomplete lines."""
        if self._files.exists(self.path.name):
            lines, columns = self._lines()[1:], self._columns()
            rows = [(line, _parse_line(line, columns)) for line in lines if line.endswith("\n")]
            kept = [line for line, row in rows if row is not None and (row["round"] or 0.0) <= round]
            text = "".join([",".join(columns) + "\r\n", *kept])
            self._files.write(self.path.name, text.encode())

    def _columns(self) -> list[str]:
        """Return the columns of the file: the common ones, then those of modules."""
        header = self._lines()[0].rstrip("\r\n").split(",") if self._files.size(self.path.name) else []
        own = header[len(METRICS) :]
        valid = tuple(header[: len(METRICS)]) == METRICS and len(own) <= MAX_MANIFEST_ENTRIES
        return [*METRICS, *own] if valid and all(map(_MODULE_COLUMN.fullmatch, own)) else list(METRICS)

    def last_round(self) -> float:
        """Return the last round that has a line, 0 if there is none."""
        rows = self.rows() if self._files.exists(self.path.name) else []
        return max((row["round"] for row in rows if row["round"] is not None), default=0.0)

    def _lines(self) -> list[str]:
        """Return the lines of the file with their line ends."""
        data = self._files.read_bounded(self.path.name, MAX_METRICS_FILE_BYTES)
        return [line.decode(errors="replace") for line in data.splitlines(keepends=True)]


def _parse_line(line: str, columns: Sequence[str]) -> dict[str, float | None] | None:
    """Return the values of a line of ``metrics.csv``, None if it is not valid."""
    texts = line.rstrip("\r\n").split(",")
    if len(texts) != len(columns) or not (texts[0].isascii() and texts[0].isdigit()):
        return None
    try:
        return {name: float(text) if text else None for name, text in zip(columns, texts, strict=True)}
    except ValueError:
        return None


def build_result(scores: RoundScores, run: str, seconds: float, module_seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the contents of ``result.json`` and of ``--json``."""
    several = scores.by_module if len(scores.by_module) > 1 else {}
    modules = {"modules": {name: asdict(each) for name, each in several.items()}} if several else {}
    return {
        "run": run,
        "rounds": scores.round,
        "seconds": round(seconds, 3),
        **{name: value for name, value in scores.fields().items() if name != "round"},
        **modules,
        "module_seconds": {name: round(value, 3) for name, value in module_seconds.items()},
    }


def is_done(manifest: Manifest, config: RunConfig) -> bool:
    """Return whether a commit is the last one of its run."""
    return manifest.step is None and (manifest.converged or manifest.round >= config.schedule.rounds)
