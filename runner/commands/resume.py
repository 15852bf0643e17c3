"""Takes runs up again that were interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.storage.manifest import Manifest
from runner.cluster.connection import POLL_SECONDS, answers, await_nodes, cluster
from runner.commands.attach import found
from runner.commands.monitor import interruptible
from runner.commands.train import carry_on, check_detachable, is_done, plan_of
from runner.config.run_config import RunConfig
from runner.config.shipping import code_of
from runner.report.progress import Progress
from runner.runs.coordinator_client import RunningModel
from runner.runs.directory import RunDirectory, RunDirectoryError, open_run
from runner.runs.timing import Clock

FREE = ("schedule.rounds", "recovery", "checkpoints.keep", "cluster", "code")
"""What of a config may be otherwise when a run is resumed: it does not change what the rounds are."""

PATIENCE = 20.0
"""Seconds to wait until a cluster has noticed that a run's driver is gone."""


def resume(
    path: Path,
    *,
    settings: Sequence[str],
    clock: Clock,
    progress: Progress,
    address: str | None,
    detach: bool = False,
) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Go on with a run from its last commit, on this cluster or another one.

    Parameters
    ----------
    path : Path
        The run's directory.
    settings : sequence of str
        ``key.path=value``; only the number of rounds, the recovery, the cluster and how many commits are kept may be
        changed.
    clock : Clock
    progress : Progress
    address : str, optional
        A Ray cluster's; by default one is started on this machine.
    detach : bool
        Whether to leave once the run goes on.

    Returns
    -------
    RunDirectory, dict
        Where everything lies, and the contents of ``result.json``; None of a run that goes on.

    Raises
    ------
    ClusterError
        If there is no such cluster, if it has not the nodes that the run waits for, or if the run is to go on where
        there will be none.
    RunDirectoryError
        If the config is another one than the run's own, if nothing is left to be done, or if the run goes on
        somewhere.
    CheckpointError
        If no commit is whole.
    StoppedError
        If the run was asked to stop.
    """
    if detach:
        check_detachable(address)
    config, directory = open_run(path, settings)
    with directory.lock():
        _end_what_goes_on(directory)
        manifest = directory.checkpoints.newest_whole(progress.log)
        if manifest is not None:
            _check(directory, manifest, config)
        directory.mend()
        directory.hear()
        data = config.load_data()
        directory.categories = config.categories(data)
        clock.mark("data")
        with cluster(address, code_of(directory.graph)) as joined:
            await_nodes(config.cluster.nodes, config.recovery.wait, progress.log)
            clock.mark("ray")
            model = RunningModel.launch(plan_of(config, directory, detached=detach), patience=PATIENCE)
            with interruptible(directory):
                directory.write_config(config)
                changed = directory.write_environment(joined, detached=detach, own=address is None)
                if changed:
                    progress.log(f"the bits may differ from those of an uninterrupted run: {'; '.join(changed)}")
                (path / "result.json").unlink(missing_ok=True)  # of fewer rounds; it comes again
                return directory, carry_on(model, data, directory, clock=clock, progress=progress, detach=detach)


def _check(directory: RunDirectory, manifest: Manifest, config: RunConfig) -> None:
    """Refuse a config that is not the run's own, and a run of which nothing is left to be done."""
    found = differences(manifest.config, config.model_dump(mode="json"))
    if found:
        raise RunDirectoryError(
            f"{directory.path}: the config is not the one that the run began with; put it back, or start another run:"
            "\n  " + "\n  ".join(found)
        )
    if is_done(manifest, config) and (directory.path / "result.json").exists():
        if manifest.settled:
            raise RunDirectoryError(
                f"{directory.path}: the run settled in round {manifest.round}, more rounds would not raise its score"
            )
        raise RunDirectoryError(
            f"{directory.path}: all {manifest.round} rounds are done; for more of them say --set schedule.rounds=N"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> list[str]:
    """Return in which keys two configs differ, those aside that are free; a line each, with both values."""
    found: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        place = f"{at}.{key}".lstrip(".")
        old, new = before.get(key), now.get(key)
        if place in FREE or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, place)
        else:
            found.append(f"{place}: {json.dumps(old)} in the run, {json.dumps(new)} now")
    return found


def _end_what_goes_on(directory: RunDirectory) -> None:
    """Refuse a run that goes on by itself; of one that has ended, end what is left on the cluster.

    The cluster of a driver that was killed goes on for some seconds where it was the driver's own; that is waited for.
    """
    environment = directory.environment()
    if environment.get("detached"):
        with found(directory, locked=True) as model:
            ended = model.ended() if model else "gone"
            if ended in ("", "done"):
                what = "is done" if ended else "goes on"
                raise RunDirectoryError(
                    f"{directory.path}: the run {what}; see it with serket attach {directory.handle}"
                )
            if model:
                model.stop()
    until = time.monotonic() + PATIENCE
    while environment.get("own") and answers(environment["address"]) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
