"""Tests of the autoregressive mixture: alone, below a Markov model, above a PCA, at recognition and generation."""

import hmmlearn.hmm
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner import Model
from runner.report.clustering_metrics import accuracy
from tests.actors.kernels.mixture.test_autoregression import made_rows

ROWS, LABELS, TURNS = made_rows(blocks=30, length=40)
LENGTHS = [400, 500, 300]


def inbox_of(X, lengths=None, mask=None, log_prior=None):
    arrays = {"values": X}
    arrays |= {} if lengths is None else {"lengths": np.array(lengths)}
    arrays |= {} if mask is None else {"mask": mask}
    messages = [make_message(Header("observations", "data", "observations", "it"), arrays)]
    if log_prior is not None:
        header = Header("transition_prior", "mm", "transition_prior", "it")
        messages.append(make_message(header, {"log_prob": log_prior}))
    return Inbox(messages)


def learn(X=ROWS, lengths=LENGTHS, mask=None, log_prior=None, receivers=("mm",), **parameters):
    module = make_module("ar_gmm", {"classes": 2, **parameters})
    context = Context("it", receivers={"class_posteriors": receivers})
    return module, module.update(inbox_of(X, lengths, mask, log_prior), context)


def model(seed=0, **parameters):
    modules = {"ar": {"type": "ar_gmm", "classes": 2, "iterations": 1, **parameters}, "mm": {"type": "markov"}}
    block = {"steps": ["ar", "mm"], "repeat": 60, "tolerance": 0.1}
    return Model(modules, ["data -> ar", "ar -> mm"], schedule={"rounds": 1, "steps": [block]}, seed=seed)


def test_below_a_markov_model_it_segments_motions_that_a_gaussian_hmm_does_not():
    """The classes have the same mean and covariance, and differ only in how rows follow each other."""
    trained = model().fit(ROWS, lengths=LENGTHS)
    assert accuracy(LABELS, trained.predict(ROWS, lengths=LENGTHS)) > 0.98
    gaussian = hmmlearn.hmm.GaussianHMM(2, "full", random_state=0, n_iter=50).fit(ROWS, LENGTHS)
    assert accuracy(LABELS, gaussian.predict(ROWS, LENGTHS)) < 0.8


def test_it_segments_sequences_that_it_has_not_seen():
    trained = model(seed=1).fit(ROWS, lengths=LENGTHS)
    rows, labels, _ = made_rows(seed=9, blocks=10)
    assert accuracy(labels, trained.predict(rows, lengths=[len(rows)])) > 0.98


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_both_engines_keep_classes_that_a_prior_tells(engine):
    log_prior = np.log(np.where(np.eye(2)[LABELS] > 0, 0.9, 0.1))
    module, outbox = learn(log_prior=log_prior, engine=engine)
    assert accuracy(LABELS, outbox.outputs["class"]) > 0.98
    for k, turn in enumerate(TURNS):
        assert_allclose(module.state()["coefficients"][k, :, :2], turn, atol=0.05)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_classes_do_not_depend_on_the_units_of_the_columns(factor):
    one, other = (learn(ROWS * np.array([scale, 1.0]) + shift)[1] for scale, shift in ((1.0, 0.0), (factor, 3.0)))
    assert_array_equal(one.outputs["class"], other.outputs["class"])
    assert_allclose(other.outputs["Pdz"], one.outputs["Pdz"], atol=1e-6)
    assert_allclose(other.metrics["bound"], one.metrics["bound"] - len(ROWS) * np.log(factor), rtol=1e-6)


def test_values_of_missing_rows_do_not_matter():
    mask = np.arange(len(ROWS)) % 97 == 5
    X = ROWS.copy()
    X[mask] = 1e6
    one, other = learn(mask=mask)[1], learn(X, mask=mask)[1]
    assert_array_equal(one.outputs["Pdz"], other.outputs["Pdz"])
    assert one.messages[0].arrays["log_norm"][mask].tolist() == [0.0] * mask.sum()


def test_rows_without_an_order_are_sequences_of_one_row():
    module, _ = learn()
    apart = module.recognize(inbox_of(ROWS, [1] * len(ROWS)), Context("it", mode="recognize"))
    unordered = module.recognize(inbox_of(ROWS), Context("it", mode="recognize", ordered=False))
    ordered = module.recognize(inbox_of(ROWS, LENGTHS), Context("it", mode="recognize"))
    assert_array_equal(apart.outputs["Pdz"], unordered.outputs["Pdz"])
    assert not np.allclose(ordered.outputs["Pdz"], unordered.outputs["Pdz"])


