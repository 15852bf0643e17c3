"""The model graph: routes, slots, numbers, the schedule, batches, and models that are refused."""

import itertools
import pickle
import subprocess
import sys

import pytest

from actors.errors import GraphError, ModuleError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Route, Slot
from tests.support.port_stubs import HERE, graph, hidden_markov


class TestRoutes:
    def test_routes_of_the_hidden_markov_model(self):
        assert set(hidden_markov().routes) == {
            Route("data", "o", "vae", "o"),
            Route("vae", "z", "gmm", "z"),
            Route("gmm", "means", "vae", "means"),
            Route("gmm", "posteriors", "mm", "evidence"),
            Route("mm", "prior", "gmm", "priors"),
        }

    def test_routes_of_the_built_in_modules(self):
        specs = [
            ModuleSpec("data", "observation"),
            ModuleSpec("vae", "vae"),
            ModuleSpec("gmm", "gmm"),
            ModuleSpec("mm", "markov"),
        ]
        built = Graph(specs, [Connection("data", "vae"), Connection("vae", "gmm"), Connection("gmm", "mm")])
        kinds = {(route.sender, route.receiver): (route.out_port, route.in_port) for route in built.routes}
        assert kinds == {
            ("data", "vae"): ("observations", "observations"),
            ("vae", "data"): ("reconstructions", "reconstructions"),
            ("vae", "gmm"): ("latent_vectors", "latent_vectors"),
            ("gmm", "vae"): ("class_means", "class_means"),
            ("gmm", "mm"): ("class_posteriors", "class_posteriors"),
            ("mm", "gmm"): ("transition_prior", "transition_prior"),
        }
        assert built.sources == ("data",)
        assert [built.number(name) for name in ("data", "vae", "gmm", "mm")] == [0, 1, 2, 3]
        assert [step.module for step in built.schedule.steps] == ["vae", "gmm", "mm"]
        assert [name for name, uses in built.uses_gpu.items() if uses] == ["vae"]

    def test_routes_to_a_module_are_in_order_of_connection(self):
        model = graph("data vae gmm mm1 mm2", ["data -> vae", "vae -> gmm", "gmm -> mm2", "gmm -> mm1"])
        assert [route.sender for route in model.routes_to("gmm")] == ["vae", "mm2", "mm1"]
        assert model.receivers("gmm") == {"posteriors": ("mm2", "mm1"), "means": ("vae",)}
        assert model.receivers("mm1") == {"prior": ("gmm",)}
        assert model.routes_to("data") == ()

    def test_forward_messages_go_up_only_and_backward_messages_down_only(self):
        for route in hidden_markov().routes:
            assert (route.sender, route.receiver) not in {("vae", "data"), ("mm", "vae"), ("data", "gmm")}


class TestSlots:
    def test_there_is_one_slot_for_each_port_or_for_each_receiver(self):
        model = graph("data vae gmm mm1 mm2", ["data -> vae", "vae -> gmm", "gmm -> mm1", "gmm -> mm2"])
        assert model.slots("gmm") == (
            Slot("posteriors", "class_posteriors", "mm1"),
            Slot("posteriors", "class_posteriors", "mm2"),
            Slot("means", "class_means"),
        )
        assert [slot.name for slot in model.slots("gmm")] == ["posteriors.mm1", "posteriors.mm2", "means"]

    def test_a_port_without_receivers_has_no_slot(self):
        assert graph("data vae", ["data -> vae"]).slots("vae") == ()
        assert [slot.name for slot in hidden_markov().slots("data")] == ["o"]

    def test_there_is_one_slot_for_a_receiver_with_two_matching_ports(self):
        model = graph("data vae gmm inputs", ["data -> vae", "vae -> gmm", "gmm -> inputs"])
        assert [slot.name for slot in model.slots("gmm")] == ["posteriors.inputs", "means"]
        assert model.receivers("gmm")["posteriors"] == ("inputs",)
        assert [route.in_port for route in model.routes_to("inputs")] == ["one", "two"]


