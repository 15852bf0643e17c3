"""The Markov model with regimes by workers: the results of one process, and the same bits for any number of workers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.markov.switching import switching_forward_backward
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.sharing.contract import sharing_problem
from tests.support.sharded_updates import call_by_workers, cut_at, same_answers
from tests.support.toy_modules import same_arrays

N, K, R, SIZE = 500, 3, 2, 32
LENGTHS = np.array([100, 1, 27, 200, 32, 68, 72])  # a sequence ends with a chunk: at 128 and at 360
MASK = np.arange(N) % 9 == 2
MASK[60:140] = True
RECEIVERS = {"regime_posteriors": ("words", "topics"), "transition_prior": ("gmm",)}


def below(seed=0, sender="gmm", rows=N, spread=1.5, **arrays):
    """Return likelihoods of classes that go round in one direction, and every 40 rows in the other."""
    rng = np.random.default_rng(seed)
    turns = np.where(np.arange(rows) // 40 % 2 == 0, 1, -1)
    likelihood = spread * (np.eye(K)[np.cumsum(turns) % K] + 0.4 * rng.normal(size=(rows, K)))
    norm = np.logaddexp.reduce(likelihood, axis=1)
    given = {"log_prob": likelihood - norm[:, None], "log_norm": norm, **arrays}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "it"), given)


def above(seed=0, sender="words", rows=N):
    turns = np.arange(rows) // 40 % 2
    p = 0.6 * np.eye(R)[turns] + 0.4 * np.random.default_rng([seed, 1]).dirichlet(np.ones(R), rows)
    return make_message(Header("transition_prior", sender, "regime_prior", "it"), {"log_prob": np.log(p)})


def make(**parameters):
    return lambda: make_module("switching_markov", {"regimes": R, **parameters})


def shared(made, messages, cuts=(), size=SIZE, **context):
    rows = len(messages[0]["log_prob"])
    return call_by_workers(made, cut_at(list(cuts), rows, size), messages, **{"receivers": RECEIVERS, **context})


def alone(made, messages, state=None, mode="update", **context):
    module = made()
    module.load_state(state or {})
    outbox = getattr(module, mode)(Inbox(messages), Context("it", mode=mode, **{"receivers": RECEIVERS, **context}))
    return module.state(), outbox


def assert_agree(answer, state, outbox):
    """Check an answer of workers against that of one process to 1e-9, messages as probabilities."""
    assert answer.state.keys() == state.keys()
    assert answer.metrics.keys() == outbox.metrics.keys()
    assert answer.outputs.keys() == outbox.outputs.keys()
    pairs = [(answer.state, state), (answer.metrics, outbox.metrics), (answer.outputs, outbox.outputs)]
    for mine, theirs in pairs:
        for name, value in theirs.items():
            assert_allclose(mine[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    assert answer.messages.keys() == {(each.port, each.receiver) for each in outbox.messages}
    for each in outbox.messages:
        mine = answer.messages[each.port, each.receiver]
        assert mine.keys() == each.arrays.keys()
        for name, array in each.arrays.items():
            change = np.exp if name == "log_prob" else np.asarray
            assert_allclose(change(mine[name]), change(array), rtol=1e-9, atol=1e-9, err_msg=name)


CASES = {
    "one sequence": ({}, {}, {}),
    "sequences": ({}, {"lengths": LENGTHS}, {}),
    "sequences inside chunks": ({}, {"lengths": np.array([SIZE] * 15 + [N - 15 * SIZE])}, {}),
    "single rows": ({}, {"lengths": np.ones(N, int)}, {}),
    "missing rows": ({}, {"lengths": LENGTHS, "mask": MASK}, {}),
    "learnt initial": ({"initial": "learnt", "alpha": 0.5}, {"lengths": LENGTHS}, {}),
    "tempered": ({}, {"lengths": LENGTHS, "mask": MASK}, {"temperature": 0.4}),
    "nothing to learn": ({"initial": "learnt"}, {"lengths": LENGTHS}, {"learn": False}),
    "no iterations": ({"inner_iterations": 0, "window": 8}, {}, {}),
    "other settings in a chain": ({}, {}, {"chain": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_workers_learn_what_one_process_learns(case):
    """Without a prior of the regimes in the first update, and with one or two in the next ones."""
    parameters, rows, context = CASES[case]
    made, state, mine = make(**parameters), None, None
    for number, priors in enumerate([(), (above(1),), (above(2), above(3, "topics"))]):
        messages = [below(number, **rows), *priors]
        state, outbox = alone(made, messages, state, round=number, **context)
        answer = shared(made, messages, [3, 9], state=mine, round=number, **context)
        assert_agree(answer, state, outbox)
        mine = answer.state
    new = [below(7, rows=150), above(8, rows=150)]
    for ordered in (True, False):
        _, outbox = alone(made, new, state, mode="recognize", ordered=ordered)
        assert_agree(shared(made, new, [2], state=mine, mode="recognize", ordered=ordered), mine, outbox)


@pytest.mark.parametrize("case", ["one sequence", "missing rows", "tempered"])
def test_any_cuts_give_the_same_bits(case):
    parameters, rows, context = CASES[case]
    made = make(**parameters)
    messages = [below(0, **rows), below(1, "other", **rows)], [below(2, **rows), below(3, "other", **rows), above()]
    first = shared(made, messages[0], **context)
    later = shared(made, messages[1], state=first.state, round=1, **context)
    recognized = shared(made, messages[1], state=later.state, mode="recognize")
    for cuts in ([1], [8], [5, 11], [3, 7, 9, 13]):
        assert same_answers(shared(made, messages[0], cuts, **context), first)
        assert same_answers(shared(made, messages[1], cuts, state=first.state, round=1, **context), later)
        assert same_answers(shared(made, messages[1], cuts, state=later.state, mode="recognize"), recognized)


@pytest.mark.parametrize("size", [1, 7, 100, N])
def test_chunks_of_other_sizes_differ_by_rounding(size):
    made, messages = make(), [below(lengths=LENGTHS, mask=MASK), above()]
    state, outbox = alone(made, messages)
    assert_agree(shared(made, messages, [1] if size < N else [], size=size), state, outbox)


def test_what_is_not_kept_has_the_same_bits(monkeypatch):
    made, messages = make(), [below(lengths=LENGTHS), above()]
    kept = shared(made, messages, [4], temperature=0.5)
    monkeypatch.setattr("actors.modules.switching_markov.KEPT_NUMBERS", 0)
    assert same_answers(shared(made, messages, [4], temperature=0.5), kept)


def test_rows_of_a_long_chain_that_forgets_nothing_are_those_of_one_process():
    """Each class is followed by one other: the rows of a chunk's map stay as different as they begin."""
    made, rows = make(alpha=1e-6), 600
    turning = np.roll(np.eye(K), 1, axis=1)
    state = {"transitions": 1e6 * np.stack([turning, turning]), "initial_counts": np.ones(K)}
    flat = np.full((rows, K), -np.log(K))
    flat[-1] = np.log([0.98, 0.01, 0.01])  # the last row alone says which class is where
    header = Header("class_posteriors", "gmm", "class_posteriors", "it")
    messages = [make_message(header, {"log_prob": flat, "log_norm": np.zeros(rows)}), above(rows=rows)]
    after, outbox = alone(made, messages, state, learn=False)
    answer = shared(made, messages, [4, 10], state=state, learn=False)
    assert_agree(answer, after, outbox)
    assert answer.outputs["Pdz"][0].max() > 0.97


