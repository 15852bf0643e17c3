"""Prometheus metrics of a run, through Ray: each node's agent exports them as ``ray_serket_…``."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from ray.util.metrics import Counter, Gauge, Histogram

from actors.coordination.events import Event, ModuleDied, Scored, UpdateFinished

_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
_OF_MODULE = ("run", "module")


class PrometheusMetrics:
    """Turns a run's events into metrics.

    ``serket_update_seconds`` (histogram), ``serket_message_bytes`` (counter), ``serket_evidence`` and
    ``serket_deaths`` by run and module; ``serket_worker_seconds`` (counter) and ``serket_worker_rows`` by run, module
    and worker; ``serket_round`` and ``serket_accuracy`` by run. Those of updates are recorded by a thread, as Ray takes
    a third of a millisecond for each, in which the next one can start.

    Parameters
    ----------
    run : str
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._seconds = Histogram("serket_update_seconds", "Seconds inside a module's update.", _SECONDS, _OF_MODULE)
        self._bytes = Counter("serket_message_bytes", "Bytes of the messages that a module sent.", _OF_MODULE)
        self._evidence = Gauge("serket_evidence", "The evidence of a module's last update, in nats.", _OF_MODULE)
        self._busy = Counter("serket_worker_seconds", "Seconds for which a worker was busy.", (*_OF_MODULE, "worker"))
        self._rows = Gauge("serket_worker_rows", "Rows that a worker holds.", (*_OF_MODULE, "worker"))
        self._deaths = Counter("serket_deaths", "Deaths of a module's process.", _OF_MODULE)
        self._round = Gauge("serket_round", "The round that was committed last.", ("run",))
        self._accuracy = Gauge("serket_accuracy", "Share of rows in the class of their category.", ("run",))
        self._updates: SimpleQueue[UpdateFinished] | None = None

    def observe(self, event: Event) -> None:
        """Update the metrics by one event."""
        if not isinstance(event, UpdateFinished):
            self._record(event)
            return
        if self._updates is None:
            self._updates = SimpleQueue()
            threading.Thread(target=self._record_updates, args=(self._updates,), daemon=True).start()
        self._updates.put(event)

    def _record_updates(self, updates: SimpleQueue[UpdateFinished]) -> None:
        while True:
            self._record(updates.get())

    def _record(self, event: Event) -> None:
        run = {"run": self._run}
        match event:
            case UpdateFinished(module=module):
                labels = {**run, "module": module}
                self._seconds.observe(event.seconds, labels)
                if event.message_bytes:
                    self._bytes.inc(event.message_bytes, labels)
                for worker, seconds in event.worker_seconds.items():
                    self._busy.inc(max(seconds, 1e-9), {**labels, "worker": worker})
                    self._rows.set(event.worker_rows.get(worker, 0.0), {**labels, "worker": worker})
                if "evidence" in event.metrics:
                    self._evidence.set(event.metrics["evidence"], labels)
            case ModuleDied(module=module):
                self._deaths.inc(1, {**run, "module": module})
            case Scored():
                self._round.set(event.round, run)
                if event.accuracy is not None:
                    self._accuracy.set(event.accuracy, run)
            case _:
                pass
