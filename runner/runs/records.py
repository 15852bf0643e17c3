"""The metrics of a run's rounds: ``metrics.csv``, one line for each committed round."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.coordination.events import Scored
from actors.storage.filesystem import storage_at
from runner.report.clustering_metrics import Scores
from runner.runs.event_log import read_lines

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
        return fields

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

    def append(self, scores: RoundScores) -> None:
        """Add the line of a round."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS)
            if not file.tell():
                writer.writeheader()
            writer.writerow(scores.fields())

    def rows(self) -> list[dict[str, float | None]]:
        """Return one dict for each line, with None for unknown values."""
        with self.path.open(newline="", encoding="utf-8") as file:
            return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]

    def rewind(self, round: float = math.inf) -> None:
        """Remove the lines of rounds after `round`, and incomplete lines."""
        if self.path.exists():
            columns = len(METRICS)
            lines = read_lines(self.path)[1:]
            complete = [line for line in lines if line.endswith("\n") and line.count(",") == columns - 1]
            kept = [line for line in complete if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= round]
            text = "".join([",".join(METRICS) + "\r\n", *kept])
            storage = storage_at(self.path.parent.parent.resolve())
            storage.write(f"{self.path.parent.name}/{self.path.name}", text.encode())

    def last_round(self) -> float:
        """Return the last round that has a line, 0 if there is none."""
        rows = self.rows() if self.path.exists() else []
        return max((row["round"] for row in rows if row["round"] is not None), default=0.0)
