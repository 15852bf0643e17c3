"""Hand a trained run to others in one file: ``serket export``.

The file holds the config without paths of this machine, and the last commit. Of a run on files it has neither the rows
nor what was computed of single rows (messages, outputs, labels), unless these are asked for; the parameters of the
modules are sums over rows. Built-in data are everybody's, so that a run on them is exported with its whole commit.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.backends.step_parameters import ENTRY, kept_in
from actors.errors import ModuleError, show_value
from actors.graph.registry import find, make_parameters
from actors.limits import MAX_METRICS_FILE_BYTES, MAX_RUN_FILE_BYTES
from actors.storage.manifest import FileRecord, Manifest, ModuleRecord, pack_manifest
from actors.storage.state_codec import pack_state
from actors.types import State
from runner.commands.trained_run import scaled_states
from runner.config.run_config import RunConfig
from runner.config.yaml_io import dump
from runner.data.errors import DataError
from runner.data.sources import common_categories
from runner.report.category_names import storable
from runner.runs.archive import ExportError, write_archive
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError
from runner.runs.environment import current_environment
from runner.runs.run_files import RunFiles
from runner.runs.scales import SCALES, pack_scales
from runner.runs.state import is_known_storage

COMMIT = "checkpoints"
"""The folder of the commit in the archive, as in a run directory."""

CATEGORIES = "data/categories.npy"
"""The labels of the rows, which are only carried with the rows."""

_VERSIONS = ("python", "packages", "machine", "processor")
"""What an export tells of the environment: that on which the bits of a run depend."""

_PLACE = re.compile(r"(/|~|[A-Za-z]:[\\/])|[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Exported:
    """What was written: the file and its size in bytes, the run's round, and what the file holds of rows."""

    file: Path
    size: int
    round: int
    rows: bool
    sentence: str

    def result(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {"file": str(self.file), "size": self.size, "round": self.round, "rows": self.rows}


def export(run: OpenedRun, file: Path, *, with_rows: bool = False) -> Exported:
    """Write the last commit of a run and its config into one file.

    Parameters
    ----------
    run : OpenedRun
    file : Path
        Must not exist.
    with_rows : bool
        Whether the rows that the run learnt from, and what was computed of each, are carried, so that the receiver can
        resume the run.

    Raises
    ------
    ExportError
        If the file exists or cannot be written, or if the config holds paths that cannot be left out.
    RunDirectoryError
        If the run has learnt nothing yet, or is one that has no rows and is to go with them.
    """
    config, directory = run
    manifest = _last_commit(directory)
    own_files = any(source.source == "files" for source in config.sources.values())
    carried = all(name in manifest.modules for name in directory.graph.sources)
    if with_rows and not carried:
        raise RunDirectoryError(f"{directory.path}: the run has no rows itself, as it was merged or imported without")
    whole = carried and (with_rows or not own_files)
    plain = _portable_config(config, directory, whole=whole)
    records, files = _whole_commit(directory, manifest) if whole else _learnt(config, directory, manifest)
    if whole and own_files:
        files |= _categories(config)
    if not whole and (scales := scaled_states(directory)):
        files[SCALES] = pack_scales(scales)
    name = f"{COMMIT}/{manifest.name}/manifest.json"
    files[name] = pack_manifest(replace(manifest, modules=records, config={}))
    files["config.yaml"] = dump(plain).encode()
    files |= _records_of(directory)
    environment = {**current_environment(), **directory.environment()}
    sequences = 0 if not carried else max(_sequences(directory, manifest), default=0)
    head = {
        "run": directory.name,
        "rows": whole,
        "sequences": sequences,
        "environment": {key: environment.get(key) for key in _VERSIONS},
    }
    size = write_archive(file, head, files)
    return Exported(file, size, manifest.round, whole and own_files, _describe(whole=whole, own_files=own_files))


def _describe(*, whole: bool, own_files: bool) -> str:
    """Return the sentence that says what an export holds."""
    if not whole:
        return (
            "it holds the model file and what the modules have learnt, neither the rows nor results of single rows: "
            "recognize, predict and generate work with it, resume needs an export --with-rows"
        )
    rows = "the rows that it learnt from and the results of each" if own_files else "the results of each row"
    return f"it holds the model file, what the modules have learnt, and {rows}: resume works with it, too"


def _last_commit(directory: RunDirectory) -> Manifest:
    """Return the newest commit of a run in which a module has learnt."""
    if not is_known_storage(directory.commits_location):
        raise RunDirectoryError(
            f"{directory.path}: its config names {directory.commits_location} as the place of its commits, which is "
            "not known as that of a run of yours, so nothing is read there; export a run of your own"
        )
    manifest = directory.checkpoints.latest()
    if manifest is None or manifest.round == 0:
        raise RunDirectoryError(
            f"{directory.path}: the run has learnt nothing yet (no round is committed); export it after its first round"
        )
    return manifest


# --- the commit -------------------------------------------------------------------------------------------------------


def _whole_commit(directory: RunDirectory, manifest: Manifest) -> tuple[dict[str, ModuleRecord], dict[str, bytes]]:
    """Return the records and the files of a commit as they are."""
    for source in directory.graph.sources:
        if "stored" in directory.checkpoints.state(manifest, source):
            raise ExportError(
                f"{directory.path}: the rows of {source} stay in files of their own, which one file cannot hold: leave "
                "out --with-rows, and hand on those files"
            )
    read = directory.checkpoints.read
    files = {f"{COMMIT}/{each.path}": read(each) for record in manifest.modules.values() for each in _files_of(record)}
    return dict(manifest.modules), files


def _files_of(record: ModuleRecord) -> Iterator[FileRecord]:
    yield from record.files.values()


def _learnt(
    config: RunConfig, directory: RunDirectory, manifest: Manifest
) -> tuple[dict[str, ModuleRecord], dict[str, bytes]]:
    """Return records and files of the modules' states, without what these hold of single rows."""
    records: dict[str, ModuleRecord] = {}
    files: dict[str, bytes] = {}
    for name, record in manifest.modules.items():
        if name in directory.graph.sources:
            continue
        state = _without_rows(config, name, directory.checkpoints.state(manifest, name))
        for key, value in state.items():
            if isinstance(value, str) and _PLACE.match(value):
                raise ExportError(
                    f"{directory.path}: module {name!r} has learnt {key} = {show_value(value)}, a path of this "
                    "machine, which an export does not carry"
                )
        data = pack_state(state)
        path = f"{manifest.name}/{name}.state.safetensors"
        digest = hashlib.sha256(data).hexdigest()
        records[name] = replace(record, files={"state": FileRecord(path, len(data), digest)})
        files[f"{COMMIT}/{path}"] = data
    return records, files


def _without_rows(config: RunConfig, name: str, state: State) -> State:
    """Return the state of a module without single rows; the parameters of steps are kept."""
    spec = config.graph.modules[name]
    cls = find(spec.type)
    own = make_parameters(cls, spec.parameters)
    kept = kept_in(state, cls, own)
    module = cls(replace(own, **kept) if kept else own)
    entry = {key: value for key, value in state.items() if key == ENTRY}
    module.load_state({key: value for key, value in state.items() if key != ENTRY})
    try:
        return {**module.state_without_rows(), **entry}
    except NotImplementedError as error:
        raise ModuleError(f"module {name!r}: its state cannot be exported: {error}") from error


def _sequences(directory: RunDirectory, manifest: Manifest) -> Iterator[int]:
    """Yield the number of sequences of each source that has lengths."""
    for source in directory.graph.sources:
        lengths = directory.checkpoints.state(manifest, source).get("lengths")
        if lengths is not None:
            yield len(lengths)


def _records_of(directory: RunDirectory) -> dict[str, bytes]:
    """Return the result and the metrics of a run, which hold figures of all rows together."""
    files = RunFiles(directory.path)
    known = {"result.json": MAX_RUN_FILE_BYTES, "metrics.csv": MAX_METRICS_FILE_BYTES}
    found = {name: files.read_bounded(name, most) for name, most in known.items() if files.exists(name)}
    if "result.json" in found:
        directory.read_json("result.json")
    return found


def _categories(config: RunConfig) -> dict[str, bytes]:
    """Return the file of the rows' labels, if there are any and their file is still there."""
    try:
        categories = common_categories(config.load_data())
    except DataError:
        return {}
    if categories is None:
        return {}
    file = io.BytesIO()
    np.save(file, storable(categories), allow_pickle=False)
    return {CATEGORIES: file.getvalue()}


# --- the config -------------------------------------------------------------------------------------------------------


def _portable_config(config: RunConfig, directory: RunDirectory, *, whole: bool) -> dict[str, Any]:
    """Return the config as plain data without paths, nodes and code directories of this machine.

    Raises
    ------
    ExportError
        If a value of a module is such a path.
    """
    plain: dict[str, Any] = config.model_dump(mode="json")
    single = "source" in plain["data"] and isinstance(plain["data"]["source"], str)
    sources = {"data": plain["data"]} if single else plain["data"]
    for source in sources.values():
        if source["source"] != "files":
            continue
        given = source["observations"]
        source["observations"] = [*map(_name, given)] if isinstance(given, list) else _name(given)
        source |= {"categories": None, "cache": None}
        if not whole:
            source["lengths"] = None
        elif isinstance(source["lengths"], str):
            source["lengths"] = _name(source["lengths"])
    for module in plain["modules"].values():
        module["resources"] = {"num_gpus": module["resources"]["num_gpus"]}
    plain |= {"code": [], "checkpoints": {"keep": plain["checkpoints"]["keep"]}}
    for key in ("cluster", "tracking"):
        plain.pop(key, None)
    for place, value in texts({key: value for key, value in plain.items() if key != "data"}, ()):
        if _PLACE.match(value):
            raise ExportError(
                f"{directory.path}: {'.'.join(place)} is {show_value(value)}, a place of this machine, which an export "
                "does not carry; train the run with a value that others have, too"
            )
    return plain


def _name(path: str) -> str:
    """Return the last part of a path or URL; without the query of a URL, which may hold a key."""
    return path.rstrip("/").rpartition("/")[2].partition("?")[0] or "data"


def texts(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield every text within plain data, with the keys that lead to it."""
    if isinstance(value, str):
        yield place, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from texts(each, (*place, str(key)))
