"""Takes runs up again: resumes one that was interrupted, follows one that goes on by itself, ends one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.coordinator import Coordinator
from actors.in_process import InProcess
from actors.recovery import ModuleFailedError
from runner.clock import Clock
from runner.cluster import POLL_SECONDS, ClusterError, RunningModel, answers, cluster
from runner.config import RunConfig
from runner.follow import Follower, Interrupts, StoppedError
from runner.progress import Progress
from runner.run import drive, finish, plan_of, source_states, write_generated
from runner.rundir import RunDirectory, RunDirectoryError, open_run

FREE = ("schedule.rounds", "recovery", "checkpoints.keep")
"""What of a config may be otherwise when a run is resumed: it does not change what the rounds are."""

PATIENCE = 20.0
"""Seconds to wait until a cluster has noticed that a run's driver is gone."""


def resume(
    path: Path, *, settings: Sequence[str], clock: Clock, progress: Progress, address: str | None
) -> tuple[RunDirectory, dict[str, Any]]:
    """Go on with a run from its last commit, on this cluster or another one.

    Parameters
    ----------
    path : Path
        The run's directory.
    settings : sequence of str
        ``key.path=value``; only the number of rounds, the recovery and how many commits are kept may be changed.
    clock : Clock
    progress : Progress
    address : str, optional
        A Ray cluster's; by default one is started on this machine.

    Returns
    -------
    RunDirectory, dict
        Where everything lies, and the contents of ``result.json``.

    Raises
    ------
    RunDirectoryError
        If the config is another one than the run's own, if nothing is left to be done, or if the run goes on
        somewhere.
    CheckpointError
        If no commit is whole.
    StoppedError
        If the run was asked to stop.
    """
    config, directory = open_run(path, settings)
    with directory.lock():
        _refuse_if_it_goes_on(directory)
        manifest = directory.checkpoints.newest_whole(_tell(progress))
        if manifest is not None:
            found = differences(manifest.config, config.model_dump(mode="json"))
            if found:
                raise RunDirectoryError(
                    f"{path}: the config is not the one that the run began with; put it back, or start another run:\n  "
                    + "\n  ".join(found)
                )
            whole = manifest.step is None and (manifest.settled or manifest.round >= config.schedule.rounds)
            if whole and (path / "result.json").exists():
                raise RunDirectoryError(
                    f"{path}: all {manifest.round} rounds are done; for more of them say --set schedule.rounds=N"
                )
        data = config.load_data()
        directory.categories = config.categories(data)
        clock.mark("data")
        with cluster(address) as joined:
            clock.mark("ray")
            directory.write_config(config)
            changed = directory.write_environment(joined, own=address is None)
            if changed:
                sentence = f"the bits may differ from those of an uninterrupted run: {'; '.join(changed)}"
                progress.event("log", {"message": sentence})
            model = RunningModel.launch(plan_of(config, directory), patience=PATIENCE)
            stream = model.begin(source_states(directory.graph, data))
            return directory, drive(model, stream, Follower(directory, progress), clock)


def attach(path: Path, *, clock: Clock, progress: Progress) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Follow a run that was detached to its end; where it has ended already, write down what came of it.

    Returns
    -------
    RunDirectory, dict
        Where everything lies, and the contents of ``result.json``; None if the person who watches leaves.

    Raises
    ------
    RunDirectoryError
        If the run has not ended and is on no cluster.
    """
    config, directory = open_run(path)
    with directory.lock():
        directory.categories = config.categories(config.load_data())
        follower = Follower(directory, progress, since=_last_event(path))
        with _found(directory) as model:
            if model is None:
                return directory, _write_down(config, follower, clock)
            follower.catch_up()
            follower.resumed = True  # of what came before, the times are not known here
            interrupts = Interrupts()
            with interrupts.caught(lambda _sentence: None):
                status = follower.follow(model.follow(), until=lambda: interrupts.asked)
            if not status["ended"]:
                return directory, None
            try:
                clock.mark("rounds")
                if status["ended"] == "stopped":
                    raise StoppedError(f"stopped in round {status['round']}; go on with serket resume {directory.name}")
                write_generated(directory, model.generate)
            finally:
                model.stop()
            return directory, finish(follower, clock)


def stop(path: Path, *, now: bool) -> str:
    """End a run: after its round, with a commit, or at once; return where it stands.

    Raises
    ------
    RunDirectoryError
        If the run is on no cluster.
    """
    _, directory = open_run(path)
    detached = directory.read_json("environment.json").get("detached", False)
    with _found(directory) as model:
        if model is None:
            raise RunDirectoryError(f"{path}: the run does not go on anywhere")
        if not now:
            model.halt("round")
        if detached and not now:
            with suppress(ModuleFailedError):  # whoever watches has ended it
                for _events, status in model.follow():
                    if status["ended"]:
                        break
        if detached or now:
            model.stop()
    if not detached:  # its cluster goes with its driver, so that is waited for from outside
        directory.wait_for_lock()
    manifest = directory.checkpoints.latest()
    return manifest.name if manifest else "its beginning"


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


@contextmanager
def _found(directory: RunDirectory) -> Iterator[RunningModel | None]:
    """Join the cluster on which a run goes on, and find its coordinator; None where there is none."""
    environment = directory.read_json("environment.json")
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster(environment["address"]))
            model = RunningModel.find(directory.name)
        except ClusterError:
            model = None
        yield model


def _refuse_if_it_goes_on(directory: RunDirectory) -> None:
    """Refuse a run that goes on: one that was detached has no driver whose lock would show.

    A cluster that was the driver's own goes on for some seconds after a driver that was killed; that is waited for.
    """
    if not (directory.path / "environment.json").exists():
        return
    environment = directory.read_json("environment.json")
    if environment.get("detached"):
        with _found(directory) as model:
            if model is not None:
                raise RunDirectoryError(
                    f"{directory.path}: the run goes on; see it with serket attach {directory.name}"
                )
    until = time.monotonic() + PATIENCE
    while environment.get("own") and answers(environment["address"]) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


def _write_down(config: RunConfig, follower: Follower, clock: Clock) -> dict[str, Any]:
    """Write down what came of a run that ended while nobody watched."""
    directory = follower.directory
    follower.catch_up()
    manifest = directory.checkpoints.newest_whole(
        lambda sentence: follower.progress.event("log", {"message": sentence})
    )
    done = manifest and manifest.step is None and (manifest.settled or manifest.round >= config.schedule.rounds)
    if manifest is None or not done:
        stands = f"it stands at {manifest.name}" if manifest else "nothing is committed"
        failure = directory.checkpoints.failure()
        why = f"the run failed: {failure}\n" if failure else "the run is on no cluster any more; "
        raise RunDirectoryError(f"{directory.path}: {why}{stands}, go on with serket resume {directory.name}")
    follower.resumed, follower.module_seconds = True, dict(manifest.module_seconds)
    coordinator = Coordinator(
        directory.graph, InProcess(), run=directory.name, seed=config.seed, checkpoints=directory.checkpoints
    )
    coordinator.resume()
    write_generated(directory, coordinator.generate)
    return finish(follower, clock)


def _tell(progress: Progress) -> Callable[[str], None]:
    return lambda sentence: progress.event("log", {"message": sentence})


def _last_event(path: Path) -> float:
    """Return the Unix time of the last event that was written down."""
    events = path / "events.jsonl"
    if not events.exists():
        return 0.0
    times = []
    for line in events.read_text(encoding="utf-8").splitlines()[-5:]:
        try:
            times.append(float(json.loads(line)["time"]))
        except (ValueError, KeyError):  # a power cut's
            continue
    return max(times, default=time.time())
