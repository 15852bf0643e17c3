"""The MLDA finds what its modalities share, heeds priors, and recognizes what it has learnt."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp

from actors.errors import ModuleError, NonFiniteError
from actors.graph.registry import make
from runner.report.clustering_metrics import accuracy
from tests.support.mlda_data import (
    MERGED,
    TRUTH,
    K,
    N,
    both,
    histograms,
    likelihood,
    make_mlda,
    most_common,
    observed,
    posteriors,
    prior_of,
    sent,
    some_prior,
    update,
)
from tests.support.toy_modules import goes_on_in_another, same

# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_both_modalities_together_tell_classes_apart_that_each_alone_confuses(seed):
    left, right = both(seed=seed)

    def found(*messages):
        return accuracy(update(make_mlda(), *messages, seed=seed).outputs["class"], TRUTH)

    together, alone = found(left, right), max(found(left), found(right))
    assert together >= 0.95
    assert together >= alone + 0.1


def test_a_start_by_tokens_is_there_for_whoever_wants_it():
    outbox = update(make_mlda(start="tokens", itr=60), *both(own=0.0), seed=1)
    assert accuracy(outbox.outputs["class"], TRUTH) >= 0.7


def exact_posterior(rows, prior, alpha, beta, sizes):
    """Return P(class | all tokens), (N, K), of rows of (modality, word) by enumeration of all assignments."""
    topics = prior.shape[1]
    tokens = [(d, m, w) for d, row in enumerate(rows) for m, w in row]
    z = np.array(list(itertools.product(range(topics), repeat=len(tokens))))
    hot = z[..., None] == np.arange(topics)

    def tally(wanted):
        return hot[:, [i for i, token in enumerate(tokens) if wanted(token)]].sum(axis=1)

    n = np.stack([tally(lambda token, row=row: token[0] == row) for row in range(len(rows))], axis=1)
    raised = prior * (n + alpha)
    scores = gammaln(n + alpha).sum(axis=(1, 2)) + np.log(raised.sum(axis=2)).sum(axis=1)
    for modality, size in enumerate(sizes):
        words = [tally(lambda token, which=(modality, v): token[1:] == which) for v in range(size)]
        scores += (gammaln(np.array(words) + beta).sum(axis=0) - gammaln(sum(words) + size * beta)).sum(axis=1)
    weights = np.exp(scores - logsumexp(scores))
    return np.einsum("a,adk->dk", weights, raised / raised.sum(axis=2, keepdims=True))


def test_what_goes_out_is_the_posterior_found_by_enumeration():
    """Two modalities, one of them a GMM's of weight 2, and a prior from above: 3^9 assignments."""
    rows = [[(0, 0), (0, 2), (1, 0), (1, 1)], [(0, 0), (1, 0), (1, 0)], [(0, 1), (0, 1)]]
    prior = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.0, 0.5, 0.5]])
    exact = exact_posterior(rows, prior, 0.5, 0.4, (3, 2))
    mlda = make("mlda", {"topics": 3, "alpha": 0.5, "beta": 0.4, "weights": {"gmm": 2}, "start": "tokens"})
    outbox = update(
        mlda,
        observed("left", [[1, 0, 1], [1, 0, 0], [0, 2, 0]]),
        posteriors("gmm", [[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]], mask=np.array([False, False, True])),
        prior_of("mm", prior),
        overrides={"iterations": 12_000, "samples": 12_000},
    )
    np.testing.assert_allclose(outbox.outputs["Pdz"], exact, atol=0.015)
    # Upwards the prior that came from there is not in it.
    alone = np.exp(sent(outbox, "topic_posteriors", "mm")["log_prob"])[:2]
    expected = exact[:2] / prior[:2]
    np.testing.assert_allclose(alone, expected / expected.sum(axis=1, keepdims=True), atol=0.02)


def test_a_prior_decides_where_the_rows_do_not():
    words = np.random.default_rng(0).integers(0, 3, (N, 6))
    outbox = update(make_mlda(), observed("left", words), prior_of("mm", 0.98 * np.eye(K)[TRUTH] + 0.02 / K))
    assert (outbox.outputs["class"] == TRUTH).mean() > 0.95


