"""What is not a number stops the update that made it, by name, and changes nothing."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.errors import NonFiniteError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.module import Context, Module, Outbox, Port
from tests.support.toy_modules import Source  # noqa: F401 (of the graphs here)

X = np.random.default_rng(0).random((40, 5))


class Odd(Module):
    """Learns its draws; puts `value` at `place` in round `round`."""

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
        odd = self.parameters.value if context.round == self.parameters.round else 0.0
        if self.parameters.place == "report":
            context.report(3, 9, loss=odd)
        if self.parameters.place == "state":
            self.weights[1, 2] += odd
        output = np.array([0.0, odd if self.parameters.place == "output" else 0.0])
        metric = odd if self.parameters.place == "metric" else 0.0
        return Outbox(metrics={"evidence": metric}, outputs={"z": output})

    def recognize(self, inbox, context):
        return Outbox()

    def state(self):
        return {"weights": self.weights.copy()}

    def load_state(self, state):
        self.weights = state["weights"].copy()


def graph(**odd):
    return Graph(
        [
            ModuleSpec("data", "tests.support.toy_modules:Source"),
            ModuleSpec("odd", "tests.actors.messaging.test_finite_values:Odd", odd),
        ],
        [Connection("data", "odd")],
        Schedule(2, (Step("odd"),)),
    )


def coordinator(of):
    made = Coordinator(of, InProcess())
    made.start({"data": {"values": X}})
    return made


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("report", r"loss is (nan|inf) after 3 of 9"),
        ("metric", r"evidence is (nan|inf)"),
        ("state", r"state 'weights' is (nan|inf) at \(1, 2\)"),
        ("output", r"output 'z' is (nan|inf) at \(1,\)"),
    ],
)
def test_module_round_step_and_quantity_are_named(place, said, value):
    with pytest.raises(NonFiniteError, match=rf"module 'odd', round 2, step 0: {said}"):
        coordinator(graph(place=place, value=value)).run_rounds()


@pytest.mark.parametrize("place", ["state", "output"])
def test_the_logarithm_of_zero_is_a_number(place):
    coordinator(graph(place=place, value=-math.inf)).run_rounds()


def test_a_figure_of_minus_infinity_is_none():
    with pytest.raises(NonFiniteError, match="evidence is -inf"):
        coordinator(graph(place="metric", value=-math.inf)).run_rounds()


def test_exchange_and_chain_are_named_where_there_are_some():
    context = Context("gmm", round=1, step=2, exchange=3, chain=4)
    assert context.where == "module 'gmm', round 1, step 2, exchange 3, chain 4"


@pytest.mark.parametrize("place", ["report", "metric", "state", "output"])
def test_the_module_keeps_what_it_had_learnt_before(place):
    transport = InProcess()
    failing = Coordinator(graph(place=place), transport)
    failing.start({"data": {"values": X}})
    failing.update("odd", 1, 0)
    before = transport._hosts["odd"].module.state()["weights"]
    with pytest.raises(NonFiniteError):
        failing.update("odd", 2, 0)
    np.testing.assert_array_equal(transport._hosts["odd"].module.state()["weights"], before)
    failing.update("odd", 3, 0)
    calm = coordinator(graph())
    calm.update("odd", 1, 0)
    calm.update("odd", 3, 0)
    np.testing.assert_array_equal(failing.state("odd")["weights"], calm.state("odd")["weights"])


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


def test_a_vae_whose_loss_is_no_number_stops_in_that_epoch():
    of, rows = model(learning_rate=1e20)
    learning = Coordinator(of, InProcess())
    learning.start({"data": {"values": rows}})
    said = r"module 'vae', round 1, step 0: the loss is (nan|inf) after \d+ of 20 epochs .*; try a smaller"
    with pytest.raises(NonFiniteError, match=said):
        learning.run_rounds()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parameters", [{}, {"engine": "vb"}, {"start": "kmeans"}, {"start": "sequence"}])
def test_a_gmm_whose_covariances_overflow_says_how_large_its_data_are(parameters):
    of = Graph(
        [ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm", {"classes": 3, **parameters})],
        [Connection("data", "gmm")],
        Schedule(1, (Step("gmm"),)),
    )
    learning = Coordinator(of, InProcess())
    learning.start({"data": {"values": X * 1e200}})
    with pytest.raises(NonFiniteError, match=r"module 'gmm', round 1, step 0: .* reach \S*e\+199"):
        learning.run_rounds()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parameters", [{}, {"engine": "vb"}, {"start": "sequence", "calibrate": True}])
def test_data_short_of_that_are_learnt_from(parameters):
    of = Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("gmm", "gmm", {"classes": 3, "prior_scale": "data", **parameters}),
            ModuleSpec("mm", "markov", {}),
        ],
        [Connection("data", "gmm"), Connection("gmm", "mm")],
        Schedule(1, (Step("gmm"), Step("mm"), Step("gmm"))),
    )
    learning = Coordinator(of, InProcess())
    learning.start({"data": {"values": X * 1e139}})
    learning.run_rounds()


def test_a_vae_that_failed_goes_on_from_what_it_had_learnt():
    of, rows = model()
    stumbling, calm = (Coordinator(of, InProcess()) for _ in range(2))
    for each in (stumbling, calm):
        each.start({"data": {"values": rows}})
        each.update("vae", 1, 0)
    spec = of.modules["vae"]
    host = stumbling._transport._hosts["vae"]
    host.module.parameters = replace(host.module.parameters, learning_rate=1e20)
    with pytest.raises(NonFiniteError):
        stumbling.update("vae", 2, 0)
    host.module.parameters = replace(host.module.parameters, learning_rate=1e-3)
    assert spec.parameters.get("learning_rate") is None
    for each in (stumbling, calm):
        each.update("vae", 3, 0)
    one, other = stumbling.state("vae"), calm.state("vae")
    assert all(np.array_equal(one[name], other[name]) for name in other)