class TestNumbers:
    def test_numbers_count_from_the_observation_in_any_order_of_listing(self):
        for listed in ("data vae gmm mm", "mm gmm vae data", "gmm data mm vae"):
            model = graph(listed, ["gmm -> mm", "data -> vae", "vae -> gmm"])
            assert list(model.modules) == ["data", "vae", "gmm", "mm"]
            assert model.number("gmm") == 2

    def test_numbers_of_siblings_follow_the_order_of_connections(self):
        model = graph("vae1 vae2 vae3 data", ["data -> vae3", "data -> vae1", "data -> vae2"])
        assert list(model.modules) == ["data", "vae3", "vae1", "vae2"]

    def test_a_module_comes_after_all_its_lower_neighbours(self):
        connections = ["gmm1 -> mm", "gmm2 -> mm", "vae1 -> gmm1", "vae2 -> gmm2", "data1 -> vae1", "data2 -> vae2"]
        model = graph("mm gmm2 gmm1 vae1 vae2 data2 data1", connections)
        for connection in model.connections:
            assert model.number(connection.lower) < model.number(connection.upper)


class TestSchedule:
    def test_the_default_is_one_round_of_all_modules_that_learn(self):
        model = hidden_markov()
        assert model.schedule == Schedule(1, (Step("vae"), Step("gmm"), Step("mm")))
        assert model.sources == ("data",)

    def test_a_given_schedule_is_used(self):
        model = graph("data vae", ["data -> vae"], ["vae", "vae"])
        assert [step.module for step in model.schedule.steps] == ["vae", "vae"]
        assert model.schedule.rounds == 3

    def test_a_step_of_an_unknown_module_is_refused(self):
        with pytest.raises(GraphError, match="step 'vea': there is no such module, only data, vae"):
            graph("data vae", ["data -> vae"], ["vea"])

    def test_a_step_of_an_unknown_module_inside_a_block_is_refused(self):
        specs = [ModuleSpec("data", f"{HERE}:Data"), ModuleSpec("vae", f"{HERE}:Features")]
        schedule = Schedule(1, (Step("vae"), Block((Block((Step("vea"),)),), repeat=2)))
        with pytest.raises(GraphError, match="step 'vea': there is no such module"):
            Graph(specs, [Connection("data", "vae")], schedule)


class TestBatches:
    MODEL = ("data vae1 vae2 gmm1 gmm2", ["data -> vae1", "data -> vae2", "vae1 -> gmm1", "vae2 -> gmm2"])

    def batches(self, *steps):
        model = graph(*self.MODEL)
        return [[(index, step.module) for index, step in batch] for batch in model.batches([Step(s) for s in steps])]

    def test_consecutive_steps_that_exchange_no_message_are_one_batch(self):
        assert self.batches("vae1", "vae2", "gmm1", "gmm2") == [
            [(0, "vae1"), (1, "vae2")],
            [(2, "gmm1"), (3, "gmm2")],
        ]

    def test_steps_that_exchange_messages_are_separate_batches_in_either_order(self):
        assert self.batches("vae1", "gmm1") == [[(0, "vae1")], [(1, "gmm1")]]
        assert self.batches("gmm1", "vae1") == [[(0, "gmm1")], [(1, "vae1")]]

    def test_steps_of_one_module_are_separate_batches(self):
        assert self.batches("vae1", "vae1") == [[(0, "vae1")], [(1, "vae1")]]
        assert self.batches("vae1", "vae2", "vae1") == [[(0, "vae1"), (1, "vae2")], [(2, "vae1")]]

    def test_batches_keep_the_written_order(self):
        assert self.batches("vae1", "gmm2", "gmm1", "vae2") == [
            [(0, "vae1"), (1, "gmm2")],
            [(2, "gmm1"), (3, "vae2")],
        ]
        assert self.batches() == []

    def test_modules_that_are_connected_through_a_third_may_be_one_batch(self):
        model = hidden_markov()
        assert [len(batch) for batch in model.batches([Step("vae"), Step("mm")])] == [2]

    def test_a_block_is_a_batch_of_its_own_and_its_steps_are_counted(self):
        block = Block((Step("vae2"), Step("gmm2")), repeat=9)
        model = graph(*self.MODEL)
        assert model.batches([Step("vae1"), block, Step("gmm1")]) == [
            [(0, Step("vae1"))],
            [(1, block)],
            [(3, Step("gmm1"))],
        ]
        assert model.batches(block.steps, first=1) == [[(1, Step("vae2"))], [(2, Step("gmm2"))]]

    def test_a_step_keeps_its_overrides(self):
        step = Step("vae1", {"epochs": 0})
        assert graph(*self.MODEL).batches([step]) == [[(0, step)]]


