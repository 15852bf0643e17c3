"""The VAE compresses rows, under a prior whose means come from above, and continues where it stopped."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.kernels import networks, training
from actors.messages import Header, make_message
from actors.module import Context, Inbox, ModuleError
from actors.registry import make

N, PIXELS, D = 60, (4, 4), 3


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads that wait for each other would take longer than these sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(seed=0, rows=N):
    """Three patterns, each with a little noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((3, *PIXELS)) > 0.5
    return np.clip(patterns[np.arange(rows) % 3] * 0.8 + 0.2 * rng.random((rows, *PIXELS)), 0, 1)


def make_vae(**given):
    return make("vae", {"latent_dim": D, "epochs": 5, "batch_size": 25, "hidden": 16, **given})


def observations(values, **rows):
    return make_message(Header("observations", "data", "observations", "vae"), {"values": values, **rows})


def class_means(means, responsibilities):
    arrays = {"means": means, "responsibilities": responsibilities}
    return make_message(Header("class_means", "gmm", "class_means", "vae"), arrays)


def latent_means(mean, sender="net", **rows):
    return make_message(Header("latent_means", sender, "latent_means", "vae"), {"mean": mean, **rows})


def update(vae, *messages, answer="update", **context):
    return getattr(vae, answer)(Inbox(messages), Context("vae", **context))


def arrays(outbox, port):
    (outgoing,) = [outgoing for outgoing in outbox.messages if outgoing.port == port]
    return make_message(Header(port, "vae", port), outgoing.arrays)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


