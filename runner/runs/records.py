"""The metrics of a run's rounds: ``metrics.csv``, one line for each committed round."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.coordination.events import Scored
from actors.limits import MAX_METRICS_FILE_BYTES
from runner.report.clustering_metrics import Scores
from runner.report.printable import csv_cell
from runner.runs.run_files import RunDirectoryError, RunFiles

METRICS = ("round", "evidence", "score", "accuracy", "ari", "nmi")
"""The columns of ``metrics.csv``."""


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
    """

    round: int
    evidence: float | None
    scores: Scores | None
    score: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return round, evidence, score, accuracy, ari and nmi; None if unknown."""
        fields: dict[str, Any] = {"round": self.round, "evidence": self.evidence, "score": self.score}
        fields.update({name: getattr(self.scores, name, None) for name in ("accuracy", "ari", "nmi")})
        # What a module calls its evidence may be a text; it is no value by which rounds can be compared.
        return {name: value if isinstance(value, int | float) else None for name, value in fields.items()}

    def event(self) -> Scored:
        """Return the event that reports the scores."""
        return Scored(**self.fields())


@dataclass(frozen=True)
class MetricsFile:
    """A run's ``metrics.csv``.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @property
    def _files(self) -> RunFiles:
        return RunFiles(self.path.parent)

    def append(self, scores: RoundScores) -> None:
        """Add the line of a round."""
        text = io.StringIO()
        writer = csv.DictWriter(text, METRICS)
        if not self._files.size(self.path.name):
            writer.writeheader()
        writer.writerow({name: csv_cell(value) for name, value in scores.fields().items()})
        self._files.append(self.path.name, text.getvalue().encode())

    def rows(self) -> list[dict[str, float | None]]:
        """Return one dict for each line, with None for unknown values.

        Raises
        ------
        RunDirectoryError
            If the file is missing, or a line is not valid.
        """
        rows = []
        for number, line in enumerate(self._lines()[1:], start=2):
            row = _parse_line(line)
            if row is None:
                raise RunDirectoryError(
                    f"{self.path}, line {number}: expected {len(METRICS)} numbers; delete the file, which is written "
                    "again from the commits"
                )
            rows.append(row)
        return rows

    def rewind(self, round: float = math.inf) -> None:
        """Remove the lines of rounds after `round`, and incomplete lines."""
        if self._files.exists(self.path.name):
            lines = self._lines()[1:]
            rows = [(line, _parse_line(line)) for line in lines if line.endswith("\n")]
            kept = [line for line, row in rows if row is not None and (row["round"] or 0.0) <= round]
            text = "".join([",".join(METRICS) + "\r\n", *kept])
            self._files.write(self.path.name, text.encode())

    def last_round(self) -> float:
        """Return the last round that has a line, 0 if there is none."""
        rows = self.rows() if self._files.exists(self.path.name) else []
        return max((row["round"] for row in rows if row["round"] is not None), default=0.0)

    def _lines(self) -> list[str]:
        """Return the lines of the file with their line ends."""
        data = self._files.read_bounded(self.path.name, MAX_METRICS_FILE_BYTES)
        return [line.decode(errors="replace") for line in data.splitlines(keepends=True)]


def _parse_line(line: str) -> dict[str, float | None] | None:
    """Return the values of a line of ``metrics.csv``, None if it is not valid."""
    texts = line.rstrip("\r\n").split(",")
    if len(texts) != len(METRICS) or not (texts[0].isascii() and texts[0].isdigit()):
        return None
    try:
        return {name: float(text) if text else None for name, text in zip(METRICS, texts, strict=True)}
    except ValueError:
        return None
