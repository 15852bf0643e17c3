"""The VAE with networks of convolutions and random shifts: learning, states, missing values, and what is refused."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from actors.errors import ModuleError
from tests.support.toy_modules import same_arrays
from tests.support.vae_data import PIXELS, D, N, call, class_means, images, make_vae, observations

pytestmark = pytest.mark.usefixtures("one_thread")

CONV = {"networks": "conv", "filters": [4, 8], "augment": {"shift": 1}, "learning_rate": 0.01}


def test_the_networks_learn_the_pictures():
    rows = images(rows=200)
    vae = make_vae(**CONV | {"epochs": 60, "augment": {}, "kl_weight": 0.1})
    outbox = call(vae, observations(rows))
    x_hat = outbox.outputs["x_hat"]
    assert x_hat.shape == rows.shape
    assert np.abs(x_hat - rows).mean() < 0.4 * np.abs(rows.mean(axis=0) - rows).mean()
    decoded = vae.decode(outbox.outputs["z"])
    np.testing.assert_allclose(decoded, x_hat, atol=1e-6)
    means = call(vae, class_means(outbox.outputs["z"][:3], np.eye(3)), method="generate").outputs["mu_hat"]
    np.testing.assert_allclose(means, decoded[:3], atol=1e-6)


def test_flat_rows_with_a_shape_are_the_pictures():
    rows = images()
    whole = call(make_vae(**CONV), observations(rows))
    flat = call(make_vae(**CONV, shape=PIXELS), observations(rows.reshape(N, -1)))
    assert np.array_equal(whole.outputs["z"], flat.outputs["z"])
    assert np.array_equal(whole.outputs["x_hat"].reshape(N, -1), flat.outputs["x_hat"])


@pytest.mark.parametrize("shape", [(5, 7), (8, 8, 3)])
def test_any_size_and_number_of_channels(shape):
    rows = np.random.default_rng(0).random((N, *shape))
    vae = make_vae(**CONV | {"filters": [4, 4, 4]})
    assert call(vae, observations(rows)).outputs["x_hat"].shape == rows.shape


@pytest.mark.parametrize("networks", ["conv", "dense"])
def test_pictures_are_moved_while_learning_and_only_then(networks):
    rows, own = observations(images()), CONV | {"networks": networks}
    still, moved, again = (make_vae(**own | {"augment": {"shift": shift}}) for shift in (0, 1, 1))
    learnt, others, repeated = (call(vae, rows).outputs for vae in (still, moved, again))
    assert same_arrays(others, repeated)
    assert not np.array_equal(learnt["loss"], others["loss"])
    still.load_state(moved.state())
    recognised = call(still, rows, method="recognize").outputs
    assert np.array_equal(recognised["z"], others["z"])  # the update sends the latent vectors of the rows themselves
    evaluated = call(still, rows, learn=False, round=5)
    assert np.array_equal(evaluated.outputs["z"], others["z"])
    assert same_arrays(call(moved, rows, method="recognize").outputs, recognised)


def test_a_restored_state_goes_on_with_the_same_bits():
    rows, one = observations(images()), make_vae(**CONV)
    call(one, rows)
    two = make_vae(**CONV)
    two.load_state({name: np.array(value) for name, value in one.state().items()})
    ends = [call(vae, rows, round=1).outputs for vae in (one, two)]
    assert same_arrays(*ends)
    assert same_arrays(one.state(), two.state())


def test_weights_of_other_filters_are_refused():
    vae = make_vae(**CONV)
    call(vae, observations(images()))
    with pytest.raises(ModuleError, match="the weights fit other networks"):
        make_vae(**CONV | {"filters": [4, 6]}).load_state(vae.state())


def test_missing_values_move_with_their_pictures():
    rows = images(rows=200)
    absent = np.random.default_rng(1).random(rows.shape) < 0.3
    given = observations(np.where(absent, 0.0, rows), mask=absent)
    x_hat = call(make_vae(**CONV | {"epochs": 100, "augment": {}, "kl_weight": 0.1}), given).outputs["x_hat"]
    mean = np.nanmean(np.where(absent, np.nan, rows), axis=0)
    errors = [np.abs(guess - rows)[absent].mean() for guess in (x_hat, np.broadcast_to(mean, rows.shape))]
    assert errors[0] < 0.6 * errors[1]
    moved = call(make_vae(**CONV), given)
    assert np.isfinite(moved.outputs["z"]).all()
    whole = call(make_vae(**CONV), observations(rows, mask=np.zeros_like(absent))).outputs
    np.testing.assert_allclose(
        whole["z"], call(make_vae(**CONV), observations(rows)).outputs["z"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_likelihoods_and_precisions(likelihood, mixed_precision):
    rows = images()
    vae = make_vae(**CONV | {"epochs": 15}, likelihood=likelihood, mixed_precision=mixed_precision)
    losses = call(vae, observations(rows)).outputs["loss"]
    assert losses[-1] < losses[0]
    assert vae.state()["weights.encoder.heads.weight"].dtype == np.float32
    assert vae.state()["weights.encoder.heads.weight"].shape == (2 * D, 16)


@pytest.mark.parametrize(
    ("parameters", "row", "message"),
    [
        (
            {"networks": "conv"},
            (16,),
            "networks: conv: rows of 16 values do not say that they are pictures; give shape",
        ),
        ({"augment": {"shift": 1}}, (16,), "augment: rows of 16 values do not say that they are pictures"),
        (
            {"networks": "conv", "shape": [3, 4]},
            (16,),
            "networks: conv: rows of 16 values are no pictures of shape 3×4",
        ),
        ({"augment": {"shift": 4}}, (4, 6), "a shift of up to 4 pixels leaves nothing of pictures of 4×6"),
    ],
)
def test_rows_that_are_no_pictures_are_refused_before_a_run_and_in_it(parameters, row, message):
    vae, rows = make_vae(**parameters), np.random.default_rng(0).random((8, *row))
    with pytest.raises(ModuleError, match=message):
        vae.check_observations(vae.parameters, rows, "data", learns=True)
    with pytest.raises(ModuleError, match=message):
        call(vae, observations(rows))


def test_parameters_are_checked():
    for wrong in (
        {"networks": "transformer"},
        {"filters": []},
        {"filters": [0]},
        {"shape": [28]},
        {"shape": [2, 2, 2, 2]},
        {"augment": {"rotate": 3}},
        {"augment": {"shift": -1}},
        {"class_weight": -1},
    ):
        with pytest.raises(ModuleError, match=next(iter(wrong))):
            make_vae(**wrong)


def by_class(rows=N):
    """Return class means far from what the pictures are, in a message, and the classes of the rows."""
    classes = np.arange(rows) % 3
    means = np.random.default_rng(3).normal(size=(3, D))
    return class_means(means, np.eye(3)[classes]), means, classes


def test_the_loss_of_classes_is_that_of_scipy():
    from actors.kernels.neural.vae_networks import ClassPrior, class_loss

    generator = np.random.default_rng(0)
    latents, means, r = generator.normal(size=(9, D)), generator.normal(size=(4, D)), generator.dirichlet(np.ones(4), 9)
    densities = np.stack([multivariate_normal(mean).logpdf(latents) for mean in means], axis=1)
    expected = -(r * (densities - logsumexp(densities, axis=1, keepdims=True))).sum()
    found = class_loss(torch.tensor(latents), ClassPrior(torch.tensor(means), torch.tensor(r), 2.0))
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize("networks", ["dense", "conv"])
def test_the_weight_of_classes_makes_latent_vectors_tell_them(networks):
    rows, (above, means, classes) = observations(images()), by_class()
    posteriors = []
    for weight in (0.0, 20.0):
        own = {**CONV, "networks": networks, "augment": {}, "epochs": 30, "class_weight": weight}
        z = call(make_vae(**own), rows, above).outputs["z"]
        densities = -0.5 * ((z[:, None] - means) ** 2).sum(axis=2)
        posteriors.append(np.exp(densities - logsumexp(densities, axis=1, keepdims=True))[np.arange(N), classes].mean())
    assert posteriors[1] > posteriors[0] + 0.02


def test_the_weight_of_classes_needs_classes():
    rows = observations(images())
    assert same_arrays(call(make_vae(class_weight=20.0), rows).outputs, call(make_vae(), rows).outputs)


def test_classes_of_rows_that_are_missing_are_left_out():
    absent, values = np.arange(N) % 4 == 1, images()
    whole, (above, means, classes) = make_vae(class_weight=5.0), by_class()
    kept = class_means(means, np.eye(3)[classes][~absent])
    given = observations(np.where(absent[:, None, None], 0.0, values), mask=absent)
    found, expected = call(whole, given, above), call(make_vae(class_weight=5.0), observations(values[~absent]), kept)
    assert np.array_equal(found.outputs["loss"], expected.outputs["loss"])


def test_learning_does_not_draw_from_the_process():
    before = torch.random.get_rng_state()
    call(make_vae(**CONV), observations(images()))
    assert torch.equal(torch.random.get_rng_state(), before)
