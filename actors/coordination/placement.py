"""Placement of a model's modules on the nodes of a cluster: resource requests, suitable nodes, and shortages.

Computed from the reported resources of the nodes alone. :mod:`actors.backends.ray.backend` passes the requests to Ray,
and ``serket run --dry-run`` prints the result.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

from actors.errors import BackendError
from actors.graph.graph import Graph
from actors.graph.schedule import leaves
from actors.graph.spec import Resources

Strategy = Literal["pack", "spread"]


@dataclass(frozen=True)
class Placement:
    """Constraints on the placement of modules on nodes.

    Parameters
    ----------
    strategy : {"pack", "spread"}, optional
        Use as few nodes as possible, or as many; by default Ray chooses.
    together : tuple of tuple of str
        Groups of modules that share a node.
    """

    strategy: Strategy | None = None
    together: tuple[tuple[str, ...], ...] = ()

    @property
    def is_constrained(self) -> bool:
        """Whether there is any constraint."""
        return self.strategy is not None or bool(self.together)


@dataclass(frozen=True)
class Node:
    """A node of the cluster: its display name, its total and free resources, its labels, and Ray's id of it."""

    name: str
    total: Mapping[str, float]
    free: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


def node_name(address: str, node_id: str) -> str:
    """Return a node's display name: its address, and a prefix of its id that distinguishes nodes of one machine."""
    return f"{address} ({node_id[:6]})"


@dataclass(frozen=True)
class Bundle:
    """The resources and labels that modules on the same node require of it.

    Parameters
    ----------
    modules : tuple of str
    request : mapping of str to float
        Amounts by Ray's names of resources.
    selector : mapping of str to str
        Conditions on the node's labels.
    in_placement_group : bool
        Whether a placement group reserves the request, which needs a few bytes of memory.
    position : float, optional
        Of workers that share rows: where their rows begin, as a share of all rows. Such bundles are spread over the
        nodes in the order of their rows.
    """

    modules: tuple[str, ...]
    request: Mapping[str, float]
    selector: Mapping[str, str] = field(default_factory=dict)
    in_placement_group: bool = False
    position: float | None = None

    def describe(self) -> str:
        """Return the request as text."""
        resources = [_format_resource(resource, amount) for resource, amount in self.request.items()]
        labels = [f"{key}={value}" for key, value in self.selector.items()]
        return " and ".join(resources + ([f"a node with {', '.join(labels)}"] if labels else [])) or "no resources"


@dataclass(frozen=True)
class Assignment:
    """The node of a bundle, or a sentence that says why no node can hold it."""

    bundle: Bundle
    node: Node | None
    missing: str = ""


def resource_request(resources: Resources, gpus: float) -> dict[str, float]:
    """Return the amounts that a module reserves, by Ray's names of resources; zero amounts are left out."""
    request = {"CPU": resources.num_cpus, "GPU": gpus, "memory": resources.memory, **resources.custom}
    if resources.accelerator_type:
        request[f"accelerator_type:{resources.accelerator_type}"] = 0.001
    return {name: amount for name, amount in request.items() if amount}


def allocate_gpus(graph: Graph, nodes: Sequence[Node], placement: Placement | None = None) -> dict[str, float]:
    """Return the number of GPUs of each module; modules with ``num_gpus: auto`` share those that no module requires.

    ``auto`` never prevents a placement: a module gets no GPU if no node with a GPU meets its other requirements
    (labels, modules that share its node), or if the shares do not fit on the nodes.

    Parameters
    ----------
    graph : Graph
    nodes : sequence of Node
    placement : Placement, optional
    """
    placement = placement or Placement()
    requested = {name: spec.resources.num_gpus for name, spec in graph.modules.items()}
    required = {name: 0.0 if gpus == "auto" else float(gpus) for name, gpus in requested.items()}
    placeable = {
        name
        for bundle in build_bundles(graph, required, placement)
        if any(
            node.total.get("GPU", 0.0) > bundle.request.get("GPU", 0.0) and not _shortages(bundle, node, node.total)
            for node in nodes
        )
        for name in bundle.modules
    }
    automatic = [name for name in requested if requested[name] == "auto" and graph.uses_gpu[name] and name in placeable]
    workers = worker_counts(graph, nodes)
    given = sum(gpus * workers.get(name, 1) for name, gpus in required.items())
    free = int(sum(node.total.get("GPU", 0.0) for node in nodes) - given)
    processes = sum(workers.get(name, 1) for name in automatic)
    # Equal shares, as large as possible: a GPU is shared by the fewest processes with which all of them fit.
    for sharers in range(math.ceil(processes / free), processes + 1) if automatic and free > 0 else ():
        gpus = required | dict.fromkeys(automatic, 1.0 / sharers)
        assignments = assign(build_bundles(graph, gpus, placement, workers), nodes, placement.strategy)
        if all(
            assignment.node
            for assignment in assignments
            if not set(automatic).isdisjoint(name.partition("#")[0] for name in assignment.bundle.modules)
        ):
            return gpus
    return required


