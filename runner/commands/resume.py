"""Resume an interrupted run: ``serket resume``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import MISSING, fields
from typing import Any

from actors.coordination.events import Emit, TimedEvent, ignore
from actors.graph.registry import find
from actors.storage.manifest import Manifest
from runner.cluster.signals import ignored_signals
from runner.commands.driver import guarded, join_cluster, launch, start_and_follow
from runner.commands.former_run import FORMER_RUN_SECONDS, end_former_run
from runner.commands.local import check_place, local_run
from runner.config.run_config import RunConfig, shares_rows
from runner.data.datasets import Dataset
from runner.data.sources import (
    check_modules,
    check_same_conversions,
    check_same_files,
    check_stored_unchanged,
    describe_data,
)
from runner.report.progress import Progress
from runner.runs.client import RunClient
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError
from runner.runs.records import is_done
from runner.runs.state import note_storage, prepare_state_directory
from runner.runs.timing import Clock
from runner.tracking.feed import Tracking
from runner.tracking.loading import make_callbacks

CHANGEABLE_KEYS = ("schedule.rounds", "recovery", "checkpoints.keep", "cluster", "code", "tracking")
"""Keys of a config that may change when a run is resumed, as they do not affect the results of a round."""


def resume(
    run: OpenedRun,
    *,
    clock: Clock,
    progress: Progress,
    address: str | None,
    detach: bool = False,
    local: bool = False,
    last: bool = True,
) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Continue a run from its last commit, on this cluster or another one.

    Parameters
    ----------
    run : OpenedRun
        Its config may differ from that at the start of the run only in the keys of :data:`CHANGEABLE_KEYS`, and in the
        number of workers of a module that has some.
    clock : Clock
    progress : Progress
    address : str, optional
        Address of a Ray cluster; by default, one is started on this machine.
    detach : bool
        Whether to return after the run has resumed.
    local : bool
        Whether all modules live in this process, without Ray.
    last : bool
        Whether the run is the last thing that this process does (:func:`runner.commands.driver.finish`).

    Returns
    -------
    RunDirectory, dict
        The run's directory, and the contents of ``result.json``; None for a detached run.

    Raises
    ------
    ClusterError
        If the cluster cannot be joined, if it has too few nodes, or if the run is to be detached from a cluster that
        ends with this process, or if it cannot be a local one.
    RunDirectoryError
        If the config differs from that of the run, if all rounds are done, or if the run is still running.
    CheckpointError
        If there is no complete commit.
    StoppedError
        If the run was stopped.
    """
    config, directory = run
    check_place(config, address=address, detach=detach, local=local)
    tracking = Tracking(make_callbacks(config.tracking_arguments()), progress.log)
    prepare_state_directory()
    note_storage(directory.commits_location)
    with tracking, directory.lock():
        end_former_run(directory, address)
        data, missed = _recover(run, progress, address)
        clock.mark("data")
        with ExitStack() as stack:
            client, observe = _start(stack, run, progress, clock, address, detach=detach, local=local)
            (directory.path / "result.json").unlink(missing_ok=True)  # outdated; it is written again
            tracking.begin(directory, config.plain(), missed, resumed=True)
            result = start_and_follow(
                client,
                data,
                directory,
                clock=clock,
                progress=progress,
                detach=detach,
                observe=observe,
                last=last,
                tracking=tracking,
            )
            with ignored_signals():  # the run is complete; only the cluster is to end
                stack.close()
            return directory, result


def _recover(run: OpenedRun, progress: Progress, address: str | None) -> tuple[dict[str, Dataset], list[TimedEvent]]:
    """Claim and repair the directory of a run that can be resumed; return its rows, and the events that it missed."""
    config, directory = run
    manifest = directory.checkpoints.newest_whole(progress.log)
    if manifest is not None:
        _check_resumable(directory, manifest, config)
        sources = [name for name in directory.graph.sources if name in manifest.modules]  # a merged run has none
        states = {name: directory.checkpoints.state(manifest, name) for name in sources}
        check_same_conversions(states, config.sources)
    config.convert_data(address, progress.log)  # again, if the cache was emptied
    if manifest is not None:
        check_stored_unchanged(states)
    directory.claim()
    directory.repair()
    missed = directory.import_saved_events()
    data = config.load_data()
    if manifest is not None:
        check_same_files(states, data)
    check_modules(directory.graph, data)
    for line in describe_data(data):
        progress.log(line)
    directory.categories = config.categories(data)
    return data, missed


