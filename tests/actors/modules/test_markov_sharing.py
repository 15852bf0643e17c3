"""Tests of the Markov model by workers: the results of one process, and the same bits for any number of workers."""

import itertools

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.class_posteriors import FLOOR, add_floor, message_with_floor
from actors.modules.markov import MarkovModel
from actors.sharing.chunks import Extent
from actors.sharing.contract import sharing_problem
from actors.sharing.driver import learn, open_group, respond, start_on_sample
from actors.sharing.shard import join_outputs
from tests.support.toy_modules import same_arrays

N, K, SIZE = 700, 4, 64
LENGTHS = np.array([100, 1, 27, 200, 36, 64, 272])  # a chunk ends after rows 64, 128, …: with a sequence at 128 alone


def class_probabilities(seed=0, certainty=0.7, ordered=True, rows=N):
    rng = np.random.default_rng(seed)
    classes = np.arange(rows) % K if ordered else rng.integers(0, K, rows)
    return certainty * np.eye(K)[classes] + (1 - certainty) * rng.dirichlet(np.ones(K), rows)


def posteriors(probabilities, sender="gmm", **rows):
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities), "log_norm": -np.arange(len(probabilities)) / 100, **rows}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "mm"), arrays)


def extents(cuts, rows=N):
    chunks = -(-rows // SIZE)
    return [Extent(rows, SIZE, first, last) for first, last in itertools.pairwise([0, *cuts, chunks])]


def context_for(messages, **context):
    return Context("mm", receivers={"transition_prior": tuple(m.header.sender for m in messages)}, **context)


def shared(parameters, messages, cuts, state=None, **context):
    """Let workers answer; return the state, the outputs, the metrics and the messages by receiver, all of all rows."""
    modules = [make_module("markov", parameters) for _ in range(len(cuts) + 1)]
    given, context = extents(cuts, len(messages[0]["log_prob"])), context_for(messages, **context)
    workers, shards = open_group(modules, Inbox(messages), given, context)
    try:
        learnt, sweep = state or {}, 0
        if context.mode == "update":
            learnt = learnt or start_on_sample(modules[0], shards, context, 10 * N)
            learnt, sweep = learn(workers, learnt)
        answers, metrics = respond(workers, learnt, sweep)
        answers, metrics, learnt = [workers.get(a) for a in answers], workers.get(metrics), workers.get(learnt)
    finally:
        workers.close()
    modules[0].load_state(learnt)
    sent = {
        each.receiver: {
            name: np.concatenate([answer.messages[n].arrays[name] for answer in answers])
            for name in each.arrays
            if name != "lengths"
        }
        for n, each in enumerate(answers[0].messages)
    }
    return modules[0].state(), join_outputs(modules[0], [a.outputs for a in answers]), metrics, sent


def alone(parameters, messages, state=None, **context):
    """Return the answer of the module to all rows at once, as `shared` does."""
    module, context = make_module("markov", parameters), context_for(messages, **context)
    module.load_state(state or {})
    outbox = getattr(module, context.mode)(Inbox(messages), context)
    sent = {
        each.receiver: {name: np.asarray(array) for name, array in each.arrays.items() if name != "lengths"}
        for each in outbox.messages
    }
    return module.state(), outbox.outputs, outbox.metrics, sent


def assert_agrees(one, other):
    """Assert that two answers agree to 1e-9, messages and outputs as probabilities, and the paths exactly."""
    for (mine, theirs), name in zip(
        itertools.islice(zip(one, other, strict=True), 3), ("state", "outputs", "metrics"), strict=True
    ):
        assert mine.keys() == theirs.keys(), name
        for key in mine:
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-9, atol=1e-9, err_msg=f"{name} {key}")
    np.testing.assert_array_equal(one[1].get("viterbi"), other[1].get("viterbi"))
    assert one[3].keys() == other[3].keys()
    for receiver, arrays in one[3].items():
        assert arrays.keys() == other[3][receiver].keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(np.exp(array), np.exp(other[3][receiver][name]), rtol=1e-9, atol=1e-9)


def assert_same_bits(one, other):
    assert same_arrays(one[0], other[0])
    assert same_arrays(one[1], other[1])
    assert one[2] == other[2]
    assert one[3].keys() == other[3].keys()
    for receiver, arrays in one[3].items():
        assert same_arrays(arrays, other[3][receiver])


