"""What ``serket inspect`` and ``serket modules`` show."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from actors.registry import BUILT_IN, find
from runner.rundir import open_run


def inspect_run(path: Path) -> dict[str, Any]:
    """Return where a run stands.

    Returns
    -------
    dict
        ``run``, ``commits``, ``rounds``; ``result`` when it is done; ``actors`` (node, pid, device and what each
        does) while it runs; ``failure`` where it failed.
    """
    config, directory = open_run(path)
    found: dict[str, Any] = {
        "run": directory.name,
        "rounds": config.schedule.rounds,
        "commits": directory.checkpoints.names(),
    }
    if (path / "result.json").exists():
        found["result"] = directory.read_json("result.json")
    elif (path / "environment.json").exists():
        environment = directory.read_json("environment.json")
        if environment.get("detached") or _alive(environment):
            described = _describe(environment["address"], directory.name)
            if described is not None:
                found["actors"] = described
    failure = directory.checkpoints.failure()
    if failure and "actors" not in found and "result" not in found:
        found["failure"] = failure
    return found


def _alive(environment: dict[str, Any]) -> bool:
    return bool(psutil.pid_exists(int(environment.get("pid", 0))))


def _describe(address: str, run: str) -> dict[str, Any] | None:
    from runner.cluster import ClusterError, RunningModel, cluster

    try:
        with cluster(address):
            return RunningModel.find(run).describe()
    except ClusterError:  # the process of that number is another one by now
        return None


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
        if "failure" in found:
            console.print(f"failed: {found['failure']}", markup=False, highlight=False)
        console.print(f"it does not run; go on with: serket resume {found['run']}", highlight=False)
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
