"""Driver of a run, shared by the commands: builds its spec, follows it to its end, and writes its result."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from actors.coordination.events import Emit, ignore
from actors.coordination.session import Instrumentation, RunSpec
from actors.errors import CheckpointError
from actors.types import Array
from actors.variables import injected_faults, writes_reports
from runner.cluster.errors import ClusterError, CoordinatorEndedError
from runner.cluster.signals import before_exit, ignore_signals
from runner.cluster.watchdog import watch
from runner.commands.interrupts import Interrupts, StoppedError, interruptible
from runner.commands.monitor import RunMonitor
from runner.config.run_config import RunConfig
from runner.config.user_code import collect_code
from runner.data.datasets import Dataset
from runner.data.sources import source_states
from runner.report.plots import prepare_drawing
from runner.report.progress import Progress
from runner.runs import artifacts
from runner.runs.client import EventStream, RunClient
from runner.runs.directory import RunDirectory
from runner.runs.records import build_result
from runner.runs.state import RunRecord, new_secret, recorded, remove_record
from runner.runs.timing import Clock
from runner.tracking.feed import Tracking

FAULT_INJECTION = "actors.backends.fault_injection"


def build_run_spec(config: RunConfig, directory: RunDirectory, *, detached: bool = False, secret: str = "") -> RunSpec:
    """Return the specification of a run for its coordinator, which proves `secret` (:mod:`runner.runs.state`)."""
    root = str(directory.checkpoints.root)
    return RunSpec(
        directory.graph,
        run=directory.name,
        seed=config.seed,
        root=root,
        keep=config.checkpoints.keep,
        detached=detached,
        recovery=config.recovery.to_model(),
        placement=config.cluster.to_model(),
        config=config.plain(directory.path),
        instrumentation=_instrumentation(root),
        secret=secret,
    )


def _instrumentation(root: str) -> Instrumentation:
    """Return the instrumentation for the faults in ``SERKET_FAULTS``; only they import the fault injection."""
    faults = injected_faults()
    if not faults:
        return Instrumentation()
    instrumentation: Instrumentation = importlib.import_module(FAULT_INJECTION).instrumentation(faults, root)
    return instrumentation


def join_cluster(
    stack: ExitStack,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,
    clock: Clock,
    address: str | None,
) -> str:
    """Join the cluster of a run, or start one on this machine, until `stack` ends; return the cluster's address.

    Raises
    ------
    ClusterError
        If it cannot be joined, or has too few nodes.
    """
    from runner.cluster.connection import await_nodes, cluster  # imports Ray

    joined = stack.enter_context(cluster(address, collect_code(directory.graph)))
    await_nodes(config.cluster.nodes, config.recovery.wait, progress.log)
    clock.mark("ray")
    return joined


def launch(
    stack: ExitStack,
    config: RunConfig,
    directory: RunDirectory,
    joined: str,
    *,
    own: bool,
    detached: bool,
    patience: float = 0.0,
) -> tuple[RunClient, Emit]:
    """Launch the coordinator of a run on the cluster that this process has joined, and record it in the user's state.

    Parameters
    ----------
    stack : ExitStack
        Removes the record at its end.
    config : RunConfig
    directory : RunDirectory
    joined : str
        The cluster's address.
    own : bool
        Whether this process has started the cluster.
    detached : bool
    patience : float
        Seconds to wait for a former coordinator of the run to end.

    Returns
    -------
    RunClient, callable
        The run's client, and what observes its metrics.
    """
    from actors.backends.ray.metrics import PrometheusMetrics  # imports Ray
    from runner.runs.coordinator_client import CoordinatorClient

    record = RunRecord(joined, own=own, detached=detached, secret=new_secret())
    spec = build_run_spec(config, directory, detached=detached, secret=record.secret)
    # Recorded first: were this process killed between the two, no command would find a coordinator that lives on.
    stack.enter_context(recorded(directory.path, record))
    client = CoordinatorClient.launch(spec, patience=patience)
    return client, PrometheusMetrics(directory.name).observe


@contextmanager
def guarded(directory: RunDirectory, progress: Progress, *, own: bool) -> Iterator[None]:
    """As :func:`watched`, for a run of the command line: an interrupt says how to go on, and leaves no record of it."""
    with (
        before_exit(lambda: remove_record(directory.path)),
        interruptible(directory),
        watched(directory, progress, own=own),
    ):
        yield


@contextmanager
def watched(directory: RunDirectory, progress: Progress, *, own: bool, remedy: str = "") -> Iterator[None]:
    """End this process with a sentence if the cluster of a run is gone, or at an interrupt of a run that can go on.

    Parameters
    ----------
    directory : RunDirectory
    progress : Progress
    own : bool
        Whether this process has started the cluster.
    remedy : str, optional
        How to continue; by default with ``serket resume``.
    """
    resume = f"continue with serket resume {directory.cli_name}"
    remedy = remedy or resume

    def describe(reason: str) -> str:
        return f"serket: {directory.path}: {reason}; all commits are complete, {remedy}"

    from runner.cluster.connection import make_watchdog  # imports Ray

    watchdog = make_watchdog(own=own)
    try:
        with watch(watchdog, describe, progress.close):
            yield
    except KeyboardInterrupt:
        if remedy != resume:
            raise
        # Ray would wait for seconds until its own processes have ended; they have nothing left to do.
        watchdog.end(f"serket: ended at once; all commits are complete, {resume}", progress.close)


def check_detachable(address: str | None) -> None:
    """Check that the cluster of a detached run outlives this process.

    Raises
    ------
    ClusterError
        If no address is given, so that the cluster would be started by this process.
    """
    if not address:
        raise ClusterError(
            "--detach needs a cluster that outlives this command: start one with `ray start --head`, "
            "then give its --address"
        )


def start_and_follow(
    client: RunClient,
    data: Mapping[str, Dataset],
    directory: RunDirectory,
    *,
    clock: Clock,
    progress: Progress,
    detach: bool,
    observe: Emit = ignore,
    last: bool = True,
    tracking: Tracking | None = None,
) -> dict[str, Any] | None:
    """Start a run, or resume it from its commits, and follow it to its end or until it can be detached.

    With `last`, the run is the last thing that this process does (:func:`finish`).

    Returns
    -------
    dict
        The contents of ``result.json``; None for a detached run.
    """
    monitor = RunMonitor(directory, progress, observe=observe, tracking=tracking)
    stream = client.begin(source_states(directory.graph, data))
    if not detach:
        return follow_to_end(client, stream, monitor, clock, last=last)
    _detach(client, stream, monitor)
    return None


def _detach(client: RunClient, stream: EventStream, monitor: RunMonitor) -> None:
    """Follow a run until it has a commit; if it fails or is interrupted before, end it."""
    try:
        monitor.follow(stream, until=lambda: monitor.commits > 0 or monitor.resumed)
    except BaseException:
        client.stop()
        raise


def follow_to_end(
    client: RunClient, stream: EventStream, monitor: RunMonitor, clock: Clock, *, last: bool = True
) -> dict[str, Any]:
    """Follow a run to its end, stop it after an interrupt, and write its result.

    With `last`, the run is the last thing that this process does (:func:`finish`).

    Raises
    ------
    StoppedError
        If the run was stopped.
    OSError
        If a file cannot be written.
    """
    directory, interrupts = monitor.directory, Interrupts()
    halted: set[str] = set()
    latents = any(spec.type in ("vae", "pca") for spec in directory.graph.modules.values())
    # Python waits for it at its end: a daemon thread that ends within matplotlib's C++ code would abort the process.
    drawing = threading.Thread(target=prepare_drawing, args=(latents,))

    def on_status() -> bool:
        if interrupts.requested and not client.incarnation:  # the coordinator has not started, and may never
            raise KeyboardInterrupt
        # A restarted coordinator does not know of the request.
        if interrupts.requested and client.incarnation not in halted:
            halted.add(client.incarnation)
            client.halt("step")
        if (monitor.commits or monitor.resumed) and "actors" not in clock.marks:
            clock.mark("actors")
        if last and monitor.learnt and drawing.ident is None:
            drawing.start()
        return False

    how = f"continue with serket resume {directory.cli_name}"
    try:
        with interrupts.catch_signals(monitor.progress.log):
            status = monitor.follow(stream, until=on_status)
        clock.mark("rounds")
        if status["ended"] == "stopped":
            raise StoppedError(f"stopped in round {status['round']}; all updates are committed, {how}")
        write_generated(directory, client.generate)
    except CoordinatorEndedError as error:
        raise StoppedError(
            f"the run was ended, by serket stop --now or with its cluster; all commits are complete, {how}"
        ) from error
    except OSError as error:
        reason = f"{error.strerror or error}; all commits are complete: correct the cause, then {how}"
        raise OSError(error.errno, reason, error.filename or str(directory.path)) from error
    finally:
        client.stop()
    clock.mark("stop")
    if drawing.ident is not None:
        drawing.join()
    return finish(monitor, clock, last=last)


def finish(monitor: RunMonitor, clock: Clock, *, last: bool = True) -> dict[str, Any]:
    """Write a run's models, plots and ``result.json``; return the contents of the latter.

    With `last`, this process has nothing to do after the run: signals are ignored from here on. Otherwise it goes on,
    as a notebook does, and nothing is drawn.
    """
    directory = monitor.directory
    monitor.settle()
    directory.write_models()
    if last:
        try:
            artifacts.write_row_table(directory)
            artifacts.draw_plots(directory)
        except (ValueError, OSError) as error:  # a failed plot must not fail a finished run
            monitor.progress.log(f"not all plots could be drawn: {error}")
        clock.mark("pictures")
    result = build_result(monitor.scores, directory.name, time.time() - clock.started, monitor.module_seconds)
    result["overhead_share"] = monitor.overhead_share()
    if monitor.first_output is not None:
        result["first_output"] = round(monitor.first_output - clock.started, 3)
    result["phases"] = clock.marks
    if last and directory.reports and writes_reports():
        _write_report(monitor, result)
        clock.mark("report")
    if monitor.tracking:
        monitor.tracking.finish(result)
        clock.mark("tracking")
    if last:
        ignore_signals()  # with this file, the run is complete
    directory.write_json("result.json", result)
    return result


def _write_report(monitor: RunMonitor, result: Mapping[str, Any]) -> None:
    """Write the report of a run whose result is known; if it cannot be written, say so."""
    from runner.runs.run_report import write_report  # with its templates, only for runs that have a report

    try:
        write_report(monitor.directory, result)
    except (ValueError, OSError, CheckpointError) as error:
        monitor.progress.log(f"the report could not be written: {error}")


def write_generated(directory: RunDirectory, generate: Callable[[str], Mapping[str, Array]]) -> None:
    """Write the generated outputs of each committed module, which decode the latest messages from above."""
    committed = directory.checkpoints.latest()
    for module in committed.modules if committed else ():
        if module not in directory.graph.sources:
            directory.write_outputs(module, generate(module), "learn")
