"""Merge runs that learnt one model from different rows: ``serket merge``.

Of a run, its ``config.yaml``, ``result.json``, the manifest of its last commit and the states of its modules are read,
but neither its data nor its outputs. No code is imported that the config of a further run names.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from actors.backends.step_parameters import ENTRY, kept_in
from actors.coordination.events import LogMessage, TimedEvent
from actors.errors import CheckpointError, ModuleError, show_value
from actors.graph.graph import Graph
from actors.graph.registry import find, make_parameters
from actors.module import Module
from actors.sharing.merging import Matching, MergedRuns, merge_runs
from actors.storage.manifest import Manifest, ModuleRecord
from actors.storage.module_files import SaveRequest, save_module_files
from actors.types import State
from runner.config.cross_checks import as_map
from runner.config.error_messages import ConfigErrors, describe_errors
from runner.config.run_config import ConfigError, RunConfig
from runner.config.yaml_io import parse
from runner.data.scaling import is_scaled
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError, open_run
from runner.runs.records import RoundScores, build_result, is_done
from runner.runs.run_files import RunFiles
from runner.runs.state import is_known_storage, read_record

MERGED = "merged.json"
"""The file of a merged run with a digest of each run that it was made of."""

MAX_SHOWN_CLASSES = 20
"""Classes of a matching whose distances a line of the log lists."""


@dataclass(frozen=True)
class _Learnt:
    """What a complete run has learnt: its last commit, and the states of its modules except the sources."""

    name: str
    run: OpenedRun
    manifest: Manifest
    states: Mapping[str, State]


def merge(
    paths: Sequence[Path], name: str, *, runs: Path = Path("runs"), log: Callable[[str], None]
) -> tuple[RunDirectory, dict[str, Any]]:
    """Write a run whose parameters are those of the rows of several runs together.

    Parameters
    ----------
    paths : sequence of Path
        The directories of the runs, two or more. The classes keep the numbers of the first one; model and code are its.
    name : str
        Name of the new run.
    runs : Path
        Parent of its directory.
    log : callable
        Called with a sentence for each matching of classes, and for each class without a counterpart.

    Returns
    -------
    RunDirectory, dict
        The new run's directory, and the contents of ``result.json``.

    Raises
    ------
    RunDirectoryError, ConfigError
        If runs are not complete, are given twice or are of different models, or if the new run exists.
    ModuleError
        If what is learnt from all rows does not follow from what each run has learnt.
    """
    began = time.time()
    _check_given(paths)
    names = _names_of(paths)
    first = _read(names[0], open_run(paths[0]))
    config = first.run.config.model_copy(deep=True)
    config.checkpoints.storage = None  # that of the first run
    config.tracking = []  # of the first run, too
    directory = RunDirectory.create(runs, name, config.graph, exact=True)
    try:
        learnt = [first]
        for other, path in zip(names[1:], paths[1:], strict=True):
            learnt.append(_read(other, _open_further(path, first)))
            _check_same_model(first, learnt[-1])
        result = _merge_into(directory, config, learnt, began, log)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(directory.path)
        raise
    return directory, result


def _merge_into(
    directory: RunDirectory, config: RunConfig, learnt: Sequence[_Learnt], began: float, log: Callable[[str], None]
) -> dict[str, Any]:
    """Merge runs of one model into a new directory; return the contents of ``result.json``."""
    first, origins = learnt[0], _origins_of_all(learnt)
    modules = _modules_of(first, learnt)
    own = {each.name: {module: _without_entry(each.states[module]) for module in modules} for each in learnt}
    merged = merge_runs(first.run.config.graph, modules, own)
    lines = [line for matching in merged.matchings for line in _describe(matching)]
    for line in lines:
        log(line)
    directory.write_config(config)
    directory.write_environment("")
    if lines:
        directory.log.append([TimedEvent(time.time(), LogMessage(line)) for line in lines])
    _commit(directory, config, first, merged)
    directory.write_models()
    directory.write_json(MERGED, {"runs": origins})
    result = build_result(RoundScores(first.manifest.round, None, None), directory.name, time.time() - began, {})
    by_run: dict[str, int] = {}
    for of_module in merged.rows.values():
        by_run.update({run: max(rows, by_run.get(run, 0)) for run, rows in of_module.items()})
    result |= {"rows": sum(by_run.values()), "rows_by_run": by_run}
    directory.write_json("result.json", result)  # with this file, the run is complete
    return result


# --- the runs that are given ------------------------------------------------------------------------------------------


def _check_given(paths: Sequence[Path]) -> None:
    if len(paths) < 2:
        raise RunDirectoryError(f"merging needs two runs or more, {len(paths)} was given; name another one")
    seen: dict[str, Path] = {}
    for path in paths:
        place = os.path.realpath(path)
        if place in seen:
            raise RunDirectoryError(f"{path}: this run is given twice, its rows would count twice; give it once")
        seen[place] = path


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Return names that tell the runs apart: those of their directories or, where two are the same, their paths."""
    names = [path.name or str(path) for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _open_further(path: Path, first: _Learnt) -> OpenedRun:
    """Read the config of a further run, without importing code that it names.

    Raises
    ------
    ConfigError
        If it is not valid.
    RunDirectoryError
        If its modules have other types than those of the first run.
    """
    place = path / "config.yaml"
    content = as_map(parse(RunFiles(path).read_config(), str(place)))
    types = {str(name): as_map(module).get("type") for name, module in as_map(content.get("modules")).items()}
    expected = {name: module.type for name, module in first.run.config.modules.items()}
    for name in dict.fromkeys([*expected, *types]):
        if types.get(name) != expected.get(name):
            raise RunDirectoryError(
                f"modules.{name}.type is {_shown(expected.get(name))} in {first.name} and {_shown(types.get(name))} in "
                f"{path}: only runs of the same model can be merged"
            )
    content["code"] = [str(each) for each in first.run.config.code]
    try:
        config = RunConfig.model_validate(content, context={"root": path.absolute()})
    except ValidationError as error:
        raise ConfigError(f"{place}: {ConfigErrors(describe_errors(error, {}, content))}") from error
    return OpenedRun(config, RunDirectory(path, config.graph, storage=config.checkpoints.storage))


def _read(name: str, run: OpenedRun) -> _Learnt:
    """Return what a run has learnt.

    Raises
    ------
    RunDirectoryError
        If it is not complete, if its commits lie at a URL that is not known as that of a run of this user, or if a
        state is missing or damaged.
    """
    directory = run.directory
    if not is_known_storage(directory.commits_location):
        raise RunDirectoryError(
            f"{directory.path}: its config names {directory.commits_location} as the place of its commits, which is "
            "not known as that of a run of yours, so nothing is read there; copy the run's last commit into its "
            "directory and leave checkpoints.storage out of its config.yaml"
        )
    try:
        manifest, states = _read_commit(run)
    except CheckpointError as error:
        raise RunDirectoryError(f"run {name}: {error}") from error
    return _Learnt(name, run, manifest, states)


def _read_commit(run: OpenedRun) -> tuple[Manifest, dict[str, State]]:
    """Return the manifest of the last commit of a complete run, and the states of its modules."""
    config, directory = run
    manifest = directory.checkpoints.latest()
    if manifest is None or not is_done(manifest, config) or not (directory.path / "result.json").exists():
        raise RunDirectoryError(f"{directory.path}: {_why_incomplete(directory, manifest, config)}")
    directory.read_json("result.json")
    learners = [module for module in config.graph.modules if module not in config.graph.sources]
    if missing := [module for module in learners if module not in manifest.modules]:
        raise RunDirectoryError(f"{directory.path}: its last commit has no state of module {missing[0]!r}")
    return manifest, {module: directory.checkpoints.state(manifest, module) for module in learners}


def _why_incomplete(directory: RunDirectory, manifest: Manifest | None, config: RunConfig) -> str:
    """Return why a run is not complete, and what to do."""
    if read_record(directory.path) is not None or (manifest is not None and directory.is_locked()):
        return "the run is still running; merge it when it is done"
    if manifest is None:
        return f"the run has no commit; start it with serket resume {directory.cli_name}"
    if is_done(manifest, config):
        return f"the run has no result.json yet; write it with serket attach {directory.cli_name}"
    done = manifest.round - (manifest.step is not None)
    return (
        f"the run has done {done} of {config.schedule.rounds} rounds; continue it with serket resume "
        f"{directory.cli_name} before it is merged"
    )


def _origins_of_all(learnt: Sequence[_Learnt]) -> dict[str, str]:
    """Return a digest of what each of the runs has learnt, by name; of a merged one those that it was made of.

    Raises
    ------
    RunDirectoryError
        If the rows of one would count twice.
    """
    origins: dict[str, str] = {}
    owner: dict[str, str] = {}
    for each in learnt:
        for name, digest in _origins_of(each).items():
            if digest in owner:
                raise RunDirectoryError(
                    f"{each.run.directory.path}: it has learnt from rows of run {owner[digest]}, which would count "
                    "twice; give each run once"
                )
            owner[digest] = each.name
            unique = name if name not in origins else f"{each.name}: {name}"
            origins[unique] = digest
    return origins


def _origins_of(learnt: _Learnt) -> dict[str, str]:
    directory, records = learnt.run.directory, learnt.manifest.modules
    if (directory.path / MERGED).exists():
        runs = as_map(directory.read_json(MERGED).get("runs"))
        return {f"{learnt.name}: {name}": text for name, text in runs.items()}
    digest = hashlib.sha256()
    for name in learnt.states:
        digest.update(f"{name} {records[name].files['state'].digest}\n".encode())
    return {learnt.name: digest.hexdigest()}


# --- the model --------------------------------------------------------------------------------------------------------


def _check_same_model(first: _Learnt, other: _Learnt) -> None:
    """Raise RunDirectoryError if two runs have different sources, connections or parameters; names the first one.

    Parameters that only control how a module learns may differ, as may seed, data, workers, chunks and schedule.
    """
    left, right = first.run.config.graph, other.run.config.graph
    for each in (first, other):
        if name := next((name for name, source in each.run.config.sources.items() if is_scaled(source.scale)), None):
            raise RunDirectoryError(
                f"{each.name}: {name} is scaled by its own rows, so that its units are not those of other runs; "
                "train runs to be merged with the same divide_by, or on rows that are scaled before"
            )
    pairs: list[tuple[str, Any, Any]] = [
        ("data: the sources are", list(left.sources), list(right.sources)),
        ("connections are", sorted(map(str, left.connections)), sorted(map(str, right.connections))),
    ]
    for name in _learners(left):
        mine, theirs = (_parameters_of(each, name) for each in (first, other))
        learning = find(left.modules[name].type).learning_parameters
        pairs += [
            (f"modules.{name}.{each.name} is", getattr(mine, each.name), getattr(theirs, each.name))
            for each in fields(mine)
            if each.name not in learning
        ]
    for what, one, two in pairs:
        if one != two:
            raise RunDirectoryError(
                f"{what} {_shown(one)} in {first.name} and {_shown(two)} in {other.name}: only runs of the same model "
                "can be merged; train them with the same"
            )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else show_value(value)


def _learners(graph: Graph) -> list[str]:
    return [name for name in graph.modules if name not in graph.sources]


def _parameters_of(learnt: _Learnt, name: str) -> Any:
    """Return the parameters that a module's state depends on, those of a step among them."""
    spec = learnt.run.config.graph.modules[name]
    cls = find(spec.type)
    own = make_parameters(cls, spec.parameters)
    try:
        kept = kept_in(learnt.states[name], cls, own)
    except ModuleError as error:
        raise ModuleError(f"run {learnt.name}: module {name!r}: {error}") from None
    return replace(own, **kept) if kept else own


def _modules_of(first: _Learnt, learnt: Sequence[_Learnt]) -> dict[str, Module[Any]]:
    """Return an instance of each module, after a check that it can load the state of each run."""
    graph, modules = first.run.config.graph, dict[str, Module[Any]]()
    for name in _learners(graph):
        cls = find(graph.modules[name].type)
        parameters = _parameters_of(first, name)
        for each in learnt:
            try:
                cls(parameters).load_state(_without_entry(each.states[name]))
            except ModuleError as error:
                raise ModuleError(f"run {each.name}: module {name!r}: {error}") from None
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise RunDirectoryError(
                    f"{each.run.directory.path}: the state of module {name!r} was not learnt by a module of type "
                    f"{graph.modules[name].type!r}"
                ) from error
        modules[name] = cls(parameters)
    return modules


def _without_entry(state: State) -> State:
    return {name: value for name, value in state.items() if name != ENTRY}


# --- what is said and written -----------------------------------------------------------------------------------------


def _describe(matching: Matching) -> list[str]:
    """Return the sentences about a matching of classes."""
    shown = [
        f"{k} is {other} ({'no rows' if math.isinf(distance) else f'{distance:.2g}'})"
        for k, (other, distance) in enumerate(zip(matching.classes.tolist(), matching.distances.tolist(), strict=True))
    ]
    rest = f" and {len(shown) - MAX_SHOWN_CLASSES} more" if len(shown) > MAX_SHOWN_CLASSES else ""
    of = " and ".join(matching.modules)
    lines = [
        f"{of}: classes of {matching.first}, those of {matching.run} that they are matched with, and the distance"
        f"{' in ' + matching.unit if matching.unit else ''}: {', '.join(shown[:MAX_SHOWN_CLASSES])}{rest}"
    ]
    for k in matching.alone[:MAX_SHOWN_CLASSES]:
        other, distance = int(matching.classes[k]), float(matching.distances[k])
        why = (
            "one of them has no rows"
            if math.isinf(distance)
            else f"{' '.join((f'{distance:.2g}', matching.unit))} apart, as far as other classes of the same run"
        )
        lines.append(
            f"warning: {of}: class {k} of {matching.first} has no counterpart in {matching.run}: the nearest that is "
            f"left is its class {other}, {why}"
        )
    return lines


def _commit(directory: RunDirectory, config: RunConfig, first: _Learnt, merged: MergedRuns) -> None:
    """Write the commit of the new run: states alone, as there are no rows that had outputs or messages."""
    checkpoints, manifest = directory.checkpoints, first.manifest
    records = {}
    for name, state in merged.states.items():
        entry = {key: value for key, value in first.states[name].items() if key == ENTRY}
        request = SaveRequest(str(checkpoints.root), manifest.name, name)
        files = save_module_files(request, ({**state, **entry}, {}))
        records[name] = ModuleRecord(manifest.round, files)
    checkpoints.commit(
        Manifest(
            name=manifest.name,
            run=directory.name,
            seed=config.seed,
            round=manifest.round,
            sequence=manifest.sequence,
            modules=records,
            converged=manifest.converged,
            config=config.model_dump(mode="json"),
        )
    )
