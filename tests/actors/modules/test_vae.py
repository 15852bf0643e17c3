"""The VAE compresses observations, uses prior means from above, and continues from a loaded state."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.errors import ModuleError
from tests.support.toy_modules import same_arrays
from tests.support.vae_data import (
    PIXELS,
    D,
    N,
    call,
    class_means,
    images,
    latent_means,
    make_vae,
    observations,
    sent,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class DropoutEncoder(torch.nn.Module):
    """A user's encoder that draws its weights and its dropout from torch's global generator."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(inputs, outputs))

    def forward(self, rows):
        mean = self.layer(rows)
        return mean, torch.zeros_like(mean)


class NormalisedEncoder(torch.nn.Module):
    """A user's encoder with batch normalisation, which cannot learn from a single row."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.BatchNorm1d(outputs))

    def forward(self, rows):
        mean = self.layer(rows)
        return mean, torch.zeros_like(mean)


def build_nothing(inputs, outputs):
    return None


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "kl_weight"), [("bce", 1.0), ("mse", 0.05)])
def test_learns_to_reconstruct(likelihood, kl_weight):
    # Values in [0, 1] are small compared to a unit variance: with kl_weight 1, the mse's optimum is to encode nothing.
    vae = make_vae(likelihood=likelihood, kl_weight=kl_weight, epochs=300, learning_rate=1e-2)
    values = images()
    outbox = call(vae, observations(values))
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
    assert np.array_equal(sent(outbox, "latent_vectors")["mean"], outbox.outputs["z"])
    assert np.array_equal(sent(outbox, "reconstructions")["values"], x_hat)


def test_class_means_pull_latent_vectors_of_their_rows_towards_them():
    means = np.array([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]])
    message = class_means(means, np.eye(3)[np.arange(N) % 3])
    z = call(make_vae(epochs=200, learning_rate=1e-2), observations(images()), message).outputs["z"]
    for k in range(3):
        assert z[k::3].mean(axis=0).argmax() == k


def test_latent_means_have_the_same_effect_as_class_means():
    means = np.array([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]])
    by_class = class_means(means, np.eye(3)[np.arange(N) % 3])
    by_row = latent_means(means[np.arange(N) % 3])
    latents = [call(make_vae(), observations(images()), message).outputs["z"] for message in (by_class, by_row)]
    assert np.array_equal(*latents)


def test_the_prior_mean_is_the_mean_of_all_messages_that_contain_the_row():
    rng = np.random.default_rng(0)
    classes, one, other = rng.normal(size=(2, D)), rng.normal(size=(N, D)), rng.normal(size=(N, D))
    missing = np.arange(N) % 3 == 0
    together = [
        class_means(classes, np.eye(2)[np.arange(N) % 2]),
        latent_means(np.where(missing[:, None], 1e9, one), "net", mask=missing),
        latent_means(other, "another"),
    ]
    of_class = classes[np.arange(N) % 2]
    mean = np.where(missing[:, None], (of_class + other) / 2, (of_class + one + other) / 3)
    none_present = {"mask": np.ones(N, dtype=bool)}  # the latent vectors of missing rows are their prior means
    vae = make_vae()
    call(vae, observations(images()))
    outbox = call(vae, observations(images(), **none_present), *together, method="recognize")
    np.testing.assert_allclose(outbox.outputs["z"], mean, rtol=1e-5, atol=1e-5)


# --- messages -----------------------------------------------------------------------------------------------------


def test_sends_a_sample_on_request_and_outputs_the_mean():
    outbox = call(make_vae(send="sample", send_variance=True), observations(images()))
    message = sent(outbox, "latent_vectors")
    offset = (message["mean"] - outbox.outputs["z"]) / np.sqrt(message["variance"])
    assert 0.7 < offset.std() < 1.3


def test_lengths_and_mask_are_passed_on():
    mask = np.arange(N) == 3
    outbox = call(make_vae(), observations(images(), lengths=np.array([20, 40]), mask=mask))
    for port in ("latent_vectors", "reconstructions"):
        assert sent(outbox, port).lengths.tolist() == [20, 40]
        assert np.array_equal(sent(outbox, port).mask, mask)


def test_values_of_missing_rows_have_no_influence():
    mask = np.arange(N) % 4 == 0
    means = np.array([[1.0, 2, 3], [0, 0, 0], [0, 0, 0]])
    prior = class_means(means, np.eye(3)[np.zeros(N, dtype=int)])
    values = images()
    outboxes = []
    for filler in (0.0, 1e9):
        values[mask] = filler
        outboxes.append(call(make_vae(), observations(values, mask=mask), prior))
    assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)
    assert np.array_equal(outboxes[0].outputs["z"][mask], np.tile(np.float32([1, 2, 3]), (mask.sum(), 1)))


def test_recognition_sends_the_mean_and_does_not_change_the_state():
    vae = make_vae(send="sample")
    learnt = call(vae, observations(images()))
    before = vae.state()
    recognized = call(vae, observations(images()), method="recognize", seed=5)
    assert np.array_equal(sent(recognized, "latent_vectors")["mean"], learnt.outputs["z"])
    assert np.array_equal(recognized.outputs["x_hat"], learnt.outputs["x_hat"])
    assert same_arrays(vae.state(), before)


def test_decodes_latent_vectors():
    vae = make_vae()
    outbox = call(vae, observations(images()))
    assert np.array_equal(vae.decode(outbox.outputs["z"]), outbox.outputs["x_hat"])
    assert vae.decode(np.zeros((2, D))).shape == (2, *PIXELS)
    with pytest.raises(ModuleError, match="expected"):
        vae.decode(np.zeros((2, D + 1)))


def test_generates_images_of_class_means():
    vae, means = make_vae(), np.eye(D)[:2]
    call(vae, observations(images()))
    outbox = call(vae, class_means(means, np.full((N, 2), 0.5)), method="generate")
    assert np.array_equal(outbox.outputs["mu_hat"], vae.decode(means))
    assert not call(vae, method="generate").outputs


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, {"encoder": f"{__name__}:DropoutEncoder"}, {"kl_warmup": 8, "patience": 4}])
def test_continues_bit_for_bit_after_a_load(parameters):
    one, other = make_vae(**parameters), make_vae(**parameters)
    call(one, observations(images()))
    state = one.state()
    state = {name: np.array(value) for name, value in state.items()}
    for value in state.values():
        value.flags.writeable = False
    continued = call(one, observations(images()), round=1)
    torch.manual_seed(123)  # the global generator must have no influence
    other.load_state(state)
    assert same_arrays(other.state(), state)
    assert same_arrays(call(other, observations(images()), round=1).outputs, continued.outputs)
    assert same_arrays(other.state(), one.state())
    assert len(one.state()["loss"]) == 10


def test_a_returned_state_does_not_change_with_later_updates():
    vae = make_vae()
    call(vae, observations(images()))
    state = vae.state()
    kept = {name: np.array(value) for name, value in state.items()}
    call(vae, observations(images()), round=1)
    assert same_arrays(state, kept)
    assert not same_arrays(vae.state(), kept)


def test_restart_weights_discards_weights_and_losses():
    vae = make_vae(restart_weights=True)
    call(vae, observations(1 - images()))
    again = call(vae, observations(images()), round=1)
    fresh = call(make_vae(), observations(images()), round=1)
    assert np.array_equal(again.outputs["z"], fresh.outputs["z"])
    assert np.array_equal(again.outputs["loss"], fresh.outputs["loss"])


def test_different_seeds_give_different_weights():
    z = [call(make_vae(), observations(images()), seed=seed).outputs["z"] for seed in (0, 0, 1)]
    assert np.array_equal(z[0], z[1])
    assert not np.array_equal(z[0], z[2])


def test_an_update_leaves_the_global_generator_unchanged():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    call(make_vae(encoder=f"{__name__}:DropoutEncoder"), observations(images()))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("left", [1, 2, 7])
def test_a_last_batch_of_few_rows_is_spread_over_the_others_for_a_users_network(left):
    rows = images()
    size = (len(rows) - left) // 2
    vae = make_vae(encoder=f"{__name__}:NormalisedEncoder", batch_size=size)
    assert np.isfinite(call(vae, observations(rows[: 2 * size + left])).outputs["loss"]).all()


# --- errors -------------------------------------------------------------------------------------------------------


def test_a_users_encoder_that_cannot_be_trained_is_named():
    vae = make_vae(encoder=f"{__name__}:NormalisedEncoder", batch_size=1)
    with pytest.raises(ModuleError, match=r"NormalisedEncoder' cannot be trained: .*Expected more than 1 value"):
        call(vae, observations(images()))


def test_rejects_messages_that_do_not_match():
    vae = make_vae()
    with pytest.raises(ModuleError, match="learnt nothing"):
        call(vae, observations(images()), method="recognize")
    with pytest.raises(ModuleError, match=r"span 0\.\S* to 1\.9.*mse"):
        call(vae, observations(images() + np.linspace(0, 1, N)[:, None, None]))
    with pytest.raises(ModuleError, match="every row"):
        call(vae, observations(images(), mask=np.ones(N, dtype=bool)))
    with pytest.raises(ModuleError, match=r"gmm -> vae.*received.*59 rows.*dimension 3, expected 60 and 3"):
        call(vae, observations(images()), class_means(np.zeros((2, D)), np.full((N - 1, 2), 0.5)))
    with pytest.raises(ModuleError, match=r"net -> vae.*shape \(59, 3\), expected \(60, 3\)"):
        call(vae, observations(images()), latent_means(np.zeros((N - 1, D))))
    call(vae, observations(images()))
    with pytest.raises(ModuleError, match=r"received.* shape \(16,\).*\(4, 4\)"):
        call(vae, observations(images().reshape(N, -1)))
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        call(vae, observations(images()), overrides={"latent_dim": 2})
    with pytest.raises(ModuleError, match="fit other networks"):
        make_vae(hidden=4).load_state(vae.state())


def test_reports_the_epoch_of_a_non_finite_loss():
    with pytest.raises(ModuleError, match=r"loss is (nan|inf) after \d+ of \d+ epochs"):
        call(make_vae(learning_rate=1e30, likelihood="mse"), observations(images()))


@pytest.mark.parametrize(
    ("dotted", "reason"), [("nowhere:net", "No module"), (f"{__name__}:build_nothing", "NoneType")]
)
def test_rejects_a_network_that_cannot_be_built(dotted, reason):
    with pytest.raises(ModuleError, match=reason):
        call(make_vae(decoder=dotted), observations(images()))


@pytest.mark.parametrize(
    "parameters", [{"latent_dim": 0}, {"itr": -1}, {"likelihood": "poisson"}, {"encoder": "x y"}, {"a": 1}]
)
def test_rejects_invalid_parameters(parameters):
    with pytest.raises(ModuleError):
        make_vae(**parameters)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_warns_and_uses_the_cpu_without_a_gpu(caplog):
    vae = make_vae()
    vae.prepare("cuda", 1)
    assert vae.device == "cpu"
    assert "uses the CPU" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_learns_on_a_gpu_and_continues_after_a_load():
    one, other = make_vae(), make_vae()
    for vae in (one, other):
        vae.prepare("cuda", 1)
    assert one.device == "cuda"
    call(one, observations(images()))
    other.load_state(one.state())
    continued = call(one, observations(images()), round=1)
    assert same_arrays(call(other, observations(images()), round=1).outputs, continued.outputs)


def test_reading_the_ports_does_not_import_torch():
    code = "import sys, actors.modules.vae; assert actors.modules.vae.VAE.ports; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# --- values that are missing in part of a row ---------------------------------------------------------------------


def gaps(share=0.3, rows=N, seed=7):
    absent = np.random.default_rng(seed).random((rows, *PIXELS)) < share
    absent[4] = True
    return absent


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
def test_missing_values_have_no_influence(likelihood):
    absent = gaps()
    outboxes = []
    for filler in (0.0, 1e9):
        vae, values = make_vae(likelihood=likelihood), observations(np.where(absent, filler, images()), mask=absent)
        outboxes += [call(vae, values), call(vae, values, method="recognize")]
    assert same_arrays(outboxes[0].outputs, outboxes[2].outputs)
    assert outboxes[0].metrics == outboxes[2].metrics
    assert same_arrays(outboxes[1].outputs, outboxes[3].outputs)
    assert np.array_equal(sent(outboxes[0], "latent_vectors").mask, np.arange(N) == 4)
    assert not outboxes[0].outputs["z"][4].any()


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
def test_a_mask_of_values_that_are_all_there_gives_the_same_networks(likelihood):
    one, two = (make_vae(likelihood=likelihood) for _ in range(2))
    expected = call(one, observations(images())).outputs
    found = call(two, observations(images(), mask=np.zeros((N, *PIXELS), bool))).outputs
    np.testing.assert_allclose(found["z"], expected["z"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
def test_the_loss_is_that_of_the_values_that_are_there(likelihood):
    from actors.kernels.neural.vae_networks import observed_loss

    values, absent = images().reshape(N, -1), gaps().reshape(N, -1)
    logits = np.random.default_rng(0).normal(size=values.shape)
    terms = np.logaddexp(0, logits) - values * logits if likelihood == "bce" else 0.5 * (logits - values) ** 2
    given = torch.tensor(logits, requires_grad=True)
    loss = observed_loss(given, torch.tensor(np.where(absent, np.nan, values)), likelihood)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(terms[~absent].sum())
    expected = (1 / (1 + np.exp(-logits)) if likelihood == "bce" else logits) - values
    np.testing.assert_allclose(given.grad, np.where(absent, 0.0, expected), atol=1e-12)


def test_missing_values_are_reconstructed_from_the_others():
    absent = gaps(rows=300)
    values = images(rows=300)
    vae = make_vae(epochs=150, learning_rate=0.01, kl_weight=0.1)
    x_hat = call(vae, observations(np.where(absent, 0.0, values), mask=absent)).outputs["x_hat"]
    hidden = absent.copy()
    hidden[4] = False
    mean = np.nanmean(np.where(absent, np.nan, values), axis=0)
    errors = [np.abs(guess - values)[hidden].mean() for guess in (x_hat, np.broadcast_to(mean, values.shape))]
    assert errors[0] < 0.6 * errors[1]
