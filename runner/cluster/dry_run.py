"""Compute where each module of a model would be placed on a cluster, without starting it: ``serket run --dry-run``."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.coordination.placement import Assignment, Node, allocate_gpus, assign_modules
from runner.config.run_config import RunConfig
from runner.report.console import SafeConsole


@dataclass(frozen=True)
class DryRunReport:
    """The placement of the modules, the number of nodes of the cluster, and the number that the run requires."""

    assignments: list[Assignment]
    present_nodes: int
    required_nodes: int

    @property
    def missing(self) -> list[str]:
        """One sentence for each unmet requirement of the run."""
        missing = [assignment.missing for assignment in self.assignments if assignment.missing]
        if self.present_nodes < self.required_nodes:
            missing.append(
                f"cluster.nodes asks for {self.required_nodes}, the cluster has {self.present_nodes}: "
                "start more nodes, or ask for fewer"
            )
        return missing


def dry_run(config: RunConfig, address: str | None) -> DryRunReport:
    """Return where the modules of a model file would be placed.

    Parameters
    ----------
    config : RunConfig
    address : str, optional
        Address of a Ray cluster; by default, the cluster that a run would start on this machine.

    Raises
    ------
    ClusterError
        If there is no response at `address`.
    BackendError
        If modules that share a node have conflicting requirements.
    """
    nodes = _cluster_nodes(address)
    graph, placement = config.graph, config.cluster.to_model()
    gpus = allocate_gpus(graph, nodes, placement)
    assignments = assign_modules(graph, gpus, placement, nodes, free=True)
    return DryRunReport(assignments, len(nodes), config.cluster.nodes)


def _cluster_nodes(address: str | None) -> list[Node]:
    from actors.backends.ray.placement_groups import nodes
    from runner.cluster.connection import cluster, this_machine

    if address is None:
        return [this_machine()]
    with cluster(address):
        return nodes()


def print_report(report: DryRunReport, console: Console | None = None) -> None:
    """Print the placement of the modules, and one line for each unmet requirement."""
    console = console or SafeConsole()
    table = Table("module", "asks for", "would go to", box=None)
    for assignment in report.assignments:
        for module in assignment.bundle.modules:
            table.add_row(
                module,
                assignment.bundle.describe(),
                assignment.node.name if assignment.node else Text("nowhere", "red"),
            )
    console.print(table)
    for missing in report.missing:
        console.print(f"missing: {missing}", markup=False, highlight=False, soft_wrap=True)


def report_as_json(report: DryRunReport) -> str:
    """Return the output of ``--json``: one entry for each module, and one for ``cluster.nodes``."""
    modules = {
        module: {
            "asks": dict(assignment.bundle.request),
            "labels": dict(assignment.bundle.selector),
            "node": assignment.node.name if assignment.node else None,
            "missing": assignment.missing or None,
        }
        for assignment in report.assignments
        for module in assignment.bundle.modules
    }
    return json.dumps({**modules, "cluster.nodes": {"asks": report.required_nodes, "there": report.present_nodes}})
