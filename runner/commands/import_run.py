"""Take a run from a file that ``serket export`` wrote: ``serket import``.

The file may come from a stranger. Nothing in it is run or unpickled, and no place on this machine that its config names
is used: its digests, its manifest and its config are checked, and every module has to be able to load its state, before
the run is complete. A module of a type that is no installed one needs the directory of its code, from the receiver.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from actors.backends.step_parameters import ENTRY, kept_in
from actors.errors import CheckpointError, ModuleError
from actors.graph.registry import find, make_parameters
from actors.limits import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_MANIFEST_ENTRIES,
    MAX_METRICS_FILE_BYTES,
    MAX_RUN_FILE_BYTES,
)
from actors.messaging.stored_rows import StoredRows
from actors.storage.field_checks import check_flag, check_integer, check_mapping, check_text
from actors.storage.manifest import Manifest, files_of, unpack_manifest
from actors.types import State
from runner.commands.export import CATEGORIES, COMMIT, texts
from runner.config.cross_checks import as_map, find_sources
from runner.config.error_messages import ConfigErrors, describe_errors
from runner.config.run_config import ConfigError, RunConfig
from runner.config.yaml_io import parse
from runner.data.sources import values_of
from runner.report.printable import printable_line, printable_reason
from runner.runs.archive import Archive, open_archive
from runner.runs.directory import IMPORTED, RunDirectory, RunDirectoryError
from runner.runs.run_files import RunFiles
from runner.runs.scales import MAX_SCALES_BYTES, SCALES, unpack_scales

_DOTTED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""A text that names code, ``package.module:name``, as a module's type or a network."""

_RECORDS = {"result.json": MAX_RUN_FILE_BYTES, "metrics.csv": MAX_METRICS_FILE_BYTES}


@dataclass(frozen=True)
class _Head:
    """What the list of an archive says of the run, checked."""

    run: str
    rows: bool
    sequences: int
    environment: dict[str, Any]


def import_run(
    file: Path, *, name: str | None = None, runs: Path = Path("runs"), code: Sequence[Path] = ()
) -> tuple[RunDirectory, dict[str, Any]]:
    """Make a run of an exported file.

    Parameters
    ----------
    file : Path
    name : str, optional
        Name of the new run; by default the one that it had.
    runs : Path
        Parent of its directory.
    code : sequence of Path
        Directories with the code of modules whose types are ``package.module:Class``.

    Returns
    -------
    RunDirectory, dict
        The run's directory, and ``run``, ``round``, ``rows`` (whether it can be resumed) and ``modules``.

    Raises
    ------
    ExportError
        If the file is not one that ``serket export`` wrote, or is damaged.
    ConfigError
        If its config is not valid here.
    RunDirectoryError
        If there is a run of that name, or if the new one cannot be written.
    """
    with open_archive(file) as archive:
        head = _read_head(archive)
        content = _read_config(archive, file, code)
        manifest = _read_manifest(archive)
        new = name or head.run
        config = _make_config(content, runs / new, file)
        _check_modules(archive, manifest, config, rows=head.rows)
        is_new = not runs.exists()
        directory = RunDirectory.create(runs, new, config.graph, exact=True)
        try:
            _extract(archive, directory.path)
            _complete(directory, archive, manifest, content, head, file)
        except BaseException:
            shutil.rmtree(directory.path, ignore_errors=True)
            if is_new:
                with suppress(OSError):
                    runs.rmdir()
            raise
    return directory, {"run": directory.name, "round": manifest.round, "rows": head.rows, "modules": [*config.modules]}


# --- what the archive holds -------------------------------------------------------------------------------------------


def _read_head(archive: Archive) -> _Head:
    given = archive.head
    try:
        environment = dict(check_mapping(given.get("environment"), "environment", MAX_MANIFEST_ENTRIES))
        return _Head(
            check_text(given.get("run"), "run"),
            check_flag(given.get("rows"), "rows"),
            check_integer(given.get("sequences"), "sequences"),
            environment,
        )
    except ValueError as error:
        raise archive.refused(printable_reason(error)) from None


