"""Tests of the GMM with `engine: vb`: the common behaviour, the bound, and the combinations that are refused."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior
from actors.kernels.mixture.variational import posterior_from_responsibilities, soft_log_predictive_loo
from runner.config.run_config import ConfigError, load_config
from runner.report.clustering_metrics import accuracy
from tests.actors.modules.mixture import test_gmm as gibbs
from tests.actors.modules.mixture.test_gmm import (
    K,
    N,
    clusters,
    downward,
    latent_vectors,
    same_partition,
    some_prior,
    update,
    upward,
)
from tests.actors.modules.test_composition import BOTH, classes_of, four_cycle, learn
from tests.support.toy_modules import check_state_transfer, same_arrays


def make_gmm(**given):
    return gibbs.make_gmm(engine="vb", **given)


def test_finds_well_separated_classes_deterministically():
    first, second = (update(make_gmm(start="sequence"), latent_vectors(clusters())) for _ in range(2))
    assert same_partition(first.outputs["class"])
    assert same_arrays(first.outputs, second.outputs)
    assert first.metrics == second.metrics


def test_updates_after_the_start_are_deterministic():
    X = clusters(spread=3.0)
    states = []
    for seed in (0, 1):
        gmm = make_gmm()
        update(gmm, latent_vectors(X), seed=0)
        update(gmm, latent_vectors(X), some_prior("mm", 1), round=1, seed=seed)
        states.append(gmm.state())
    assert same_arrays(*states)


def test_sends_the_leave_one_out_likelihood_upwards_and_reports_the_bound():
    gmm, X, prior = make_gmm(), clusters(spread=3.0), some_prior("mm", 1)
    first = update(gmm, latent_vectors(X))
    outbox = update(gmm, latent_vectors(X), prior, round=1)
    state = gmm.state()
    assert state["counts"].dtype == np.float64
    assert_array_equal(state["labels"], state["responsibilities"].argmax(axis=1))
    niw = NIWPrior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
    factors = NIWPosterior(*(state[name] for name in NIWPosterior._fields))
    assert_allclose(factors.scale, posterior_from_responsibilities(X, state["responsibilities"], niw).scale)
    loo = soft_log_predictive_loo(X, state["responsibilities"], factors, niw)
    message = upward(outbox)
    assert_allclose(message["log_prob"] + message["log_norm"][:, None], loo, atol=1e-9)
    scores = np.exp(loo + prior["log_prob"])
    assert_allclose(downward(outbox)["responsibilities"], scores / scores.sum(axis=1, keepdims=True), atol=1e-9)
    assert {"evidence", "bound"} == set(outbox.metrics) == set(first.metrics)


def test_the_bound_never_falls_from_update_to_update():
    X, prior = clusters(spread=3.0), some_prior("mm", 1)
    gmm, bounds = make_gmm(itr=2), []
    for round_ in range(30):
        bounds.append(update(gmm, latent_vectors(X), prior, round=round_).metrics["bound"])
    assert np.diff(bounds).min() > -1e-8
    assert bounds[-1] > bounds[0] + 1.0


def test_an_update_without_iterations_keeps_the_responsibilities_and_applies_the_prior():
    gmm, X = make_gmm(), clusters(spread=6.0)
    before = update(gmm, latent_vectors(X))
    kept = gmm.state()
    certain = gibbs.prior_of("mm", np.eye(K)[np.zeros(N, dtype=int)])
    outbox = update(gmm, latent_vectors(X), certain, round=1, overrides={"iterations": 0})
    assert same_arrays(gmm.state(), kept)
    assert_array_equal(outbox.outputs["mu"], before.outputs["mu"])
    assert (outbox.outputs["class"] == 0).all()
    assert "bound" not in outbox.metrics  # the kept responsibilities have probability zero under this prior


def test_burn_in_and_progress_are_counted_in_iterations():
    gmm, counted = make_gmm(itr=2, burn_in=3), []
    for round_ in range(2):
        reports = []
        update(gmm, latent_vectors(clusters(4.0)), round=round_, reporter=lambda *r, reports=reports: reports.append(r))
        counted.append([(done, total) for done, total, _ in reports])
    assert counted == [[(done, 5) for done in range(1, 6)], [(1, 2), (2, 2)]]


def test_missing_rows_have_no_influence_and_take_the_prior():
    mask, prior = np.arange(N) % 7 == 0, some_prior("mm", 4)
    outboxes = []
    for filler in (0.0, 1e6):
        X = clusters()
        X[mask] = filler
        gmm = make_gmm()
        outboxes.append(update(gmm, latent_vectors(X, mask=mask), prior))
        assert (gmm.state()["labels"][mask] == -1).all()
        assert (gmm.state()["responsibilities"][mask] == 0).all()
    assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)
    assert_allclose(outboxes[1].outputs["Pdz"][mask], np.exp(prior["log_prob"])[mask])


@pytest.mark.parametrize("calibrate", [False, True])
def test_a_loaded_state_continues_bit_for_bit_and_recognizes_alike(calibrate):
    X, prior = clusters(spread=3.0), some_prior("mm", 1)
    one, other = (make_gmm(itr=2, calibrate=calibrate) for _ in range(2))
    check_state_transfer(update, one, other, latent_vectors(X), prior)
    new = latent_vectors(clusters(rows=30, seed=9))
    assert same_arrays(*(update(gmm, new, answer="recognize").outputs for gmm in (one, other)))


def test_recognition_classifies_new_rows_and_learns_nothing():
    gmm = make_gmm(start="sequence")
    learnt = update(gmm, latent_vectors(clusters())).outputs["class"]
    assert same_partition(learnt)
    before = gmm.state()
    outbox = update(gmm, latent_vectors(clusters(rows=30, seed=9)), answer="recognize")
    assert_array_equal(outbox.outputs["class"], learnt[:30])
    assert same_arrays(gmm.state(), before)


def test_each_engine_continues_from_the_state_of_the_other():
    gmm, X = make_gmm(start="sequence"), clusters()
    learnt = update(gmm, latent_vectors(X)).outputs["class"]
    sampled = update(gmm, latent_vectors(X), round=1, overrides={"engine": "gibbs"}).outputs["class"]
    assert "responsibilities" not in gmm.state()
    assert_array_equal(sampled, learnt)
    assert_array_equal(update(gmm, latent_vectors(X), round=2).outputs["class"], learnt)
    assert "responsibilities" in gmm.state()


@pytest.mark.parametrize("seed", range(3))
def test_learns_the_cycle_together_with_a_markov_model(seed):
    X, truth = four_cycle(1.0, seed=seed)
    coordinator, evidence = learn(X, seed, engine="vb", **BOTH)
    assert accuracy(classes_of(coordinator), truth) >= 0.99
    assert evidence > 0.5 * len(X) * np.log(4)


# --- refused combinations -----------------------------------------------------------------------------------------

REFUSED = "rule 'tutorial' is defined by sampling"

MODEL = """
name: both
data: {source: cycle}
modules:
  gmm: {type: gmm, classes: 4, %s}
  mm: {type: markov}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 1, steps: [{module: gmm, set: {%s}}, mm]}
"""


def test_refuses_the_tutorial_rule_and_unknown_engines():
    with pytest.raises(ModuleError, match=REFUSED):
        make_module("gmm", {"engine": "vb", "rule": "tutorial"})
    with pytest.raises(ModuleError, match="engine"):
        make_module("gmm", {"engine": "em"})


@pytest.mark.parametrize(
    ("parameters", "step", "place"),
    [
        ("engine: vb, rule: tutorial", "iterations: 1", "modules.gmm"),
        ("rule: tutorial", "engine: vb", "schedule.steps.0.set"),
    ],
)
def test_the_error_of_a_model_file_names_the_place(tmp_path, parameters, step, place):
    path = tmp_path / "model.yaml"
    path.write_text(MODEL % (parameters, step))
    with pytest.raises(ConfigError, match=f"{place}: {REFUSED}"):
        load_config(path)
