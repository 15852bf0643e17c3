"""The MLDA finds what its modalities share, heeds priors, and tells each module only what the others said."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp, softmax

from actors.messages import Header, make_message
from actors.mlda_tokens import largest_remainder
from actors.module import Context, Inbox, ModuleError, NonFiniteError
from actors.registry import make
from runner.metrics import accuracy

K, N = 4, 120
TRUTH = np.arange(N) % K
# One modality takes classes 0 and 1 for the same, the other 2 and 3.
MERGED = {"left": [0, 0, 1, 2], "right": [0, 1, 2, 2]}
BELOW = {"transition_prior": ("gmm", "other_gmm"), "reconstructions": ("left", "right")}


def make_mlda(**given):
    return make("mlda", {"topics": K, "itr": 20, **given})


def histograms(name, rows=N, tokens=40, seed=0, own=0.3):
    """Return counts over 12 words; each row's words are its class's, but for a share that is the row's own."""
    generator = np.random.default_rng([seed, ord(name[0])])
    phi = np.eye(3).repeat(4, axis=1) / 4
    words = phi[np.array(MERGED[name])[np.arange(rows) % K]]
    noise = generator.dirichlet(np.full(12, 0.2), rows)
    return generator.multinomial(tokens, (1 - own) * words + own * noise).astype(float)


def observed(sender, values, **rows):
    header = Header("observations", sender, "observations", "mlda")
    return make_message(header, {"values": np.asarray(values, dtype=float), **rows})


def posteriors(sender, probabilities, **rows):
    probabilities = np.asarray(probabilities, dtype=float)
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities), "log_norm": np.zeros(len(probabilities)), **rows}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "mlda"), arrays)


def prior_of(sender, probabilities):
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities)}
    return make_message(Header("transition_prior", sender, "topic_prior", "mlda"), arrays)


def some_prior(sender, seed, rows=N):
    return prior_of(sender, np.random.default_rng(seed).dirichlet(np.ones(K), rows))


def both(**given):
    return [observed(name, histograms(name, **given)) for name in MERGED]


def update(mlda, *messages, answer="update", receivers=("mm",), **context):
    context = Context("mlda", receivers={"topic_posteriors": receivers, **BELOW}, **context)
    return getattr(mlda, answer)(Inbox(messages), context)


def sent(outbox, port, receiver):
    """Return what went out, checked as a message."""
    kind = {"topic_posteriors": "class_posteriors"}.get(port, port)
    (outgoing,) = [o for o in outbox.messages if (o.port, o.receiver) == (port, receiver)]
    return make_message(Header(kind, "mlda", port, receiver), outgoing.arrays)


def likelihood(outbox, receiver="mm"):
    message = sent(outbox, "topic_posteriors", receiver)
    return message["log_prob"] + message["log_norm"][:, None]


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def most_common(mlda):
    """Return the topic of most of each row's tokens in "left"."""
    return np.array([np.bincount(row).argmax() for row in mlda.state()["topics.left"].reshape(N, -1)])


# --- what is counted ----------------------------------------------------------------------------------------------