MASK = np.arange(N) % 9 == 2
MASK[60:140] = True
CASES = {
    "sticky": ({"self_transition_prior": 5.0, "estimate": "variational"}, {"lengths": LENGTHS}, {}),
    "one sequence": ({}, {}, {}),
    "sequences": ({}, {"lengths": LENGTHS}, {}),
    "sequences inside chunks": ({}, {"lengths": np.array([SIZE] * 10 + [N - 10 * SIZE])}, {}),
    "single rows": ({}, {"lengths": np.ones(N, int)}, {}),
    "missing rows": ({}, {"lengths": LENGTHS, "mask": MASK}, {}),
    "learnt initial": ({"initial": "learnt"}, {"lengths": LENGTHS}, {}),
    "variational": ({"estimate": "variational", "alpha": 0.3}, {}, {}),
    "test of order": ({"test_order": True, "estimate": "variational"}, {"lengths": LENGTHS, "mask": MASK}, {}),
    "tempered": ({}, {"lengths": LENGTHS}, {"temperature": 0.4}),
    "tempered test": ({"test_order": True, "estimate": "variational"}, {"mask": MASK}, {"temperature": 0.4}),
    "nothing to learn": ({"initial": "learnt"}, {"lengths": LENGTHS}, {"learn": False}),
    "no iterations": ({"inner_iterations": 0}, {}, {}),
}


@pytest.mark.parametrize(
    ("case", "senders"), [*((case, 1) for case in CASES), ("sequences", 2), ("missing rows", 2), ("tempered test", 2)]
)
def test_workers_learn_what_one_process_learns(case, senders):
    parameters, rows, context = CASES[case]
    state = mine = None
    for seed in range(3):
        messages = [posteriors(class_probabilities(seed + 10 * s), f"gmm{s}", **rows) for s in range(senders)]
        if senders == 2 and "mask" in rows:  # missing for one sender, and for both
            messages[1] = posteriors(class_probabilities(seed + 9), "gmm1", **rows | {"mask": np.roll(MASK, 5)})
        theirs = alone(parameters, messages, state, round=seed, **context)
        ours = shared(parameters, messages, [3, 7], mine, round=seed, **context)
        assert_agrees(ours, theirs)
        state, mine = theirs[0], ours[0]
    for ordered in (True, False):
        recognised = {"mode": "recognize", "ordered": ordered}
        assert_agrees(
            shared(parameters, messages, [3, 7], mine, **recognised), alone(parameters, messages, state, **recognised)
        )


@pytest.mark.parametrize(("classes", "scale"), [(1, 1.0), (2, 300.0), (7, 300.0), (26, 10.0)])
def test_any_number_of_classes_and_any_evidence_gives_what_one_process_learns(classes, scale):
    rng = np.random.default_rng(classes)
    log_prob = scale * rng.normal(size=(N, classes))
    log_prob -= np.logaddexp.reduce(log_prob, axis=1, keepdims=True)
    header = Header("class_posteriors", "gmm", "class_posteriors", "mm")
    messages = [make_message(header, {"log_prob": log_prob, "log_norm": np.zeros(N), "lengths": LENGTHS})]
    parameters = {"alpha": 1e-6, "inner_iterations": 2}
    assert_agrees(shared(parameters, messages, [3, 7]), alone(parameters, messages))


def test_workers_reject_an_order_where_one_process_does_and_accept_it_later():
    parameters = {"test_order": True}
    messages = [posteriors(class_probabilities(3, ordered=False), lengths=LENGTHS)]
    theirs, ours = alone(parameters, messages), shared(parameters, messages, [5])
    assert_agrees(ours, theirs)
    assert "frequencies" in ours[0]
    assert not ours[3]  # no message
    recognised = {"mode": "recognize"}
    assert_agrees(
        shared(parameters, messages, [5], ours[0], **recognised), alone(parameters, messages, theirs[0], **recognised)
    )
    messages = [posteriors(class_probabilities(3), lengths=LENGTHS)]
    theirs, ours = alone(parameters, messages, theirs[0]), shared(parameters, messages, [5], ours[0])
    assert_agrees(ours, theirs)
    assert "frequencies" not in ours[0]
    assert ours[3]


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_impossible_transitions_are_kept_where_nothing_is_learnt(lengths):
    rows = {} if lengths is None else {"lengths": lengths}
    trans_prob = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.2, 0.8], [0.7, 0.0, 0.3, 0.0]])
    state = {"transitions": 100 * trans_prob, "trans_prob": trans_prob, "initial": np.full(K, 0.25)}
    messages = [posteriors(class_probabilities(certainty=0.4), **rows)]
    for context in ({"learn": False}, {"mode": "recognize"}):
        assert_agrees(shared({}, messages, [2, 6], state, **context), alone({}, messages, state, **context))


@pytest.mark.parametrize("case", ["one sequence", "missing rows", "learnt initial", "variational", "tempered test"])
def test_the_bits_do_not_depend_on_the_number_of_workers_or_the_cuts(case):
    parameters, rows, context = CASES[case]
    messages = [posteriors(class_probabilities(s), f"gmm{s}", **rows) for s in range(2)]
    first = shared(parameters, messages, [], **context)
    for cuts in ([4], [3, 7], [2, 4, 6, 8], list(range(1, 11))):
        assert_same_bits(shared(parameters, messages, cuts, **context), first)
    for ordered in (True, False):
        answers = [
            shared(parameters, messages, cuts, first[0], mode="recognize", ordered=ordered)
            for cuts in ([], [5], [1, 9])
        ]
        assert_same_bits(answers[0], answers[1])
        assert_same_bits(answers[0], answers[2])