def worker_name(module: str, rank: int) -> str:
    """Return the name of a worker; the first one has that of its module."""
    return f"{module}#{rank}" if rank else module


def worker_counts(graph: Graph, nodes: Sequence[Node]) -> dict[str, int]:
    """Return the number of workers of each module whose rows workers share; ``auto`` is one for each core there is."""
    cores = max(1, int(sum(node.total.get("CPU", 0.0) for node in nodes)))
    shared = {name: spec.sharing.workers for name, spec in graph.modules.items() if spec.sharing is not None}
    return {name: cores if count == "auto" else count for name, count in shared.items()}


def build_bundles(
    graph: Graph, gpus: Mapping[str, float], placement: Placement, workers: Mapping[str, int] | None = None
) -> list[Bundle]:
    """Return the bundles of a graph's modules; modules that share a node are in one bundle.

    Each further one of a module's `workers` (:func:`worker_counts`) is a bundle of its own, after those of the modules.

    Raises
    ------
    BackendError
        If modules that share a node require different values of a label.
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
            for resource, amount in resource_request(resources, gpus[name]).items():
                request[resource] = request.get(resource, 0.0) + amount
            for key, value in resources.label_selector.items():
                if selector.setdefault(key, value) != value:
                    raise BackendError(
                        f"modules {', '.join(group)} must share a node, "
                        f"but require both {key}={selector[key]} and {key}={value}"
                    )
        bundles.append(Bundle(group, request, selector, placement.is_constrained))
    for name, count in (workers or {}).items():
        resources = graph.modules[name].resources
        own = resource_request(resources, gpus[name])
        bundles += [
            Bundle((worker_name(name, rank),), own, resources.label_selector, placement.is_constrained)
            for rank in range(1, count)
        ]
    return bundles


def assign_modules(
    graph: Graph, gpus: Mapping[str, float], placement: Placement, nodes: Sequence[Node], *, free: bool = False
) -> list[Assignment]:
    """Assign all modules and workers of a graph to nodes, so that workers that hold the same rows share a node.

    Messages then go from worker to worker on one node. Workers are spread over the nodes in the order of their rows, by
    the number of the nodes' cores. Where no node can hold the workers of the same rows together, each has a bundle of
    its own, as it has with ``spread`` where there are more nodes than stretches of rows.

    Parameters
    ----------
    graph : Graph
    gpus : mapping of str to float
        Of each module (:func:`allocate_gpus`).
    placement : Placement
    nodes : sequence of Node
        The first ones get the first rows.
    free : bool
        Whether to count the free resources of the nodes instead of their total resources.
    """
    workers = worker_counts(graph, nodes)
    separate = build_bundles(graph, gpus, placement, workers)
    stretches = _stretches_of_workers(graph, workers)
    if placement.strategy == "spread":
        stretches = {name: of for name, of in stretches.items() if of.number >= len(nodes)}
    joinable = {of.groups for of in stretches.values()}
    while True:
        assignments = assign(_join_bundles(separate, stretches, joinable), nodes, placement.strategy, free=free)
        failed = {
            stretches[name].groups
            for each in assignments
            if not each.node
            for name in each.bundle.modules
            if name in stretches
        }
        if not failed & joinable:
            break
        joinable -= failed
    return assignments if placement.is_constrained else _split_assignments(assignments, separate)


@dataclass(frozen=True)
class _Stretch:
    """The rows of one worker of the largest group among `groups`, which are connected: their index and their number."""

    groups: tuple[str, ...]
    index: int
    number: int


def _stretches_of_workers(graph: Graph, workers: Mapping[str, int]) -> dict[str, _Stretch]:
    """Return the stretch of rows of each worker, by name."""
    connected = {name: {name} for name in workers}
    for connection in graph.connections:
        if connection.lower in connected and connection.upper in connected:
            union = connected[connection.lower] | connected[connection.upper]
            connected.update(dict.fromkeys(union, union))
    stretches = {}
    for name, count in workers.items():
        number = max(workers[other] for other in connected[name])
        for rank in range(count):
            of = _Stretch(tuple(sorted(connected[name])), rank * number // count, number)
            stretches[worker_name(name, rank)] = of
    return stretches


def _join_bundles(
    bundles: Sequence[Bundle], stretches: Mapping[str, _Stretch], joinable: Collection[tuple[str, ...]]
) -> list[Bundle]:
    """Return the bundles with positions of their rows; those of the same rows of `joinable` groups are joined."""
    joined: dict[Any, Bundle] = {}
    for number, bundle in enumerate(bundles):
        of = next((stretches[name] for name in bundle.modules if name in stretches), None)
        if of is None:
            joined[number] = bundle
            continue
        own = replace(bundle, position=of.index / of.number)
        other = joined.get(of) if of.groups in joinable else None
        selector = {**other.selector, **own.selector} if other else own.selector
        if other is None or any(selector[key] != value for key, value in other.selector.items()):
            joined[of if of.groups in joinable and other is None else number] = own
            continue
        request = {
            resource: other.request.get(resource, 0.0) + own.request.get(resource, 0.0)
            for resource in {**other.request, **own.request}
        }
        joined[of] = replace(other, modules=other.modules + own.modules, request=request, selector=selector)
    return list(joined.values())


def _split_assignments(assignments: Sequence[Assignment], bundles: Sequence[Bundle]) -> list[Assignment]:
    """Return the assignments of the bundles of which those of `assignments` may have been joined."""
    by_name = {name: each for each in assignments for name in each.bundle.modules}
    found = [(bundle, by_name[bundle.modules[0]]) for bundle in bundles]
    return [replace(each, bundle=replace(bundle, position=each.bundle.position)) for bundle, each in found]


def assign(
    bundles: Sequence[Bundle], nodes: Sequence[Node], strategy: Strategy | None = None, *, free: bool = False
) -> list[Assignment]:
    """Assign bundles to nodes, those that the fewest nodes can hold first; Ray may choose other suitable nodes.

    Parameters
    ----------
    bundles : sequence of Bundle
    nodes : sequence of Node
    strategy : {"pack", "spread"}, optional
    free : bool
        Whether to count the free resources of the nodes instead of their total resources.

    Returns
    -------
    list of Assignment
        In the order of `bundles`.
    """
    left = [dict(node.free if free else node.total) for node in nodes]
    used = [0] * len(nodes)
    assignments: dict[int, Assignment] = {}
    for index in most_constrained_first(bundles, nodes, left):
        bundle = bundles[index]
        suitable = [n for n, node in enumerate(nodes) if not _shortages(bundle, node, left[n])]
        if not suitable:
            assignments[index] = Assignment(bundle, None, _shortage_message(bundle, nodes, left, free=free))
            continue
        if bundle.position is not None and strategy != "pack":
            wanted = _node_at(bundle, nodes)
            chosen = min(suitable, key=lambda n: (abs(n - wanted), n))
        else:  # "pack" prefers the node with the most bundles so far, "spread" the one with the fewest.
            chosen = max(suitable, key=lambda n: (used[n] if strategy != "spread" else -used[n], -n))
        for resource, amount in bundle.request.items():
            left[chosen][resource] -= amount
        used[chosen] += 1
        assignments[index] = Assignment(bundle, nodes[chosen])
    return [assignments[index] for index in range(len(bundles))]


def nodes_for_more(bundle: Bundle, count: int, nodes: Sequence[Node], held: Mapping[str, int]) -> list[Node]:
    """Return the nodes of up to `count` more workers of a module, of which nodes hold some by their ids.

    Each goes to the node with the most cores that none of the module's workers has, in the order of `nodes`.
    """
    left = {node.id: dict(node.free) for node in nodes}
    workers = {node.id: held.get(node.id, 0) for node in nodes}
    chosen: list[Node] = []
    while len(chosen) < count:
        suitable = [node for node in nodes if not _shortages(bundle, node, left[node.id])]
        if not suitable:
            break
        chosen.append(max(suitable, key=lambda node: node.total.get("CPU", 0.0) - workers[node.id]))
        workers[chosen[-1].id] += 1
        for resource, amount in bundle.request.items():
            left[chosen[-1].id][resource] -= amount
    return sorted(chosen, key=list(nodes).index)


def most_constrained_first(
    bundles: Sequence[Bundle], nodes: Sequence[Node], left: Sequence[Mapping[str, float]] | None = None
) -> list[int]:
    """Return the indices of the bundles, ordered by the number of nodes that can hold each, the fewest first.

    `left` holds the resources that are left on each node, by default all of them.
    """
    available = left or [node.total for node in nodes]
    suitable_counts = [
        sum(not _shortages(bundle, node, resources) for node, resources in zip(nodes, available, strict=True))
        for bundle in bundles
    ]
    return sorted(
        range(len(bundles)),
        key=lambda index: (-suitable_counts[index], _request_size(bundles[index])),
        reverse=True,
    )


def _node_at(bundle: Bundle, nodes: Sequence[Node]) -> int:
    """Return the index of the node at the position of a bundle's rows, among the nodes that could hold it.

    Nodes have rows in proportion to their cores; equal parts if they have none.
    """
    able = [n for n, node in enumerate(nodes) if not _shortages(bundle, node, node.total)]
    cores = [nodes[n].total.get("CPU", 0.0) for n in able]
    ends = list(accumulate(cores if sum(cores) else [1.0] * len(able)))
    assert bundle.position is not None
    return able[bisect_right(ends, bundle.position * ends[-1] + 1e-9)]


def check_placement(graph: Graph, nodes: Sequence[Node], gpus: Mapping[str, float], placement: Placement) -> None:
    """Check that a cluster's nodes can hold all modules.

    Raises
    ------
    BackendError
        If a bundle does not fit on any node, where Ray would wait forever; names the request and the nodes' resources.
    """
    bundles = build_bundles(graph, gpus, placement, worker_counts(graph, nodes))
    for assignment in assign(bundles, nodes, placement.strategy):
        if assignment.node is None:
            raise BackendError(assignment.missing)


def _shortages(bundle: Bundle, node: Node, left: Mapping[str, float]) -> list[str]:
    """Return what a node has of each resource and label that does not suffice for a bundle; empty if it can hold it."""
    shortages = [
        _format_resource(resource, left.get(resource, 0.0))
        for resource, amount in bundle.request.items()
        if left.get(resource, 0.0) < amount - 1e-9
    ]
    if bundle.in_placement_group and left.get("memory", 0.0) < 1.0 and "memory" not in bundle.request:
        shortages.append("no free memory, of which a placement group needs a few bytes")
    unmet = [key for key in bundle.selector if not _meets_label_condition(bundle, node, key)]
    return shortages + [f"{key}={node.labels[key]}" if key in node.labels else f"no label {key}" for key in unmet]


def _meets_label_condition(bundle: Bundle, node: Node, key: str) -> bool:
    """Return whether a node meets a label condition of Ray: ``value``, ``!value``, ``in(a,b)`` or ``!in(a,b)``."""
    condition, label = bundle.selector[key], node.labels.get(key)
    negated, condition = condition.startswith("!"), condition.removeprefix("!")
    is_list = condition.startswith("in(") and condition.endswith(")")
    values = [value.strip() for value in condition[3:-1].split(",")] if is_list else [condition]
    return (label in values) != negated


def _shortage_message(bundle: Bundle, nodes: Sequence[Node], left: Sequence[Mapping[str, float]], *, free: bool) -> str:
    """Return the sentence that says why no node can hold a bundle: its total resources, or what is left of them."""
    subject = f"module {bundle.modules[0]!r} asks"
    if len(bundle.modules) > 1:
        subject = f"modules {', '.join(bundle.modules)}, which are to share a node, ask"
    reasons = []
    for node, resources in zip(nodes, left, strict=True):
        never = _shortages(bundle, node, node.total)
        shortages = never or _shortages(bundle, node, resources)
        reasons.append(f"{node.name} has {', '.join(shortages)}{'' if never else ' left'}")
    what = "that free" if free else "that"
    return f"{subject} for {bundle.describe()}, and no node has {what}: {'; '.join(reasons) or 'there are no nodes'}"


def _request_size(bundle: Bundle) -> tuple[float, ...]:
    """Return a sort key: of bundles that equally many nodes can hold, the larger or more special request is first."""
    common = ("GPU", "CPU", "memory")
    special = len(bundle.selector) + sum(resource not in common for resource in bundle.request)
    return (float(special), *(bundle.request.get(resource, 0.0) for resource in common))


def _format_resource(resource: str, amount: float) -> str:
    """Return an amount of a resource as text."""
    if resource == "memory":
        if 0 < amount < 2**20:
            return f"{amount:g} bytes of memory"
        unit, size = ("MiB", 2**20) if 0 < amount < 2**30 else ("GiB", 2**30)
        return f"{amount / size:.1f} {unit} memory"
    kind, colon, name = resource.partition(":")
    if kind == "accelerator_type" and colon:
        return f"{'an' if amount else 'no'} accelerator of type {name}"
    return f"{amount:g} {resource}"


def first_to_last(graph: Graph) -> list[str]:
    """Return the modules in the order in which a run waits for them: the first steps', the sources, then the others.

    The first to be created gets the first process. A source is ready at once, a module that learns may not be.
    """
    sources = [name for name in graph.sources if name in graph.modules]
    return list(dict.fromkeys([*_first_learners(graph), *sources, *graph.modules]))


def later_modules(graph: Graph) -> tuple[str, ...]:
    """Return the modules that are not needed before the first steps of a schedule have begun."""
    first = _first_learners(graph)
    return tuple(name for name in graph.modules if first and name not in (*first, *graph.sources))


def _first_learners(graph: Graph) -> list[str]:
    """Return the modules of the schedule's first steps, which learn at the same time."""
    batches = graph.batches(graph.schedule.steps)
    first = [step.module for step in leaves(item for _, item in batches[0])] if batches else []
    return [name for name in first if name in graph.modules]  # a graph may be a part of the schedule's