class TestRefusals:
    def refusal(self, *model):
        with pytest.raises(GraphError) as raised:
            graph(*model)
        return str(raised.value)

    def test_a_connection_to_an_unknown_module(self):
        message = self.refusal("data vae", ["data -> vae", "vae -> gmm"])
        assert message == "connection vae -> gmm: there is no module 'gmm', only data, vae"

    def test_a_repeated_connection(self):
        message = self.refusal("data vae gmm", ["data -> vae", "vae -> gmm", "data -> vae"])
        assert message == "connection data -> vae is given twice"

    def test_two_modules_with_one_name(self):
        assert self.refusal("data vae data", ["data -> vae"]) == "two modules are named 'data'"

    def test_a_module_without_connections(self):
        for name in ("idle", "data2"):
            message = self.refusal(f"data vae {name}", ["data -> vae"])
            assert message == f"module {name!r}: nothing is connected to it"

    def test_a_single_module_needs_no_connections(self):
        assert graph("idle", []).sources == ()

    @pytest.mark.parametrize("name", ["data", "vae"])
    def test_a_connection_of_a_module_with_itself_is_a_cycle(self, name):
        assert f"cycle: {name} -> {name}" in self.refusal("data vae", ["data -> vae", f"{name} -> {name}"])

    def test_a_cycle_is_printed_in_the_direction_of_its_connections(self):
        connections = ["data -> vae", "vae -> gmm", "gmm -> mm", "mm -> vae"]
        message = self.refusal("data vae gmm mm", connections)
        assert message.startswith("the connections form a cycle: ")
        around = message.removeprefix("the connections form a cycle: ").split(" -> ")
        assert around[0] == around[-1]
        assert sorted(around[:-1]) == ["gmm", "mm", "vae"]
        for pair in itertools.pairwise(around):
            assert " -> ".join(pair) in connections

    def test_a_connection_without_a_common_kind(self):
        message = self.refusal("data vae gmm", ["data -> vae", "vae -> gmm", "data -> gmm"])
        assert message == (
            "connection data -> gmm: data sends observations on port o upwards, gmm receives latent_vectors on port z "
            "from below; what data sends goes into vae (observations on port o); what gmm receives comes from vae "
            "(latent_vectors on port z): data -> vae -> gmm is connected, so leave data -> gmm out"
        )

    def test_a_connection_that_skips_an_unconnected_module(self):
        message = self.refusal("data vae gmm mm", ["data -> vae", "vae -> mm"])
        assert message == (
            "connection vae -> mm: vae sends latent_vectors on port z upwards, mm receives class_posteriors on port "
            "evidence from below; what vae sends goes into gmm (latent_vectors on port z); what mm receives comes from "
            "gmm (class_posteriors on port posteriors): connect vae -> gmm and gmm -> mm"
        )

    def test_a_connection_that_needs_a_module_of_another_type(self):
        message = self.refusal("data vae mm", ["data -> vae", "vae -> mm"])
        built_in = "no module of this model, but gmm"
        assert f"what vae sends goes into {built_in} (latent_vectors on port lat" in message
        assert f"what mm receives comes from {built_in} (class_posteriors on port class_p" in message
        assert message.endswith(" of the built-in types")

    def test_a_connection_the_wrong_way_round(self):
        message = self.refusal("data vae", ["vae -> data"])
        assert message == (
            "connection vae -> data: vae sends latent_vectors on port z upwards, data receives nothing from below; "
            "the other way round, data -> vae, it would fit"
        )

    def test_a_required_input_without_a_sender(self):
        message = self.refusal("vae gmm", ["vae -> gmm"])
        assert message == (
            "module 'vae': nothing sends observations to its port 'o'; it comes from no module of this model, "
            "but observation (observations on port observations) of the built-in types"
        )

    def test_a_required_input_for_which_the_model_has_a_sender(self):
        message = self.refusal("data vae vae2 gather", ["data -> vae", "vae -> gather", "vae2 -> gather"])
        assert message == (
            "module 'vae2': nothing sends observations to its port 'o'; it comes from data (observations on port o): "
            "connect data -> vae2"
        )

    def test_a_required_input_from_above(self):
        message = self.refusal("data pupil adviser", ["data -> pupil"])
        assert message == (
            "module 'pupil': nothing sends transition_prior to its port 'advice'; "
            "it comes from adviser (transition_prior on port prior): connect pupil -> adviser"
        )

    def test_a_required_input_from_above_whose_sender_accepts_another_kind(self):
        message = self.refusal("data pupil vae gmm mm", ["data -> pupil", "data -> vae", "vae -> gmm", "gmm -> mm"])
        assert (
            "it comes from mm (transition_prior on port prior), to which pupil sends nothing that it accepts" in message
        )

    def test_no_sender_is_suggested_that_would_close_a_cycle(self):
        message = self.refusal("vae relay", ["vae -> relay"])
        assert "it comes from no module of this model" in message

    def test_two_senders_of_a_kind_that_does_not_multiply(self):
        message = self.refusal("data vae1 vae2 gmm", ["data -> vae1", "data -> vae2", "vae1 -> gmm", "vae2 -> gmm"])
        assert message == (
            "module 'gmm': vae1 and vae2 all send to port 'z', but latent_vectors of several senders cannot be joined"
        )

    def test_two_senders_of_a_kind_that_multiplies_are_accepted(self):
        connections = ["data -> vae1", "data -> vae2", "vae1 -> gmm1", "vae2 -> gmm2", "gmm1 -> mm", "gmm2 -> mm"]
        model = graph("data vae1 vae2 gmm1 gmm2 mm", connections)
        assert [route.sender for route in model.routes_to("mm")] == ["gmm1", "gmm2"]

    def test_two_senders_are_accepted_on_a_port_for_several(self):
        connections = ["data -> vae1", "data -> vae2", "vae1 -> gather", "vae2 -> gather"]
        assert len(graph("data vae1 vae2 gather", connections).routes_to("gather")) == 2

    def test_two_messages_of_one_sender_to_one_port(self):
        message = self.refusal("data vae outputs mm", ["data -> vae", "vae -> outputs", "outputs -> mm"])
        assert message == (
            "module 'mm': outputs sends class_posteriors from two ports to port 'evidence', "
            "which keeps one message of each sender"
        )

    def test_a_port_of_an_unknown_kind(self):
        with pytest.raises(ModuleError, match="port 'g' is of unknown kind 'gossip'"):
            graph("data unknown", ["data -> unknown"])

    def test_a_type_that_cannot_be_found(self):
        with pytest.raises(ModuleError, match="unknown module type 'no such'"):
            Graph([ModuleSpec("x", "no such")], [])