def _read_config(archive: Archive, file: Path, code: Sequence[Path]) -> dict[Any, Any]:
    """Return the config of an archive without anything that names a place of this machine.

    Raises
    ------
    ConfigError
        If it is no YAML, or needs code that is not given.
    """
    try:
        text = archive.read("config.yaml", MAX_CONFIG_BYTES).decode()
    except UnicodeDecodeError:
        raise archive.refused("its config is no text") from None
    content = dict(as_map(parse(text, f"{file}: config.yaml")))
    for key in ("cluster", "checkpoints", "code", "tracking"):
        content.pop(key, None)
    for _, source in find_sources(content.get("data")).values():
        for key in ("categories", "lengths", "cache"):
            if key in source:
                source[key] = None
        given = source.get("observations")
        if given is not None:
            source["observations"] = Path(str(given[0] if isinstance(given, list) and given else given)).name or "data"
    for place, text in texts({key: content.get(key) for key in ("modules", "schedule")}, ()):
        if _DOTTED.fullmatch(text) and not code:
            raise ConfigError(
                f"{file}: {printable_line('.'.join(place), 100)} is {printable_line(text, 80)}, code that the file "
                "does not hold; give the directory of that code with --code"
            )
    if code:
        content["code"] = [str(each.absolute()) for each in code]
    return content


def _make_config(content: dict[Any, Any], path: Path, file: Path) -> RunConfig:
    """Validate a config for a run in the directory `path`.

    Raises
    ------
    ConfigError
        Names the problems.
    """
    try:
        return RunConfig.model_validate(content, context={"root": path.absolute()})
    except ValidationError as error:
        raise ConfigError(
            f"{file}: its config is not valid here\n{ConfigErrors(describe_errors(error, {}, content))}"
        ) from error


def _read_manifest(archive: Archive) -> Manifest:
    """Return the manifest of an archive, whose files are those that the archive has."""
    places = [name for name in archive.members if name.startswith(f"{COMMIT}/") and name.endswith("/manifest.json")]
    if len(places) != 1:
        raise archive.refused(f"it has {len(places)} commits, expected one")
    try:
        manifest = unpack_manifest(archive.read(places[0], MAX_MANIFEST_BYTES), places[0])
    except CheckpointError as error:
        raise archive.refused(str(error)) from None
    expected = {f"{COMMIT}/{file.path}": (file.size, file.digest) for file in files_of(manifest).values()}
    found = {name: tuple(member) for name, member in archive.members.items() if name != places[0]}
    for name in (*_RECORDS, "config.yaml", CATEGORIES, SCALES):
        found.pop(name, None)
    if found != expected or places[0] != f"{COMMIT}/{manifest.name}/manifest.json":
        raise archive.refused("its files are not those of its commit")
    return manifest


def _check_modules(archive: Archive, manifest: Manifest, config: RunConfig, *, rows: bool) -> None:
    """Refuse an archive whose commit is not one of the model in its config."""
    sources = list(config.graph.sources) if rows else []
    expected = {*config.modules, *sources}
    if set(manifest.modules) != expected:
        other = sorted(expected ^ set(manifest.modules))[0]
        raise archive.refused(f"its config and its commit do not agree about module {printable_line(other, 60)}")


# --- the new run ------------------------------------------------------------------------------------------------------


def _extract(archive: Archive, path: Path) -> None:
    """Write the files of an archive, whose digests are checked on the way, below a new directory."""
    files = RunFiles(path)
    for name in archive.members:
        if name != "config.yaml":  # it is written when all is there
            try:
                with files.create(name) as file:
                    for block in archive.blocks(name):
                        file.write(block)
            except OSError as error:
                raise RunDirectoryError(
                    f"{path / name}: cannot be written ({error.strerror}); choose other --runs"
                ) from error


