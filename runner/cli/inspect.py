"""Print the state of a run (``serket inspect``) and the module types (``serket modules``)."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.coordination.placement import node_name
from actors.limits import MAX_INTEGER
from runner.report.console import SafeConsole
from runner.report.printable import printable
from runner.runs.directory import RunDirectory
from runner.runs.outline import read_outline
from runner.runs.state import NO_RECORD, is_known_storage, known_address, read_record

if TYPE_CHECKING:
    from runner.runs.comparison import Comparison

_SCRIPT = "the run is one of a script: Model.load and serket recognize use what it has learnt"


def inspect_run(path: Path, address: str | None = None) -> dict[str, Any]:
    """Return the state of a run; imports no code that its config names.

    Parameters
    ----------
    path : Path
    address : str, optional
        Address of the run's cluster; by default as recorded in the user's state.

    Returns
    -------
    dict
        ``run``, ``commits``, ``rounds``; ``result`` if it is done; ``actors`` (node, pid, device and activity of each)
        while it is running; ``unknown``, why there is no cluster to query; ``failure`` if it failed, and ``learnt``,
        which is false, if it has learnt nothing before; ``next``, the command that continues it;
        ``script``, what to do with the run of a script; ``storage`` alone, why nothing is read at a URL.
    """
    outline = read_outline(path)
    directory = outline.directory
    status: dict[str, Any] = {"run": directory.name, "rounds": outline.rounds, "commits": []}
    root = directory.commits_location
    if not is_known_storage(root):
        status["storage"] = (
            f"its config names {root} as the place of its commits, which is not known as that of a run of yours, so "
            f"nothing is read there; serket attach {directory.cli_name} does, and runs the code that the config names"
        )
        return status
    status["commits"] = directory.checkpoints.names()
    if (path / "result.json").exists():
        status["result"] = directory.read_json("result.json")
        if (latest := directory.checkpoints.latest()) is not None and not latest.config:
            status["script"] = _SCRIPT
        return status
    described, reason = _describe_actors(directory, address)
    latest = directory.checkpoints.latest()
    if described is not None:
        status["actors"] = described
    elif reason:
        status["unknown"] = reason
    elif latest is not None and outline.is_done(latest):
        status["next"] = f"serket attach {directory.cli_name}"
    elif latest is not None and not latest.config:
        status["script"] = _SCRIPT
    else:
        failure = directory.checkpoints.status_files.read_failure()
        status.update({"failure": failure} if failure else {}, next=f"serket resume {directory.cli_name}")
        if failure and (latest is None or latest.round == 0):
            status["learnt"] = False
    return status


def _describe_actors(directory: RunDirectory, address: str | None) -> tuple[dict[str, Any] | None, str]:
    """Return the description of the run's actors by its coordinator, and why it is not available."""
    record = read_record(directory.path)
    if record and not record.address and directory.is_locked():
        return None, f"the run learns in process {record.pid}, without Ray"
    if not known_address(record, address):
        return None, ""
    from runner.cluster.errors import ClusterError, CoordinatorEndedError
    from runner.runs.connect import connect_to_run

    try:
        with connect_to_run(directory, address=address) as model:
            return (model.describe() if model else None), ""
    except CoordinatorEndedError:
        return None, ""
    except ClusterError as error:
        return None, str(error)


def unknown_hint(path: Path, address: str | None = None) -> str:
    """Return a clause for a run that may run without being known here; empty if its address is known."""
    return "" if known_address(read_record(path), address) else f"{NO_RECORD}, "


def print_run(status: dict[str, Any], console: Console | None = None, *, hint: str = "") -> None:
    """Print the state of a run, as returned by :func:`inspect_run`, with the hint of :func:`unknown_hint`."""
    console = console or SafeConsole()
    commits = status["commits"]
    if "storage" in status:
        console.print(f"run {status['run']}: {status['storage']}", soft_wrap=True)
        return
    count, last = len(commits), commits[-1] if commits else "none yet"
    console.print(f"run {status['run']}: {count} commit{'s' * (count != 1)}, the last {last}")
    result = status.get("result")
    if result:
        figures = {"accuracy": "", "ari": "", "nmi": "", "ece": "", "evidence": " nats", "seconds": " s"}
        known = [name for name in figures if _is_number(result.get(name))]
        console.print("done: " + ", ".join(f"{name} {result[name]:.4g}{figures[name]}" for name in known))
        if "script" in status:
            console.print(status["script"], soft_wrap=True)
        return
    if "actors" not in status:
        for line in _inactive_run_lines(status, hint):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    table = Table("actor", "node", "process", "device", "does", "done")
    described = status["actors"]
    coordinator = described["coordinator"]
    table.add_row(
        "coordinator", *_location(coordinator), f"round {coordinator['round']} of {coordinator['rounds']}", ""
    )
    for name, module in described["modules"].items():
        done = f"{module['done']} of {module['total']}" if "done" in module else ""
        table.add_row(name, *_location(module), module["doing"], done)
    console.print(table)
    if coordinator.get("ended"):
        hint = f"it has ended ({coordinator['ended']}); write its results with: serket attach {status['run']}"
        console.print(hint, markup=False, highlight=False, soft_wrap=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= MAX_INTEGER)


