"""Runs in this process, without Ray: what they cannot do, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from actors.variables import injected_faults
from runner.cluster.errors import ClusterError
from runner.cluster.signals import before_exit, exit_with_message
from runner.commands.driver import build_run_spec, check_detachable
from runner.config.run_config import RunConfig
from runner.config.sections import ClusterConfig, ResourcesConfig
from runner.report.progress import Progress
from runner.runs.directory import RunDirectory
from runner.runs.local_client import LocalClient
from runner.runs.state import RunRecord, recorded, remove_record


def check_place(config: RunConfig, *, address: str | None, detach: bool, local: bool) -> None:
    """Check that a model can run where it is to run: in this process if it is `local`, otherwise on a cluster.

    Raises
    ------
    ClusterError
        If it cannot be a local one, or if it is to be detached from a cluster that ends with this process.
    """
    if local:
        check_local(config, address=address, detach=detach)
    elif detach:
        check_detachable(address)


def check_local(config: RunConfig, *, address: str | None, detach: bool, option: str = "--local") -> None:
    """Check that nothing is asked for that a run in this process cannot do.

    Parameters
    ----------
    config : RunConfig
    address : str, optional
    detach : bool
    option : str
        What the user has given to run the model in this process.

    Raises
    ------
    ClusterError
        If there is an address, a run that is to be detached, a constraint on places, a GPU or an injected fault.
    """
    if detach:
        raise ClusterError(f"{option} ends with this command: leave out --detach, or run the model on Ray")
    if address:
        raise ClusterError(f"{option} runs every module in this process: leave out --address {address}, or {option}")
    if injected_faults():
        raise ClusterError(f"SERKET_FAULTS kills processes of modules, of which {option} has none; unset it")
    nowhere = ClusterConfig()
    for key in ("nodes", "strategy", "together"):
        if getattr(config.cluster, key) != getattr(nowhere, key):
            raise ClusterError(f"cluster.{key}: there are no nodes with {option}; {_only_on_ray(option)}")
    for name, module in config.modules.items():
        _check_resources(name, config.cluster.modules.get(name, module.resources), option)


def _only_on_ray(option: str) -> str:
    return f"leave it out, or run the model on Ray, without {option}"


def _check_resources(module: str, resources: ResourcesConfig, option: str) -> None:
    """Check that a module asks for nothing that makes it different from others in this process."""
    for key in ("label_selector", "custom", "accelerator_type"):
        if getattr(resources, key):
            raise ClusterError(
                f"modules.{module}.resources.{key}: there are no nodes with {option}; {_only_on_ray(option)}"
            )
    if resources.num_gpus not in (0, "auto"):
        raise ClusterError(
            f"modules.{module}.resources.num_gpus: {option} computes on the CPU, and {resources.num_gpus:g} is asked "
            "for; use auto, or run the model on Ray"
        )


@contextmanager
def local_run(
    config: RunConfig, directory: RunDirectory, progress: Progress, start: Callable[[], None]
) -> Iterator[LocalClient]:
    """Yield the client of a run in this process, which a second interrupt ends at once.

    Parameters
    ----------
    config : RunConfig
    directory : RunDirectory
        Locked by this process.
    progress : Progress
    start : callable
        Called when the run is known to this user's other commands; writes what the run directory says of its start.
    """
    client = LocalClient(build_run_spec(config, directory))
    with recorded(directory.path, RunRecord("", own=True)), before_exit(lambda: remove_record(directory.path)):
        start()
        for name, module in config.modules.items():
            wanted = config.cluster.modules.get(name, module.resources).num_gpus
            if wanted == "auto" and directory.graph.uses_gpu[name]:
                progress.log(f"{name}: runs on the CPU, as all modules do with --local")
        try:
            yield client
        except KeyboardInterrupt:  # the thread of the run may be in the middle of a computation, and cannot be ended
            progress.close()
            exit_with_message(
                f"serket: ended at once; all commits are complete, continue with serket resume {directory.cli_name}"
            )