def _start(
    stack: ExitStack,
    run: OpenedRun,
    progress: Progress,
    clock: Clock,
    address: str | None,
    *,
    detach: bool,
    local: bool,
) -> tuple[RunClient, Emit]:
    """Start the coordinator of a run again; return its client, and what observes the metrics of its commits."""
    config, directory = run

    def describe(joined: str = "") -> None:
        directory.write_config(config)
        changed = directory.write_environment(joined, detached=detach, own=address is None)
        if changed:
            progress.log(f"the bits may differ from those of an uninterrupted run: {'; '.join(changed)}")

    if local:
        return stack.enter_context(local_run(config, directory, progress, describe)), ignore
    own = address is None
    joined = join_cluster(stack, config, directory, progress, clock, address)
    client, observe = launch(stack, config, directory, joined, own=own, detached=detach, patience=FORMER_RUN_SECONDS)
    stack.enter_context(guarded(directory, progress, own=own))
    describe(joined)
    return client, observe


def _check_resumable(directory: RunDirectory, manifest: Manifest, config: RunConfig) -> None:
    """Raise an error if the run has no rows, if the config differs from the run's own, or if all rounds are done."""
    if missing := [name for name in directory.graph.sources if name not in manifest.modules]:
        raise RunDirectoryError(f"{directory.path}: the run was {_origin(directory, missing[0])}")
    if not manifest.config:
        raise RunDirectoryError(
            f"{directory.path}: the run is one of a script, which alone knows what to update next; run the script again"
        )
    changed = differences(_with_later_parameters(manifest.config), config.plain(directory.path))
    if changed:
        free = " (as it has learnt nothing, serket run MODEL --overwrite gives its name)" if manifest.round == 0 else ""
        raise RunDirectoryError(
            f"{directory.path}: the config is not the one that the run started with; restore it, or start another run"
            f"{free}:\n  " + "\n  ".join(changed)
        )
    if is_done(manifest, config) and (directory.path / "result.json").exists():
        if manifest.converged:
            raise RunDirectoryError(
                f"{directory.path}: the run converged in round {manifest.round}; more rounds would not raise its score"
            )
        raise RunDirectoryError(
            f"{directory.path}: all {manifest.round} rounds are done; to run more, use --set schedule.rounds=N"
        )


def _with_later_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config with the parameters that its modules did not have yet when it started, at their default.

    A config names every parameter that there is, and a later version gives each new one the meaning of its absence.
    """
    modules = {}
    for name, own in config.get("modules", {}).items():
        known = fields(find(own["type"]).Parameters)
        defaults = {each.name: each.default for each in known if each.default is not MISSING}
        modules[name] = {**defaults, **own}
    return {**config, "modules": modules}


def _origin(directory: RunDirectory, source: str) -> str:
    """Return why a run has no rows of a source, and what to do."""
    if directory.imported():
        return f"imported without the rows of {source!r} to learn from; ask for an export --with-rows"
    return (
        f"merged from others and has no rows of {source!r} to learn from; train the runs that it was made of, and "
        "merge them again"
    )


_WORKERS = re.compile(r"modules\.[^.]+\.workers")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> list[str]:
    """Return one line with both values for each key in which two configs differ, except :data:`CHANGEABLE_KEYS`."""
    lines: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        place = f"{at}.{key}".lstrip(".")
        old, new = before.get(key), now.get(key)
        if place in CHANGEABLE_KEYS or old == new:
            continue
        if _WORKERS.fullmatch(place) and shares_rows(before) and shares_rows(now):  # they do not change the results
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, place)
        else:
            lines.append(f"{place}: {json.dumps(old)} in the run, {json.dumps(new)} now")
    return lines