def _complete(
    directory: RunDirectory, archive: Archive, manifest: Manifest, content: dict[Any, Any], head: _Head, file: Path
) -> None:
    """Check what was extracted, and write what makes a run of it."""
    checkpoints = directory.checkpoints
    try:
        for name in manifest.modules:
            state = checkpoints.state(manifest, name)
            if name in directory.graph.sources:
                _write_rows(directory, archive, content, name, state)
            else:
                _check_state(directory, archive, name, state)
    except CheckpointError as error:
        raise archive.refused(str(error)) from None
    config = _make_config(content, directory.path, file)
    _check_scales(directory, archive, manifest)
    files = RunFiles(directory.path)
    directory.write_json(IMPORTED, {"run": head.run, "rows": head.rows, "sequences": head.sequences})
    directory.write_json("environment.json", {**head.environment, "address": "", "detached": False, "own": False})
    directory.environment()  # checked as any file of a run directory
    if "metrics.csv" in archive.members:
        directory.metrics_file.rows()
    if "result.json" in archive.members:
        directory.write_json("result.json", {**directory.read_json("result.json"), "run": directory.name})
    directory.write_config(config)
    written = parse(files.read_config(), str(directory.path))
    checkpoints.commit(replace(manifest, run=directory.name, config=written))
    directory.write_models()


def _check_scales(directory: RunDirectory, archive: Archive, manifest: Manifest) -> None:
    """Refuse scales of sources that the file does not name as scaled, or that are not valid."""
    graph = directory.graph
    scaled = [name for name in graph.sources if graph.modules[name].parameters.get("scaled")]
    needed = bool(scaled) and any(name not in manifest.modules for name in scaled)
    if needed != (SCALES in archive.members):
        raise archive.refused(f"{'it lacks' if needed else 'it needs no'} {SCALES}, how the rows are scaled")
    if needed:
        try:
            unpack_scales(archive.read(SCALES, MAX_SCALES_BYTES), scaled)
        except ValueError as error:
            raise archive.refused(printable_reason(error)) from None


def _check_state(directory: RunDirectory, archive: Archive, name: str, state: State) -> None:
    """Refuse a state that the module cannot load."""
    spec = directory.graph.modules[name]
    cls = find(spec.type)
    own = make_parameters(cls, spec.parameters)
    try:
        kept = kept_in(state, cls, own)
        module = cls(replace(own, **kept) if kept else own)
        module.load_state({key: value for key, value in state.items() if key != ENTRY})
    except (ModuleError, KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        reason = printable_reason(error)
        raise archive.refused(f"module {name!r} cannot load what it has learnt ({reason})") from None


def _write_rows(directory: RunDirectory, archive: Archive, content: dict[Any, Any], name: str, state: State) -> None:
    """Write the rows of a source as files of the run, and name these in its config; built-in data need none."""
    sources = find_sources(content.get("data"))
    section = sources[name][1]
    if section.get("source") != "files":
        return
    rows = values_of(state)
    if isinstance(rows, StoredRows):
        raise archive.refused(f"the rows of {name} are files of another machine")
    values = np.array(rows)
    if "mask" in state:
        values[np.asarray(state["mask"], np.bool_)] = np.nan
    files = RunFiles(directory.path)
    with files.create(f"data/{name}.npy") as file:
        np.save(file, values, allow_pickle=False)
    keys: dict[str, Any] = dict.fromkeys(
        ("count", "header", "index", "divide_by", "on_disk", "columns", "image_size", "grey", "lengths", "categories")
    )
    keys |= {"observations": f"data/{name}.npy", "order": "given", "offset": 0, "sequences": None}
    if values.ndim > 2:
        keys["sequences"] = False
    if "lengths" in state:
        with files.create(f"data/{name}_lengths.npy") as file:
            np.save(file, np.asarray(state["lengths"]), allow_pickle=False)
        keys["lengths"] = f"data/{name}_lengths.npy"
    if CATEGORIES in archive.members:
        keys["categories"] = CATEGORIES
    section.update(keys)


def describe(directory: RunDirectory, result: dict[str, Any]) -> str:
    """Return the sentences for people that say what a new run can do."""
    more = "" if result["rows"] else "; it has no rows to learn from, so that resume needs an export --with-rows"
    handle = directory.cli_name
    return f"{directory.path}/: use it with serket recognize {handle}, predict and generate{more}"
