"""What ``serket inspect`` and ``serket modules`` show."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.coordination.placement import node_name
from runner.runs.directory import RunDirectory, open_run


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
    from runner.commands.train import is_done  # slow to import, and of no use to those who list the modules

    described, reason = _describe(directory)
    latest = directory.checkpoints.latest()
    if described is not None:
        found["actors"] = described
    elif reason:
        found["unknown"] = reason
    elif latest is not None and is_done(latest, config):
        found["next"] = f"serket attach {directory.handle}"
    else:
        failure = directory.checkpoints.notes.failure()
        found.update({"failure": failure} if failure else {}, next=f"serket resume {directory.handle}")
    return found


def _describe(directory: RunDirectory) -> tuple[dict[str, Any] | None, str]:
    """Return what the run's coordinator says, and why that is not known."""
    from runner.cluster.connection import ClusterError
    from runner.commands.attach import found
    from runner.runs.coordinator_client import CoordinatorGoneError

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
    table.add_row("coordinator", *_place(coordinator), f"round {coordinator['round']} of {coordinator['rounds']}", "")
    for name, module in described["modules"].items():
        done = f"{module['done']} of {module['total']}" if "done" in module else ""
        table.add_row(name, *_place(module), module["doing"], done)
    console.print(table)
    if coordinator.get("ended"):
        how = f"it has ended ({coordinator['ended']}); write down what came of it with: serket attach {found['run']}"
        console.print(how, markup=False, highlight=False, soft_wrap=True)


def _place(described: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return on which node an actor is, in which process and on what device it computes."""
    return node_name(described["node"], described["node_id"]), str(described["pid"]), str(described["device"])


def _standing(found: dict[str, Any]) -> list[str]:
    """Return what is said of a run that is seen nowhere."""
    if "unknown" in found:
        return [found["unknown"]]
    failed = [f"failed: {found['failure'].rstrip()}"] if "failure" in found else []
    return [*failed, f"it does not run; go on with: {found['next']}"]


def show_modules(entries: Sequence[Mapping[str, Any]], console: Console | None = None, *, whole: bool = False) -> None:
    """Print module types as :mod:`runner.cli.catalogue` describes them: ports, parameters, and who brings them.

    Parameters
    ----------
    entries : sequence of mapping
    console : Console, optional
    whole : bool
        With the whole documentation instead of its first sentence.
    """
    console = console or Console()
    for number, entry in enumerate(entries):
        if number:
            console.print()
        origin = " ".join(word for word in (f"{entry['origin']}:", entry["from"], entry["version"]) if word)
        console.print(Text.assemble((entry["type"], "bold"), "  ", (origin, "dim")), soft_wrap=True)
        if "problem" in entry:
            said = "\n".join(_wrapped(f"  cannot be used: {entry['problem']}", console.width))
            console.print(Text(said, "red"), soft_wrap=True)
            continue
        lines = [f"  {line}" for line in (entry["doc"] if whole else entry["summary"]).splitlines()]
        lines = [*(part for line in lines for part in _wrapped(line, console.width)), *([""] if whole else [])]
        lines += _columns([_port(port) for port in entry["ports"]], console.width)
        lines += _columns([["kind", f"{name}:", arrays] for name, arrays in entry["kinds"].items()], console.width)
        lines += _columns([_parameter(parameter) for parameter in entry["parameters"]], console.width)
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _port(port: Mapping[str, Any]) -> list[str]:
    marks = [word for word in ("optional", "several", "per_receiver") if port[word]]
    what = port["kind"] + (f" ({', '.join(marks)})" if marks else "")
    return [port["direction"], port["path"], f"{port['name']}:", what]


def _parameter(parameter: Mapping[str, Any]) -> list[str]:
    default = "required" if "required" in parameter else f"= {parameter['default']!r}"
    return [" or ".join((parameter["name"], *parameter["aliases"])), default, parameter["expected"]]


def _columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return a line a row, in columns where they fit into the terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if all(len(line) <= width for line in lines):
        return lines
    return [part for row in rows for part in _wrapped("  " + " ".join(row), width, hanging=4)]


def _wrapped(line: str, width: int, hanging: int = 0) -> list[str]:
    """Return a line as several that fit, all indented as it is, or `hanging` more from the second on."""
    indent = " " * (len(line) - len(line.lstrip()))
    made = textwrap.wrap(line.strip(), max(width, 20), initial_indent=indent, subsequent_indent=indent + hanging * " ")
    return made or [""]
