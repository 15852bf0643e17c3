"""Where modules can go: what they ask for, what nodes have, and what is said to be missing."""

from __future__ import annotations

import pytest
from actors.graph.spec import ModuleSpec, Resources

from actors.backends.ray import backend as ray_transport
from actors.backends.ray.placement_groups import options_of, requests_of
from actors.coordination.placement import Node, Placement, allot, bundles_of, check, plan
from actors.errors import BackendError
from tests.actors.coordination.test_coordinator import model

GIB = float(2**30)
NOBODY = dict.fromkeys(("data", "encoder", "mirror"), 0.0)


def asking(**resources):
    graph = model()
    for name, wish in resources.items():
        graph.modules[name] = ModuleSpec(name, graph.modules[name].type, {}, 1, wish)
        graph.uses_gpu[name] = True
    return graph


def node(name="n", labels=None, **total):
    total = {"CPU": 2.0, "memory": 8 * GIB, **total}
    return Node(name, total, dict(total), labels or {})


def spots(graph, nodes, strategy=None, together=(), **kwargs):
    placement = Placement(strategy, together)
    bundles = bundles_of(graph, allot(graph, nodes, placement), placement)
    found = plan(bundles, nodes, strategy, **kwargs)
    return {name: spot.node.name if spot.node else spot.missing for spot in found for name in spot.bundle.modules}


class TestGpus:
    def test_modules_reserve_nothing_so_that_they_start_on_any_machine(self):
        assert allot(model(), [node()]) == NOBODY
        assert all(not bundle.request for bundle in bundles_of(model(), NOBODY, Placement()))

    def test_auto_is_a_gpu_where_there_is_one_and_none_elsewhere(self):
        graph = asking(encoder=Resources(num_gpus="auto"))
        assert allot(graph, [node()])["encoder"] == 0.0
        assert allot(graph, [node(GPU=2.0)])["encoder"] == 1.0

    def test_modules_that_would_like_a_gpu_share_the_only_one(self):
        graph = asking(encoder=Resources(num_gpus="auto"), mirror=Resources(num_gpus="auto"))
        gpus = allot(graph, [node(GPU=1.0)])
        assert gpus["encoder"] == gpus["mirror"] == 0.5

    def test_hopeful_modules_are_packed_so_that_whole_gpus_hold_them(self):
        wishes = {name: Resources(num_gpus="auto") for name in ("data", "encoder", "mirror")}
        assert set(allot(asking(**wishes), [node(GPU=1.0), node(GPU=1.0)]).values()) == {0.5}

    def test_what_was_demanded_comes_before_what_was_hoped_for(self):
        graph = asking(encoder=Resources(num_gpus=1), mirror=Resources(num_gpus="auto"))
        gpus = allot(graph, [node(GPU=1.0)])
        assert (gpus["encoder"], gpus["mirror"]) == (1.0, 0.0)

    def test_a_hope_keeps_no_module_from_the_node_whose_labels_it_wants(self):
        graph = asking(encoder=Resources(num_gpus="auto", label_selector={"zone": "north"}))
        nodes = [node("gpu", GPU=1.0), node("north", {"zone": "north"})]
        assert allot(graph, nodes)["encoder"] == 0.0
        assert spots(graph, nodes)["encoder"] == "north"

    def test_a_hope_keeps_no_module_from_those_that_it_shares_a_node_with(self):
        graph = asking(encoder=Resources(num_gpus="auto"), mirror=Resources(custom={"robot": 1}))
        nodes = [node("gpu", GPU=1.0), node("robot", robot=1.0)]
        assert spots(graph, nodes, together=(("encoder", "mirror"),))["encoder"] == "robot"
        assert spots(graph, nodes)["encoder"] == "gpu"

    def test_hopeful_modules_that_share_a_node_share_its_gpu(self):
        graph = asking(encoder=Resources(num_gpus="auto"), mirror=Resources(num_gpus="auto"))
        together = Placement(together=(("encoder", "mirror"),))
        assert allot(graph, [node(GPU=1.0), node(GPU=1.0)], together)["mirror"] == 0.5
        assert allot(graph, [node(GPU=1.0), node(GPU=1.0)])["mirror"] == 1.0