def test_one_chunk_is_the_update_of_all_rows_and_a_state_of_workers_serves_both():
    messages = [posteriors(class_probabilities(rows=SIZE), lengths=np.array([30, 34]))]
    state = alone({}, messages)[0]
    ours, theirs = shared({}, messages, [], state), alone({}, messages, state)
    assert_agrees(ours, theirs)
    assert np.array_equal(ours[1]["Pdz"], theirs[1]["Pdz"])
    assert ours[0].keys() == theirs[0].keys() == {"transitions", "trans_prob", "initial", "class_counts"}
    generated = []
    for state in (ours[0], theirs[0]):
        module = make_module("markov", {})
        module.load_state(state)
        generated.append(module.generate(Inbox(), Context("mm", rows=50)).outputs["class"])
    assert np.array_equal(*generated)


def test_moves_from_what_workers_learnt_are_those_of_one_process():
    messages = [posteriors(class_probabilities(), lengths=LENGTHS)]
    proposals = []
    for state in (alone({}, messages)[0], shared({}, messages, [])[0], shared({}, messages, [3, 7])[0]):
        module = make_module("markov", {})
        module.load_state(state)
        (sent,) = module.propose(Inbox(messages), context_for(messages, mode="propose")).messages
        proposals.append(sent.arrays["log_prob"])
    assert np.array_equal(proposals[0], proposals[1])  # labels: certain classes
    assert np.array_equal(proposals[1], proposals[2])


def test_an_impossible_row_is_named_among_all_rows_by_any_number_of_workers():
    state = {"transitions": np.eye(K), "trans_prob": np.roll(np.eye(K), 1, axis=1), "initial": np.full(K, 0.25)}
    probabilities = np.eye(K)[np.arange(N) % K]
    probabilities[[330, 600]] = np.eye(K)[0]  # row 330 must be of class 2; row 600 is one of those after it
    probabilities[650] = np.eye(K)[1]
    messages = [posteriors(probabilities)]
    for context in ({"learn": False}, {"mode": "recognize"}):
        with pytest.raises(ModuleError, match="module 'mm': row 330 has probability zero given the rows before it"):
            alone({}, messages, state, **context)
        for cuts in ([], [2], [5], [5, 6], list(range(1, 11))):
            with pytest.raises(ModuleError, match="module 'mm': row 330 has probability zero given the rows before it"):
                shared({}, messages, cuts, state, **context)


def test_senders_that_exclude_each_other_are_named_with_the_row_among_all_rows():
    one, other = np.full((N, K), 1 / K), np.full((N, K), 1 / K)
    one[400], other[400] = np.eye(K)[0], np.eye(K)[1]
    messages = [posteriors(one, "a"), posteriors(other, "b")]
    for cuts in ([], [4]):
        with pytest.raises(ModuleError, match="a, b exclude each other in row 400"):
            shared({}, messages, cuts)


def test_workers_share_the_smoothed_rule_alone():
    assert sharing_problem(MarkovModel, MarkovModel.Parameters()) is None
    sentence = "learns by rule 'tutorial', which needs all rows in one process; use rule: smoothed"
    assert sharing_problem(MarkovModel, MarkovModel.Parameters(rule="tutorial")) == sentence
    with pytest.raises(ModuleError, match=f"module 'mm' {sentence}"):
        shared({}, [posteriors(class_probabilities())], [4], overrides={"rule": "tutorial"})


def test_workers_refuse_what_one_process_refuses():
    state = alone({}, [posteriors(class_probabilities())])[0]
    with pytest.raises(ModuleError, match="2 classes came, 'mm' has learnt 4"):
        shared({}, [posteriors(np.full((N, 2), 0.5))], [4], state)
    with pytest.raises(ModuleError, match="module 'mm' has learnt nothing yet, so it cannot recognize"):
        shared({}, [posteriors(class_probabilities())], [4], mode="recognize")


@pytest.mark.parametrize("given", [{}, {"temperature": 0.5}])
def test_what_is_kept_for_the_response_changes_no_bit(given, monkeypatch):
    parameters, messages = {"initial": "learnt", "test_order": True}, [posteriors(class_probabilities(), mask=MASK)]
    kept = shared(parameters, messages, [3], **given)
    monkeypatch.setattr("actors.modules.markov_sharing.KEPT_NUMBERS", 0)
    assert_same_bits(shared(parameters, messages, [3], **given), kept)


def test_a_message_keeps_a_floor_under_every_probability():
    message = np.random.default_rng(0).dirichlet(np.full(K, 0.05), 200)
    message[:3] = np.eye(K)[:3]
    floored, logs = message_with_floor(message)
    np.testing.assert_allclose(floored, (message + FLOOR) / (message + FLOOR).sum(axis=1, keepdims=True), rtol=1e-14)
    np.testing.assert_allclose(logs, np.log(floored), rtol=1e-14, atol=1e-15)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(logs, add_floor(np.log(message)), rtol=1e-12, atol=1e-15)
