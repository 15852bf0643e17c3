"""``serket run --dry-run``: where each module would go on a cluster, and what is missing; starts nothing of the run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from actors.coordination.placement import Node, Spot, allot, bundles_of, plan
from runner.config.run_config import RunConfig


@dataclass(frozen=True)
class Forecast:
    """Where the modules would go, how many nodes are there, and for how many the run would wait."""

    spots: list[Spot]
    nodes: int
    wanted: int

    @property
    def missing(self) -> list[str]:
        """A sentence for everything that keeps the run from beginning."""
        few = f"cluster.nodes asks for {self.wanted}, the cluster has {self.nodes}: start more nodes, or ask for fewer"
        return [spot.missing for spot in self.spots if spot.missing] + ([few] if self.nodes < self.wanted else [])


def dry_run(config: RunConfig, address: str | None) -> Forecast:
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
    BackendError
        If modules that are to share a node contradict each other.
    """
    nodes = _nodes_at(address)
    graph, placement = config.graph(), config.cluster.item()
    bundles = bundles_of(graph, allot(graph, nodes, placement), placement)
    return Forecast(plan(bundles, nodes, placement.strategy, free=True), len(nodes), config.cluster.nodes)


def _nodes_at(address: str | None) -> list[Node]:
    from actors.backends.ray.placement_groups import nodes
    from runner.cluster.connection import cluster, this_machine

    if address is None:
        return [this_machine()]
    with cluster(address):
        return nodes()


def show(forecast: Forecast, console: Console | None = None) -> None:
    """Print where modules would go; a line each for what is missing."""
    console = console or Console()
    table = Table("module", "asks for", "would go to", box=None)
    for spot in forecast.spots:
        for module in spot.bundle.modules:
            table.add_row(module, spot.bundle.wishes, spot.node.name if spot.node else "[red]nowhere[/red]")
    console.print(table)
    for missing in forecast.missing:
        console.print(f"missing: {missing}", markup=False, highlight=False, soft_wrap=True)


def as_json(forecast: Forecast) -> str:
    """Return what ``--json`` says: by module, and (no module is called so) of ``cluster.nodes``."""
    modules = {
        module: {
            "asks": dict(spot.bundle.request),
            "labels": dict(spot.bundle.selector),
            "node": spot.node.name if spot.node else None,
            "missing": spot.missing or None,
        }
        for spot in forecast.spots
        for module in spot.bundle.modules
    }
    return json.dumps({**modules, "cluster.nodes": {"asks": forecast.wanted, "there": forecast.nodes}})
