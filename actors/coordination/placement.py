"""Where a cluster can hold a model's modules: what each asks for, which nodes fit, and what is missing.

Plain arithmetic on what nodes say that they have; :mod:`actors.backends.ray.backend` has Ray place the modules by it,
and ``serket run --dry-run`` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from actors.errors import BackendError
from actors.graph.graph import Graph
from actors.graph.spec import Resources

Strategy = Literal["pack", "spread"]


@dataclass(frozen=True)
class Placement:
    """How modules are laid out over nodes.

    Parameters
    ----------
    strategy : {"pack", "spread"}, optional
        On as few nodes as possible, or on as many; by default each goes where Ray likes.
    together : tuple of tuple of str
        Modules that share a node.
    """

    strategy: Strategy | None = None
    together: tuple[tuple[str, ...], ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether anything is asked for."""
        return self.strategy is not None or bool(self.together)


@dataclass(frozen=True)
class Node:
    """A node of the cluster: its name for people, what it has in all, what of that is free, and its labels."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def node_name(address: str, node_id: str) -> str:
    """Return what a node is called: its address, and as much of its identifier as tells nodes of one machine apart."""
    return f"{address} ({node_id[:6]})"


@dataclass(frozen=True)
class Bundle:
    """What modules that share a node ask of it.

    Parameters
    ----------
    modules : tuple of str
    request : mapping of str to float
    selector : mapping of str to str
    laid_out : bool
        Whether it is held for them as part of a layout: that takes some bytes of memory.
    """

    modules: tuple[str, ...]
    request: Mapping[str, float]
    selector: Mapping[str, str] = field(default_factory=dict)
    laid_out: bool = False

    @property
    def wishes(self) -> str:
        """The request, for people."""
        asked = [f"{_amount(resource, amount)}" for resource, amount in self.request.items()]
        labels = [f"{key}={value}" for key, value in self.selector.items()]
        return " and ".join(asked + ([f"a node with {', '.join(labels)}"] if labels else [])) or "no resources"


@dataclass(frozen=True)
class Spot:
    """Where a bundle can go: a node, or what is missing."""

    bundle: Bundle
    node: Node | None
    missing: str = ""


def request_of(resources: Resources, gpus: float) -> dict[str, float]:
    """Return what a module reserves by the names that Ray has for it; nothing that is 0."""
    asked = {"CPU": resources.num_cpus, "GPU": gpus, "memory": resources.memory, **resources.custom}
    if resources.accelerator_type:
        asked[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return {name: amount for name, amount in asked.items() if amount}


def allot(graph: Graph, nodes: Sequence[Node], placement: Placement | None = None) -> dict[str, float]:
    """Return how many GPUs each module gets; those that only hope for one share what nobody demanded.

    A hope keeps nobody from a place: where no node with a GPU is otherwise as a module wants it (its labels, what it
    shares a node with), or where a share of one finds no place, the module does without.

    Parameters
    ----------
    graph : Graph
    nodes : sequence of Node
    placement : Placement, optional
    """
    placement = placement or Placement()
    asked = {name: spec.resources.num_gpus for name, spec in graph.modules.items()}
    demanded = {name: 0.0 if gpus == "auto" else float(gpus) for name, gpus in asked.items()}
    within_reach = {
        name
        for bundle in bundles_of(graph, demanded, placement)
        if any(
            node.total.get("GPU", 0.0) > bundle.request.get("GPU", 0.0) and not _lacks(bundle, node, node.total)
            for node in nodes
        )
        for name in bundle.modules
    }
    hopeful = [name for name in asked if asked[name] == "auto" and graph.uses_gpu[name] and name in within_reach]
    free = int(sum(node.total.get("GPU", 0.0) for node in nodes) - sum(demanded.values()))
    # So many to a GPU, evenly, that whole GPUs hold them all.
    for sharers in range(math.ceil(len(hopeful) / free), len(hopeful) + 1) if hopeful and free > 0 else ():
        gpus = demanded | dict.fromkeys(hopeful, 1.0 / sharers)
        spots = plan(bundles_of(graph, gpus, placement), nodes, placement.strategy)
        if all(spot.node for spot in spots if not set(hopeful).isdisjoint(spot.bundle.modules)):
            return gpus
    return demanded


def bundles_of(graph: Graph, gpus: Mapping[str, float], placement: Placement) -> list[Bundle]:
    """Return what is asked of nodes, modules that are to share a node in one bundle.

    Raises
    ------
    BackendError
        If modules that are to share a node want different labels.
    """
    groups = [tuple(name for name in graph.modules if name in group) for group in placement.together]
    grouped = {name for group in groups for name in group}
    groups += [(name,) for name in graph.modules if name not in grouped]
    bundles = []
    for group in sorted(groups, key=lambda group: graph.number(group[0])):
        request: dict[str, float] = {}
        selector: dict[str, str] = {}
        for name in group:
            resources = graph.modules[name].resources
            for resource, amount in request_of(resources, gpus[name]).items():
                request[resource] = request.get(resource, 0.0) + amount
            for key, value in resources.label_selector.items():
                if selector.setdefault(key, value) != value:
                    raise BackendError(
                        f"modules {', '.join(group)} are to share a node, "
                        f"but want {key}={selector[key]} and {key}={value}"
                    )
        bundles.append(Bundle(group, request, selector, placement.wanted))
    return bundles


def plan(
    bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: Strategy | None = None, *, free: bool = False
) -> list[Spot]:
    """Say where bundles can go, those that fewest nodes can hold first; Ray may choose another node that fits as well.

    Parameters
    ----------
    bundles : sequence of Bundle
    nodes : sequence of Node
    strategy : {"pack", "spread"}, optional
    free : bool
        Whether only what is free now counts, and not all that the nodes have.

    Returns
    -------
    list of Spot
        In the order of `bundles`.
    """
    left = [dict(node.free if free else node.total) for node in nodes]
    used = [0] * len(nodes)
    found: dict[int, Spot] = {}
    for index in hardest_first(bundles, nodes, left):
        bundle = bundles[index]
        fits = [n for n, node in enumerate(nodes) if not _lacks(bundle, node, left[n])]
        if not fits:
            found[index] = Spot(bundle, None, _why(bundle, nodes, left, free=free))
            continue
        # Packed, a module goes where others are already; spread, where the fewest are.
        chosen = max(fits, key=lambda n: (used[n] if strategy != "spread" else -used[n], -n))
        for resource, amount in bundle.request.items():
            left[chosen][resource] -= amount
        used[chosen] += 1
        found[index] = Spot(bundle, nodes[chosen])
    return [found[index] for index in range(len(bundles))]


def hardest_first(
    bundles: Sequence[Bundle], nodes: Sequence[Node], left: Sequence[Mapping[str, float]] | None = None
) -> list[int]:
    """Return the numbers of the bundles, those first that fewest nodes can hold with what is `left` of them."""
    there = left or [node.total for node in nodes]
    choice = [
        sum(not _lacks(bundle, node, rest) for node, rest in zip(nodes, there, strict=True)) for bundle in bundles
    ]
    return sorted(range(len(bundles)), key=lambda index: (-choice[index], _demand(bundles[index])), reverse=True)


def check(graph: Graph, nodes: Sequence[Node], gpus: Mapping[str, float], placement: Placement) -> None:
    """Check that a cluster's nodes can hold all modules.

    Raises
    ------
    BackendError
        Says what was asked and what there is; a request that cannot be met would wait for ever.
    """
    for spot in plan(bundles_of(graph, gpus, placement), nodes, placement.strategy):
        if spot.node is None:
            raise BackendError(spot.missing)


def _lacks(bundle: Bundle, node: Node, left: Mapping[str, float]) -> list[str]:
    """Say what a node is short of."""
    short = [
        f"{_amount(resource, left.get(resource, 0.0))}"
        for resource, amount in bundle.request.items()
        if left.get(resource, 0.0) < amount - 1e-9
    ]
    if bundle.laid_out and left.get("memory", 0.0) < 1.0 and "memory" not in bundle.request:
        short.append("no memory, which layouts take some bytes of")
    return short + [
        f"{key}={node.labels.get(key, 'nothing')}" for key in bundle.selector if not _labelled(bundle, node, key)
    ]


def _labelled(bundle: Bundle, node: Node, key: str) -> bool:
    """Whether a node's label is as asked: a value, ``!value``, ``in(a,b)`` or ``!in(a,b)``, as Ray has them."""
    wanted, there = bundle.selector[key], node.labels.get(key)
    refused, wanted = wanted.startswith("!"), wanted.removeprefix("!")
    inside = wanted.startswith("in(") and wanted.endswith(")")
    values = [value.strip() for value in wanted[3:-1].split(",")] if inside else [wanted]
    return (there in values) != refused