def test_what_it_expects_of_each_row_goes_to_a_module_that_takes_latent_means():
    module = make_module("ar_gmm", {"classes": 2})
    context = Context("it", receivers={"latent_means": ("vae",), "class_means": ("vae",)})
    log_prior = np.log(np.where(np.eye(2)[LABELS] > 0, 0.99, 0.01))
    outbox = module.update(inbox_of(ROWS, log_prior=log_prior), context)
    (message,) = (message for message in outbox.messages if message.port != "class_posteriors")
    assert message.port == "latent_means"
    expected = np.array([TURNS[k] @ row for k, row in zip(LABELS[1:], ROWS[:-1], strict=True)])
    error = np.square(message.arrays["mean"][1:] - expected).mean()
    assert error < 0.05 * np.square(ROWS[1:] - ROWS[:-1]).mean()


def test_generated_rows_move_as_the_classes_do():
    trained = model().fit(ROWS, lengths=LENGTHS)
    rows, classes = trained.generate(400, seed=1)
    assert accuracy(classes, trained.predict(rows, lengths=[400])) > 0.95


def test_an_answer_of_other_rows_or_dimensions_is_refused():
    module, _ = learn()
    with pytest.raises(ModuleError, match="1200 rows of 2 dimensions, 1199 rows of 2 came"):
        module.update(inbox_of(ROWS[1:]), Context("it", round=1))
    with pytest.raises(ModuleError, match=r"must have the shape \(N, 2\)"):
        module.recognize(inbox_of(np.ones((3, 3))), Context("it", mode="recognize"))


def test_a_state_of_another_order_is_refused():
    module, _ = learn()
    with pytest.raises(ModuleError, match="2 classes of order 1, this AR-GMM has 2 of order 2"):
        make_module("ar_gmm", {"classes": 2, "order": 2}).load_state(module.state())


def test_more_classes_than_rows_are_refused():
    with pytest.raises(ModuleError, match="3 rows cannot start 5 classes: use at most 3"):
        learn(ROWS[:3], [3], classes=5)


SEEN = np.random.default_rng(5).random(ROWS.shape) > 0.15
MISSING_ROWS = ~SEEN.any(axis=1)


def lacking(X=ROWS):
    """Rows without the values that are not seen, and their mask."""
    return np.where(SEEN, X, 0.0), ~SEEN


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_values_that_are_missing_in_part_of_a_row_are_latent(engine):
    log_prior = np.log(np.where(np.eye(2)[LABELS] > 0, 0.9, 0.1))
    X, mask = lacking()
    module, outbox = learn(X, mask=mask, log_prior=log_prior, engine=engine)
    assert accuracy(LABELS[~MISSING_ROWS], outbox.outputs["class"][~MISSING_ROWS]) > 0.95
    for k, turn in enumerate(TURNS):
        assert_allclose(module.state()["coefficients"][k, :, :2], turn, atol=0.07)
    assert np.isfinite(outbox.metrics["evidence"])
    again = learn(np.where(SEEN, ROWS, 1e3), mask=mask, log_prior=log_prior, engine=engine)[1]
    assert_array_equal(outbox.outputs["Pdz"], again.outputs["Pdz"])  # what stands in their places is not read


def test_new_rows_that_lack_values_are_classified_and_have_the_density_of_what_they_have():
    module, _ = learn()
    context = Context("it", mode="recognize")
    whole = module.recognize(inbox_of(ROWS, LENGTHS), context).outputs
    X, mask = lacking()
    outputs = module.recognize(inbox_of(X, LENGTHS, mask), context).outputs
    assert np.isfinite(outputs["log_evidence"]).all()
    both = ~MISSING_ROWS & SEEN.all(axis=1)
    assert (outputs["class"] == whole["class"])[both].mean() > 0.85
    one = np.zeros_like(mask)
    one[700, 1] = True
    close = module.recognize(inbox_of(ROWS, LENGTHS, one), context).outputs
    far = np.abs(np.arange(len(ROWS)) - 700) > 5
    assert_allclose(close["Pdz"][far], whole["Pdz"][far], atol=1e-9)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_density_of_rows_that_lack_values_is_in_their_units(factor):
    X, mask = lacking()
    one, other = (learn(X * np.array([scale, 1.0]), mask=mask)[1] for scale in (1.0, factor))
    assert_allclose(other.outputs["Pdz"], one.outputs["Pdz"], atol=1e-6)
    seen = SEEN[:, 0].sum()
    for name in ("bound", "evidence"):
        assert_allclose(other.metrics[name], one.metrics[name] - seen * np.log(factor), rtol=1e-6)


def test_below_a_markov_model_it_segments_rows_of_which_some_lack_values():
    X = np.where(SEEN, ROWS, np.nan)
    trained = model().fit(X, lengths=LENGTHS)
    assert accuracy(LABELS, trained.predict(X, lengths=LENGTHS)) > 0.95
