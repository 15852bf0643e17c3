"""Values that are not finite stop the update that computed them, with their name, and change no state."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import NonFiniteError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.module import Context, Module, Outbox, Port
from tests.support.toy_modules import Source  # noqa: F401 (used by the graphs)

X = np.random.default_rng(0).random((40, 5))


class NonFinite(Module):
    """Sums random draws as its state; adds `value` at `place` in round `round`."""

    ports = (Port("observations", "in", "forward", "observations"),)

    @dataclass(frozen=True)
    class Parameters:
        place: str = ""
        value: float = math.nan
        round: int = 2

    def __init__(self, parameters):
        super().__init__(parameters)
        self.weights = np.zeros((2, 3))

    def update(self, inbox, context):
        self.weights += context.generator.normal(size=(2, 3))
        value = self.parameters.value if context.round == self.parameters.round else 0.0
        if self.parameters.place == "report":
            context.report(3, 9, loss=value)
        if self.parameters.place == "state":
            self.weights[1, 2] += value
        output = np.array([0.0, value if self.parameters.place == "output" else 0.0])
        metric = value if self.parameters.place == "metric" else 0.0
        return Outbox(metrics={"evidence": metric}, outputs={"z": output})

    def recognize(self, inbox, context):
        return Outbox()

    def state(self):
        return {"weights": self.weights.copy()}

    def load_state(self, state):
        self.weights = state["weights"].copy()


def graph(**parameters):
    return Graph(
        [
            ModuleSpec("data", "tests.support.toy_modules:Source"),
            ModuleSpec("m", "tests.actors.messaging.test_finite_values:NonFinite", parameters),
        ],
        [Connection("data", "m")],
        Schedule(2, (Step("m"),)),
    )


def coordinator(graph):
    made = Coordinator(graph, InProcessBackend())
    made.start({"data": {"values": X}})
    return made


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("report", r"loss is (nan|inf) after 3 of 9"),
        ("metric", r"evidence is (nan|inf)"),
        ("state", r"state 'weights' is (nan|inf) at \(1, 2\)"),
        ("output", r"output 'z' is (nan|inf) at \(1,\)"),
    ],
)
def test_the_error_names_module_round_step_and_quantity(place, error, value):
    with pytest.raises(NonFiniteError, match=rf"module 'm', round 2, step 0: {error}"):
        coordinator(graph(place=place, value=value)).run_rounds()


@pytest.mark.parametrize("place", ["state", "output"])
def test_the_logarithm_of_zero_is_valid_in_arrays(place):
    coordinator(graph(place=place, value=-math.inf)).run_rounds()


def test_a_metric_of_minus_infinity_is_refused():
    with pytest.raises(NonFiniteError, match="evidence is -inf"):
        coordinator(graph(place="metric", value=-math.inf)).run_rounds()


def test_exchange_and_chain_are_named_if_they_are_not_zero():
    context = Context("gmm", round=1, step=2, exchange=3, chain=4)
    assert context.where == "module 'gmm', round 1, step 2, exchange 3, chain 4"


@pytest.mark.parametrize("place", ["report", "metric", "state", "output"])
def test_the_module_keeps_its_previous_state(place):
    backend = InProcessBackend()
    failing = Coordinator(graph(place=place), backend)
    failing.start({"data": {"values": X}})
    failing.update("m", 1, 0)
    before = backend._hosts["m"].module.state()["weights"]
    with pytest.raises(NonFiniteError):
        failing.update("m", 2, 0)
    np.testing.assert_array_equal(backend._hosts["m"].module.state()["weights"], before)
    failing.update("m", 3, 0)
    undisturbed = coordinator(graph())
    undisturbed.update("m", 1, 0)
    undisturbed.update("m", 3, 0)
    np.testing.assert_array_equal(failing.state("m")["weights"], undisturbed.state("m")["weights"])


def model(scale=1.0, **vae):
    return (
        Graph(
            [
                ModuleSpec("data", "observation"),
                ModuleSpec("vae", "vae", {"latent_dim": 2, "epochs": 20, "likelihood": "mse", **vae}),
                ModuleSpec("gmm", "gmm", {"classes": 3}),
                ModuleSpec("mm", "markov", {}),
            ],
            [Connection("data", "vae"), Connection("vae", "gmm"), Connection("gmm", "mm")],
            Schedule(1, (Step("vae"), Step("gmm"), Step("mm"))),
        ),
        X * scale,
    )


def test_a_vae_stops_in_the_epoch_whose_loss_is_not_finite():
    model_graph, rows = model(learning_rate=1e20)
    learning = Coordinator(model_graph, InProcessBackend())
    learning.start({"data": {"values": rows}})
    error = r"module 'vae', round 1, step 0: the loss is (nan|inf) after \d+ of 20 epochs .*; try a smaller"
    with pytest.raises(NonFiniteError, match=error):
        learning.run_rounds()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parameters", [{}, {"engine": "vb"}, {"start": "sequence", "calibrate": True}])
def test_data_below_that_size_can_be_learnt(parameters):
    model_graph = Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("gmm", "gmm", {"classes": 3, "prior_scale": "data", **parameters}),
            ModuleSpec("mm", "markov", {}),
        ],
        [Connection("data", "gmm"), Connection("gmm", "mm")],
        Schedule(1, (Step("gmm"), Step("mm"), Step("gmm"))),
    )
    learning = Coordinator(model_graph, InProcessBackend())
    learning.start({"data": {"values": X * 1e139}})
    learning.run_rounds()


def test_a_vae_continues_from_its_previous_state_after_a_failure():
    model_graph, rows = model()
    failing, undisturbed = (Coordinator(model_graph, InProcessBackend()) for _ in range(2))
    for each in (failing, undisturbed):
        each.start({"data": {"values": rows}})
        each.update("vae", 1, 0)
    spec = model_graph.modules["vae"]
    host = failing._backend._hosts["vae"]
    host.module.parameters = replace(host.module.parameters, learning_rate=1e20)
    with pytest.raises(NonFiniteError):
        failing.update("vae", 2, 0)
    host.module.parameters = replace(host.module.parameters, learning_rate=1e-3)
    assert spec.parameters.get("learning_rate") is None
    for each in (failing, undisturbed):
        each.update("vae", 3, 0)
    one, other = failing.state("vae"), undisturbed.state("vae")
    assert all(np.array_equal(one[name], other[name]) for name in other)
