"""``serket run --dry-run``: where each module would go on a cluster, and what is missing; starts nothing of the run."""

from __future__ import annotations

import json
import os
import platform

import psutil
from rich.console import Console
from rich.table import Table

from actors.placement import Node, Spot, allot, bundles_of, plan
from runner.config import RunConfig


def dry_run(config: RunConfig, address: str | None) -> list[Spot]:
    """Return where the modules of `config` would go.

    Parameters
    ----------
    config : RunConfig
    address : str, optional
        A Ray cluster's; by default this machine is taken for one, as a run would start it.

    Raises
    ------
    ClusterError
        If nothing answers at `address`.
    TransportError
        If modules that are to share a node contradict each other.
    """
    nodes = [this_machine()] if address is None else _nodes_at(address)
    graph, placement = config.graph(), config.cluster.item()
    return plan(bundles_of(graph, allot(graph, nodes, placement), placement), nodes, placement.strategy, free=True)


def this_machine() -> Node:
    """Return this machine as the one node of a cluster that Ray would start here."""
    import torch

    total = {"CPU": float(os.cpu_count() or 1), "memory": float(psutil.virtual_memory().available)}
    if torch.cuda.is_available():
        total["GPU"] = float(torch.cuda.device_count())
    return Node(f"{platform.node()} (this machine)", total, total)


def _nodes_at(address: str) -> list[Node]:
    from runner.cluster import cluster, cluster_nodes

    with cluster(address):
        return cluster_nodes()


def show(spots: list[Spot], console: Console | None = None) -> None:
    """Print where modules would go; a line each for what is missing."""
    console = console or Console()
    table = Table("module", "asks for", "would go to", box=None)
    for spot in spots:
        for module in spot.bundle.modules:
            table.add_row(module, spot.bundle.wishes, spot.node.name if spot.node else "[red]nowhere[/red]")
    console.print(table)
    for spot in spots:
        if spot.missing:
            console.print(f"missing: {spot.missing}", markup=False, highlight=False, soft_wrap=True)


def as_json(spots: list[Spot]) -> str:
    """Return what ``--json`` says."""
    return json.dumps(
        {
            module: {
                "asks": dict(spot.bundle.request),
                "labels": dict(spot.bundle.selector),
                "node": spot.node.name if spot.node else None,
                "missing": spot.missing or None,
            }
            for spot in spots
            for module in spot.bundle.modules
        }
    )