class Halved(torch.nn.Module):
    """A user's encoder: draws its weights and its dropout from the process's generator."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(inputs, outputs))

    def forward(self, rows):
        mean = self.layer(rows)
        return mean, torch.zeros_like(mean)


def no_module(inputs, outputs):
    return None


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "kl_weight"), [("bce", 1.0), ("mse", 0.05)])
def test_learns_to_reconstruct(likelihood, kl_weight):
    # Values in [0, 1] are small beside a unit variance: with full weight, the mse's optimum is to encode nothing.
    vae = make_vae(likelihood=likelihood, kl_weight=kl_weight, epochs=300, learning_rate=1e-2)
    values = pictures()
    outbox = update(vae, observations(values))
    x_hat = outbox.outputs["x_hat"]
    assert x_hat.shape == values.shape
    assert np.abs(x_hat - values).mean() < 0.6 * np.abs(values.mean(axis=0) - values).mean()
    losses = outbox.outputs["loss"]
    assert losses.shape == (300,)
    assert losses[-1] < losses[0]
    assert outbox.metrics["loss"] == losses[-1]
    assert outbox.metrics["bound"] == pytest.approx(outbox.metrics["reconstruction"] - outbox.metrics["kl"])
    nats_a_row = outbox.metrics["reconstruction"] + outbox.metrics["entropy"]
    assert outbox.metrics["score"] == pytest.approx(N * nats_a_row)
    assert np.array_equal(arrays(outbox, "latent_vectors")["mean"], outbox.outputs["z"])
    assert np.array_equal(arrays(outbox, "reconstructions")["values"], x_hat)


def test_class_means_draw_the_latent_vectors_of_their_rows():
    means = np.array([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]])
    message = class_means(means, np.eye(3)[np.arange(N) % 3])
    z = update(make_vae(epochs=200, learning_rate=1e-2), observations(pictures()), message).outputs["z"]
    for k in range(3):
        assert z[k::3].mean(axis=0).argmax() == k


def test_latent_means_are_as_good_as_class_means():
    means = np.array([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]])
    by_class = class_means(means, np.eye(3)[np.arange(N) % 3])
    by_row = latent_means(means[np.arange(N) % 3])
    found = [update(make_vae(), observations(pictures()), message).outputs["z"] for message in (by_class, by_row)]
    assert np.array_equal(*found)


def test_what_several_say_of_a_latent_vector_counts_alike():
    rng = np.random.default_rng(0)
    classes, one, other = rng.normal(size=(2, D)), rng.normal(size=(N, D)), rng.normal(size=(N, D))
    silent = np.arange(N) % 3 == 0
    together = [
        class_means(classes, np.eye(2)[np.arange(N) % 2]),
        latent_means(np.where(silent[:, None], 1e9, one), "net", mask=silent),
        latent_means(other, "another"),
    ]
    of_class = classes[np.arange(N) % 2]
    mean = np.where(silent[:, None], (of_class + other) / 2, (of_class + one + other) / 3)
    gone = {"mask": np.ones(N, dtype=bool)}  # of rows that are missing the prior's mean is all that is known
    vae = make_vae()
    update(vae, observations(pictures()))
    outbox = update(vae, observations(pictures(), **gone), *together, answer="recognize")
    np.testing.assert_allclose(outbox.outputs["z"], mean, rtol=1e-5, atol=1e-5)


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


# --- what it sends ------------------------------------------------------------------------------------------------


def test_sends_a_sample_when_told_and_still_keeps_the_mean():
    outbox = update(make_vae(send="sample", send_variance=True), observations(pictures()))
    message = arrays(outbox, "latent_vectors")
    offset = (message["mean"] - outbox.outputs["z"]) / np.sqrt(message["variance"])
    assert 0.7 < offset.std() < 1.3


def test_lengths_and_mask_travel_on():
    mask = np.arange(N) == 3
    outbox = update(make_vae(), observations(pictures(), lengths=np.array([20, 40]), mask=mask))
    for port in ("latent_vectors", "reconstructions"):
        assert arrays(outbox, port).lengths.tolist() == [20, 40]
        assert np.array_equal(arrays(outbox, port).mask, mask)


def test_what_stands_in_missing_rows_is_never_looked_at():
    mask = np.arange(N) % 4 == 0
    means = np.array([[1.0, 2, 3], [0, 0, 0], [0, 0, 0]])
    prior = class_means(means, np.eye(3)[np.zeros(N, dtype=int)])
    values = pictures()
    outboxes = []
    for filler in (0.0, 1e9):
        values[mask] = filler
        outboxes.append(update(make_vae(), observations(values, mask=mask), prior))
    assert same(outboxes[0].outputs, outboxes[1].outputs)
    assert np.array_equal(outboxes[0].outputs["z"][mask], np.tile(np.float32([1, 2, 3]), (mask.sum(), 1)))


def test_recognizes_with_the_mean_and_changes_nothing():
    vae = make_vae(send="sample")
    learnt = update(vae, observations(pictures()))
    before = vae.state()
    recognized = update(vae, observations(pictures()), answer="recognize", seed=5)
    assert np.array_equal(arrays(recognized, "latent_vectors")["mean"], learnt.outputs["z"])
    assert np.array_equal(recognized.outputs["x_hat"], learnt.outputs["x_hat"])
    assert same(vae.state(), before)


def test_decodes_latent_vectors_into_pictures():
    vae = make_vae()
    outbox = update(vae, observations(pictures()))
    assert np.array_equal(vae.decode(outbox.outputs["z"]), outbox.outputs["x_hat"])
    assert vae.decode(np.zeros((2, D))).shape == (2, *PIXELS)
    with pytest.raises(ModuleError, match="expected"):
        vae.decode(np.zeros((2, D + 1)))


def test_shows_what_class_means_look_like():
    vae, means = make_vae(), np.eye(D)[:2]
    update(vae, observations(pictures()))
    outbox = update(vae, class_means(means, np.full((N, 2), 0.5)), answer="generate")
    assert np.array_equal(outbox.outputs["mu_hat"], vae.decode(means))
    assert not update(vae, answer="generate").outputs


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"encoder": f"{__name__}:Halved"}, {"kl_warmup": 8, "patience": 4}])
def test_continues_bit_for_bit_after_a_load(given):
    one, other = make_vae(**given), make_vae(**given)
    update(one, observations(pictures()))
    state = one.state()
    state = {name: np.array(value) for name, value in state.items()}
    for value in state.values():
        value.flags.writeable = False
    continued = update(one, observations(pictures()), round=1)
    torch.manual_seed(123)  # the process's generator has no say
    other.load_state(state)
    assert same(other.state(), state)
    assert same(update(other, observations(pictures()), round=1).outputs, continued.outputs)
    assert same(other.state(), one.state())
    assert len(one.state()["loss"]) == 10


def test_a_snapshot_does_not_move_with_the_weights():
    vae = make_vae()
    update(vae, observations(pictures()))
    state = vae.state()
    kept = {name: np.array(value) for name, value in state.items()}
    update(vae, observations(pictures()), round=1)
    assert same(state, kept)
    assert not same(vae.state(), kept)


def test_restarted_weights_forget():
    vae = make_vae(restart_weights=True)
    update(vae, observations(1 - pictures()))
    again = update(vae, observations(pictures()), round=1)
    fresh = update(make_vae(), observations(pictures()), round=1)
    assert np.array_equal(again.outputs["z"], fresh.outputs["z"])
    assert np.array_equal(again.outputs["loss"], fresh.outputs["loss"])


def test_other_seeds_give_other_weights():
    z = [update(make_vae(), observations(pictures()), seed=seed).outputs["z"] for seed in (0, 0, 1)]
    assert np.array_equal(z[0], z[1])
    assert not np.array_equal(z[0], z[2])


def test_the_same_seed_leaves_the_processs_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    update(make_vae(encoder=f"{__name__}:Halved"), observations(pictures()))
    assert torch.equal(torch.rand(3), expected)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_says_what_it_cannot_learn_from():
    vae = make_vae()
    with pytest.raises(ModuleError, match="learnt nothing"):
        update(vae, observations(pictures()), answer="recognize")
    with pytest.raises(ModuleError, match=r"span 0\.\S* to 1\.9.*mse"):
        update(vae, observations(pictures() + np.linspace(0, 1, N)[:, None, None]))
    with pytest.raises(ModuleError, match="every row"):
        update(vae, observations(pictures(), mask=np.ones(N, dtype=bool)))
    with pytest.raises(ModuleError, match=r"gmm -> vae.*expected 60 and 3"):
        update(vae, observations(pictures()), class_means(np.zeros((2, D)), np.full((N - 1, 2), 0.5)))
    with pytest.raises(ModuleError, match=r"net -> vae.*\(59, 3\) came, expected \(60, 3\)"):
        update(vae, observations(pictures()), latent_means(np.zeros((N - 1, D))))
    update(vae, observations(pictures()))
    with pytest.raises(ModuleError, match=r"shape \(16,\) came.*\(4, 4\)"):
        update(vae, observations(pictures().reshape(N, -1)))
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        update(vae, observations(pictures()), overrides={"latent_dim": 2})
    with pytest.raises(ModuleError, match="fit other networks"):
        make_vae(hidden=4).load_state(vae.state())


def test_names_the_epoch_in_which_a_loss_is_not_finite():
    with pytest.raises(ModuleError, match=r"loss is (nan|inf) after \d+ of \d+ epochs"):
        update(make_vae(learning_rate=1e30, likelihood="mse"), observations(pictures()))


@pytest.mark.parametrize(("dotted", "why"), [("nowhere:net", "No module"), (f"{__name__}:no_module", "NoneType")])
def test_says_which_network_cannot_be_made(dotted, why):
    with pytest.raises(ModuleError, match=why):
        update(make_vae(decoder=dotted), observations(pictures()))


@pytest.mark.parametrize(
    "given", [{"latent_dim": 0}, {"itr": -1}, {"likelihood": "poisson"}, {"encoder": "x y"}, {"a": 1}]
)
def test_refuses_wrong_parameters(given):
    with pytest.raises(ModuleError):
        make_vae(**given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_says_so_when_the_gpu_is_not_there(caplog):
    vae = make_vae()
    vae.prepare("cuda", 1)
    assert vae.device == "cpu"
    assert "uses the CPU" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_learns_on_a_gpu_and_goes_on_after_a_load():
    one, other = make_vae(), make_vae()
    for vae in (one, other):
        vae.prepare("cuda", 1)
    assert one.device == "cuda"
    update(one, observations(pictures()))
    other.load_state(one.state())
    continued = update(one, observations(pictures()), round=1)
    assert same(update(other, observations(pictures()), round=1).outputs, continued.outputs)


def test_asking_for_its_ports_does_not_import_torch():
    code = "import sys, actors.vae; assert actors.vae.VAE.ports; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
