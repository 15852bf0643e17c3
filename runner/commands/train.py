"""A run from config to result: data in, actors up, rounds driven, everything written down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.backends.ray.metrics import Meter
from actors.coordination.session import Plan
from actors.storage.manifest import Manifest
from actors.types import Array
from runner.cluster.connection import ClusterError, await_nodes, cluster
from runner.commands.monitor import Follower, Interrupts, StoppedError, interruptible
from runner.config.run_config import RunConfig
from runner.config.shipping import code_of
from runner.data.datasets import Dataset
from runner.data.sources import source_states
from runner.report.progress import Progress
from runner.runs import artifacts as collect
from runner.runs.coordinator_client import CoordinatorGoneError, RunningModel, Stream
from runner.runs.directory import RoundScores, RunDirectory
from runner.runs.timing import Clock


def plan_of(config: RunConfig, directory: RunDirectory, *, detached: bool = False) -> Plan:
    """Return what a run's coordinator is told."""
    return Plan(
        directory.graph,
        run=directory.name,
        seed=config.seed,
        root=str(directory.checkpoints.root),
        keep=config.checkpoints.keep,
        detached=detached,
        recovery=config.recovery.item(),
        placement=config.cluster.item(),
        config=config.model_dump(mode="json"),
        faults=tuple(os.environ.get("SERKET_FAULTS", "").split()),
    )


def run(
    config: RunConfig,
    *,
    clock: Clock,
    progress: Progress,
    runs: Path = Path("runs"),
    name: str | None = None,
    address: str | None = None,
    detach: bool = False,
) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Train the model of `config` on a cluster.

    Parameters
    ----------
    config : RunConfig
    clock : Clock
    progress : Progress
    runs : Path
        Where run directories lie.
    name : str, optional
        The run's name; by default the config's, numbered where it is taken.
    address : str, optional
        A Ray cluster's; by default one is started on this machine.
    detach : bool
        Whether to leave once the first commit is made, while the run goes on.

    Returns
    -------
    RunDirectory, dict
        Where everything lies, and the contents of ``result.json``; None of a run that goes on.

    Raises
    ------
    ClusterError
        If there is no such cluster, or if a run is to go on where there will be none.
    StoppedError
        If the run was asked to stop.
    """
    if detach:
        check_detachable(address)
    graph = config.graph()
    data = config.load_data()
    clock.mark("data")
    categories = config.categories(data)
    storage = config.checkpoints.storage
    directory = RunDirectory.create(
        runs, name or config.name, graph, exact=name is not None, categories=categories, storage=storage
    )
    with ExitStack() as stack:
        try:
            stack.enter_context(directory.lock())
            joined = stack.enter_context(cluster(address, code_of(graph)))
            await_nodes(config.cluster.nodes, config.recovery.wait, progress.log)
            clock.mark("ray")
            directory.write_config(config)
            directory.write_environment(joined, detached=detach, own=address is None)
            model = RunningModel.launch(plan_of(config, directory, detached=detach))
        except (ClusterError, OSError, KeyboardInterrupt):
            directory.discard()
            raise
        stack.enter_context(interruptible(directory))
        return directory, carry_on(model, data, directory, clock=clock, progress=progress, detach=detach)


def check_detachable(address: str | None) -> None:
    """Refuse to leave a run where there will be no cluster for it.

    Raises
    ------
    ClusterError
    """
    if not address:
        raise ClusterError(
            "--detach needs a cluster that outlives this command: start one with `ray start --head`, "
            "then give its --address"
        )


def carry_on(
    model: RunningModel,
    data: Mapping[str, Dataset],
    directory: RunDirectory,
    *,
    clock: Clock,
    progress: Progress,
    detach: bool,
) -> dict[str, Any] | None:
    """Have a run begin, or go on from its commits; follow it to its end, or only until it goes on by itself.

    Returns
    -------
    dict
        The contents of ``result.json``; None of a run that goes on.
    """
    follower = Follower(directory, progress, measure=Meter(directory.name).take)
    stream = model.begin(source_states(directory.graph, data))
    if not detach:
        return drive(model, stream, follower, clock)
    _see_off(model, stream, follower)
    return None


def _see_off(model: RunningModel, stream: Stream, follower: Follower) -> None:
    """Follow a run until it can go on by itself; one that cannot, or whose beginning is interrupted, is ended."""
    try:
        follower.follow(stream, until=lambda: follower.commits > 0 or follower.resumed)
    except BaseException:
        model.stop()
        raise


def drive(model: RunningModel, stream: Stream, follower: Follower, clock: Clock) -> dict[str, Any]:
    """Follow a run to its end, let people interrupt it, and write down what came of it.

    Raises
    ------
    StoppedError
        If the run was asked to stop.
    """
    directory, interrupts = follower.directory, Interrupts()

    def begun() -> bool:
        if interrupts.asked and model.life not in told:  # a coordinator that was restarted has to be told again
            told.add(model.life)
            model.halt("step")
        if (follower.commits or follower.resumed) and "actors" not in clock.marks:
            clock.mark("actors")
        return False

    told: set[str] = set()
    how = f"go on with serket resume {directory.handle}"
    try:
        with interrupts.caught(follower.progress.log):
            status = follower.follow(stream, until=begun)
        clock.mark("rounds")
        if status["ended"] == "stopped":
            raise StoppedError(f"stopped in round {status['round']}; what was learnt is committed, {how}")
        write_generated(directory, model.generate)
    except CoordinatorGoneError as error:
        raise StoppedError(
            f"the run was ended, by serket stop --now or with its cluster; what was committed is whole, {how}"
        ) from error
    except OSError as error:
        reason = f"{error.strerror or error}; what was committed is whole: mend that, then {how}"
        raise OSError(error.errno, reason, error.filename or str(directory.path)) from error
    finally:
        model.stop()
    clock.mark("stop")
    return finish(follower, clock)


def finish(follower: Follower, clock: Clock) -> dict[str, Any]:
    """Write down what came of a run, draw its pictures; return the contents of ``result.json``."""
    directory = follower.directory
    directory.write_models()
    try:
        collect.draw(directory)
    except (ValueError, OSError) as error:  # a picture that cannot be drawn must not cost a finished run
        follower.progress.log(f"not every picture could be drawn: {error}")
    clock.mark("pictures")
    result = result_of(follower.scores, directory.name, time.time() - clock.started, follower.module_seconds)
    result["overhead_share"] = follower.overhead_share(directory.graph.sources)
    result["phases"] = clock.marks
    directory.write_json("result.json", result)
    return result


def result_of(scores: RoundScores, run: str, seconds: float, module_seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return what ``result.json`` and ``--json`` say."""
    return {
        "run": run,
        "rounds": scores.round,
        "seconds": round(seconds, 3),
        **{name: value for name, value in scores.fields().items() if name != "round"},
        "module_seconds": {name: round(value, 3) for name, value in module_seconds.items()},
    }


def is_done(manifest: Manifest, config: RunConfig) -> bool:
    """Whether a commit is a run's last."""
    return manifest.step is None and (manifest.settled or manifest.round >= config.schedule.rounds)


def write_generated(directory: RunDirectory, generate: Callable[[str], Mapping[str, Array]]) -> None:
    """Write what the modules' last messages look like further down; a module in no step has learnt nothing to show."""
    committed = directory.checkpoints.latest()
    for module in committed.modules if committed else ():
        if module not in directory.graph.sources:
            directory.write_outputs(module, generate(module), "learn")