def test_shares_become_whole_numbers_that_sum_to_the_total():
    values = np.random.default_rng(0).random((200, 7)) ** 4
    counts = largest_remainder(values, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert np.abs(counts - 50 * values / values.sum(axis=1, keepdims=True)).max() < 1
    np.testing.assert_array_equal(largest_remainder(np.full((1, 3), 1e-300), 4), [[2, 1, 1]])
    np.testing.assert_array_equal(largest_remainder(np.zeros((1, 3)), 4), [[0, 0, 0]])


def test_counts_are_taken_as_they_are_and_weights_scale_them():
    mlda = make_mlda(itr=0, weights={"right": 6, "gmm": 3})
    gmm = posteriors("gmm", [[0.5, 0.5], [1.0, 0.0], [0.1, 0.9]])
    images = np.array([[[2, 0], [0.4, 1]], [[0, 0], [0, 3]], [[0, 0], [0, 0]]])
    update(mlda, observed("left", images), observed("right", [[2, 1], [0, 9], [0, 0]]), gmm)
    state = mlda.state()
    assert state["tokens.left"].tolist() == [3, 3, 0]
    assert state["words.left"].tolist() == [0, 0, 3, 3, 3, 3]
    assert state["words.right"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert state["words.gmm"].tolist() == [0, 0, 1, 0, 0, 0, 1, 1, 1]


def test_class_posteriors_count_a_hundred_tokens_by_default():
    mlda = make_mlda(itr=0)
    update(mlda, posteriors("gmm", [[0.25, 0.75], [1 / 3, 2 / 3]]))
    state = mlda.state()
    assert state["tokens.gmm"].tolist() == [100, 100]
    np.testing.assert_array_equal(state["counts.gmm"].sum(axis=1), [58, 142])


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


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["update", "recognize"])
def test_priors_multiply_and_none_goes_back_to_where_it_came_from(answer):
    mlda = make_mlda()
    update(mlda, *both())
    a, b = some_prior("a", 1), some_prior("b", 2)
    outbox = update(mlda, *both(), a, b, receivers=("a", "b", "c"), answer=answer)
    bare = likelihood(outbox, "a") - b["log_prob"]
    np.testing.assert_allclose(likelihood(outbox, "b"), bare + a["log_prob"], atol=1e-9)
    composed = bare + a["log_prob"] + b["log_prob"]
    joint = sent(outbox, "topic_posteriors", "c")
    np.testing.assert_allclose(np.exp(joint["log_prob"]), softmax(composed, axis=1), atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"], softmax(composed, axis=1), atol=1e-9)
    np.testing.assert_array_equal(outbox.outputs["class"], composed.argmax(axis=1))
    if answer == "update":
        product = np.logaddexp.reduce(a["log_prob"] + b["log_prob"], axis=1)
        expected = (logsumexp(composed, axis=1) - product).sum()
        assert outbox.metrics["evidence"] == pytest.approx(expected)


def test_the_likelihoods_mean_over_uniform_topics_is_the_evidence():
    outbox = update(make_mlda(), *both())
    bound = logsumexp(likelihood(outbox), axis=1) - np.log(K)
    assert outbox.metrics["evidence"] == pytest.approx(bound.sum())
    # Of 40 tokens of 12 words in each of two modalities, better than none known and worse than all known.
    assert -80 * np.log(12) < bound.mean() < -80 * np.log(2)


def row_alone(state, name, alpha, beta, prior, row):
    """Return P(word of `name` | the row's tokens in "left", all other rows) by enumeration."""
    at = np.concatenate([[0], np.cumsum(state["tokens.left"])])
    words = state["words.left"][at[row] : at[row + 1]]
    left = state["counts.left"].astype(float)
    np.subtract.at(left, (words, state["topics.left"][at[row] : at[row + 1]]), 1)
    own = slice(*np.concatenate([[0], np.cumsum(state[f"tokens.{name}"])])[row : row + 2])
    other = state[f"counts.{name}"].astype(float)
    np.subtract.at(other, (state[f"words.{name}"][own], state[f"topics.{name}"][own]), 1)
    phi = (other + beta) / (other + beta).sum(axis=0)
    topics, weights, shares = len(prior), [], []
    for z in itertools.product(range(topics), repeat=len(words)):
        n, seen = np.bincount(z, minlength=topics), left + beta
        score = gammaln(n + alpha).sum() + np.log(prior @ (n + alpha))
        for word, k in zip(words, z, strict=True):
            score += np.log(seen[word, k] / seen[:, k].sum())
            seen[word, k] += 1
        share = (n + alpha) * (prior @ (n + alpha) + prior)
        weights.append(score)
        shares.append(share / share.sum())
    return phi @ (np.exp(weights - logsumexp(weights)) @ np.array(shares))


@pytest.mark.parametrize("still", [{"learn": False}, {"answer": "recognize"}], ids=["learning", "recognition"])
def test_down_goes_what_the_others_say_of_a_row_and_not_what_its_own_modality_does(still):
    rng = np.random.default_rng(4)
    left = observed("left", rng.multinomial(3, rng.dirichlet(np.full(4, 0.3)), 20))
    gmm = posteriors("gmm", rng.dirichlet(np.full(3, 0.3), 20))
    prior = some_prior("mm", 7, rows=20)
    mlda = make("mlda", {"topics": K, "weights": {"gmm": 8}, "alpha": 0.3, "beta": 0.2})
    update(mlda, left, gmm, prior)
    state, new = mlda.state(), still.get("answer") == "recognize"
    if new:  # rows that were never learnt have nothing that could be left out
        state |= {"tokens.left": np.zeros(20, int), "tokens.gmm": np.zeros(20, int)}
    outbox = update(mlda, left, gmm, prior, overrides={"samples": 4000}, **still)
    down = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    for row in range(3):
        if new:
            state["tokens.left"], state["words.left"] = np.zeros(20, int), mlda.state()["words.left"]
            expected = recognized_alone(state, left["values"][row], np.exp(prior["log_prob"][row]))
        else:
            expected = row_alone(state, "gmm", 0.3, 0.2, np.exp(prior["log_prob"][row]), row)
        np.testing.assert_allclose(down[row], expected, atol=0.02)


def recognized_alone(state, values, prior):
    """As :func:`row_alone`, of a row that is in no count."""
    words = np.repeat(np.arange(4), values.astype(int)).astype(np.int32)
    made = {**state, "words.left": words, "tokens.left": np.array([3]), "topics.left": np.zeros(3, int)}
    made["counts.left"] = state["counts.left"].copy()
    np.add.at(made["counts.left"], (words, np.zeros(3, int)), 1)
    return row_alone({**made, "tokens.gmm": np.array([0])}, "gmm", 0.3, 0.2, prior, 0)


def test_a_single_modality_without_prior_is_told_nothing_about_its_rows():
    mlda = make_mlda()
    outbox = update(mlda, posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K), overrides={"alpha": 0.2})
    down = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    assert np.ptp(down, axis=0).max() < 0.05


def test_reconstructions_are_histograms_of_the_observations_shape_and_sum():
    values = histograms("left").reshape(N, 3, 4) * 2.5
    outbox = update(make_mlda(weights={"left": 40}), observed("left", values), both()[1])
    x_hat = sent(outbox, "reconstructions", "left")["values"]
    assert x_hat.shape == values.shape
    np.testing.assert_allclose(x_hat.sum(axis=(1, 2)), values.sum(axis=(1, 2)), rtol=1e-5)
    # Nearer to the classes' words than the rows themselves are, which are noisy.
    clean = 100 * (0.7 * histograms("left", own=0.0, tokens=100_000) / 100_000 + 0.3 / 12)
    assert np.abs(x_hat.reshape(N, -1) - clean).mean() < 0.5 * np.abs(values.reshape(N, -1) - clean).mean()
    np.testing.assert_allclose(outbox.outputs["Pzw_left"].sum(axis=1), 1.0)
    assert outbox.outputs["Pzw_left"].shape == (K, 12)


# --- what is missing ----------------------------------------------------------------------------------------------


def test_modalities_that_miss_a_row_have_no_say_in_it_and_are_predicted():
    gone = np.arange(N) % 5 == 0
    states, outboxes = [], []
    for filler in (0.0, 77.0):
        left, right = histograms("left"), histograms("right")
        left[gone] = filler
        mlda = make_mlda()
        outboxes.append(update(mlda, observed("left", left, mask=gone), observed("right", right), seed=2))
        states.append(mlda.state())
    assert same(*states)
    assert same(outboxes[0].outputs, outboxes[1].outputs)
    assert (states[0]["tokens.left"][gone] == 0).all()
    up = sent(outboxes[0], "topic_posteriors", "mm")
    assert not up.mask.any()
    x_hat = sent(outboxes[1], "reconstructions", "left")["values"]
    assert not (x_hat == 77).any()
    np.testing.assert_allclose(x_hat.sum(axis=1), 40, rtol=1e-5)
    # What the right modality tells apart: left's first words are classes 0 and 1.
    lit = x_hat[gone & (TRUTH < 2)][:, :4].sum(axis=1)
    assert lit.mean() > 20


def test_rows_that_all_modalities_miss_say_nothing_and_get_what_the_prior_says():
    gone = np.arange(N) % 7 == 0
    messages = [observed(name, histograms(name), mask=gone) for name in MERGED]
    prior = some_prior("mm", 4)
    outbox = update(make_mlda(), *messages, prior, some_prior("b", 5), receivers=("mm", "b"))
    up = sent(outbox, "topic_posteriors", "b")
    np.testing.assert_array_equal(up.mask, gone)
    assert (up["log_norm"][gone] == 0).all()
    np.testing.assert_allclose(up["log_prob"][gone], prior["log_prob"][gone], atol=1e-9)


def test_empty_histograms_are_rows_without_tokens():
    left, right = histograms("left"), histograms("right")
    left[3] = right[3] = right[4] = 0
    outbox = update(make_mlda(weights={"right": 10}), observed("left", left), observed("right", right))
    assert np.flatnonzero(sent(outbox, "topic_posteriors", "mm").mask).tolist() == [3]


@pytest.mark.parametrize("whole", ["left", "right"])
def test_a_modality_may_be_missing_altogether_at_recognition(whole):
    mlda = make_mlda()
    update(mlda, *both())
    rows = {whole: {"mask": np.ones(60, dtype=bool)}}
    new = [observed(name, histograms(name, 60, seed=9), **rows.get(name, {})) for name in MERGED]
    outbox = update(mlda, *new, answer="recognize")
    there = next(name for name in MERGED if name != whole)
    merged = np.array(MERGED[there])[np.arange(60) % K]
    confused = np.array([np.bincount(merged[outbox.outputs["class"] == k], minlength=3).max() for k in range(K)])
    assert confused.sum() >= 57  # classes within what this modality can tell apart
    x_hat = sent(outbox, "reconstructions", whole)["values"]
    np.testing.assert_allclose(x_hat.sum(axis=1), 40, rtol=1e-5)
    absent = update(mlda, *[message for message in new if message.header.sender != whole], answer="recognize")
    np.testing.assert_array_equal(absent.outputs["class"], outbox.outputs["class"])


def test_recognition_with_nothing_there_is_the_prior():
    mlda = make_mlda()
    update(mlda, *both())
    gone = {"mask": np.ones(5, dtype=bool)}
    new = [observed(name, np.zeros((5, 12)), **gone) for name in MERGED]
    prior = some_prior("mm", 3, rows=5)
    outbox = update(mlda, *new, prior, answer="recognize")
    assert sent(outbox, "topic_posteriors", "mm").mask.all()
    np.testing.assert_allclose(outbox.outputs["Pdz"], np.exp(prior["log_prob"]), atol=1e-9)


def test_lengths_travel_on():
    left, right = both()
    outbox = update(make_mlda(), left, observed("right", right["values"], lengths=np.array([20, 100])))
    assert sent(outbox, "topic_posteriors", "mm").lengths.tolist() == [20, 100]
    assert sent(outbox, "reconstructions", "left").lengths.tolist() == [20, 100]


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
    update(one, *messages)
    state = one.state()
    kept = {name: np.array(value) for name, value in state.items()}
    continued = update(one, *messages, round=1)
    assert same(state, kept)
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    other.load_state(state)
    again = update(other, *messages, round=1)
    assert same(again.outputs, continued.outputs)
    assert same(one.state(), other.state())
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


def test_what_a_sender_says_of_both_kinds_are_two_modalities():
    mlda = make_mlda()
    outbox = update(mlda, both()[0], posteriors("left", np.eye(K)[TRUTH]))
    assert {"Pzw_left", "Pzw_left_classes"} <= outbox.outputs.keys()
    assert {key for key in mlda.state() if key.startswith("counts.")} == {"counts.left", "counts.left_classes"}


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
