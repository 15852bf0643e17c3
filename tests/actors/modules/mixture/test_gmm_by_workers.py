"""The GMM by workers that share its rows: the same bits for any number of them, and what it learns from all rows."""

import itertools
import logging

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.mixture.blocked_gibbs import draw_labels
from actors.kernels.mixture.niw import NIWPrior, log_marginal_likelihood, log_predictive_loo, posterior_from_labels
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.class_posteriors import LABELS
from actors.modules.mixture import engines
from actors.modules.mixture import shared as mixture_by_workers
from actors.sharing.contract import sharing_problem
from tests.support.sharded_updates import call_by_workers, cut_at, same_answers

N, D, K, SIZE = 230, 3, 4, 16
RNG = np.random.default_rng(0)
TRUTH = np.arange(N) % K
X = RNG.normal(size=(N, D)) + 3.0 * np.eye(K)[TRUTH][:, :D]
APART = X + 5.0 * np.eye(K)[TRUTH][:, :D]
MASK = RNG.random(N) < 0.1
RECEIVERS = {"class_posteriors": ("mm", "other")}
ALONE = cut_at([], N, SIZE)


def vectors(mean=X, **rows):
    return make_message(Header("latent_vectors", "vae", "latent_vectors", "it"), {"mean": mean, **rows})


def prior(sender="mm", seed=1, rows=N):
    p = np.random.default_rng(seed).dirichlet(np.full(K, 0.5), rows) + 1e-6
    log_prob = np.log(p / p.sum(axis=1, keepdims=True))
    return make_message(Header("transition_prior", sender, "transition_prior", "it"), {"log_prob": log_prob})


def gmm(engine="vb", **given):
    return lambda: make_module("gmm", {"classes": K, "engine": engine, "iterations": 7, **given})


def shared(make, *messages, cuts=(), size=SIZE, rows=N, **context):
    extents = cut_at(list(cuts), rows, size)
    return call_by_workers(make, extents, messages, **{"receivers": RECEIVERS, **context})


def unshared(module, *messages, mode="update", **context):
    call = module.update if mode == "update" else module.recognize
    return call(Inbox(messages), Context("it", mode=mode, **{"receivers": RECEIVERS, **context}))


def assert_agree(answer, outbox, module=None, rtol=1e-9):
    """Check an answer of workers against that of all rows in one process."""
    assert answer.metrics.keys() == outbox.metrics.keys()
    for name, value in outbox.metrics.items():
        assert answer.metrics[name] == pytest.approx(value, rel=rtol), name
    assert answer.outputs.keys() == outbox.outputs.keys()
    for name, value in outbox.outputs.items():
        assert_allclose(answer.outputs[name], value, rtol=rtol, atol=rtol)
    assert answer.messages.keys() == {(each.port, each.receiver) for each in outbox.messages}
    for each in outbox.messages:
        given = answer.messages[each.port, each.receiver]
        assert given.keys() == each.arrays.keys()
        for name, value in each.arrays.items():
            assert_allclose(given[name], value, rtol=rtol, atol=rtol)
    if module is not None:
        state = {name: each for name, each in module.state().items() if name not in ("labels", "responsibilities")}
        assert answer.state.keys() == state.keys()
        for name, value in state.items():
            assert_allclose(answer.state[name], value, rtol=rtol, atol=rtol, err_msg=name)


# --- variational Bayes: what all rows in one process give -------------------------------------------------------------


@pytest.mark.parametrize("priors", [(), (prior(),), (prior(), prior("other", 2))])
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("rows", [{}, {"mask": MASK}, {"lengths": np.array([100, 1, 129])}])
def test_a_first_update_is_that_of_all_rows_in_one_process(priors, calibrate, rows):
    make, messages = gmm(calibrate=calibrate), (vectors(**rows), *priors)
    module = make()
    outbox = unshared(module, *messages, temperature=0.7)
    assert_agree(shared(make, *messages, cuts=[3, 9], temperature=0.7), outbox, module)


@pytest.mark.parametrize(
    "given",
    [
        {"prior_scale": "data"},
        {"start": "sequence"},
        {"start": "random", "burn_in": 3},
        {"prior_count": 0.01, "degrees": 9.0, "alpha": 2.0},
        {"iterations": 300},
    ],
)
def test_parameters_have_the_same_meaning(given):
    make = gmm(**given)
    module = make()
    outbox = unshared(module, vectors())
    assert_agree(shared(make, vectors(), cuts=[5]), outbox, module)


