"""The host holds what its module answers against one rule: whatever is not a number is named."""

import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from actors.graph.spec import ModuleSpec, Slot

from actors.backends.module_host import Call, Host
from actors.errors import MessageError, NonFiniteError
from actors.messaging.codec import make_message, pack_header
from actors.messaging.message import Header
from actors.module import Context, Module, Outbox, OutgoingMessage, Port
from tests.support.toy_modules import Source  # noqa: F401 (of the graphs here)


class Free(Module):
    """Answers what a test puts into `outbox` and `held`."""

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
    call = Call(**when, headers=tuple(pack_header(each.header) for each in messages))
    return host.ask(mode, call, [each.arrays for each in messages])


def host(kind, slots=(), **parameters):
    made = Host(ModuleSpec("m", kind, parameters), slots)
    made.prepare("cpu")
    return made


def free(outbox=None, *slots, **held):
    made = host("tests.actors.backends.test_host_finite_values:Free", slots)
    made.module.outbox, made.module.held = outbox or Outbox(), held
    return made


def sending(port, kind, **arrays):
    return free(Outbox([OutgoingMessage(port, arrays)]), Slot(port, kind))


def posteriors(log_norm=0.0, log_prob=None, rows=6):
    flat = np.log(np.full((rows, 2), 0.5)) if log_prob is None else log_prob
    return {"log_prob": flat, "log_norm": np.broadcast_to(log_norm, rows).astype(float)}


@pytest.mark.parametrize(
    ("mode", "doing"),
    [("recognize", "recognizing"), ("generate", "generating"), ("propose", "proposing")],
)
def test_an_answer_is_held_against_the_same_rule_and_called_what_it_is(mode, doing):
    answering = free(Outbox(outputs={"z": np.array([[0.0, np.inf]])}))
    with pytest.raises(NonFiniteError, match=rf"module 'm', round 3, step 1, {doing}: output 'z' is inf at \(0, 1\)"):
        ask(answering, mode=mode)


@pytest.mark.parametrize("mode", ["recognize", "generate", "propose"])
def test_the_state_is_looked_at_where_it_may_have_changed(mode):
    ask(free(weights=np.array([np.nan])), mode=mode)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_message_that_is_refused_for_its_numbers_says_when(bad):
    said = r"round 3, step 1, exchange 2: m -> .*\.evidence \(class_posteriors\): log_norm is not finite in row 0"
    with pytest.raises(NonFiniteError, match=said):
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
def test_whatever_array_of_a_message_it_is(port, kind, arrays):
    with pytest.raises(NonFiniteError):
        ask(sending(port, kind, **arrays))


@pytest.mark.parametrize(
    "arrays",
    [
        {"log_prob": np.log([[0.9, 0.9]]), "log_norm": np.zeros(1)},
        {"log_prob": np.array([[0.0, -np.inf]]), "log_norm": np.zeros(2)},
    ],
)
def test_a_message_that_is_wrong_otherwise_is_no_matter_of_numbers(arrays):
    with pytest.raises(MessageError):
        ask(sending("evidence", "class_posteriors", **arrays))


def test_a_message_may_hold_the_logarithm_of_zero():
    certain = np.where(np.eye(6, 2) > 0, 0.0, -np.inf)
    certain[2:] = np.log(0.5)
    reply = ask(sending("evidence", "class_posteriors", **posteriors(log_prob=certain)))
    np.testing.assert_array_equal(reply.messages[0]["log_prob"], certain)


def test_a_scalar_of_a_state_may_be_infinite_but_is_a_number():
    assert ask(free(best=math.inf, worst=-math.inf)).state == {"best": math.inf, "worst": -math.inf}
    for nan in (math.nan, np.float32("nan"), np.float64("nan")):
        with pytest.raises(NonFiniteError, match="state 'best' is nan"):
            ask(free(best=nan))


def test_other_things_than_floats_are_left_alone():
    held = {"n": 3, "on": True, "name": "nan", "none": None, "empty": np.zeros((0, 2)), "labels": np.arange(3)}
    assert ask(free(Outbox(outputs={"names": np.array(["inf"])}), **held)).state.keys() == held.keys()


@pytest.mark.parametrize("array", [np.array([1.0, np.inf, np.nan]), np.array([1.0, np.inf, np.nan], np.float16)])
def test_the_first_such_value_is_the_one_that_is_told(array):
    with pytest.raises(NonFiniteError, match=r"output 'z' is inf at \(1,\)"):
        ask(free(Outbox(outputs={"z": array})))


@pytest.mark.filterwarnings("error")
def test_what_numpy_would_warn_of_is_told_by_name_alone():
    def overflowing():
        huge = np.full(3, 1e308)
        return Outbox(metrics={"evidence": float(huge.sum() - huge.sum())}, outputs={"log": np.log(np.zeros(2))})

    with pytest.raises(NonFiniteError, match="evidence is nan"):
        ask(free(overflowing))


