"""What Ray says of its nodes, and how it is told where a run's modules go."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import PlacementGroup, get_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.coordination.placement import Bundle, Node, Strategy, hardest_first, node_name, request_of
from actors.graph.spec import Resources

_GONE_SECONDS = 30.0


def nodes() -> list[Node]:
    """Return the nodes that are alive."""
    free = available_resources_per_node()
    return [
        Node(
            name=node_name(node["NodeManagerAddress"], node["NodeID"]),
            total=dict(node["Resources"]),
            free=dict(free.get(node["NodeID"], {})),
            labels=dict(node["Labels"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def options_of(resources: Resources, gpus: float) -> dict[str, Any]:
    """Return what an actor that hosts a module is made with, where it may go to any node that fits."""
    asked = request_of(resources, gpus)
    made: dict[str, Any] = {"num_cpus": asked.pop("CPU", 0.0), "num_gpus": asked.pop("GPU", 0.0)}
    if "memory" in asked:
        made["memory"] = asked.pop("memory")
    if resources.label_selector:
        made["label_selector"] = _selector(resources.label_selector)
    return {**made, "resources": asked} if asked else made


def requests_of(bundles: Sequence[Bundle], there: Sequence[Node]) -> list[dict[str, float]]:
    """Return what is asked of Ray for bundles: some bytes more than they want.

    A bundle must ask for something, and every node has memory. Ray places one after the other, first what asks for more
    memory, then for more cores; labels do not count. So those that fewest nodes can hold ask for most bytes more.
    """
    extra = {index: float(rank) for rank, index in enumerate(reversed(hardest_first(bundles, there)), 1)}
    return [
        {**bundle.request, "memory": bundle.request.get("memory", 0.0) + extra[index]}
        for index, bundle in enumerate(bundles)
    ]


class Group:
    """A placement group, in whose bundles a run's modules live.

    Parameters
    ----------
    bundles : sequence of Bundle
    strategy : {"pack", "spread"}, optional
        By default as ``pack``: what shares a node is in one bundle anyhow.
    name : str
        A group of this name that a coordinator before this one has left is taken away first.
    """

    def __init__(self, bundles: Sequence[Bundle], strategy: Strategy | None, name: str) -> None:
        _remove(name)
        self._group = placement_group(
            requests_of(bundles, nodes()),
            strategy=(strategy or "pack").upper(),
            name=name,
            bundle_label_selector=[_selector(bundle.selector) for bundle in bundles],
        )
        self._numbers = {name: number for number, bundle in enumerate(bundles) for name in bundle.modules}

    def options(self, module: str, resources: Resources, gpus: float) -> dict[str, Any]:
        """Return what the actor that hosts `module` is made with."""
        made = options_of(resources, gpus)
        made.pop("label_selector", None)  # the bundle has it
        where = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=self._numbers[module])
        return {**made, "scheduling_strategy": where}

    def remove(self) -> None:
        """Take the group away; what lives in it ends."""
        with suppress(Exception):  # with its cluster
            remove_placement_group(self._group)


def _selector(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels as Ray reads them: a blank after a comma would belong to the value, which no node then has."""
    return {key: value.replace(" ", "") for key, value in labels.items()}


def _remove(name: str) -> None:
    """Take a former group away, and wait until its name is free."""
    until = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < until:
        try:
            former: PlacementGroup = get_placement_group(name)
        except ValueError:
            return
        remove_placement_group(former)
        time.sleep(0.05)
