"""Tests of the host's check for values that are not finite, in the answers of toy modules and built-in modules."""

import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from actors.backends.module_host import ModuleHost
from actors.coordination.backend import ModuleCall
from actors.errors import MessageError, ModuleError, NonFiniteError
from actors.graph.spec import ModuleSpec, Slot
from actors.messaging.codec import make_message, pack_header
from actors.messaging.message import Header
from actors.module import Context, Module, Outbox, OutgoingMessage, Port
from tests.support.toy_modules import Source  # noqa: F401 (used by the graphs)


class Scripted(Module):
    """Returns the `outbox` and the `held` state that a test has set."""

    ports = (
        Port("evidence", "out", "forward", "class_posteriors"),
        Port("means", "out", "backward", "class_means"),
        Port("z", "out", "forward", "latent_vectors"),
    )

    @dataclass(frozen=True)
    class Parameters:
        pass

    def __init__(self, parameters):
        super().__init__(parameters)
        self.outbox, self.held = Outbox(), {}

    def update(self, inbox, context):
        return self.outbox() if callable(self.outbox) else self.outbox

    recognize = generate = propose = update

    def state(self):
        return self.held

    def load_state(self, state):
        self.held = state


def message(kind, port=None, sender="x", **arrays):
    return make_message(Header(kind, sender, port or kind, receiver="m"), arrays)


def ask(host, *messages, mode="update", **fields):
    when = {"run": "run", "seed": 0, "round": 3, "step": 1, "sequence": 0, "receivers": {}, **fields}
    headers = tuple(pack_header(each.header) for each in messages)
    call = ModuleCall(mode, **when, headers=headers, ports=tuple(each.header.port for each in messages))
    return host.call(call, [each.arrays for each in messages])


def host(kind, slots=(), **parameters):
    tested = ModuleHost(ModuleSpec("m", kind, parameters), slots)
    tested.prepare("cpu")
    return tested


def scripted(outbox=None, *slots, **held):
    tested = host("tests.actors.backends.test_host_finite_values:Scripted", slots)
    tested.module.outbox, tested.module.held = outbox or Outbox(), held
    return tested


def sending(port, kind, **arrays):
    return scripted(Outbox([OutgoingMessage(port, arrays)]), Slot(port, kind))


def posteriors(log_norm=0.0, log_prob=None, rows=6):
    flat = np.log(np.full((rows, 2), 0.5)) if log_prob is None else log_prob
    return {"log_prob": flat, "log_norm": np.broadcast_to(log_norm, rows).astype(float)}


@pytest.mark.parametrize(
    ("mode", "doing"),
    [("recognize", "recognizing"), ("generate", "generating"), ("propose", "proposing")],
)
def test_outputs_are_checked_in_every_mode_and_the_error_names_the_mode(mode, doing):
    answering = scripted(Outbox(outputs={"z": np.array([[0.0, np.inf]])}))
    with pytest.raises(NonFiniteError, match=rf"module 'm', round 3, step 1, {doing}: output 'z' is inf at \(0, 1\)"):
        ask(answering, mode=mode)


@pytest.mark.parametrize("mode", ["recognize", "generate", "propose"])
def test_the_state_is_checked_only_after_an_update(mode):
    ask(scripted(weights=np.array([np.nan])), mode=mode)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_error_of_a_message_names_round_step_and_exchange(bad):
    expected = r"round 3, step 1, exchange 2: m -> .*\.evidence \(class_posteriors\): log_norm is not finite in row 0"
    with pytest.raises(NonFiniteError, match=expected):
        ask(sending("evidence", "class_posteriors", **posteriors(bad)), exchange=2)


@pytest.mark.parametrize(
    ("port", "kind", "arrays"),
    [
        ("z", "latent_vectors", {"mean": np.array([[0.0, -np.inf]])}),
        ("evidence", "class_posteriors", posteriors(log_prob=np.full((6, 2), -np.inf))),
        ("evidence", "class_posteriors", posteriors(log_prob=np.full((6, 2), np.nan))),
        ("means", "class_means", {"means": np.eye(2), "responsibilities": np.full((3, 2), np.nan)}),
    ],
)
def test_every_array_of_a_message_is_checked(port, kind, arrays):
    with pytest.raises(NonFiniteError):
        ask(sending(port, kind, **arrays))