def test_rows_follow_a_prior_that_comes_later():
    """Where a row's words cannot tell classes apart, all of its tokens have to move together, or none does."""
    left, right = (histograms(name, own=0.0) for name in MERGED)
    gone = np.arange(N) < 60
    messages = observed("left", left), observed("right", right, mask=gone)
    mlda = make_mlda()
    found = update(mlda, *messages).outputs["class"]
    classes = [np.bincount(found[~gone & (k == TRUTH)]).argmax() for k in range(K)]
    assert sorted(classes) == [0, 1, 2, 3]
    labels = np.array(classes)[TRUTH]
    assert (most_common(mlda) == labels)[gone & (TRUTH < 2)].mean() < 0.8
    prior = np.where(gone[:, None], 0.98 * np.eye(K)[labels] + 0.02 / K, 1 / K)
    update(mlda, *messages, prior_of("mm", prior), round=1)
    assert (most_common(mlda) == labels).mean() > 0.95


def test_a_low_temperature_gives_the_prior_more_say():
    prior = prior_of("mm", 0.9 * np.eye(K)[np.random.default_rng(5).integers(0, K, N)] + 0.1 / K)

    def agreement(temperature):
        mlda = make_mlda()
        update(mlda, *both(), prior, temperature=temperature, seed=3)
        return (most_common(mlda) == prior["log_prob"].argmax(axis=1)).mean()

    assert agreement(0.02) > agreement(1.0) + 0.1


def test_burn_in_is_for_the_first_update_alone():
    mlda, sweeps = make_mlda(itr=2, burn_in=3), []
    for round_ in range(2):
        said = []
        update(mlda, *both(), round=round_, reporter=lambda *r, said=said: said.append(r))
        sweeps.append([(done, total) for done, total, _ in said])
    assert sweeps == [[(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)], [(1, 2), (2, 2)]]


@pytest.mark.parametrize(
    "still", [{"overrides": {"iterations": 0}}, {"learn": False}], ids=["no sweeps", "no learning"]
)
def test_an_update_that_learns_nothing_keeps_topics_and_still_heeds_the_prior(still):
    mlda = make_mlda()
    before = update(mlda, *both())
    state = mlda.state()
    certain = prior_of("mm", np.eye(K)[np.zeros(N, dtype=int)])
    outbox = update(mlda, *both(), certain, round=1, **still)
    assert same(mlda.state(), state)
    assert (outbox.outputs["class"] == 0).all()
    again = update(mlda, *both(), round=1, **still)
    assert (again.outputs["class"] == before.outputs["class"]).mean() > 0.95
    # What the rows weigh does not hang on how the topics were sampled.
    assert again.metrics["evidence"] == pytest.approx(before.metrics["evidence"], rel=0.01)


# --- recognition and state ----------------------------------------------------------------------------------------


def test_recognizes_new_rows_and_learns_nothing_from_them():
    mlda = make_mlda()
    learnt = update(mlda, *both()).outputs["class"]
    before = mlda.state()
    outbox = update(mlda, *both(rows=60, seed=9), answer="recognize")
    assert (outbox.outputs["class"] == learnt[:60]).mean() > 0.9
    assert same(mlda.state(), before)
    assert not outbox.metrics


def test_continues_bit_for_bit_after_a_load():
    gmm = posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K)
    messages = (*both(), gmm, some_prior("mm", 1))
    one, other = make_mlda(), make_mlda()
    continued, again = goes_on_in_another(update, one, other, *messages)
    np.testing.assert_array_equal(likelihood(again), likelihood(continued))


def test_tokens_that_stay_keep_their_topics_and_new_ones_join_them():
    mlda = make_mlda(weights={"gmm": 10})
    left = both()[0]
    update(mlda, left, posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K))
    before = mlda.state()
    moved = np.where(np.arange(N) < 40, (TRUTH + 1) % K, TRUTH)
    update(mlda, left, posteriors("gmm", 0.9 * np.eye(K)[moved] + 0.1 / K), round=1, learn=False)
    after = mlda.state()
    np.testing.assert_array_equal(after["topics.left"], before["topics.left"])
    old, new = (state["topics.gmm"].reshape(N, 10) for state in (before, after))
    np.testing.assert_array_equal(new[40:], old[40:])
    assert (after["counts.gmm"].sum(axis=0) == np.bincount(after["topics.gmm"], minlength=K)).all()
    # The first rows' words are others, their topics still those of the row.
    assert (new[:40] == most_common(mlda)[:40, None]).mean() > 0.5


def test_a_modality_may_join_later():
    mlda = make_mlda()
    left, right = both()
    update(mlda, left)
    outbox = update(mlda, left, right, round=1)
    assert accuracy(outbox.outputs["class"], TRUTH) >= 0.9