def _location(described: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the node, the process and the device of an actor."""
    return node_name(described["node"], described["node_id"]), str(described["pid"]), str(described["device"])


def _inactive_run_lines(status: dict[str, Any], hint: str) -> list[str]:
    """Return the lines for a run that is not on a cluster."""
    if "unknown" in status:
        return [status["unknown"]]
    if "script" in status:
        return [status["script"]]
    if "failure" not in status:
        return [f"{hint}it is not running; continue with: {status['next']}"]
    goes_on = f"{hint}it is not running; correct the cause, or it fails again; then continue with: {status['next']}"
    if not status.get("learnt", True):
        free = "it has learnt nothing yet: a corrected model file can take its name with serket run MODEL --overwrite"
        return [f"failed: {printable(status['failure']).rstrip()}", goes_on, free]
    return [f"failed: {printable(status['failure']).rstrip()}", goes_on]


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print the measures of several runs, and the differences of their configs, as tables."""
    from runner.runs.comparison import format_measure  # slow to import, and only for this

    console = console or SafeConsole()
    names = [run.name for run in comparison.runs]
    table = Table("measure")
    for name in names:
        table.add_column(Text(name), justify="right", overflow="fold")
    for name, values in comparison.measures.items():
        table.add_row(name.replace("_", " "), *(format_measure(name, value) for value in values))
    console.print(table)
    differences = comparison.differences
    if not differences:
        console.print("the configurations are the same")
        return
    table = Table()
    table.add_column("setting", overflow="fold")
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for key, found in differences.items():
        table.add_row(Text(key), *(Text("–" if value is None else value) for value in found))
    console.print(table)


def print_module_types(
    entries: Sequence[Mapping[str, Any]], console: Console | None = None, *, whole: bool = False
) -> None:
    """Print the ports, parameters and distributions of module types described by :mod:`runner.cli.catalogue`.

    Parameters
    ----------
    entries : sequence of mapping
    console : Console, optional
    whole : bool
        Whether to print the whole documentation instead of its first sentence.
    """
    console = console or SafeConsole()
    for number, entry in enumerate(entries):
        if number:
            console.print()
        origin = " ".join(word for word in (f"{entry['origin']}:", entry["from"], entry["version"]) if word)
        console.print(Text.assemble((entry["type"], "bold"), "  ", (origin, "dim")), soft_wrap=True)
        if "problem" in entry:
            problem = "\n".join(_wrap(f"  cannot be used: {entry['problem']}", console.width))
            console.print(Text(problem, "red"), soft_wrap=True)
            continue
        lines = [f"  {line}" for line in _plain_lines(entry["doc"] if whole else entry["summary"])]
        lines = [*(part for line in lines for part in _wrap(line, console.width)), *([""] if whole else [])]
        lines += _align([_port_row(port) for port in entry["ports"]], console.width)
        lines += _align([["kind", f"{name}:", arrays] for name, arrays in entry["kinds"].items()], console.width)
        lines += _align([_parameter_row(parameter) for parameter in entry["parameters"]], console.width)
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


_ROLE = re.compile(r":[a-z:]+:`~?([^`]+)`")
_QUOTED = re.compile(r"`{1,2}([^`]+)`{1,2}")
_OWN_LINE = re.compile(r"\s*([\w, ]+ (\(or \w+\) )?: |[-=]{3,}$|[-*] |>>> |\d+\. )")
"""Lines that do not continue the one before: a parameter, the rule below a heading, an item."""


def _plain_lines(doc: str) -> list[str]:
    """Return a docstring without its markup, a paragraph on one line, to be wrapped for a terminal."""
    lines: list[str] = []
    for line in _QUOTED.sub(r"\1", _ROLE.sub(r"\1", doc)).splitlines():
        depth = len(line) - len(line.lstrip())
        above = lines[-1] if lines else ""
        depth_above = len(above) - len(above.lstrip())
        if re.match(r"[-*] ", above.lstrip()):
            depth_above += 2  # the text of an item
        runs_on = depth == depth_above and line.strip() and not re.fullmatch(r"\s*[-=]*", above)
        if runs_on and not _OWN_LINE.match(line):
            lines[-1] = f"{above.rstrip()} {line.strip()}"
        else:
            lines.append(line)
    return lines


def _port_row(port: Mapping[str, Any]) -> list[str]:
    marks = [word for word in ("optional", "several", "per_receiver") if port[word]]
    what = port["kind"] + (f" ({', '.join(marks)})" if marks else "")
    return [port["direction"], port["path"], f"{port['name']}:", what]


def _parameter_row(parameter: Mapping[str, Any]) -> list[str]:
    default = "required" if "required" in parameter else f"= {parameter['default']!r}"
    return [" or ".join((parameter["name"], *parameter["aliases"])), default, parameter["expected"]]


def _align(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return one line for each row, aligned in columns if the lines fit into the terminal, else wrapped."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if all(len(line) <= width for line in lines):
        return lines
    return [part for row in rows for part in _wrap("  " + " ".join(row), width, hanging=4)]


def _wrap(line: str, width: int, hanging: int = 0) -> list[str]:
    """Wrap a line with its own indentation, increased by `hanging` from the second line on."""
    indent = " " * (len(line) - len(line.lstrip()))
    lines = textwrap.wrap(line.strip(), max(width, 20), initial_indent=indent, subsequent_indent=indent + hanging * " ")
    return lines or [""]
