"""MLflow as a callback, by its client."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.errors import ModuleError
from actors.variables import mlflow_uri
from runner.runs.run_files import RunDirectoryError, RunFiles
from runner.tracking.callback import Callback
from runner.tracking.loading import import_tracker

RECORD = "mlflow.json"
"""The file of a run's directory that says which run of MLflow it is, so that a resumed run goes on with it."""

LOCAL_STORE = "mlruns"
"""The folder in the current directory for runs that are tracked without a given place."""

_BATCH = 1000
"""Metrics of one call: what MLflow takes."""

_PARAMETERS = 100
"""Parameters of one call: what MLflow takes."""

_CHARACTERS = 6000
"""Characters of a parameter: what MLflow takes."""


class MLflow(Callback):
    """Writes a run's config, metrics and end to MLflow; needs the extra ``mlflow``.

    Metrics are ``<metric>`` by round, and ``<module>.<metric>`` by the number of the module's update. Parameters are
    the values of the config by key path. MLflow's own usage reports are switched off.

    Parameters
    ----------
    uri : str, optional
        Tracking URI or path; by default that of ``MLFLOW_TRACKING_URI``, else the folder ``mlruns`` in the current
        directory: nothing leaves this machine unless a URI says so.
    experiment : str, optional
        By default the name of the model.
    """

    def __init__(self, uri: str | Path | None = None, experiment: str | None = None) -> None:
        if not isinstance(uri, str | Path | None) or not isinstance(experiment, str | None):
            raise ModuleError("mlflow: uri and experiment are texts")
        _quiet()
        self._tracking = import_tracker("mlflow.tracking", "mlflow")
        self._entities = import_tracker("mlflow.entities", "mlflow")
        self._given = None if uri is None else str(uri)
        self._experiment = experiment
        self._client: Any = None
        self._run = ""
        self._faults = 0
        self._round = 0
        self._waiting: list[Any] = []

    def run_started(self, run: dict[str, Any]) -> None:
        """Create a run of MLflow, or go on with the one of a resumed run."""
        files = RunFiles(Path(run["path"]))
        store, self._run = _recorded(files) if run["resumed"] else ("", "")
        uri = self._given or mlflow_uri() or store or str(Path(LOCAL_STORE).absolute())
        local = "://" not in uri
        self._client = self._tracking.MlflowClient(tracking_uri=Path(uri).absolute().as_uri() if local else uri)
        if self._run:
            self._client.set_terminated(self._run, "RUNNING")
            return
        name = self._experiment or str(run["config"].get("name", run["name"]))
        number = self._find_experiment(name)
        tags = {"serket.path": run["path"]}
        self._run = self._client.create_run(number, run_name=run["name"], tags=tags).info.run_id
        record = {"run": self._run, "store": str(Path(uri).absolute()) if local else ""}
        files.write(RECORD, json.dumps(record).encode())
        parameters = [self._entities.Param(key, text[:_CHARACTERS]) for key, text in _flat(run["config"]) if text]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + _PARAMETERS])

    def update_finished(self, event: dict[str, Any]) -> None:
        """Keep the metrics and the seconds of an update until the round is measured."""
        values = {**event["metrics"], "seconds": event["seconds"]}
        self._add({f"{event['module']}.{name}": value for name, value in values.items()}, event["update"], event)

    def round_finished(self, event: dict[str, Any]) -> None:
        """Write the metrics of a round, and those of its updates."""
        self._round = event["round"]
        self._add(event["metrics"], event["round"], event)
        self._flush()

    def fault(self, event: dict[str, Any]) -> None:
        """Write the number of faults."""
        self._faults += 1
        self._add({"faults": self._faults}, self._round, event)
        self._flush()

    def run_finished(self, result: dict[str, Any]) -> None:
        """Write how long the run took, and end the run of MLflow."""
        self._flush()
        if isinstance(result.get("seconds"), int | float):
            self._client.log_metric(self._run, "seconds", float(result["seconds"]))
        self._client.set_terminated(self._run, "FINISHED")

    def run_stopped(self, event: dict[str, Any]) -> None:
        """End the run of MLflow as killed, or as failed."""
        self._flush()
        self._client.set_tag(self._run, "serket.reason", event["reason"][:_CHARACTERS])
        self._client.set_terminated(self._run, "FAILED" if event["failed"] else "KILLED")

    def close(self) -> None:
        """Write what is left."""
        if self._client is not None and self._run:
            self._flush()

    def _find_experiment(self, name: str) -> str:
        """Return the number of an experiment, which is created if it does not exist."""
        for attempt in range(2):
            found = self._client.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another run may have created it in the meantime
                if attempt:
                    raise
        raise AssertionError

    def _add(self, values: Mapping[str, float], step: int, event: Mapping[str, Any]) -> None:
        when = int(1000 * event["time"])
        self._waiting += [self._entities.Metric(name, float(value), when, step) for name, value in values.items()]

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _BATCH):
            self._client.log_batch(self._run, metrics=waiting[start : start + _BATCH])


def _quiet() -> None:
    """Switch off MLflow's reports of its use, which go to the internet; and allow stores that are folders."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true")


def _recorded(files: RunFiles) -> tuple[str, str]:
    """Return the folder of the store and the run that a run's directory names; empty if it names none.

    A URI is not taken from there: the directory may be somebody else's.
    """
    if not files.exists(RECORD):
        return "", ""
    try:
        record = files.read_object(RECORD)
    except RunDirectoryError:
        return "", ""
    store, run = str(record.get("store", "")), str(record.get("run", ""))
    return ("" if "://" in store else store), (run if run.isalnum() else "")


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key path and the text of each value of a config; a list is one value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{place}.{key}" if place else str(key))
    elif value is not None:
        yield place, value if isinstance(value, str) else json.dumps(value, default=str)
