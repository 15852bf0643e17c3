"""Mixtures whose rows lack some of their values, or have labels, by workers that share the rows."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from actors.errors import ModuleError
from actors.kernels.mixture.incomplete import find_incomplete, posterior_given_labels
from actors.kernels.mixture.niw import posterior_from_labels
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.modules.labels import label_log_probabilities
from actors.modules.mixture import shared as mixture_by_workers
from tests.actors.modules.mixture.test_gmm_by_workers import TRUTH, D, K, N, X, assert_agree, gmm, prior, unshared
from tests.support.sharded_updates import call_by_workers, cut_at, same_answers

SIZE = 16
RNG = np.random.default_rng(5)
ABSENT = RNG.random((N, D)) < 0.25
ABSENT[20:40] = False  # a whole chunk lacks nothing
ABSENT[7] = True
KNOWN = np.where(RNG.random(N) < 0.2, TRUTH, -1)
RECEIVERS = {"class_posteriors": ("mm", "other")}


def rows(values=X, absent=ABSENT, **others):
    arrays = {"values": np.where(absent, 0.0, values), "mask": absent, **others}
    return make_message(Header("observations", "data", "observations", "it"), arrays)


def labels(known=KNOWN, confidence=1.0):
    log_prob = label_log_probabilities(known.astype(float), K, confidence)
    arrays = {"log_prob": log_prob, "mask": known < 0}
    return make_message(Header("transition_prior", "labels", "labels", "it"), arrays)


def shared(make, *messages, cuts=(), size=SIZE, **context):
    extents = cut_at(list(cuts), len(messages[0]["values"]), size)
    return call_by_workers(make, extents, messages, **{"receivers": RECEIVERS, **context})


MESSAGES = {
    "alone": (rows(),),
    "sequences": (rows(lengths=np.array([100, 1, 129])),),
    "prior": (rows(), prior()),
    "labels": (rows(), labels()),
    "labels and prior": (rows(), labels(confidence=0.9), prior(), prior("other", 2)),
    "labels of whole rows": (rows(absent=np.zeros_like(ABSENT)), labels()),
}


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("name", MESSAGES)
def test_a_first_update_is_that_of_all_rows_in_one_process(name, calibrate):
    make, messages = gmm(calibrate=calibrate), MESSAGES[name]
    module = make()
    outbox = unshared(module, *messages, temperature=0.7)
    answer = shared(make, *messages, cuts=[3, 9], temperature=0.7)
    assert_agree(answer, outbox, module)
    new, lacking = X[:70] + 0.1, np.roll(ABSENT, 3, axis=0)[:70]
    found = shared(make, rows(new, lacking), cuts=[2], state=answer.state, mode="recognize")
    expected = unshared(module, rows(new, lacking), mode="recognize")
    assert_agree(found, expected)


def test_units_do_not_matter():
    units = 2.0 ** np.array([90, -70, 3])
    make = gmm(prior_scale="data")
    module = make()
    outbox = unshared(module, rows(X * units))
    answer = shared(make, rows(X * units), cuts=[4])
    assert_agree(answer, outbox)
    one, seen = shared(make, rows()), ~ABSENT[~ABSENT.all(axis=1)]
    volume = (seen.sum(axis=0) * np.log(units)).sum()
    assert answer.metrics["bound"] == pytest.approx(one.metrics["bound"] - volume, rel=1e-9)


@pytest.mark.parametrize(
    ("engine", "name"),
    [("blocked-gibbs", "alone"), ("blocked-gibbs", "labels and prior"), *(("vb", name) for name in MESSAGES)],
)
def test_any_number_of_workers_has_the_same_bits(engine, name):
    make, messages, answers = gmm(engine, iterations=2, calibrate=True), MESSAGES[name], []
    for cuts in ([], [2], [1, 4], [1, 2, 3, 5]):
        first = shared(make, *messages, cuts=cuts, size=40)
        second = shared(make, *messages, cuts=cuts, size=40, state=first.state, round=1)
        answers.append((first, second))
    assert all(same_answers(one, answers[0][n]) for each in answers for n, one in enumerate(each))


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_rows_without_gaps_are_learnt_from_as_without_a_mask(engine):
    """The mask of values of whole rows changes nothing but the last digits."""
    make = gmm(engine)
    whole = make_message(Header("observations", "data", "observations", "it"), {"values": X})
    one, other = shared(make, whole), shared(make, rows(absent=np.zeros_like(ABSENT)))
    assert_allclose(other.outputs["Pdz"], one.outputs["Pdz"], rtol=1e-9, atol=1e-12)
    assert other.metrics == pytest.approx(one.metrics, rel=1e-9)


def test_later_updates_go_on_from_the_classes():
    """The bound, which an update by the same rows starts with, never falls."""
    make, state, bounds = gmm(iterations=2), None, []
    for round_ in range(4):
        answer = shared(make, rows(), cuts=[4], state=state, round=round_)
        state = answer.state
        bounds.append(answer.metrics["bound"])
    assert (np.diff(bounds) >= -1e-9).all()
    assert bounds[-1] == pytest.approx(shared(gmm(iterations=8), rows()).metrics["bound"], rel=1e-9)


def test_a_later_update_of_rows_in_other_columns_starts_from_the_learnt_classes():
    """One column was constant before, one is so now, and their unit is another."""
    before, now = X * 2.0**70, (X + 0.01) * 2.0**71
    before[:, 2], now[:, 0] = 3.0, 1.0
    make = gmm(iterations=1, prior_scale="data")
    first = shared(make, rows(before))
    answers = [shared(make, rows(now), cuts=cuts, state=first.state, round=1) for cuts in ([], [3, 7])]
    assert same_answers(*answers)
    more = shared(gmm(iterations=40, prior_scale="data"), rows(now), state=first.state, round=1)
    assert more.metrics["bound"] > answers[0].metrics["bound"]
    drawn = shared(gmm("blocked-gibbs", prior_scale="data"), rows(now), state=first.state, round=1)
    assert np.isfinite(drawn.metrics["evidence"])


def test_a_column_that_the_sample_has_no_value_of_is_learnt_from_all_rows():
    absent = ABSENT.copy()
    absent[:SIZE, 1] = True
    values = X + np.array([0.0, 1e4, 0.0])
    answer = call_by_workers(
        gmm(iterations=60), cut_at([6], N, SIZE), [rows(values, absent)], receivers=RECEIVERS, sample_rows=SIZE
    )
    sampled = {tuple(absent[a : a + SIZE].all(axis=0)) for a in range(0, N, SIZE)}
    assert (False, True, False) in sampled  # else the chunk is no longer without the column
    agreement = np.zeros((K, K))
    np.add.at(agreement, (TRUTH, answer.outputs["class"]), 1)
    assert agreement.max(axis=1).sum() > 0.7 * N


def test_the_sample_may_be_a_chunk_without_a_column(monkeypatch):
    monkeypatch.setattr("actors.sharing.driver.sampled_chunks", lambda *_: [0])
    absent = ABSENT.copy()
    absent[:SIZE, 1] = True
    values = X + np.array([0.0, 1e4, 0.0])
    answer = shared(gmm(iterations=60), rows(values, absent), cuts=[6], sample_rows=SIZE)
    agreement = np.zeros((K, K))
    np.add.at(agreement, (TRUTH, answer.outputs["class"]), 1)
    assert agreement.max(axis=1).sum() > 0.7 * N
    empty = absent.copy()
    empty[:, 1] = True
    with pytest.raises(ModuleError, match="column 2 has no value in any row"):
        shared(gmm(), rows(values, empty), cuts=[6], sample_rows=SIZE)


def test_drawn_labels_give_the_classes_that_they_give_in_one_process(monkeypatch):
    """By blocked Gibbs, the final classes are those of the last labels, missing values integrated out."""
    drawn = {}
    by_rows = mixture_by_workers.SharedMixture._labels

    def recorded(self, rows, classes, known, context):
        found = by_rows(self, rows, classes, known, context)
        drawn[context.chunk] = found
        return found

    monkeypatch.setattr(mixture_by_workers.SharedMixture, "_labels", recorded)
    answer = shared(gmm("blocked-gibbs", iterations=5), rows())
    found = np.concatenate([drawn[chunk] for chunk in sorted(drawn)])
    module = gmm("blocked-gibbs")()
    module.load_state(answer.state)
    missing = ABSENT.all(axis=1)
    expected = posterior_given_labels(
        np.where(ABSENT, 0.0, X), found, K, find_incomplete(ABSENT, missing), module._prior
    )
    assert_allclose(answer.state["counts"], expected.counts)
    assert_allclose(answer.state["mean"], expected.mean, atol=2e-3)
    assert_allclose(answer.state["scale"], expected.scale, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_with_all_labels_the_classes_are_those_of_supervised_estimates(engine):
    answer = shared(gmm(engine), rows(absent=np.zeros_like(ABSENT)), labels(TRUTH), cuts=[3])
    module = gmm(engine)()
    module.load_state(answer.state)
    expected = posterior_from_labels(X, TRUTH, K, module._prior)
    for name, value in expected._asdict().items():
        assert_allclose(answer.state[name], value, rtol=1e-9, atol=1e-9)
    assert np.array_equal(answer.outputs["class"], TRUTH)


def test_labels_that_a_prior_excludes_are_refused_by_row():
    log_prob = np.full((N, K), -np.inf)
    log_prob[np.arange(N), (TRUTH + 1) % K] = 0.0
    sure = make_message(Header("transition_prior", "mm", "transition_prior", "it"), {"log_prob": log_prob})
    with pytest.raises(ModuleError, match="the prior from above excludes the label of row"):
        shared(gmm(), rows(), labels(TRUTH), sure)
