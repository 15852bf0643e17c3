"""The nodes of a Ray cluster, and the options by which Ray places a run's modules on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.coordination.placement import (
    Bundle,
    Node,
    Strategy,
    most_constrained_first,
    node_name,
    resource_request,
)
from actors.graph.spec import Resources

_REMOVAL_SECONDS = 30.0
_NODE_LABEL = "ray.io/node-id"
"""The label that Ray gives to each node."""


def nodes(first: str = "") -> list[Node]:
    """Return the nodes that are alive, the one with the id `first` before the others."""
    free = available_resources_per_node()
    return [
        Node(
            name=node_name(node["NodeManagerAddress"], node["NodeID"]),
            total=dict(node["Resources"]),
            free=dict(free.get(node["NodeID"], {})),
            labels=dict(node["Labels"]),
            id=node["NodeID"],
        )
        for node in sorted(ray.nodes(), key=lambda node: node["NodeID"] != first)
        if node["Alive"]
    ]


def actor_options(resources: Resources, gpus: float, node: str = "") -> dict[str, Any]:
    """Return the Ray options of a module's actor that may be placed on any suitable node.

    `node` is the id of the one that it is to be on if that is alive and has room.
    """
    request = resource_request(resources, gpus)
    options: dict[str, Any] = {"num_cpus": request.pop("CPU", 0.0), "num_gpus": request.pop("GPU", 0.0)}
    if "memory" in request:
        options["memory"] = request.pop("memory")
    selector = _ray_label_selector(resources.label_selector)
    if node:  # Ray 2.60 ignores a NodeAffinitySchedulingStrategy of actors that reserve nothing
        options["label_selector"] = {_NODE_LABEL: node, **selector}
        options["fallback_strategy"] = [{"label_selector": selector}]
    elif selector:
        options["label_selector"] = selector
    return {**options, "resources": request} if request else options


def bundle_requests(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> list[dict[str, float]]:
    """Return the resource requests of a placement group's bundles, each with a few extra bytes of memory.

    Ray requires that a bundle requests something, and every node has memory. Ray places the bundles one after the
    other, those with the largest request for memory first, then for cores; it ignores labels. So the bundles that the
    fewest nodes can hold request the most extra bytes.
    """
    extra = {index: float(rank) for rank, index in enumerate(reversed(most_constrained_first(bundles, nodes)), 1)}
    return [
        {**bundle.request, "memory": bundle.request.get("memory", 0.0) + extra[index]}
        for index, bundle in enumerate(bundles)
    ]


class ModulePlacementGroup:
    """A Ray placement group whose bundles hold the modules of a run.

    Parameters
    ----------
    bundles : sequence of Bundle
    strategy : {"pack", "spread"}, optional
        By default ``pack``; modules that share a node are in one bundle with either.
    name : str
        An existing group of this name, left by an earlier coordinator, is removed first.
    """

    def __init__(self, bundles: Sequence[Bundle], strategy: Strategy | None, name: str) -> None:
        _remove_existing_group(name)
        self._group = placement_group(
            bundle_requests(bundles, nodes()),
            strategy=(strategy or "pack").upper(),
            name=name,
            bundle_label_selector=[_ray_label_selector(bundle.selector) for bundle in bundles],
        )
        self._bundle_indices = {name: index for index, bundle in enumerate(bundles) for name in bundle.modules}

    def __contains__(self, module: str) -> bool:
        return module in self._bundle_indices

    def actor_options(self, module: str, resources: Resources, gpus: float) -> dict[str, Any]:
        """Return the Ray options of the actor of `module`, placed in its bundle."""
        options = actor_options(resources, gpus)
        options.pop("label_selector", None)  # the bundle has it
        strategy = PlacementGroupSchedulingStrategy(
            self._group, placement_group_bundle_index=self._bundle_indices[module]
        )
        return {**options, "scheduling_strategy": strategy}

    def remove(self) -> None:
        """Remove the group, which ends the actors in it."""
        with suppress(Exception):  # the cluster may have ended
            remove_placement_group(self._group)


def _ray_label_selector(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a label selector without spaces: Ray would take one after a comma as part of the value."""
    return {key: value.replace(" ", "") for key, value in labels.items()}


def _remove_existing_group(name: str) -> None:
    """Remove a placement group of an earlier coordinator, and wait until its name is available."""
    deadline = time.monotonic() + _REMOVAL_SECONDS
    while time.monotonic() < deadline:
        try:
            existing: PlacementGroup = get_placement_group(name)
        except ValueError:
            return
        remove_placement_group(existing)
        time.sleep(0.05)
