"""Figures of a run for Prometheus, through Ray's metrics: each node's agent gives them out as ``ray_serket_…``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from actors.coordination.router import UpdateSeconds

_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
_OF_MODULE = ("run", "module")


class Meter:
    """Turns a run's events into metrics.

    ``serket_update_seconds`` (histogram), ``serket_message_bytes`` (counter), ``serket_evidence`` and
    ``serket_deaths`` by run and module; ``serket_round`` and ``serket_accuracy`` by run.

    Parameters
    ----------
    run : str
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._took = UpdateSeconds()
        self._seconds = Histogram("serket_update_seconds", "Seconds inside a module's update.", _SECONDS, _OF_MODULE)
        self._bytes = Counter("serket_message_bytes", "Bytes of the messages that a module has sent.", _OF_MODULE)
        self._evidence = Gauge("serket_evidence", "The evidence of a module's last update, in nats.", _OF_MODULE)
        self._deaths = Counter("serket_deaths", "How often a module's process was lost.", _OF_MODULE)
        self._round = Gauge("serket_round", "The round that was committed last.", ("run",))
        self._accuracy = Gauge("serket_accuracy", "Share of rows in the class of their category.", ("run",))

    def take(self, event: str, fields: Mapping[str, Any]) -> None:
        """Take in an event of the coordinator's, or the driver's ``scores``."""
        whose = {"run": self._run}
        if "module" in fields:
            whose["module"] = str(fields["module"])
        if event == "updated":
            self._seconds.observe(max(self._took.of(fields), 0.0), whose)
            if fields["message_bytes"]:
                self._bytes.inc(fields["message_bytes"], whose)
            if "evidence" in fields:
                self._evidence.set(fields["evidence"], whose)
        elif event == "lost":
            self._deaths.inc(1, whose)
        elif event == "scores":
            self._round.set(fields["round"], whose)
            if fields.get("accuracy") is not None:
                self._accuracy.set(fields["accuracy"], whose)