class TestNodes:
    def test_packed_modules_go_to_one_node_and_spread_ones_to_different_ones(self):
        nodes = [node("a"), node("b"), node("c")]
        assert set(spots(model(), nodes, "pack").values()) == {"a"}
        assert sorted(spots(model(), nodes, "spread").values()) == ["a", "b", "c"]

    def test_modules_that_are_to_share_a_node_do(self):
        found = spots(model(), [node("a"), node("b")], "spread", (("encoder", "mirror"),))
        assert found["encoder"] == found["mirror"] != found["data"]

    def test_what_modules_that_share_a_node_ask_for_adds_up(self):
        graph = asking(encoder=Resources(num_cpus=2), mirror=Resources(num_cpus=1))
        assert spots(graph, [node("a"), node("b")]).keys() == NOBODY.keys()
        together = spots(graph, [node("a"), node("b")], together=(("encoder", "mirror"),))
        said = "modules encoder, mirror, which are to share a node, ask for 3 CPU, and no node has that"
        assert together["mirror"].startswith(said)

    @pytest.mark.parametrize(
        ("wish", "where"),
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
    def test_each_request_finds_the_node_that_has_it(self, wish, where):
        nodes = [
            node("plain"),
            node("gpu", {"disk": "fast"}, **{"GPU": 1.0, "accelerator_type:A100": 1.0}),
            node("large", {"zone": "north"}, CPU=8.0, memory=64 * GIB),
            node("robot", robot=2.0),
        ]
        assert spots(asking(encoder=wish), nodes, "spread")["encoder"] == where

    @pytest.mark.parametrize(
        ("wish", "said"),
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
            (Resources(label_selector={"zone": "up"}), "asks for a node with zone=up, and .*: n has zone=nothing"),
            (Resources(num_cpus=1, custom={"arm": 2}), r"asks for 1 CPU and 2 arm, and .*: n has 0 arm$"),
        ],
    )
    def test_what_is_missing_is_said(self, wish, said):
        with pytest.raises(BackendError, match=f"^module 'encoder' {said}"):
            check(asking(encoder=wish), [node()], allot(asking(encoder=wish), [node()]), Placement())

    def test_more_in_all_than_there_is_leaves_the_smaller_one_out(self):
        graph = asking(encoder=Resources(num_cpus=2), mirror=Resources(num_cpus=1))
        found = spots(graph, [node()])
        assert found["encoder"] == "n"
        assert found["mirror"] == "module 'mirror' asks for 1 CPU, and no node has that: n has 0 CPU left"

    def test_a_module_that_one_node_alone_can_hold_is_not_kept_from_it_by_one_with_a_choice(self):
        graph = asking(encoder=Resources(num_cpus=2), mirror=Resources(num_cpus=1, memory=16 * GIB))
        found = spots(graph, [node("large", memory=64 * GIB), node("small")])
        assert (found["encoder"], found["mirror"]) == ("small", "large")

    def test_what_a_layout_places_lies_on_nodes_that_have_some_memory(self):
        nodes = [node("head", memory=0.0), node("worker")]
        assert set(spots(model(), nodes, "pack").values()) == {"worker"}
        assert set(spots(model(), nodes).values()) == {"head"}
        said = set(spots(model(), nodes[:1], "pack").values())
        assert any("head has no memory, which layouts take some bytes of" in each for each in said)

    def test_what_others_have_taken_counts_if_it_is_asked_for(self):
        busy = Node("n", {"CPU": 2.0}, {"CPU": 0.5})
        graph = asking(encoder=Resources(num_cpus=1))
        assert spots(graph, [busy])["encoder"] == "n"
        assert spots(graph, [busy], free=True)["encoder"].endswith("no node has that free: n has 0.5 CPU left")

    def test_modules_that_share_a_node_must_not_want_different_ones(self):
        graph = asking(encoder=Resources(label_selector={"zone": "a"}), mirror=Resources(label_selector={"zone": "b"}))
        with pytest.raises(BackendError, match="encoder, mirror are to share a node, but want zone=a and zone=b"):
            bundles_of(graph, NOBODY, Placement(together=(("encoder", "mirror"),)))

    def test_who_waits_for_a_process_says_which_labels_it_wants_and_for_whom(self, monkeypatch):
        graph = asking(encoder=Resources(label_selector={"zone": "north"}), mirror=Resources(num_cpus=1))
        bundles = bundles_of(graph, NOBODY, Placement(together=(("encoder", "mirror"),)))
        monkeypatch.setattr(ray_transport, "nodes", lambda: [node()])
        transport = ray_transport.RayTransport("test")
        transport._bundles = {name: bundle for bundle in bundles for name in bundle.modules}
        assert transport._lacking("mirror") == (
            "modules encoder, mirror, which are to share a node, ask for 1 CPU and a node with zone=north, "
            "and no node has that free: n has zone=nothing"
        )

    def test_ray_is_given_lists_of_labels_without_blanks_which_it_would_take_for_parts_of_them(self):
        wish = Resources(label_selector={"zone": "in(lab, hall)"})
        assert options_of(wish, 0.0)["label_selector"] == {"zone": "in(lab,hall)"}

    def test_ray_is_told_by_bytes_which_bundles_fewest_nodes_can_hold(self):
        graph = asking(encoder=Resources(num_cpus=3), mirror=Resources(label_selector={"zone": "north"}))
        nodes = [node("a"), node("b", CPU=4.0), node("c", {"zone": "north"}), node("d", CPU=4.0)]
        data, encoder, mirror = requests_of(bundles_of(graph, NOBODY, Placement()), nodes)
        assert (data, encoder, mirror) == ({"memory": 1.0}, {"CPU": 3.0, "memory": 2.0}, {"memory": 3.0})