@pytest.mark.parametrize("calibrate", [False, True])
def test_later_updates_of_the_same_rows_are_those_of_one_process(calibrate):
    """One process carries responsibilities over, workers the classes given these."""
    make = gmm(iterations=3, calibrate=calibrate)
    module, state = make(), None
    for round_, priors in enumerate([(), (prior(),), (prior(seed=5), prior("other", 2))]):
        outbox = unshared(module, vectors(), *priors, round=round_)
        answer = shared(make, vectors(), *priors, cuts=[4], state=state, round=round_)
        assert_agree(answer, outbox, module)
        state = answer.state


def test_a_later_update_of_other_rows_starts_from_the_learnt_classes():
    """Other rows, another number of them, in extreme units: they belong to the classes by what these say."""
    make, other = gmm(iterations=1, prior_scale="data"), 2.0**70 * (X[:150] + 0.1)
    state = shared(make, vectors(2.0**70 * X)).state
    answer = shared(make, vectors(other), rows=150, state=state, cuts=[4])
    learnt = make()
    learnt.load_state(state)
    outbox = unshared(learnt, vectors(other))  # without labels of its own it does the same, and one iteration more
    again = make_module("gmm", {"classes": K, "engine": "vb", "iterations": 2, "prior_scale": "data"})
    more = shared(lambda: again, vectors(other), rows=150, state=state)
    assert_agree(more, outbox, learnt)
    assert answer.metrics["bound"] < more.metrics["bound"]


def test_iterations_end_when_the_bound_stops_rising():
    few, many = (shared(gmm(iterations=n), vectors()) for n in (500, 1000))
    assert same_answers(few, many)


# --- the bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("cuts", [[8], [1, 6], [2, 3, 7, 13], list(range(1, 15))])
def test_the_bits_do_not_depend_on_the_number_of_workers_or_the_cuts(engine, cuts):
    make = gmm(engine, calibrate=True, iterations=3)
    messages = (vectors(mask=MASK, lengths=np.array([100, 1, 129])), prior(), prior("other", 2))
    states = [None, None]
    for round_ in range(2):
        one, several = (
            shared(make, *messages, cuts=at, state=state, round=round_, sample_rows=60, temperature=0.8)
            for at, state in zip(([], cuts), states, strict=True)
        )
        assert same_answers(one, several)
        states = [one.state, several.state]


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("given", [{}, {"overrides": {"iterations": 0}}])
def test_what_is_kept_from_pass_to_pass_changes_no_bit(engine, given, monkeypatch):
    make, messages = gmm(engine, calibrate=True, iterations=3), (vectors(mask=MASK), prior())
    state = shared(make, *messages).state
    kept = shared(make, *messages, state=state, round=1, temperature=0.8, **given)
    monkeypatch.setattr("actors.modules.mixture.shared.KEPT_NUMBERS", 0)
    assert same_answers(shared(make, *messages, state=state, round=1, temperature=0.8, **given), kept)


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_recognition_is_that_of_one_process_with_the_same_bits_for_any_cuts(engine):
    make = gmm(engine, calibrate=True)
    state = shared(make, vectors(), prior()).state
    messages, call = (vectors(X[::-1] + 0.1, mask=MASK), prior("mm", 7)), {"state": state, "mode": "recognize"}
    one, several = (shared(make, *messages, cuts=cuts, **call) for cuts in ([], [2, 11]))
    assert same_answers(one, several)
    module = make()
    module.load_state(state)
    assert_agree(several, unshared(module, *messages, mode="recognize"))
    assert several.metrics == {}


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_a_state_goes_to_and_fro_between_workers_and_one_process(engine):
    make = gmm(engine, calibrate=True, iterations=20)
    state = shared(make, vectors(APART), prior()).state
    assert not {"labels", "responsibilities"} & state.keys()
    for name in (engine, "gibbs"):
        module = gmm(name, calibrate=True, iterations=5)()
        module.load_state(state)
        assert module.state().keys() == state.keys()
        assert all(np.array_equal(value, state[key]) for key, value in module.state().items())
        outbox = unshared(module, vectors(APART), round=1)
        assert agreement(outbox.outputs["class"]) > 0.98
        assert len(module.state()["labels"]) == N
    answer = shared(make, vectors(APART), cuts=[5], state=module.state(), round=2)
    assert agreement(answer.outputs["class"]) > 0.98


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("lengths", [None, [100, 1, 9, 120]])
def test_as_the_top_of_a_model_it_has_the_density_of_each_sequence(components, lengths):
    make, state = gmm(components=components), shared(gmm(components=components), vectors()).state
    rows = {} if lengths is None else {"lengths": np.array(lengths)}
    call = {"mode": "recognize", "receivers": {}}
    one, several = (shared(make, vectors(mask=MASK, **rows), state=state, cuts=at, **call) for at in ([], [2, 6, 11]))
    assert same_answers(one, several)
    module = make()
    module.load_state(state)
    outbox = unshared(module, vectors(mask=MASK, **rows), **call)
    assert len(outbox.outputs["log_evidence"]) == (1 if lengths is None else 4)
    assert_agree(several, outbox)


