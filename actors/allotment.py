"""How a cluster's resources are divided among a model's modules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from actors.graph import Graph, ModuleSpec
from actors.transport import TransportError


def allot(graph: Graph, cluster: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how many GPUs each module gets, having checked that the cluster can hold all modules.

    Parameters
    ----------
    graph : Graph
    cluster : mapping of str to float
        What the cluster has in all (``CPU``, ``GPU``).
    nodes : sequence of mapping of str to float
        What each node has.

    Raises
    ------
    TransportError
        Says what was asked and what there is; a request that cannot be met would wait for ever.
    """
    hopeful = [n for n, s in graph.modules.items() if s.resources.num_gpus == "auto" and graph.uses_gpu[n]]
    demanded = {n: float(s.resources.num_gpus) for n, s in graph.modules.items() if s.resources.num_gpus != "auto"}
    free = int(cluster.get("GPU", 0.0) - sum(demanded.values()))
    # So many to a GPU, evenly, that whole GPUs hold them all.
    share = 1.0 / math.ceil(len(hopeful) / free) if hopeful and free > 0 else 0.0
    gpus = {name: demanded.get(name, share if name in hopeful else 0.0) for name in graph.modules}
    asked = {"CPU": {n: s.resources.num_cpus for n, s in graph.modules.items()}, "GPU": gpus}
    for resource, by_module in asked.items():
        largest = max((node.get(resource, 0.0) for node in nodes), default=0.0)
        for name, amount in by_module.items():
            if amount > largest:
                raise TransportError(
                    f"module {name!r} asks for {amount:g} {resource}, but the largest node has {largest:g}"
                )
        total, whole = sum(by_module.values()), cluster.get(resource, 0.0)
        if total > whole:
            wishes = ", ".join(f"{name} {amount:g}" for name, amount in by_module.items() if amount)
            raise TransportError(f"the modules ask for {total:g} {resource} ({wishes}), but the cluster has {whole:g}")
    return gpus


def missing(spec: ModuleSpec, gpus: float, nodes: Sequence[Mapping[str, float]]) -> str:
    """Say what a module asks for, and what the nodes that are there have in all."""
    asked = {"CPU": spec.resources.num_cpus, "GPU": gpus}
    wishes = " and ".join(f"{amount:g} {resource}" for resource, amount in asked.items() if amount) or "no resources"
    there = "; ".join(", ".join(f"{node.get(resource, 0.0):g} {resource}" for resource in asked) for node in nodes)
    return f"it asks for {wishes}, and there are {len(nodes)} nodes ({there})"
