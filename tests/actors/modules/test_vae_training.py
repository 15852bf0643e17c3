"""Training of the VAE: its losses, the warm-up of the divergence and early stopping."""

import numpy as np
import pytest
import torch

from actors.kernels.neural import vae_networks as networks
from actors.kernels.neural import vae_training as training
from tests.support.toy_modules import same_arrays
from tests.support.vae_data import N, call, images, make_vae, observations

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_bernoulli_loss_and_its_gradient_equal_those_of_torch():
    logits = torch.tensor([[-3.0, 0.0, 40.0], [1.0, 2.0, -50.0]], requires_grad=True)
    values = torch.tensor([[0.0, 0.3, 1.0], [1.0, 0.5, 0.0]])
    ours = networks.reconstruction_loss(logits, values, "bce")
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(logits, values, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(2 * ours, logits)[0], torch.autograd.grad(2 * theirs, logits)[0])


def test_the_divergence_is_that_of_gaussians():
    mean, log_variance, prior_mean = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(prior_mean, 1.0))
    torch.testing.assert_close(networks.kl_divergence(mean, log_variance, prior_mean), expected.sum())


def test_the_divergence_is_larger_without_a_weight():
    weighted, unweighted = (call(make_vae(kl_weight=w, epochs=60), observations(images())).metrics for w in (5.0, 0.0))
    assert unweighted["kl"] > weighted["kl"]


def test_the_weight_of_the_divergence_rises_in_each_epoch_of_the_warm_up(monkeypatch):
    weights = []
    step = training.DefaultTraining.step

    def recorded_step(own, rows, chosen, prior_mean, noise, beta):
        weights.append(beta)
        return step(own, rows, chosen, prior_mean, noise, beta)

    monkeypatch.setattr(training.DefaultTraining, "step", recorded_step)
    vae = make_vae(kl_weight=2.0, kl_warmup=4, epochs=3, batch_size=N)
    call(vae, observations(images()))
    assert weights == [0.0, 0.5, 1.0]
    call(vae, observations(images()), round=1)
    assert weights[3:] == [1.5, 2.0, 2.0]
    call(vae, observations(images()), round=2, overrides={"restart_weights": True})
    assert weights[6:] == [0.0, 0.5, 1.0]
    call(vae, observations(images()), round=3)  # epochs are counted since the weights were initialised
    assert weights[9:] == [1.5, 2.0, 2.0]


def test_the_loss_includes_the_weight_of_the_warm_up():
    # With one batch per epoch, the first epoch's loss is that of untrained weights.
    losses = [
        call(make_vae(kl_weight=weight, kl_warmup=warmup, epochs=2, batch_size=N), observations(images())).outputs[
            "loss"
        ]
        for weight, warmup in ((3.0, 0), (0.0, 0), (3.0, 5))
    ]
    assert losses[2][0] == losses[1][0] < losses[0][0]
    assert losses[1][1] < losses[2][1] < losses[0][1]


def test_reports_each_epoch_once():
    reports = []
    call(make_vae(epochs=4), observations(images()), reporter=lambda *report: reports.append(report))
    assert [(done, total) for done, total, _ in reports] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(np.isfinite(metrics["loss"]) for _, _, metrics in reports)


def epochs_until_stop(losses, **parameters):
    """Return the number of epochs after which training stops early, or None if it does not."""
    required = {"epochs": 1000, "batch_size": 1, "kl_weight": 1.0, "learning_rate": 1e-3, "likelihood": "bce"}
    options = training.TrainingOptions(**required, **parameters)
    return next((done for done in range(1, len(losses) + 1) if options.converged(losses[:done])), None)


def test_training_stops_when_the_best_loss_does_not_improve_by_the_margin():
    less = 1 - 1.1 * training.MARGIN
    steady = 100 * less ** np.arange(50)
    assert epochs_until_stop(steady, patience=1) is None
    assert epochs_until_stop([*steady[:5], *[steady[4]] * 5], patience=3) == 8
    assert epochs_until_stop([100.0] * 9) is None
    assert epochs_until_stop([100.0, 120.0, 120.0, 90.0, 90.0, 90.0], patience=3) is None  # the fourth improves
    assert epochs_until_stop([100.0, 99.9, 99.8, 99.7], patience=3) == 4  # less than the margin in total
    assert epochs_until_stop([-100.0, -100.1], patience=1) == 2


def test_patience_is_counted_after_the_warm_up():
    rising = [10.0, 20.0, 30.0, 40.0, 40.0, 40.0, 40.0]  # the weight rises in each epoch
    assert epochs_until_stop(rising, patience=2) == 3
    assert epochs_until_stop(rising, patience=2, kl_warmup=4) == 7
    assert epochs_until_stop(rising, patience=2, kl_warmup=6, previous_epochs=2) == 7
    assert epochs_until_stop(rising, patience=2, kl_warmup=4, previous_epochs=4) == 3


def test_an_update_stops_early_at_a_reproducible_epoch_and_reports_it():
    def learn(**parameters):
        reports = []
        vae = make_vae(epochs=500, learning_rate=1e-2, **parameters)
        outbox = call(vae, observations(images()), reporter=lambda done, total, _: reports.append((done, total)))
        return outbox, reports

    outbox, reports = learn(patience=3)
    run = int(outbox.metrics["epochs"])
    assert 3 < run < 500
    assert len(outbox.outputs["loss"]) == run
    assert reports == [*((done, 500) for done in range(1, run)), (run, run)]
    assert same_arrays(learn(patience=3)[0].outputs, outbox.outputs)
    assert np.array_equal(learn()[0].outputs["loss"][:run], outbox.outputs["loss"])


def test_patience_is_counted_anew_in_each_update():
    vae = make_vae(epochs=500, learning_rate=1e-2, patience=3)
    first = call(vae, observations(images())).metrics["epochs"]
    second = call(vae, observations(images()), round=1).metrics["epochs"]
    assert 3 < second < first


def test_an_update_with_zero_epochs_changes_nothing():
    vae = make_vae()
    call(vae, observations(images()))
    before = vae.state()
    call(vae, observations(images()), round=1, overrides={"epochs": 0})
    assert same_arrays(vae.state(), before)
