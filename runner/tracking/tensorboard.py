"""TensorBoard's event files as a callback, by TensorBoard's own writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner.tracking.callback import Callback
from runner.tracking.loading import import_tracker


class TensorBoard(Callback):
    """Writes a run's metrics for TensorBoard; needs the extra ``tensorboard``.

    Scalars are ``round/<metric>`` by round, ``<module>/<metric>`` and ``<module>/seconds`` by the number of the
    module's update, and ``faults``, the number of deaths, restarts and repeated rounds, by round. The config is the
    text ``config``. ``wall_time`` is the time of the event.

    Parameters
    ----------
    directory : str or Path, optional
        The directory of the event files; by default ``tensorboard`` in the run's directory. Each run has a folder of
        its name in a directory that is given.
    """

    def __init__(self, directory: str | Path | None = None) -> None:
        self._events = import_tracker("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._protocol = import_tracker("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summaries = import_tracker("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._directory = directory
        self._writer: Any = None
        self._round = 0
        self._faults = 0

    def run_started(self, run: dict[str, Any]) -> None:
        """Open an event file, and write the config."""
        own = Path(run["path"]) / "tensorboard"
        place = own if self._directory is None else Path(self._directory) / run["name"]
        self._writer = self._events.EventFileWriter(str(place))
        if not run["resumed"]:
            self._write_text("config", json.dumps(run["config"], indent=2, default=str))

    def update_finished(self, event: dict[str, Any]) -> None:
        """Write the metrics and the seconds of an update."""
        values = {**event["metrics"], "seconds": event["seconds"]}
        self._write({f"{event['module']}/{name}": value for name, value in values.items()}, event["update"], event)

    def round_finished(self, event: dict[str, Any]) -> None:
        """Write the metrics of a round."""
        self._round = event["round"]
        self._write({f"round/{name}": value for name, value in event["metrics"].items()}, event["round"], event)
        self._writer.flush()

    def fault(self, event: dict[str, Any]) -> None:
        """Write the number of faults."""
        self._faults += 1
        self._write({"faults": self._faults}, self._round, event)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, values: dict[str, float], step: int, event: dict[str, Any]) -> None:
        summary = self._summaries.Summary()
        for name, value in values.items():
            summary.value.add(tag=name, simple_value=value)
        self._writer.add_event(self._protocol.Event(wall_time=event["time"], step=step, summary=summary))

    def _write_text(self, name: str, text: str) -> None:
        metadata = self._summaries.SummaryMetadata(
            plugin_data=self._summaries.SummaryMetadata.PluginData(plugin_name="text")
        )
        summary = self._summaries.Summary()
        value = summary.value.add(tag=name, metadata=metadata)
        value.tensor.dtype = 7  # DT_STRING
        value.tensor.string_val.append("\n".join(f"    {line}" for line in text.splitlines()).encode())
        self._writer.add_event(self._protocol.Event(step=0, summary=summary))