def test_the_error_crosses_processes():
    error = NonFiniteError("module 'm', round 3, step 1: evidence is nan")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args) == (NonFiniteError, error.args)


def test_a_report_says_it_though_nobody_listens():
    with pytest.raises(NonFiniteError, match=r"module 'm', round 3, step 0: objective is -inf after 1 of 5"):
        Context("m", round=3).report(1, 5, objective=-math.inf)


# --- by the modules that are built in -----------------------------------------------------------------------------


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
        (1e200, {}, "a smaller learning_rate or scaling the data down"),  # beyond float32
        (0.0, {"likelihood": "bce", "learning_rate": 1e12}, "a smaller learning_rate$"),
    ],
)
def test_a_vae_says_after_how_many_epochs_and_what_to_try(scale, parameters, remedy):
    said = rf"module 'm', round 3, step 1: the loss is (nan|inf) after [1-5] of 5 epochs \(.*\); try {remedy}"
    with pytest.raises(NonFiniteError, match=said):
        ask(vae(**parameters), rows(scale))


def test_a_vae_whose_last_step_went_astray_says_so_too():
    """One step in all: the loss before it is a number, the weights after it are none that compute."""
    with pytest.raises(NonFiniteError, match=r"round 3, step 1: \w+ is (nan|-?inf)"):
        ask(vae(epochs=1, batch_size=60, learning_rate=1e30), rows())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("log_norm", "evidence"),
    [(1e307, "inf"), (-1e307, "-inf"), (np.where(np.arange(60) % 2, 1e308, -1e308), "nan")],
)
def test_an_evidence_that_overflows_in_the_markov_model_is_named(log_norm, evidence):
    came = message("class_posteriors", **posteriors(log_norm, rows=60))
    with pytest.raises(NonFiniteError, match=rf"module 'm', round 3, step 1: evidence is {evidence}$"):
        ask(host("markov"), came)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parameters", [{}, {"engine": "vb"}, {"calibrate": True}])
def test_a_gmm_that_is_asked_of_rows_too_far_to_have_a_density_says_so(parameters):
    learnt = host("gmm", classes=3, **parameters)
    ask(learnt, rows())
    with pytest.raises(NonFiniteError, match=r"round 3, step 1, recognizing: output 'Pdz' is nan at \(0, 0\)"):
        ask(learnt, rows(1e200), mode="recognize")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "parameters", [{}, {"engine": "vb"}, {"start": "kmeans"}, {"start": "sequence"}, {"calibrate": True}]
)
def test_what_stands_in_a_missing_row_is_not_looked_at(parameters):
    mask = np.arange(60) == 7
    values = np.where(mask[:, None], 1e300, rows()["values"])
    reply = ask(host("gmm", classes=3, **parameters), message("observations", values=values, mask=mask))
    assert math.isfinite(reply.answer.metrics["evidence"])


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
def test_a_prior_that_forbids_where_rows_are_is_no_fault_of_a_gmm_that_only_composes(engine):
    composing = host("gmm", classes=3, engine=engine)
    ask(composing, rows())
    certain = np.full((60, 3), -np.inf)
    certain[np.arange(60), np.arange(60) % 3] = 0.0
    prior = message("transition_prior", sender="mm", log_prob=certain)
    metrics = ask(composing, rows(), prior, learn=False).answer.metrics
    assert math.isfinite(metrics["evidence"])
    assert "bound" not in metrics
    assert ("bound" in ask(composing, rows(), prior).answer.metrics) == (engine == "vb")


@pytest.mark.parametrize(
    ("make", "good", "bad", "learns_from"),
    [
        (lambda **set_: vae(**set_), {}, {"learning_rate": 1e12}, rows),
        (lambda **_: host("gmm", classes=3, iterations=5), {}, {}, rows),
        (lambda **_: host("gmm", classes=3, iterations=5, engine="vb"), {}, {}, rows),
        (lambda **_: host("markov"), {}, {}, lambda norm=1.0: message("class_posteriors", **posteriors(norm, rows=60))),
    ],
    ids=["vae", "gibbs", "vb", "markov"],
)
def test_a_module_that_takes_its_last_good_state_back_learns_on_as_if_nothing_had_been(make, good, bad, learns_from):
    calm, stumbling = make(**good), make(**good)
    ask(calm, learns_from(), round=1)
    kept = ask(stumbling, learns_from(), round=1).state
    with pytest.raises(NonFiniteError):
        ask(stumbling, learns_from(1e307), round=2, overrides=bad)
    stumbling.load_state(kept)
    one, other = (ask(each, learns_from(), round=2) for each in (calm, stumbling))
    assert one.answer.metrics == other.answer.metrics
    assert one.state.keys() == other.state.keys()
    assert all(np.array_equal(one.state[name], other.state[name]) for name in one.state)