def test_a_start_on_a_sample_finds_the_regimes_of_all_rows():
    made, turns = make(window=12), np.arange(N) // 40 % 2
    answer = shared(made, [below(spread=6.0)], [6], sample_rows=160)
    matrices = answer.outputs["regime_trans_prob"]
    directions = (matrices * np.roll(np.eye(K), 1, axis=1)).sum(axis=(1, 2))
    assert abs(directions[0] - directions[1]) > 1.0
    later = shared(made, [below(spread=6.0), above()], [3], state=answer.state, round=1)
    assert "from_windows" in answer.state
    assert "from_windows" not in later.state
    agreement = (later.outputs["regime"] == turns).mean()
    assert max(agreement, 1.0 - agreement) > 0.85


def test_what_was_learnt_stays_where_no_prior_comes():
    """Of a run that goes on, for instance: the matrices are those of the prior that came, not of windows."""
    made = make()
    state = shared(made, [below(), above()]).state
    for answer in (shared(made, [below(4)], [5], state=state), alone(made, [below(4)], state)[0]):
        after = answer if isinstance(answer, dict) else answer.state
        assert same_arrays({"a": after["transitions"]}, {"a": state["transitions"]})
        assert not np.array_equal(after["regime_counts"], state["regime_counts"])
    one, outbox = alone(made, [below(4)], state)
    assert_agree(shared(made, [below(4)], [5], state=state), one, outbox)


def test_the_evidence_is_that_of_the_kernel_over_all_rows():
    made = make()
    answer = shared(made, [below(lengths=LENGTHS), above()], [7])
    matrices, message = answer.outputs["regime_trans_prob"], below()
    log_density, prior = message["log_prob"] + message["log_norm"][:, None], np.exp(above()["log_prob"])
    fit = switching_forward_backward(log_density, matrices, prior, np.full(K, 1.0 / K), LENGTHS)
    assert answer.metrics["evidence"] == pytest.approx(fit.log_likelihood, rel=1e-12)
    assert_allclose(answer.outputs["Pdz"], fit.posterior, atol=1e-12)


def test_wrong_rows_are_named_among_all_rows():
    made = make()
    state = shared(made, [below(), above()]).state
    with np.errstate(divide="ignore"):
        excluding = [below(), below(1, "other")]
        for column, message in enumerate(excluding):
            message.arrays["log_prob"][77] = np.log(np.eye(K)[column])
    for cuts in ([], [2], [1, 9]):
        with pytest.raises(ModuleError, match=r"the messages of gmm, other exclude each other in row 77$"):
            shared(made, excluding, cuts)
        with pytest.raises(ModuleError, match="3 classes came, 'it' has learnt 4"):
            shared(made, [below()], cuts, state={"transitions": np.ones((R, 4, 4)), "initial_counts": np.ones(4)})
    with pytest.raises(ModuleError, match="learnt nothing yet"):
        shared(made, [below()], mode="recognize")
    header = Header("transition_prior", "words", "regime_prior", "it")
    prior = make_message(header, {"log_prob": np.full((N, 3), -np.log(3.0))})
    with pytest.raises(ModuleError, match=r"log_prob of shape \(32, 3\) came, expected \(32, 2\)"):
        shared(made, [below(), prior], [4], state=state)


def test_workers_may_share_its_rows():
    module = make()()
    assert sharing_problem(type(module), module.parameters) is None
    with pytest.raises(ModuleError, match="has regimes, which are not matched between runs: train one run"):
        module.statistics_of({})