@pytest.mark.parametrize(
    "arrays",
    [
        {"log_prob": np.log([[0.9, 0.9]]), "log_norm": np.zeros(1)},
        {"log_prob": np.array([[0.0, -np.inf]]), "log_norm": np.zeros(2)},
    ],
)
def test_a_message_that_is_invalid_for_another_reason_raises_a_message_error(arrays):
    with pytest.raises(MessageError):
        ask(sending("evidence", "class_posteriors", **arrays))


def test_a_message_may_hold_the_logarithm_of_zero():
    certain = np.where(np.eye(6, 2) > 0, 0.0, -np.inf)
    certain[2:] = np.log(0.5)
    reply = ask(sending("evidence", "class_posteriors", **posteriors(log_prob=certain)))
    np.testing.assert_array_equal(reply.messages["evidence"]["log_prob"], certain)


def test_a_scalar_of_a_state_may_be_infinite_but_not_nan():
    assert ask(scripted(best=math.inf, worst=-math.inf)).state == {"best": math.inf, "worst": -math.inf}
    for nan in (math.nan, np.float32("nan"), np.float64("nan")):
        with pytest.raises(NonFiniteError, match="state 'best' is nan"):
            ask(scripted(best=nan))


def test_values_other_than_floats_are_not_checked():
    held = {"n": 3, "on": True, "name": "nan", "none": None, "empty": np.zeros((0, 2)), "labels": np.arange(3)}
    assert ask(scripted(Outbox(outputs={"classes": np.arange(3)}), **held)).state.keys() == held.keys()


@pytest.mark.parametrize("array", [np.array([1.0, np.inf, np.nan]), np.array([1.0, np.inf, np.nan], np.float16)])
def test_the_error_names_the_first_value_that_is_not_finite(array):
    with pytest.raises(NonFiniteError, match=r"output 'z' is inf at \(1,\)"):
        ask(scripted(Outbox(outputs={"z": array})))


@pytest.mark.filterwarnings("error")
def test_overflows_raise_an_error_without_numpy_warnings():
    def overflowing():
        huge = np.full(3, 1e308)
        return Outbox(metrics={"evidence": float(huge.sum() - huge.sum())}, outputs={"log": np.log(np.zeros(2))})

    with pytest.raises(NonFiniteError, match="evidence is nan"):
        ask(scripted(overflowing))


def test_the_error_can_be_pickled():
    error = NonFiniteError("module 'm', round 3, step 1: evidence is nan")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args) == (NonFiniteError, error.args)


def test_a_report_of_a_value_that_is_not_finite_raises_without_a_reporter():
    with pytest.raises(NonFiniteError, match=r"module 'm', round 3, step 0: objective is -inf after 1 of 5"):
        Context("m", round=3).report(1, 5, objective=-math.inf)


# --- the built-in modules -----------------------------------------------------------------------------


def rows(scale=1.0, **arrays):
    values = np.random.default_rng(1).normal(size=(60, 3)) * scale
    return message("observations", values=values, **arrays)


def vae(**parameters):
    return host("vae", **{"latent_dim": 2, "batch_size": 20, "likelihood": "mse", "epochs": 5, **parameters})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("scale", "parameters", "remedy"),
    [
        (1.0, {"learning_rate": 1e12}, "a smaller learning_rate or scaling the data down"),
        (1e25, {}, "a smaller learning_rate or scaling the data down"),
        (0.0, {"likelihood": "bce", "learning_rate": 1e12}, "a smaller learning_rate$"),
    ],
)
def test_the_error_of_a_vae_has_the_number_of_epochs_and_a_remedy(scale, parameters, remedy):
    expected = rf"module 'm', round 3, step 1: the loss is (nan|inf) after [1-5] of 5 epochs \(.*\); try {remedy}"
    with pytest.raises(NonFiniteError, match=expected):
        ask(vae(**parameters), rows(scale))


def test_a_vae_refuses_rows_beyond_float32():
    with pytest.raises(
        ModuleError, match=r"reach 2\.7\de\+200, but a network computes with numbers between .*other units"
    ):
        ask(vae(), rows(1e200))