class TestPickled:
    def built_in(self):
        types = {"data": "observation", "vae": "vae", "gmm": "gmm", "mm1": "markov", "mm2": "markov"}
        connections = [("data", "vae"), ("vae", "gmm"), ("gmm", "mm1"), ("gmm", "mm2")]
        specs = [ModuleSpec(name, type_name) for name, type_name in types.items()]
        return Graph(specs, [Connection(*pair) for pair in connections])

    def test_unpickling_gives_an_equal_graph(self):
        model = self.built_in()
        again = pickle.loads(pickle.dumps(model))
        assert vars(again) == vars(model)
        assert list(again.modules) == list(model.modules)

    def test_routing_imports_no_modules_code(self):
        code = (
            "import pickle, sys; model = pickle.loads(sys.stdin.buffer.read());"
            "print(*[slot.name for slot in model.slots('gmm')]);"
            "assert not [name for name in sys.modules if name.startswith('actors.modules.')]"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], input=pickle.dumps(self.built_in()), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.split() == [b"class_posteriors.mm1", b"class_posteriors.mm2", b"class_means"]


def test_two_modules_above_one_observation_have_separate_routes():
    graph = Graph(
        [ModuleSpec("data", "observation"), ModuleSpec("left", "vae"), ModuleSpec("right", "vae")],
        [Connection("data", "left"), Connection("data", "right")],
    )
    assert {route.sender for route in graph.routes_to("data")} == {"left", "right"}
