"""The autoregressive mixture by workers that share its rows: the same bits for any number of them."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.mixture.autoregression import classes_from, log_marginal_likelihood, log_predictive_loo, series
from actors.kernels.mixture.blocked_gibbs import draw_from_scores
from actors.kernels.mixture.variational import one_hot_responsibilities
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.class_posteriors import LABELS
from actors.modules.mixture import ar_shared
from actors.modules.mixture.ar_states import unpack
from actors.sharing.contract import sharing_problem
from tests.actors.kernels.mixture.test_autoregression import made_rows
from tests.actors.modules.mixture.test_gmm_by_workers import assert_agree
from tests.support.sharded_updates import call_by_workers, cut_at, same_answers

K, SIZE = 2, 16
ROWS, TRUTH, _ = made_rows(blocks=8, length=30)
N, D = ROWS.shape
MASK = np.random.default_rng(3).random(N) < 0.1
RECEIVERS = {"class_posteriors": ("mm", "other"), "latent_means": ("below",)}
LENGTHS = {
    "one": None,
    "several": [100, 1, N - 101],
    "at the ends of chunks": [SIZE, 3 * SIZE, 2 * SIZE, N - 6 * SIZE],
    "shorter than the order": [2, 1, 1, 2, 3, 1, 1, 2, SIZE - 11, 1, 1, N - SIZE - 4],
}


def vectors(mean=ROWS, lengths="several", **rows):
    given = LENGTHS[lengths] if isinstance(lengths, str) else lengths
    rows |= {} if given is None else {"lengths": np.array(given)}
    return make_message(Header("latent_vectors", "vae", "latent_vectors", "it"), {"mean": mean, **rows})


def prior(sender="mm", seed=1, rows=N):
    p = np.random.default_rng(seed).dirichlet(np.full(K, 0.5), rows) + 1e-6
    log_prob = np.log(p / p.sum(axis=1, keepdims=True))
    return make_message(Header("transition_prior", sender, "transition_prior", "it"), {"log_prob": log_prob})


def ar_gmm(engine="vb", **given):
    return lambda: make_module("ar_gmm", {"classes": K, "engine": engine, "iterations": 7, **given})


def shared(make, *messages, cuts=(), size=SIZE, rows=N, **context):
    extents = cut_at(list(cuts), rows, size)
    return call_by_workers(make, extents, messages, **{"receivers": RECEIVERS, **context})


def unshared(module, *messages, mode="update", **context):
    call = module.update if mode == "update" else module.recognize
    return call(Inbox(messages), Context("it", mode=mode, **{"receivers": RECEIVERS, **context}))


# --- variational Bayes: what all rows in one process give -------------------------------------------------------------


@pytest.mark.parametrize("priors", [(), (prior(),), (prior(), prior("other", 2))])
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("rows", [{}, {"mask": MASK}])
def test_a_first_update_is_that_of_all_rows_in_one_process(priors, calibrate, rows):
    make, messages = ar_gmm(calibrate=calibrate), (vectors(**rows), *priors)
    module = make()
    outbox = unshared(module, *messages, temperature=0.7)
    assert_agree(shared(make, *messages, cuts=[3, 9], temperature=0.7), outbox, module)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("order", "size"), [(1, 16), (3, 16), (5, 3), (3, 1)])
def test_rows_follow_from_those_of_the_chunks_before(lengths, order, size):
    make, messages = ar_gmm(order=order, iterations=3), (vectors(lengths=lengths, mask=MASK), prior())
    module = make()
    outbox = unshared(module, *messages)
    assert_agree(shared(make, *messages, size=size, cuts=[1, 4]), outbox, module)


@pytest.mark.parametrize(
    "given",
    [
        {"prior_mean": "zero"},
        {"prior_scale": 0.01, "prior_count": 0.1, "degrees": 9.0, "alpha": 2.0},
        {"start": "segments"},
        {"start": "random", "burn_in": 3},
        {"iterations": 300},
        {"iterations": 0},
    ],
)
def test_parameters_have_the_same_meaning(given):
    make = ar_gmm(**given)
    module = make()
    outbox = unshared(module, vectors())
    answer = shared(make, vectors(), cuts=[5])
    if given.get("iterations") == 0:  # workers have no bound then, and leave a row out by what the classes say of it
        assert_agree_but(answer, module)
    else:
        assert_agree(answer, outbox, module)


def assert_agree_but(answer, module):
    for name, value in module.state().items():
        if name not in ("labels", "responsibilities"):
            assert_allclose(answer.state[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("calibrate", [False, True])
def test_later_updates_of_the_same_rows_are_those_of_one_process(calibrate):
    """One process carries responsibilities over, workers the classes given these."""
    make = ar_gmm(iterations=3, calibrate=calibrate)
    module, state = make(), None
    for round_, priors in enumerate([(), (prior(),), (prior(seed=5), prior("other", 2))]):
        outbox = unshared(module, vectors(), *priors, round=round_)
        answer = shared(make, vectors(), *priors, cuts=[4], state=state, round=round_)
        assert_agree(answer, outbox, module)
        state = answer.state


@pytest.mark.parametrize("units", [1.0, 2.0**70])
def test_a_later_update_of_other_rows_starts_from_the_learnt_classes(units):
    """Other rows, another number of them, in extreme units: they belong to the classes by what these say."""
    make, other = ar_gmm(iterations=1), units * (ROWS[:150] + 0.1)
    state = shared(make, vectors(units * ROWS)).state
    answer = shared(make, vectors(other, None), rows=150, state=state, cuts=[4])
    learnt = make()
    learnt.load_state(state)
    outbox = unshared(
        learnt, vectors(other, None)
    )  # without labels of its own it does the same, and one iteration more
    more = shared(ar_gmm(iterations=2), vectors(other, None), rows=150, state=state)
    assert_agree(more, outbox, learnt)
    assert answer.metrics["bound"] < more.metrics["bound"]


def test_labels_of_some_rows_count_as_in_one_process():
    known = np.where(np.arange(N)[:, None] % 5 == 0, np.where(np.eye(K)[TRUTH] > 0.0, 0.9, 0.1), 1.0 / K)
    told = make_message(Header("transition_prior", "told", LABELS, "it"), {"log_prob": np.log(known)})
    for priors in ((), (prior(),)):
        make, module = ar_gmm(), ar_gmm()()
        outbox = unshared(module, vectors(), *priors, told)
        assert_agree(shared(make, vectors(), *priors, told, cuts=[3, 9]), outbox, module)


# --- the bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("cuts", [[8], [1, 6], list(range(1, 15))])
def test_the_bits_do_not_depend_on_the_number_of_workers_or_the_cuts(engine, cuts):
    make = ar_gmm(engine, calibrate=True, iterations=3, order=2)
    messages = (vectors(mask=MASK), prior(), prior("other", 2))
    states = [None, None]
    for round_ in range(2):
        one, several = (
            shared(make, *messages, cuts=at, state=state, round=round_, sample_rows=90, temperature=0.8)
            for at, state in zip(([], cuts), states, strict=True)
        )
        assert same_answers(one, several)
        states = [one.state, several.state]


@pytest.mark.parametrize("cuts", [[15], [1, 2, 29]])
def test_the_bits_do_not_depend_on_cuts_of_chunks_shorter_than_the_order(cuts):
    make, messages = ar_gmm(order=5, iterations=2), (vectors(lengths="shorter than the order"), prior())
    one, several = (shared(make, *messages, size=2, cuts=at) for at in ([], cuts))
    assert same_answers(one, several)


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("given", [{}, {"overrides": {"iterations": 0}}])
def test_what_is_kept_from_pass_to_pass_changes_no_bit(engine, given, monkeypatch):
    make, messages = ar_gmm(engine, calibrate=True, iterations=3), (vectors(mask=MASK), prior())
    state = shared(make, *messages).state
    kept = shared(make, *messages, state=state, round=1, temperature=0.8, **given)
    monkeypatch.setattr("actors.modules.mixture.ar_shared.KEPT_NUMBERS", 0)
    assert same_answers(shared(make, *messages, state=state, round=1, temperature=0.8, **given), kept)


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("ordered", [True, False])
def test_recognition_is_that_of_one_process_with_the_same_bits_for_any_cuts(calibrate, ordered):
    make = ar_gmm(calibrate=calibrate, order=2)
    state = shared(make, vectors(), prior()).state
    messages = (vectors(ROWS[::-1] + 0.1, mask=MASK), prior("mm", 7))
    call = {"state": state, "mode": "recognize", "ordered": ordered}
    one, several = (shared(make, *messages, cuts=cuts, **call) for cuts in ([], [2, 11]))
    assert same_answers(one, several)
    module = make()
    module.load_state(state)
    assert_agree(several, unshared(module, *messages, mode="recognize", ordered=ordered))
    assert several.metrics == {}


@pytest.mark.parametrize("lengths", ["one", "several", "at the ends of chunks"])
def test_as_the_top_of_a_model_it_has_the_density_of_each_sequence(lengths):
    make, state = ar_gmm(order=3), shared(ar_gmm(order=3), vectors()).state
    message, call = vectors(lengths=lengths, mask=MASK), {"mode": "recognize", "receivers": {}}
    one, several = (shared(make, message, state=state, cuts=at, **call) for at in ([], [2, 6, 11]))
    assert same_answers(one, several)
    module = make()
    module.load_state(state)
    outbox = unshared(module, message, **call)
    assert len(outbox.outputs["log_evidence"]) == len(LENGTHS[lengths] or [N])
    assert_agree(several, outbox)


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_a_state_goes_to_and_fro_between_workers_and_one_process(engine):
    make, told = ar_gmm(engine, calibrate=True, iterations=20), informed_prior(0.9)
    state = shared(make, vectors(), told).state
    assert not {"labels", "responsibilities"} & state.keys()
    module = make()
    module.load_state(state)
    assert module.state().keys() == state.keys()
    assert all(np.array_equal(value, state[key]) for key, value in module.state().items())
    outbox = unshared(module, vectors(), told, round=1)
    assert (outbox.outputs["class"] == TRUTH).mean() > 0.97
    assert len(module.state()["labels"]) == N
    answer = shared(make, vectors(), told, cuts=[5], state=module.state(), round=2)
    assert (answer.outputs["class"] == TRUTH).mean() > 0.97


def informed_prior(confidence):
    """Return a prior that knows the true class of each row."""
    log_prob = np.log(np.where(np.eye(K)[TRUTH] > 0.0, confidence, 1.0 - confidence))
    return make_message(Header("transition_prior", "mm", "transition_prior", "it"), {"log_prob": log_prob})


# --- blocked Gibbs sampling -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_labels_are_drawn_from_their_posterior(monkeypatch):
    """By enumeration of all labels of six rows in chunks of two: the probability that two rows are in one class."""
    rows, sweeps, labels = ROWS[:6, :1], 1200, []
    p = np.random.default_rng(4).dirichlet(np.ones(2), 6)
    told = make_message(Header("transition_prior", "mm", "transition_prior", "it"), {"log_prob": np.log(p)})
    module = ar_gmm("blocked-gibbs", iterations=sweeps, prior_count=0.3, prior_scale=1000.0)()

    def recorded(scores, uniforms):
        labels.append(draw_from_scores(scores, uniforms))
        return labels[-1]

    monkeypatch.setattr(ar_shared, "draw_from_scores", recorded)
    shared(lambda: module, vectors(rows, None), told, rows=6, size=2)
    drawn = np.concatenate(labels[: 3 * sweeps]).reshape(sweeps, 6)  # those of the response come after these
    learnt = unpack(module.state())
    data, scores = series(rows - learnt.prior.centre, np.zeros(6, bool), np.array([0, 6]), 1), []
    every = np.array(list(itertools.product(range(2), repeat=6)))
    for z in every:
        classes = classes_from(data, np.eye(2)[z], learnt.prior)
        scores.append(log_marginal_likelihood(classes, learnt.prior).sum() + np.log(p[range(6), z]).sum())
    weights = np.exp(np.array(scores) - max(scores))
    expected = np.einsum("s,sij->ij", weights / weights.sum(), every[:, :, None] == every[:, None, :])
    assert np.ptp(expected) > 0.3  # not the prior's alone
    assert_allclose((drawn[:, :, None] == drawn[:, None, :]).mean(axis=0), expected, atol=0.07)


@pytest.mark.parametrize("rows", [{}, {"mask": MASK}])
def test_the_message_leaves_out_each_row_by_the_label_that_is_in_the_counts(rows):
    """The density of each row given each class without it, by the labels drawn last."""
    drawn = {}

    class Recorded(type(ar_gmm()())):
        def _labels(self, data, of_rows, known, context):
            drawn[context.chunk] = super()._labels(data, of_rows, known, context)
            return drawn[context.chunk]

    parameters = ar_gmm("blocked-gibbs", order=2)().parameters
    answer = shared(lambda: Recorded(parameters), vectors(**rows), prior(), cuts=[5])
    z = np.concatenate([drawn[chunk] for chunk in sorted(drawn)])
    learnt = unpack(answer.state)
    missing, starts = rows.get("mask", np.zeros(N, bool)), np.cumsum([0, *LENGTHS["several"]])
    data, member = series(ROWS - learnt.prior.centre, missing, starts, 2), one_hot_responsibilities(z, K)
    classes = classes_from(data, member, learnt.prior)
    assert_array_equal(answer.state["counts"], classes.dynamics.counts)
    for name, value in classes.dynamics._asdict().items():
        assert_allclose(answer.state[name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    sent = answer.messages["class_posteriors", "mm"]
    likelihood, present = sent["log_prob"] + sent["log_norm"][:, None], ~missing
    expected = log_predictive_loo(data, member, classes, learnt.prior)
    assert_allclose(likelihood[present], expected[present], rtol=1e-9, atol=1e-9)


# --- samples, units, what does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["kmeans", "segments"])
def test_a_start_on_a_sample_finds_the_classes_of_all_rows(start):
    rows, truth, _ = made_rows(blocks=30, length=40)
    answer = shared(ar_gmm(start=start), vectors(rows, None), rows=len(rows), size=100, sample_rows=300, cuts=[7])
    right = (answer.outputs["class"] == truth).mean()
    assert max(right, 1.0 - right) > 0.85
    total = answer.state["counts"].sum() + answer.state["initial_counts"].sum()
    assert total == pytest.approx(len(rows))


@pytest.mark.parametrize("exponent", [-900, 900])
def test_rows_in_other_units_have_the_same_classes(exponent):
    make, units = ar_gmm(calibrate=True, order=2), np.array([2.0**exponent, 2.0**-70])
    plain, scaled = shared(make, vectors()), shared(make, vectors(ROWS * units), cuts=[3, 9])
    assert_allclose(scaled.outputs["Pdz"], plain.outputs["Pdz"], rtol=1e-9, atol=1e-9)
    assert_allclose(scaled.outputs["mu"], plain.outputs["mu"] * units, rtol=1e-9)
    volume = N * (exponent - 70) * np.log(2.0)
    assert scaled.metrics["evidence"] == pytest.approx(plain.metrics["evidence"] - volume)


def test_rows_far_from_zero_have_the_classes_of_one_process():
    make, far = ar_gmm(), ROWS + np.array([1e9, -1e7])
    module = make()
    outbox = unshared(module, vectors(far))
    assert_agree(shared(make, vectors(far), cuts=[3]), outbox, rtol=1e-6)


def test_a_column_that_varies_in_other_rows_than_those_of_the_sample_counts(caplog):
    rows = np.column_stack([ROWS, np.where(np.arange(N) < 192, 5.0, ROWS[:, 0])])
    answer = shared(ar_gmm(), vectors(rows), sample_rows=16, cuts=[4])
    assert answer.state["counts"].sum() + answer.state["initial_counts"].sum() == pytest.approx(N)
    assert answer.state["coefficients"].shape == (K, 3, 4)
    assert np.isfinite(answer.metrics["bound"])
    assert not caplog.records


def test_a_column_without_variance_is_left_out_as_in_one_process():
    rows, make = np.column_stack([ROWS, np.full(N, 7.0)]), ar_gmm(order=2)
    module = make()
    outbox = unshared(module, vectors(rows))
    answer = shared(make, vectors(rows), cuts=[3, 9])
    assert_agree(answer, outbox, module)
    assert_allclose(answer.outputs["mu"][:, 2], 7.0)


def test_a_column_that_varies_in_later_rows_only_is_learnt_from_then_on():
    rows, make = np.column_stack([ROWS, np.full(N, 7.0)]), ar_gmm(iterations=3)
    state = shared(make, vectors(rows)).state
    rows[:, 2] += ROWS[::-1, 1]
    one, several = (shared(make, vectors(rows), state=state, round=1, cuts=cuts) for cuts in ([], [5]))
    assert same_answers(one, several)
    assert one.state["coefficients"].shape == (K, 3, 4)
    again = shared(make, vectors(rows[:, [2, 0, 1]][:, [1, 2, 0]]), state=one.state, round=2)
    assert np.isfinite(again.metrics["bound"])
    rows[:, 2] = 7.0
    back = shared(make, vectors(rows), state=one.state, round=2)
    assert back.state["coefficients"].shape == (K, 2, 3)


def test_wrong_input_is_refused_in_one_sentence():
    state = shared(ar_gmm(), vectors()).state
    with pytest.raises(ModuleError, match=r"^module 'it' has learnt from rows with 2 dimensions, rows with 1 came"):
        shared(ar_gmm(), vectors(ROWS[:, :1]), state=state)
    with pytest.raises(ModuleError, match=r"^module 'it': 1 row cannot start 2 classes: use at most 1$"):
        shared(ar_gmm(), vectors(ROWS[:1], None), rows=1)
    everything = np.ones(N, bool)
    with pytest.raises(ModuleError, match="every one of the 240 rows to start from is missing"):
        shared(ar_gmm(), vectors(mask=everything))
    with pytest.raises(ModuleError, match="every row of the latent vectors is missing"):
        shared(ar_gmm(), vectors(mask=everything), state=state)


def test_rows_that_lack_some_of_their_values_are_refused_and_those_that_lack_all_are_missing():
    gaps = np.repeat(MASK[:, None], D, axis=1)
    observed = lambda mask: make_message(  # noqa: E731
        Header("observations", "data", "observations", "it"), {"values": np.where(mask, 0.0, ROWS), "mask": mask}
    )
    receivers = {"class_posteriors": ("mm", "other")}
    one = shared(ar_gmm(), observed(gaps), cuts=[5], receivers=receivers)
    assert_array_equal(one.outputs["Pdz"], shared(ar_gmm(), vectors(lengths=None, mask=MASK)).outputs["Pdz"])
    gaps[17] = [True, False]
    sentence = r"some rows lack some of their values, which .* 'ar_gmm' can use in one process only; leave workers out"
    with pytest.raises(ModuleError, match=sentence):
        shared(ar_gmm(), observed(gaps), cuts=[5])
    with pytest.raises(ModuleError, match=sentence):
        shared(ar_gmm(), observed(gaps), cuts=[5], mode="recognize", state=one.state)
    with pytest.raises(ModuleError, match=sentence):
        shared(ar_gmm(), observed(gaps), cuts=[5], state=one.state)


def test_both_engines_can_be_shared():
    for engine in ("vb", "blocked-gibbs"):
        module = ar_gmm(engine)()
        assert sharing_problem(type(module), module.parameters) is None
