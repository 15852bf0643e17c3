"""How the VAE is trained: its losses, the warm-up of the divergence, and when it has learnt enough."""

import numpy as np
import pytest
import torch

from actors.kernels.neural import vae_networks as networks
from actors.kernels.neural import vae_training as training
from tests.support.toy_modules import same
from tests.support.vae_data import N, make_vae, observations, pictures, update

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_bernoulli_loss_is_torchs_with_its_gradient():
    logits = torch.tensor([[-3.0, 0.0, 40.0], [1.0, 2.0, -50.0]], requires_grad=True)
    values = torch.tensor([[0.0, 0.3, 1.0], [1.0, 0.5, 0.0]])
    ours = networks.reconstruction_loss(logits, values, "bce")
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(logits, values, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(2 * ours, logits)[0], torch.autograd.grad(2 * theirs, logits)[0])


def test_the_divergence_is_the_one_between_gaussians():
    mean, log_variance, prior_mean = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * log_variance).exp()), normal(prior_mean, 1.0))
    torch.testing.assert_close(networks.divergence(mean, log_variance, prior_mean), expected.sum())


def test_without_weight_the_divergence_is_free():
    heavy, free = (update(make_vae(kl_weight=w, epochs=60), observations(pictures())).metrics for w in (5.0, 0.0))
    assert free["kl"] > heavy["kl"]


def test_the_divergence_weighs_more_from_epoch_to_epoch_of_a_warm_up(monkeypatch):
    weights = []
    step = training._step

    def noted(networks, optimiser, rows, prior_mean, noise, beta, likelihood):
        weights.append(beta)
        return step(networks, optimiser, rows, prior_mean, noise, beta, likelihood)

    monkeypatch.setattr(training, "_step", noted)
    vae = make_vae(kl_weight=2.0, kl_warmup=4, epochs=3, batch_size=N)
    update(vae, observations(pictures()))
    assert weights == [0.0, 0.5, 1.0]
    update(vae, observations(pictures()), round=1)
    assert weights[3:] == [1.5, 2.0, 2.0]
    update(vae, observations(pictures()), round=2, overrides={"restart_weights": True})
    assert weights[6:] == [0.0, 0.5, 1.0]
    update(vae, observations(pictures()), round=3)  # the weights' life is counted, not the module's
    assert weights[9:] == [1.5, 2.0, 2.0]


def test_the_loss_is_that_of_the_warmed_up_weight():
    # One step: the first epoch's loss is that of weights which nobody has trained yet.
    losses = [
        update(make_vae(kl_weight=weight, kl_warmup=warmup, epochs=2, batch_size=N), observations(pictures())).outputs[
            "loss"
        ]
        for weight, warmup in ((3.0, 0), (0.0, 0), (3.0, 5))
    ]
    assert losses[2][0] == losses[1][0] < losses[0][0]
    assert losses[1][1] < losses[2][1] < losses[0][1]


def test_reports_every_epoch_and_no_more():
    said = []
    update(make_vae(epochs=4), observations(pictures()), reporter=lambda *report: said.append(report))
    assert [(done, total) for done, total, _ in said] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(np.isfinite(figures["loss"]) for _, _, figures in said)


def settled_after(losses, **training_of):
    """Return after how many epochs patience is at its end; None: never."""
    rest = {"epochs": 1000, "batch_size": 1, "kl_weight": 1.0, "learning_rate": 1e-3, "likelihood": "bce"}
    how = training.Training(**rest, **training_of)
    return next((done for done in range(1, len(losses) + 1) if how.settled(losses[:done])), None)


def test_patience_ends_when_the_best_loss_does_not_improve_by_the_margin():
    less = 1 - 1.1 * training.MARGIN
    steady = 100 * less ** np.arange(50)
    assert settled_after(steady, patience=1) is None
    assert settled_after([*steady[:5], *[steady[4]] * 5], patience=3) == 8
    assert settled_after([100.0] * 9) is None
    assert settled_after([100.0, 120.0, 120.0, 90.0, 90.0, 90.0], patience=3) is None  # the third epoch was the better
    assert settled_after([100.0, 99.9, 99.8, 99.7], patience=3) == 4  # less than the margin, all together
    assert settled_after([-100.0, -100.1], patience=1) == 2


def test_patience_begins_after_the_warm_up():
    rising = [10.0, 20.0, 30.0, 40.0, 40.0, 40.0, 40.0]  # each epoch under a larger weight
    assert settled_after(rising, patience=2) == 3
    assert settled_after(rising, patience=2, kl_warmup=4) == 7
    assert settled_after(rising, patience=2, kl_warmup=6, age=2) == 7
    assert settled_after(rising, patience=2, kl_warmup=4, age=4) == 3


def test_an_update_ends_early_always_at_the_same_epoch_and_says_so():
    def learn(**given):
        said = []
        vae = make_vae(epochs=500, learning_rate=1e-2, **given)
        outbox = update(vae, observations(pictures()), reporter=lambda done, total, _: said.append((done, total)))
        return outbox, said

    outbox, said = learn(patience=3)
    run = int(outbox.metrics["epochs"])
    assert 3 < run < 500
    assert len(outbox.outputs["loss"]) == run
    assert said == [*((done, 500) for done in range(1, run)), (run, run)]
    assert same(learn(patience=3)[0].outputs, outbox.outputs)
    assert np.array_equal(learn()[0].outputs["loss"][:run], outbox.outputs["loss"])


def test_every_update_has_a_patience_of_its_own():
    vae = make_vae(epochs=500, learning_rate=1e-2, patience=3)
    first = update(vae, observations(pictures())).metrics["epochs"]
    second = update(vae, observations(pictures()), round=1).metrics["epochs"]
    assert 3 < second < first


def test_no_epochs_learn_nothing():
    vae = make_vae()
    update(vae, observations(pictures()))
    before = vae.state()
    update(vae, observations(pictures()), round=1, overrides={"epochs": 0})
    assert same(vae.state(), before)