def test_a_vae_whose_last_step_diverges_raises_an_error():
    """With a single step, the loss before it is finite, but the weights after it are not usable."""
    with pytest.raises(NonFiniteError, match=r"round 3, step 1: \w+ is (nan|-?inf)"):
        ask(vae(epochs=1, batch_size=60, learning_rate=1e30), rows())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("log_norm", "evidence"),
    [(1e307, "inf"), (-1e307, "-inf"), (np.where(np.arange(60) % 2, 1e308, -1e308), "nan")],
)
def test_an_overflow_of_the_evidence_in_the_markov_model_is_an_error(log_norm, evidence):
    received = message("class_posteriors", **posteriors(log_norm, rows=60))
    with pytest.raises(NonFiniteError, match=rf"module 'm', round 3, step 1: evidence is {evidence}$"):
        ask(host("markov"), received)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parameters", [{}, {"engine": "vb"}, {"calibrate": True}])
def test_a_gmm_raises_an_error_for_rows_far_beyond_those_that_it_learnt_from(parameters):
    trained = host("gmm", classes=3, **parameters)
    ask(trained, rows())
    with pytest.raises(NonFiniteError, match=r"round 3, step 1: .* reach 2\.7\de\+200, but their covariance overflows"):
        ask(trained, rows(1e200), mode="recognize")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parameters", [{}, {"engine": "vb"}, {"start": "kmeans"}, {"start": "sequence"}])
def test_a_gmm_finds_the_same_classes_in_rows_whose_squares_overflow(parameters):
    found = [ask(host("gmm", classes=3, prior_scale="data", **parameters), rows(scale)) for scale in (1.0, 1e200)]
    one, other = (np.asarray(each.outputs["class"]) for each in found)
    assert np.array_equal(one, other)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "parameters", [{}, {"engine": "vb"}, {"start": "kmeans"}, {"start": "sequence"}, {"calibrate": True}]
)
def test_the_values_of_a_missing_row_are_not_used(parameters):
    mask = np.arange(60) == 7
    values = np.where(mask[:, None], 1e300, rows()["values"])
    reply = ask(host("gmm", classes=3, **parameters), message("observations", values=values, mask=mask))
    assert math.isfinite(reply.metrics["evidence"])


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
def test_a_gmm_with_a_prior_that_excludes_the_classes_of_its_rows_has_finite_evidence_without_learning(engine):
    composing = host("gmm", classes=3, engine=engine)
    ask(composing, rows())
    certain = np.full((60, 3), -np.inf)
    certain[np.arange(60), np.arange(60) % 3] = 0.0
    prior = message("transition_prior", sender="mm", log_prob=certain)
    metrics = ask(composing, rows(), prior, learn=False).metrics
    assert math.isfinite(metrics["evidence"])
    assert "bound" not in metrics
    assert ("bound" in ask(composing, rows(), prior).metrics) == (engine == "vb")


def mixed_rows(scale=1.0):
    """Return rows for a mixture; bad ones have another width, since it can learn from any scale."""
    return rows() if scale == 1.0 else message("latent_vectors", mean=np.ones((60, 7)))


@pytest.mark.parametrize(
    ("make", "good", "bad", "learns_from"),
    [
        (lambda **set_: vae(**set_), {}, {"learning_rate": 1e12}, rows),
        (lambda **_: host("gmm", classes=3, iterations=5), {}, {}, mixed_rows),
        (lambda **_: host("gmm", classes=3, iterations=5, engine="vb"), {}, {}, mixed_rows),
        (lambda **_: host("markov"), {}, {}, lambda norm=1.0: message("class_posteriors", **posteriors(norm, rows=60))),
    ],
    ids=["vae", "gibbs", "vb", "markov"],
)
def test_a_module_that_reloads_its_last_valid_state_continues_with_the_same_bits(make, good, bad, learns_from):
    undisturbed, recovering = make(**good), make(**good)
    ask(undisturbed, learns_from(), round=1)
    kept = ask(recovering, learns_from(), round=1).state
    with pytest.raises(ModuleError):
        ask(recovering, learns_from(1e307), round=2, overrides=bad)
    recovering.load_state(kept)
    one, other = (ask(each, learns_from(), round=2) for each in (undisturbed, recovering))
    assert one.metrics == other.metrics
    assert one.state.keys() == other.state.keys()
    assert all(np.array_equal(one.state[name], other.state[name]) for name in one.state)