def test_one_sender_may_have_two_modalities():
    mlda = make_mlda(weights={"gmm_posteriors": 7})
    outbox = update(mlda, observed("gmm", np.ones((N, 2))), posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K))
    assert mlda.state()["tokens.gmm_posteriors"].tolist() == [7] * N
    assert mlda.state()["tokens.gmm"].tolist() == [2] * N
    assert sent(outbox, "transition_prior", "gmm")["log_prob"].shape == (N, K)


def test_seeds_decide_and_nothing_else_does():
    one, again, other = (make_mlda(itr=2) for _ in range(3))
    for mlda, seed in ((one, 0), (again, 0), (other, 1)):
        update(mlda, *both(), seed=seed)
    assert same(one.state(), again.state())
    assert not same(one.state(), other.state())


def test_makes_up_rows_of_single_topics():
    mlda = make_mlda()
    update(mlda, both()[0], posteriors("gmm", 0.97 * np.eye(K)[TRUTH] + 0.03 / K))
    chosen = np.arange(40) % K
    outbox = update(mlda, prior_of("mm", np.eye(K)[chosen]), answer="generate", rows=40)
    np.testing.assert_array_equal(outbox.outputs["class"], chosen)
    down = sent(outbox, "transition_prior", "gmm")["log_prob"]
    assert accuracy(down.argmax(axis=1), chosen) == 1.0
    drawn = update(mlda, answer="generate", rows=4000).outputs["class"]
    sizes = mlda.state()["counts.left"].sum(axis=0) + mlda.state()["counts.gmm"].sum(axis=0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=K) / 4000, sizes / sizes.sum(), atol=0.03)
    assert not update(mlda, answer="generate").messages


# --- what it refuses ----------------------------------------------------------------------------------------------


def test_says_what_it_cannot_use():
    mlda, (left, right) = make_mlda(), both()
    with pytest.raises(ModuleError, match="learnt nothing"):
        update(mlda, left, answer="recognize")
    with pytest.raises(ModuleError, match="learnt nothing"):
        update(mlda, answer="generate", rows=3)
    with pytest.raises(ModuleError, match="no histograms and no class posteriors came"):
        update(mlda)
    with pytest.raises(ModuleError, match=r"left -> mlda.*row 2 is negative"):
        update(mlda, observed("left", [[1, 2], [0, 1], [3, -1]]))
    with pytest.raises(ModuleError, match="every row is missing or empty"):
        update(mlda, observed("left", np.zeros((3, 2))))
    with pytest.raises(ModuleError, match="rounded to 0; give left a weight"):
        update(mlda, observed("left", np.full((3, 4), 0.25)))
    with pytest.raises(ModuleError, match=r"tokens are too many; give left a smaller weight"):
        update(mlda, observed("left", np.full((3, 4), 1e9)))
    with pytest.raises(NonFiniteError, match="histograms of left reach"):
        update(mlda, observed("left", np.full((3, 4), 1e200)))
    with pytest.raises(ModuleError, match="120 rows came from left, 60 from right"):
        update(mlda, left, observed("right", histograms("right", 60)))
    with pytest.raises(ModuleError, match="weights name 'rihgt', which sends nothing; left and right do"):
        update(make_mlda(weights={"rihgt": 3}), left, right)
    with pytest.raises(ModuleError, match="two modalities would be called 'left_posteriors'"):
        update(mlda, left, observed("left_posteriors", left["values"]), posteriors("left", np.eye(K)[TRUTH]))
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        update(mlda, left, overrides={"topics": 3})
    with pytest.raises(ModuleError, match=r"mm -> mlda.*\(60, 4\) came, expected \(120, 4\)"):
        update(mlda, left, some_prior("mm", 0, rows=60))


def test_says_what_does_not_fit_what_it_has_learnt():
    mlda, (left, right) = make_mlda(), both()
    update(mlda, left)
    with pytest.raises(ModuleError, match="topics of 120 rows, 60 rows came"):
        update(mlda, observed("left", histograms("left", 60)))
    with pytest.raises(ModuleError, match=r"left -> mlda.*5 words or classes came, 'mlda' has learnt 12"):
        update(mlda, observed("left", np.ones((N, 5))))
    with pytest.raises(ModuleError, match="has learnt left, but nothing of right"):
        update(mlda, left, right, answer="recognize")
    with pytest.raises(ModuleError, match="4 topics, this MLDA 5"):
        make_mlda(topics=5).load_state(mlda.state())
    mlda.load_state({})
    assert mlda.state() == {}
    with pytest.raises(ModuleError, match="topics"):
        make("mlda", {"topics": 0})
