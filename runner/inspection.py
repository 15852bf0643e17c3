"""What ``serket inspect`` and ``serket modules`` show."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.registry import BUILT_IN, find
from runner.rundir import RunDirectory, open_run


def inspect_run(path: Path) -> dict[str, Any]:
    """Return where a run stands.

    Returns
    -------
    dict
        ``run``, ``commits``, ``rounds``; ``result`` when it is done; ``actors`` (node, pid, device and what each
        does) while it runs; ``failure`` where it failed; ``next``, what to type to go on.
    """
    config, directory = open_run(path)
    found: dict[str, Any] = {
        "run": directory.name,
        "rounds": config.schedule.rounds,
        "commits": directory.checkpoints.names(),
    }
    if (path / "result.json").exists():
        found["result"] = directory.read_json("result.json")
        return found
    from runner.run import is_done  # slow to import, and of no use to those who list the modules

    described, reason = _describe(directory)
    latest = directory.checkpoints.latest()
    if described is not None:
        found["actors"] = described
    elif reason:
        found["unknown"] = reason
    elif latest is not None and is_done(latest, config):
        found["next"] = f"serket attach {directory.handle}"
    else:
        failure = directory.checkpoints.failure()
        found.update({"failure": failure} if failure else {}, next=f"serket resume {directory.handle}")
    return found


def _describe(directory: RunDirectory) -> tuple[dict[str, Any] | None, str]:
    """Return what the run's coordinator says, and why that is not known."""
    from runner.attach import found
    from runner.cluster import ClusterError, CoordinatorGoneError

    try:
        with found(directory) as model:
            return (model.describe() if model else None), ""
    except CoordinatorGoneError:
        return None, ""
    except ClusterError as error:
        return None, str(error)


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`inspect_run` found."""
    console = console or Console()
    commits = found["commits"]
    console.print(f"run {found['run']}: {len(commits)} commits, the last {commits[-1] if commits else 'none yet'}")
    result = found.get("result")
    if result:
        figures = ("accuracy", "ari", "nmi", "evidence", "seconds")
        console.print(
            "done: " + ", ".join(f"{name} {result[name]:.4g}" for name in figures if result.get(name) is not None)
        )
        return
    if "actors" not in found:
        for line in _standing(found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("actor", "node", "process", "device", "does", "done")
    described = found["actors"]
    coordinator = described["coordinator"]
    where = [str(coordinator[name]) for name in ("node", "pid", "device")]
    table.add_row("coordinator", *where, f"round {coordinator['round']} of {coordinator['rounds']}", "")
    for name, module in described["modules"].items():
        done = f"{module['done']} of {module['total']}" if "done" in module else ""
        table.add_row(name, str(module["node"]), str(module["pid"]), module["device"], module["doing"], done)
    console.print(table)
    if coordinator.get("ended"):
        how = f"it has ended ({coordinator['ended']}); write down what came of it with: serket attach {found['run']}"
        console.print(how, markup=False, highlight=False, soft_wrap=True)


def _standing(found: dict[str, Any]) -> list[str]:
    """Return what is said of a run that is seen nowhere."""
    if "unknown" in found:
        return [found["unknown"]]
    failed = [f"failed: {found['failure'].rstrip()}"] if "failure" in found else []
    return [*failed, f"it does not run; go on with: {found['next']}"]


def show_modules(console: Console | None = None) -> None:
    """Print every module type with its ports and parameters."""
    console = console or Console()
    for type_name in BUILT_IN:
        cls = find(type_name)
        console.print(f"[bold]{type_name}[/bold]  {(cls.__doc__ or '').strip().splitlines()[0]}")
        for port in cls.ports:
            optional = " (optional)" if port.optional else ""
            console.print(f"  {port.direction:>3} {port.path:<8} {port.name}: {port.kind}{optional}")
        for parameter in fields(cls.Parameters):
            default = "required" if parameter.default is MISSING else f"= {parameter.default!r}"
            console.print(f"      {parameter.name} {default}", highlight=False)