def test_generation_uses_what_workers_learnt():
    make = gmm()
    answer, module = shared(make, vectors()), make()
    module.load_state(answer.state)
    outbox = module.generate(Inbox([]), Context("it", mode="generate", rows=5))
    assert_array_equal(outbox.messages[0].arrays["means"], answer.outputs["mu"])


def agreement(labels, truth=TRUTH):
    """Return the share of rows in classes that are those of `truth`, each matched with its most frequent one."""
    table = np.zeros((K, K))
    np.add.at(table, (labels, truth), 1)
    return table.max(axis=1).sum() / len(labels)


# --- blocked Gibbs sampling: the distribution of the labels -----------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "with_prior", "components"),
    [
        ("one process", False, 1),
        ("one process", True, 1),
        pytest.param("one process", True, 2, marks=pytest.mark.slow),
        pytest.param("workers", True, 1, marks=pytest.mark.slow),
        pytest.param("workers", False, 1, marks=pytest.mark.slow),
        pytest.param("workers", True, 2, marks=pytest.mark.slow),
    ],
)
def test_labels_are_drawn_from_their_posterior(monkeypatch, with_prior, by, components):
    """By enumeration of all labels of six rows: the probability that two rows are in one class, or one component."""
    rows, sweeps, labels = X[:6, :1], 2000, []
    given = [vectors(rows)]
    if with_prior:
        p = np.random.default_rng(4).dirichlet(np.ones(2), 6)
        given.append(make_message(Header("transition_prior", "mm", "transition_prior", "it"), {"log_prob": np.log(p)}))
    wide = {"prior_scale": 1000.0, "prior_count": 0.3, "alpha": 0.7}  # as wide as all rows: labels change often
    wide |= {"classes": 2, "components": components}
    module = make_module("gmm", {"engine": "blocked-gibbs", "iterations": sweeps, **wide})

    def recorded(*args, **options):
        labels.append(draw_labels(*args, **options))
        return labels[-1]

    monkeypatch.setattr(engines if by == "one process" else mixture_by_workers, "draw_labels", recorded)
    if by == "workers":
        shared(lambda: module, *given, rows=6, size=3)
        drawn = np.concatenate(labels[: 2 * sweeps]).reshape(sweeps, 6)  # those of the response come after these
    else:
        unshared(module, *given)
        drawn = np.array(labels)
    state = module.state()
    niw = NIWPrior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
    expected = enumerated(rows, niw, 0.7, np.log(p) if with_prior else None, components)
    for of_rows, exact in zip((drawn, drawn // components), expected, strict=True):
        assert_allclose((of_rows[:, :, None] == of_rows[:, None, :]).mean(axis=0), exact, atol=0.06)


def enumerated(rows, niw, alpha, log_prior, m):
    """Return the probabilities (N, N) that two rows are in the same component, or the same of two classes."""
    every = np.array(list(itertools.product(range(2 * m), repeat=len(rows))))
    scores = []
    for z in every:
        posterior = posterior_from_labels(rows, z, 2 * m, niw)
        n = posterior.counts.reshape(2, m)
        classes, of_labels = n.sum(axis=1), gammaln(alpha + n).sum() - gammaln(m * alpha + n.sum(axis=1)).sum()
        of_labels += gammaln(alpha + classes).sum() if log_prior is None else log_prior[range(len(z)), z // m].sum()
        scores.append(log_marginal_likelihood(posterior, niw).sum() + of_labels)
    p = np.exp(np.array(scores) - max(scores))
    pairs = [np.einsum("s,sij->ij", p / p.sum(), z[:, :, None] == z[:, None, :]) for z in (every, every // m)]
    return tuple(pairs)


@pytest.mark.parametrize("rows", [{}, {"mask": MASK}])
def test_the_message_leaves_out_each_row_by_the_label_that_is_in_the_counts(rows):
    """The density of each row given each class without it, by the labels drawn last."""
    drawn = {}

    class Recorded(type(gmm()())):
        def _labels(self, of_rows, columns, known, context):
            drawn[context.chunk] = super()._labels(of_rows, columns, known, context)
            return drawn[context.chunk]

    parameters = gmm("blocked-gibbs", calibrate=False)().parameters
    answer = shared(lambda: Recorded(parameters), vectors(**rows), prior(), cuts=[5])
    z = np.concatenate([drawn[chunk] for chunk in sorted(drawn)])
    niw = NIWPrior(*(answer.state[name] for name in ("prior_mean", "prior_count", "degrees", "prior_scale")))
    factors = posterior_from_labels(X, z, K, niw)
    assert_array_equal(answer.state["counts"], factors.counts)
    assert answer.state["counts"].dtype == np.int64
    assert_allclose(answer.state["scale"], factors.scale, rtol=1e-9, atol=1e-9)
    present = z >= 0
    assert_allclose(likelihood(answer)[present], log_predictive_loo(X, z, factors, niw)[present], atol=1e-9)


# --- samples, units, updates without iterations -----------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("start", ["kmeans", "sequence"])
def test_a_start_on_a_sample_finds_the_classes_of_all_rows(engine, start):
    answer = shared(gmm(engine, start=start, prior_scale="data"), vectors(APART), sample_rows=48, cuts=[7])
    assert agreement(answer.outputs["class"]) > 0.98
    assert answer.state["counts"].sum() == pytest.approx(N)


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("exponent", [-900, 900])
def test_rows_in_other_units_have_the_same_classes(engine, exponent):
    make = gmm(engine, prior_scale="data", calibrate=True)
    units = np.array([2.0**exponent, 1.0, 2.0**-70])
    plain, scaled = shared(make, vectors()), shared(make, vectors(X * units), cuts=[3, 9])
    assert_allclose(scaled.outputs["Pdz"], plain.outputs["Pdz"], rtol=1e-9, atol=1e-9)
    assert_allclose(scaled.outputs["mu"], plain.outputs["mu"] * units, rtol=1e-9)
    volume = N * (exponent - 70) * np.log(2.0)
    assert scaled.metrics["evidence"] == pytest.approx(plain.metrics["evidence"] - volume)
    assert scaled.metrics["score"] == pytest.approx(plain.metrics["score"] - volume)


def test_rows_far_from_zero_have_the_classes_of_one_process():
    make, far = gmm(prior_scale="data"), X + np.array([1e9, 0.0, -1e7])
    module = make()
    outbox = unshared(module, vectors(far))
    assert_agree(shared(make, vectors(far), cuts=[3]), outbox, rtol=1e-6)
    plain = shared(make, vectors())
    assert_allclose(outbox.outputs["Pdz"], plain.outputs["Pdz"], atol=1e-6)


def test_a_column_that_varies_in_other_rows_than_those_of_the_sample_counts(caplog):
    rows, make = X.copy(), gmm(prior_scale="data")
    rows[:192, 0] = 5.0
    module = make()
    unshared(module, vectors(rows))
    whole = shared(make, vectors(rows), sample_rows=16, cuts=[4])
    assert whole.state["counts"].sum() == pytest.approx(N)
    assert "columns_kept" not in whole.state
    assert not caplog.records


def test_a_column_without_variance_is_named_once(caplog):
    rows, make = np.column_stack([X, np.full(N, 7.0)]), gmm(prior_scale="data")
    with caplog.at_level(logging.WARNING):
        answer = shared(make, vectors(rows), cuts=[3, 9])
        again = shared(make, vectors(rows), cuts=[3, 9], state=answer.state, round=1)
    assert [record.message for record in caplog.records] == [
        "module 'it': column 4 of 4 without variance left out: the same value in every row says nothing about classes"
    ]
    assert_allclose(again.outputs["mu"][:, 3], 7.0)
    module = make()
    outbox = unshared(module, vectors(rows))
    assert_agree(answer, outbox, module)


def test_recognition_names_differing_columns_once(caplog):
    rows, make = np.column_stack([X, np.full(N, 7.0)]), gmm(prior_scale="data")
    state = shared(make, vectors(rows)).state
    caplog.clear()
    rows[40:] += 0.5
    answer = shared(make, vectors(rows), cuts=[3, 9], state=state, mode="recognize")
    assert len(caplog.records) == 1
    assert "column 4 had one value in every row" in caplog.records[0].message
    assert answer.metrics == {}


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
@pytest.mark.parametrize("how", [{"overrides": {"iterations": 0}}, {"learn": False}])
def test_without_iterations_the_classes_stay_and_messages_follow_the_prior(engine, how):
    make = gmm(engine, iterations=200 if engine == "vb" else 20)
    first = shared(make, vectors(APART), prior())
    same, other = (
        shared(make, vectors(APART), each, state=first.state, cuts=[6], **how) for each in (prior(), prior(seed=9))
    )
    for name in first.state:
        assert_array_equal(other.state[name], first.state[name])
    assert_allclose(same.outputs["Pdz"], first.outputs["Pdz"], atol=1e-4 if engine == "vb" else 0.05)
    assert same.metrics["evidence"] == pytest.approx(first.metrics["evidence"], abs=0.05 if engine == "vb" else 5.0)
    expected = prior(seed=9)["log_prob"] + likelihood(same)
    assert_allclose(np.exp(expected - np.logaddexp.reduce(expected, axis=1)[:, None]), other.outputs["Pdz"], atol=0.05)


def likelihood(answer):
    """Return the log-likelihood (N, K) in the message to a module whose own prior is left out of it."""
    sent = answer.messages["class_posteriors", "mm"]
    return sent["log_prob"] + sent["log_norm"][:, None]


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_without_iterations_the_calibration_follows_the_prior(engine):
    make = gmm(engine, calibrate=True)
    first = shared(make, vectors(), informed_prior(0.999))
    other = shared(make, vectors(), prior(seed=3), state=first.state, overrides={"iterations": 0}, cuts=[4])
    assert other.state["temperature"] < first.state["temperature"]
    assert_array_equal(other.state["scale"], first.state["scale"])
    for each in (first, other):
        found = [each.metrics[name] for name in ("likelihood_temperature", "lapse_rate")]
        assert found == [each.state[name] for name in ("temperature", "lapse")]


def informed_prior(confidence):
    """Return a prior that knows the true class of each row, as far as the rows' classes are those."""
    p = np.full((N, K), (1.0 - confidence) / (K - 1))
    p[np.arange(N), TRUTH] = confidence
    return make_message(Header("transition_prior", "mm", "transition_prior", "it"), {"log_prob": np.log(p)})


def test_a_first_update_without_iterations_has_the_classes_of_the_assignment_that_it_starts_from():
    make = gmm(iterations=0)
    module = make()
    unshared(module, vectors())
    answer = shared(make, vectors(), cuts=[2])
    for name in ("counts", "mean", "scale"):
        assert_allclose(answer.state[name], module.state()[name], rtol=1e-9)


# --- input that does not fit ------------------------------------------------------------------------------------------


def test_wrong_input_is_refused_in_one_sentence():
    state = shared(gmm(), vectors()).state
    with pytest.raises(ModuleError, match=r"^module 'it' has learnt from rows with 3 dimensions, rows with 2 came"):
        shared(gmm(), vectors(X[:, :2]), state=state)
    with pytest.raises(ModuleError, match=r"^module 'it': 3 rows cannot start 4 classes: use at most 3$"):
        shared(gmm(), vectors(X[:3]), rows=3)
    everything = np.ones(N, bool)
    with pytest.raises(ModuleError, match="every one of the 230 rows to start from is missing"):
        shared(gmm(), vectors(mask=everything))
    with pytest.raises(ModuleError, match="every row of the latent vectors is missing"):
        shared(gmm(), vectors(mask=everything), state=state)
    with pytest.raises(ModuleError, match="every row of the latent vectors is missing"):
        shared(gmm(calibrate=True), vectors(mask=everything), state=state, learn=False)
    excluding = [prior(), prior("other", 2)]
    for message, column in zip(excluding, (0, 1), strict=True):
        message.arrays["log_prob"] = np.tile(np.log(np.full(K, 1.0 / K)), (N, 1))
        message.arrays["log_prob"][20] = np.where(np.arange(K) == column, 0.0, -np.inf)
    with pytest.raises(ModuleError, match=r"^in rows 16 to 31, counted from the first of these: .* exclude .* row 4$"):
        shared(gmm(), vectors(), *excluding)


def test_the_tutorial_rule_goes_with_the_collapsed_sampler_only():
    for engine in ("vb", "blocked-gibbs"):
        with pytest.raises(ValueError, match=f"it goes with engine 'gibbs', not with '{engine}'"):
            gmm(engine, rule="tutorial")()


def test_engines_that_need_all_rows_in_one_process_name_those_that_do_not():
    cls = type(gmm()())
    problem = lambda **given: sharing_problem(cls, gmm(**given)().parameters)  # noqa: E731
    assert problem() is None
    assert problem(engine="blocked-gibbs") is None
    assert problem(engine="gibbs") == (
        "learns by engine 'gibbs', which needs all rows in one process; use engine: vb or engine: blocked-gibbs"
    )
    assert "rule 'tutorial', which needs all rows" in problem(engine="gibbs", rule="tutorial")
    for kind in ("dp_gmm", "product", "network"):
        assert "learns from all rows in one process" in sharing_problem(type(make_module(kind, {})), None)
    with pytest.raises(ModuleError, match="module 'it' learns by engine 'gibbs'"):
        shared(gmm(), vectors(), overrides={"engine": "gibbs"})


# --- classes of several components ------------------------------------------------------------------------------------

GAPS = np.random.default_rng(4).random((N, D)) < 0.2
ROWS_OF_COMPONENTS = {
    "whole": vectors(),
    "missing": vectors(mask=MASK),
    "lacking": make_message(
        Header("observations", "data", "observations", "it"), {"values": np.where(GAPS, 0.0, X), "mask": GAPS}
    ),
}


@pytest.mark.parametrize("rows", ROWS_OF_COMPONENTS)
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("priors", [(), (prior(),)])
def test_components_of_classes_are_learnt_as_from_all_rows_in_one_process(rows, calibrate, priors):
    make, messages = gmm(components=2, calibrate=calibrate), (ROWS_OF_COMPONENTS[rows], *priors)
    module = make()
    outbox = unshared(module, *messages, temperature=0.7)
    answer = shared(make, *messages, cuts=[3, 9], temperature=0.7)
    assert_agree(answer, outbox, module)
    new = make()
    new.load_state(answer.state)
    assert_agree(
        shared(make, *messages, cuts=[4], mode="recognize", state=answer.state),
        unshared(new, *messages, mode="recognize"),
    )


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("priors", [(), (prior(),)])
def test_labels_of_some_rows_count_as_in_one_process(components, priors):
    known = np.where(np.arange(N)[:, None] % 5 == 0, np.where(np.eye(K)[TRUTH] > 0.0, 0.9, 0.1 / (K - 1)), 1.0 / K)
    header = Header("transition_prior", "told", LABELS, "it")
    make, messages = gmm(components=components), (vectors(), *priors, make_message(header, {"log_prob": np.log(known)}))
    module = make()
    outbox = unshared(module, *messages)
    assert_agree(shared(make, *messages, cuts=[3, 9]), outbox, module)


@pytest.mark.parametrize(("engine", "rows"), [("vb", "lacking"), ("blocked-gibbs", "missing")])
def test_components_have_the_same_bits_however_rows_are_shared(engine, rows):
    make, messages = gmm(engine, components=3, calibrate=True), (ROWS_OF_COMPONENTS[rows], prior())
    first = shared(make, *messages)
    later = shared(make, *messages, state=first.state, round=1)
    for cuts in ([1], [7], [2, 9]):
        one = shared(make, *messages, cuts=cuts)
        assert same_answers(one, first)
        assert same_answers(shared(make, *messages, cuts=cuts, state=one.state, round=1), later)


@pytest.mark.parametrize("rows", ROWS_OF_COMPONENTS)
def test_a_row_is_left_out_of_the_sampled_component_that_counts_it(rows):
    """Classes, and what is sent of them, follow from the labels drawn last as those of one process do."""
    drawn = {}

    class Recorded(type(gmm()())):
        def _labels(self, of_rows, columns, known, context):
            drawn[context.chunk] = super()._labels(of_rows, columns, known, context)
            return drawn[context.chunk]

    make = gmm("blocked-gibbs", components=2)
    answer = shared(lambda: Recorded(make().parameters), ROWS_OF_COMPONENTS[rows], prior(), cuts=[5])
    z = np.concatenate([drawn[chunk] for chunk in sorted(drawn)])
    assert same_answers(shared(make, ROWS_OF_COMPONENTS[rows], prior(), cuts=[2, 9]), answer)
    assert set(z[z >= 0]) == set(range(2 * K))
    module = make()
    module.load_state({**answer.state, "labels": z})
    outbox = unshared(module, ROWS_OF_COMPONENTS[rows], prior(), overrides={"iterations": 0})
    assert_agree(
        answer, outbox, module, rtol=1e-3 if rows == "lacking" else 1e-9
    )  # missing values: until it hardly rises
