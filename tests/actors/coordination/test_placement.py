"""Tests of placement: resource requests, assignment to nodes, and messages about missing resources."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from actors.backends.ray import backend as ray_backend
from actors.backends.ray.placement_groups import actor_options, bundle_requests
from actors.coordination.placement import (
    Bundle,
    Node,
    Placement,
    allocate_gpus,
    assign,
    assign_modules,
    build_bundles,
    check_placement,
    first_to_last,
    later_modules,
    nodes_for_more,
    worker_counts,
)
from actors.errors import BackendError
from actors.graph.schedule import Block, Step
from actors.graph.spec import ModuleSpec, Resources, Sharing
from runner.cluster.dry_run import DryRunReport, report_as_json
from tests.actors.coordination.test_coordinator import model

GIB = float(2**30)
NO_GPUS = dict.fromkeys(("data", "encoder", "mirror"), 0.0)


def model_with(**resources):
    graph = model()
    for name, required in resources.items():
        graph.modules[name] = ModuleSpec(name, graph.modules[name].type, {}, 1, required)
        graph.uses_gpu[name] = True
    return graph


def node(name="n", labels=None, **total):
    total = {"CPU": 2.0, "memory": 8 * GIB, **total}
    return Node(name, total, dict(total), labels or {})


def assignments(graph, nodes, strategy=None, together=(), **kwargs):
    placement = Placement(strategy, together)
    bundles = build_bundles(graph, allocate_gpus(graph, nodes, placement), placement)
    return {
        name: assignment.node.name if assignment.node else assignment.missing
        for assignment in assign(bundles, nodes, strategy, **kwargs)
        for name in assignment.bundle.modules
    }


class TestGpus:
    def test_modules_reserve_nothing_by_default(self):
        assert allocate_gpus(model(), [node()]) == NO_GPUS
        assert all(not bundle.request for bundle in build_bundles(model(), NO_GPUS, Placement()))

    def test_auto_is_one_gpu_if_the_cluster_has_one_and_none_otherwise(self):
        graph = model_with(encoder=Resources(num_gpus="auto"))
        assert allocate_gpus(graph, [node()])["encoder"] == 0.0
        assert allocate_gpus(graph, [node(GPU=2.0)])["encoder"] == 1.0

    def test_modules_with_auto_share_a_single_gpu(self):
        graph = model_with(encoder=Resources(num_gpus="auto"), mirror=Resources(num_gpus="auto"))
        gpus = allocate_gpus(graph, [node(GPU=1.0)])
        assert gpus["encoder"] == gpus["mirror"] == 0.5

    def test_the_shares_of_modules_with_auto_fit_on_whole_gpus(self):
        resources = {name: Resources(num_gpus="auto") for name in ("data", "encoder", "mirror")}
        assert set(allocate_gpus(model_with(**resources), [node(GPU=1.0), node(GPU=1.0)]).values()) == {0.5}

    def test_required_gpus_have_priority_over_auto(self):
        graph = model_with(encoder=Resources(num_gpus=1), mirror=Resources(num_gpus="auto"))
        gpus = allocate_gpus(graph, [node(GPU=1.0)])
        assert (gpus["encoder"], gpus["mirror"]) == (1.0, 0.0)

    def test_auto_does_not_prevent_a_placement_by_labels(self):
        graph = model_with(encoder=Resources(num_gpus="auto", label_selector={"zone": "north"}))
        nodes = [node("gpu", GPU=1.0), node("north", {"zone": "north"})]
        assert allocate_gpus(graph, nodes)["encoder"] == 0.0
        assert assignments(graph, nodes)["encoder"] == "north"

    def test_auto_does_not_prevent_modules_from_sharing_a_node(self):
        graph = model_with(encoder=Resources(num_gpus="auto"), mirror=Resources(custom={"robot": 1}))
        nodes = [node("gpu", GPU=1.0), node("robot", robot=1.0)]
        assert assignments(graph, nodes, together=(("encoder", "mirror"),))["encoder"] == "robot"
        assert assignments(graph, nodes)["encoder"] == "gpu"

    def test_modules_with_auto_that_share_a_node_share_its_gpu(self):
        graph = model_with(encoder=Resources(num_gpus="auto"), mirror=Resources(num_gpus="auto"))
        together = Placement(together=(("encoder", "mirror"),))
        assert allocate_gpus(graph, [node(GPU=1.0), node(GPU=1.0)], together)["mirror"] == 0.5
        assert allocate_gpus(graph, [node(GPU=1.0), node(GPU=1.0)])["mirror"] == 1.0


class TestNodes:
    def test_packed_modules_are_on_one_node_and_spread_ones_on_different_nodes(self):
        nodes = [node("a"), node("b"), node("c")]
        assert set(assignments(model(), nodes, "pack").values()) == {"a"}
        assert sorted(assignments(model(), nodes, "spread").values()) == ["a", "b", "c"]

    def test_modules_that_must_share_a_node_do(self):
        nodes = assignments(model(), [node("a"), node("b")], "spread", (("encoder", "mirror"),))
        assert nodes["encoder"] == nodes["mirror"] != nodes["data"]

    def test_the_requests_of_modules_that_share_a_node_are_added(self):
        graph = model_with(encoder=Resources(num_cpus=2), mirror=Resources(num_cpus=1))
        assert assignments(graph, [node("a"), node("b")]).keys() == NO_GPUS.keys()
        together = assignments(graph, [node("a"), node("b")], together=(("encoder", "mirror"),))
        message = "modules encoder, mirror, which are to share a node, ask for 3 CPU, and no node has that"
        assert together["mirror"].startswith(message)

    @pytest.mark.parametrize(
        ("resources", "name"),
        [
            (Resources(num_gpus=1), "gpu"),
            (Resources(num_gpus=0.5), "gpu"),
            (Resources(memory=32 * GIB), "large"),
            (Resources(accelerator_type="A100"), "gpu"),
            (Resources(label_selector={"zone": "north"}), "large"),
            (Resources(label_selector={"zone": "!north"}), "plain"),
            (Resources(label_selector={"zone": "in(north, east)"}), "large"),
            (Resources(label_selector={"zone": "!in(north)", "disk": "fast"}), "gpu"),
            (Resources(custom={"robot": 1}), "robot"),
            (Resources(num_cpus=3), "large"),
        ],
    )
    def test_each_request_is_assigned_to_a_suitable_node(self, resources, name):
        nodes = [
            node("plain"),
            node("gpu", {"disk": "fast"}, **{"GPU": 1.0, "accelerator_type:A100": 1.0}),
            node("large", {"zone": "north"}, CPU=8.0, memory=64 * GIB),
            node("robot", robot=2.0),
        ]
        assert assignments(model_with(encoder=resources), nodes, "spread")["encoder"] == name

    @pytest.mark.parametrize(
        ("resources", "message"),
        [
            (Resources(num_gpus=1), "asks for 1 GPU, and no node has that: n has 0 GPU"),
            (Resources(num_cpus=64), "asks for 64 CPU, and no node has that: n has 2 CPU"),
            (Resources(memory=5e8, num_gpus=1), "asks for 1 GPU and 476.8 MiB memory, and no node has that"),
            (Resources(memory=512, num_gpus=1), "asks for 1 GPU and 512 bytes of memory, and no node has that"),
            (Resources(memory=16 * GIB), "asks for 16.0 GiB memory, and no node has that: n has 8.0 GiB"),
            (
                Resources(accelerator_type="T4"),
                "asks for an accelerator of type T4, and .* n has no accelerator of type T4",
            ),
            (Resources(label_selector={"zone": "up"}), "asks for a node with zone=up, and .*: n has no label zone"),
            (Resources(num_cpus=1, custom={"arm": 2}), r"asks for 1 CPU and 2 arm, and .*: n has 0 arm$"),
        ],
    )
    def test_missing_resources_are_named(self, resources, message):
        graph = model_with(encoder=resources)
        with pytest.raises(BackendError, match=f"^module 'encoder' {message}"):
            check_placement(graph, [node()], allocate_gpus(graph, [node()]), Placement())

    def test_if_not_all_requests_fit_the_smaller_one_is_left_out(self):
        graph = model_with(encoder=Resources(num_cpus=2), mirror=Resources(num_cpus=1))
        results = assignments(graph, [node()])
        assert results["encoder"] == "n"
        assert results["mirror"] == "module 'mirror' asks for 1 CPU, and no node has that: n has 0 CPU left"

    def test_the_module_with_the_fewest_suitable_nodes_is_assigned_first(self):
        graph = model_with(encoder=Resources(num_cpus=2), mirror=Resources(num_cpus=1, memory=16 * GIB))
        nodes = assignments(graph, [node("large", memory=64 * GIB), node("small")])
        assert (nodes["encoder"], nodes["mirror"]) == ("small", "large")

    def test_placement_groups_are_only_on_nodes_with_memory(self):
        nodes = [node("head", memory=0.0), node("worker")]
        assert set(assignments(model(), nodes, "pack").values()) == {"worker"}
        assert set(assignments(model(), nodes).values()) == {"head"}
        messages = set(assignments(model(), nodes[:1], "pack").values())
        assert any("head has no free memory, of which a placement group needs a few bytes" in each for each in messages)

    def test_only_free_resources_count_if_requested(self):
        busy = Node("n", {"CPU": 2.0}, {"CPU": 0.5})
        graph = model_with(encoder=Resources(num_cpus=1))
        assert assignments(graph, [busy])["encoder"] == "n"
        assert assignments(graph, [busy], free=True)["encoder"].endswith("no node has that free: n has 0.5 CPU left")

    def test_modules_that_share_a_node_must_not_require_different_labels(self):
        graph = model_with(
            encoder=Resources(label_selector={"zone": "a"}), mirror=Resources(label_selector={"zone": "b"})
        )
        with pytest.raises(BackendError, match="encoder, mirror must share a node, but require both zone=a and zone=b"):
            build_bundles(graph, NO_GPUS, Placement(together=(("encoder", "mirror"),)))

    def test_the_message_about_a_waiting_process_names_labels_and_modules(self, monkeypatch):
        graph = model_with(encoder=Resources(label_selector={"zone": "north"}), mirror=Resources(num_cpus=1))
        bundles = build_bundles(graph, NO_GPUS, Placement(together=(("encoder", "mirror"),)))
        monkeypatch.setattr(ray_backend, "nodes", lambda: [node()])
        backend = ray_backend.RayBackend("test")
        backend._bundles = {name: bundle for bundle in bundles for name in bundle.modules}
        assert backend._missing_resources("mirror") == (
            "modules encoder, mirror, which are to share a node, ask for 1 CPU and a node with zone=north, "
            "and no node has that free: n has no label zone"
        )

    def test_label_lists_are_passed_to_ray_without_spaces(self):
        resources = Resources(label_selector={"zone": "in(lab, hall)"})
        assert actor_options(resources, 0.0)["label_selector"] == {"zone": "in(lab,hall)"}

    def test_a_worker_may_be_elsewhere_if_the_node_of_its_rows_is_gone_but_never_without_its_labels(self):
        options = actor_options(Resources(label_selector={"zone": "lab"}), 0.0, "0123")
        assert options["label_selector"] == {"ray.io/node-id": "0123", "zone": "lab"}
        assert options["fallback_strategy"] == [{"label_selector": {"zone": "lab"}}]

    def test_bundles_with_the_fewest_suitable_nodes_request_the_most_extra_bytes(self):
        graph = model_with(encoder=Resources(num_cpus=3), mirror=Resources(label_selector={"zone": "north"}))
        nodes = [node("a"), node("b", CPU=4.0), node("c", {"zone": "north"}), node("d", CPU=4.0)]
        data, encoder, mirror = bundle_requests(build_bundles(graph, NO_GPUS, Placement()), nodes)
        assert (data, encoder, mirror) == ({"memory": 1.0}, {"CPU": 3.0, "memory": 2.0}, {"memory": 3.0})


class TestWorkers:
    def shared(self, workers, **resources):
        graph = model_with(encoder=Resources(**resources))
        spec = graph.modules["encoder"]
        graph.modules["encoder"] = replace(spec, sharing=Sharing(workers))
        return graph

    def placed(self, graph, nodes):
        workers = worker_counts(graph, nodes)
        bundles = build_bundles(graph, allocate_gpus(graph, nodes), Placement(), workers)
        return {each.bundle.modules[0]: each.node and each.node.name for each in assign(bundles, nodes)}

    def test_each_worker_reserves_what_its_module_asks_for(self):
        graph = self.shared(3, num_cpus=1.0)
        nodes = [node("a"), node("b")]
        found = self.placed(graph, nodes)
        assert [found[name] for name in ("encoder", "encoder#1", "encoder#2")] == ["a", "a", "b"]
        check_placement(graph, nodes, allocate_gpus(graph, nodes), Placement())

    def test_a_worker_that_fits_nowhere_is_named(self):
        graph = self.shared(5, num_cpus=1.0)
        with pytest.raises(BackendError, match="module 'encoder#4' asks for 1 CPU"):
            check_placement(graph, [node("a"), node("b")], NO_GPUS, Placement())

    def test_auto_is_one_worker_for_each_core(self):
        assert worker_counts(self.shared("auto"), [node("a"), node("b", CPU=6.0)]) == {"encoder": 8}
        assert worker_counts(self.shared("auto"), [node("a", CPU=0.0)]) == {"encoder": 1}

    @pytest.mark.parametrize(
        ("workers", "gpus", "share"), [(2, (1.0,), 0.5), (2, (1.0, 1.0), 1.0), (3, (1.0, 1.0), 0.5)]
    )
    def test_workers_with_auto_share_the_gpus(self, workers, gpus, share):
        graph = self.shared(workers, num_gpus="auto")
        nodes = [node(str(n), GPU=count) for n, count in enumerate(gpus)]
        assert allocate_gpus(graph, nodes)["encoder"] == share
        check_placement(graph, nodes, allocate_gpus(graph, nodes), Placement())


class TestWorkersOfConnectedGroups:
    def groups(self, encoder=4, mirror=4, **resources):
        graph = model_with(encoder=Resources(**resources), mirror=Resources(**resources))
        for name, workers in (("encoder", encoder), ("mirror", mirror)):
            graph.modules[name] = replace(graph.modules[name], sharing=Sharing(workers))
        return graph

    def placed(self, graph, nodes, strategy=None, together=(), **options):
        placement = Placement(strategy, together)
        gpus = allocate_gpus(graph, nodes, placement)
        found = assign_modules(graph, gpus, placement, nodes, **options)
        return {name: each.node and each.node.name for each in found for name in each.bundle.modules}

    def of(self, module, placed):
        return [node for name, node in placed.items() if name.partition("#")[0] == module]

    def test_workers_of_the_same_rows_share_a_node_and_nodes_have_neighbouring_rows(self):
        placed = self.placed(self.groups(), [node("a"), node("b")])
        assert self.of("encoder", placed) == self.of("mirror", placed) == ["a", "a", "b", "b"]

    @pytest.mark.parametrize(("workers", "expected"), [(1, "a"), (2, "ab"), (3, "abc"), (5, "aabbc"), (7, "aaabbcc")])
    def test_workers_are_spread_evenly_over_the_nodes(self, workers, expected):
        placed = self.placed(self.groups(workers, workers), [node("a"), node("b"), node("c")])
        assert "".join(self.of("encoder", placed)) == "".join(self.of("mirror", placed)) == expected

    def test_nodes_have_workers_in_proportion_to_their_cores(self):
        nodes = [node("head", CPU=0.0), node("small", CPU=1.0), node("large", CPU=3.0)]
        assert self.of("mirror", self.placed(self.groups("auto", "auto"), nodes)) == [
            "small",
            "large",
            "large",
            "large",
        ]
        without = [node("a", CPU=0.0), node("b", CPU=0.0)]
        assert self.of("mirror", self.placed(self.groups(2, 2), without)) == ["a", "b"]

    def test_groups_of_different_sizes_share_nodes_where_their_rows_overlap_most(self):
        placed = self.placed(self.groups(4, 2), [node("a"), node("b")])
        assert (self.of("encoder", placed), self.of("mirror", placed)) == (["a", "a", "b", "b"], ["a", "b"])

    def test_groups_that_exchange_no_message_are_placed_independently(self):
        graph = self.groups(2, 2)
        graph.connections = tuple(
            each for each in graph.connections if {each.lower, each.upper} != {"encoder", "mirror"}
        )
        joined = assign_modules(graph, NO_GPUS, Placement("pack"), [node("a"), node("b")])
        assert all(len(each.bundle.modules) == 1 for each in joined)

    @pytest.mark.parametrize("strategy", [None, "pack", "spread"])
    def test_reserved_cores_of_the_same_rows_are_looked_for_on_one_node(self, strategy):
        nodes = [node("a", CPU=3.0), node("b", CPU=3.0), node("c", CPU=3.0)]
        placed = self.placed(self.groups(3, 3, num_cpus=1.0), nodes, strategy)
        assert self.of("encoder", placed) == self.of("mirror", placed)

    def test_workers_that_do_not_fit_on_one_node_together_are_placed_apart(self):
        nodes = [node(name, CPU=1.0) for name in "abcd"]
        placed = self.placed(self.groups(2, 2, num_cpus=1.0), nodes)
        assert sorted(placed[name] for name in ("encoder", "encoder#1", "mirror", "mirror#1")) == list("abcd")

    def test_labels_and_resources_have_priority_over_common_nodes(self):
        graph = self.groups(2, 2)
        for name, zone in (("encoder", "north"), ("mirror", "south")):
            resources = Resources(label_selector={"zone": zone})
            graph.modules[name] = replace(graph.modules[name], resources=resources)
        nodes = [node("n1", {"zone": "north"}), node("s", {"zone": "south"}), node("n2", {"zone": "north"})]
        placed = self.placed(graph, nodes)
        assert (self.of("encoder", placed), self.of("mirror", placed)) == (["n1", "n2"], ["s", "s"])
        graph.modules["mirror"] = replace(graph.modules["mirror"], resources=Resources(custom={"robot": 1.0}))
        placed = self.placed(graph, [*nodes, node("robot", robot=2.0)])
        assert (self.of("encoder", placed), self.of("mirror", placed)) == (["n1", "n2"], ["robot", "robot"])

    def test_spread_uses_all_nodes_even_if_workers_of_the_same_rows_are_parted(self):
        placed = self.placed(self.groups(2, 2), [node(name) for name in "abcde"], "spread")
        assert len({placed[name] for name in ("encoder", "encoder#1", "mirror", "mirror#1")}) == 4
        few = self.placed(self.groups(4, 4), [node("a"), node("b")], "spread")
        assert self.of("encoder", few) == self.of("mirror", few)

    def test_pack_uses_one_node(self):
        placed = self.placed(self.groups(), [node("a"), node("b")], "pack")
        assert set(placed.values()) == {"a"}

    def test_in_a_placement_group_workers_of_the_same_rows_are_one_bundle(self):
        graph, nodes = self.groups(2, 2, num_cpus=1.0), [node("a"), node("b")]
        found = assign_modules(graph, NO_GPUS, Placement("spread"), nodes)
        bundles = {each.bundle.modules: each.bundle.request for each in found}
        assert bundles == {("data",): {}, ("encoder", "mirror"): {"CPU": 2.0}, ("encoder#1", "mirror#1"): {"CPU": 2.0}}

    def test_modules_that_are_to_share_a_node_still_do(self):
        placed = self.placed(self.groups(2, 2), [node("a"), node("b")], together=(("data", "mirror"),))
        assert placed["data"] == placed["mirror"] == placed["encoder"]
        assert placed["mirror#1"] == placed["encoder#1"]

    def test_a_worker_that_fits_nowhere_is_still_named(self):
        found = assign_modules(self.groups(3, 3, num_cpus=1.0), NO_GPUS, Placement(), [node("a"), node("b")])
        missing = [each.missing for each in found if each.missing]
        assert len(missing) == 2
        assert all("asks for 1 CPU, and no node has that" in each for each in missing)

    def test_the_dry_run_shows_where_workers_go(self):
        graph = self.groups(2, 2)
        report = DryRunReport(assign_modules(graph, NO_GPUS, Placement(), [node("a"), node("b")]), 2, 1)
        shown = {name: entry["node"] for name, entry in json.loads(report_as_json(report)).items() if "node" in entry}
        assert shown == {"data": "a", "encoder": "a", "mirror": "a", "encoder#1": "b", "mirror#1": "b"}


class TestMoreWorkers:
    def more(self, count, nodes, held, **request):
        return [each.name for each in nodes_for_more(Bundle(("encoder",), request), count, nodes, held)]

    def test_they_go_where_cores_have_no_worker(self):
        nodes = [replace(node("a"), id="1"), replace(node("b", CPU=3.0), id="2")]
        assert self.more(3, nodes, {"1": 2}) == ["b", "b", "b"]
        assert self.more(2, nodes, {"1": 1, "2": 2}) == ["a", "b"]

    def test_there_are_no_more_than_have_room(self):
        nodes = [replace(node("a"), id="1", free={"CPU": 0.0}), replace(node("b"), id="2", free={"CPU": 1.0})]
        assert self.more(3, nodes, {"1": 2}, CPU=1.0) == ["b"]


@pytest.mark.parametrize(
    ("steps", "order", "later"),
    [
        (("encoder", "mirror"), ["encoder", "data", "mirror"], ("mirror",)),
        ((Block((Step("encoder"), Step("mirror")), repeat=2),), ["encoder", "mirror", "data"], ()),
        (("mirror", "encoder"), ["mirror", "data", "encoder"], ("encoder",)),
    ],
)
def test_processes_are_started_in_the_order_in_which_a_run_waits_for_them(steps, order, later):
    graph = model(steps=steps)
    assert first_to_last(graph) == order
    assert later_modules(graph) == later
