"""The VAE compresses rows, under a prior whose means come from above, and continues where it stopped."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.errors import ModuleError
from tests.support.toy_modules import same
from tests.support.vae_data import (
    PIXELS,
    D,
    N,
    arrays,
    class_means,
    latent_means,
    make_vae,
    observations,
    pictures,
    update,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
    code = "import sys, actors.modules.vae; assert actors.modules.vae.VAE.ports; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