def _why(bundle: Bundle, nodes: Sequence[Node], left: Sequence[Mapping[str, float]], *, free: bool) -> str:
    """Say why no node can hold a bundle: none ever could, or none has so much left."""
    who = f"module {bundle.modules[0]!r} asks"
    if len(bundle.modules) > 1:
        who = f"modules {', '.join(bundle.modules)}, which are to share a node, ask"
    said = []
    for node, rest in zip(nodes, left, strict=True):
        never = _lacks(bundle, node, node.total)
        said.append(f"{node.name} has {', '.join(never or _lacks(bundle, node, rest))}{'' if never else ' left'}")
    what = "that free" if free else "that"
    return f"{who} for {bundle.wishes}, and no node has {what}: {'; '.join(said) or 'there are no nodes'}"


def _demand(bundle: Bundle) -> tuple[float, ...]:
    """Say how hard a bundle's request is to meet, compared with another one that as many nodes can."""
    plain = ("GPU", "CPU", "memory")
    special = len(bundle.selector) + sum(resource not in plain for resource in bundle.request)
    return (float(special), *(bundle.request.get(resource, 0.0) for resource in plain))


def _amount(resource: str, amount: float) -> str:
    if resource == "memory":
        if 0 < amount < 2**20:
            return f"{amount:g} bytes of memory"
        unit, size = ("MiB", 2**20) if 0 < amount < 2**30 else ("GiB", 2**30)
        return f"{amount / size:.1f} {unit} memory"
    kind, colon, name = resource.partition(":")
    if kind == "accelerator_type" and colon:
        return f"{'an' if amount else 'no'} accelerator of type {name}"
    return f"{amount:g} {resource}"
