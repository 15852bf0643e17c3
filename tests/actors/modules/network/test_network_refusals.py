"""What the network refuses, and how it says so."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.errors import ModuleError, NonFiniteError
from tests.support.network_modules import (
    TOYS,
    D,
    K,
    N,
    latents,
    make_network,
    scene,
    targets,
    truth,
    update,
)
from tests.support.toy_modules import same

pytestmark = pytest.mark.usefixtures("one_thread")


def refused(network, *messages, answer="update", **context):
    with pytest.raises(ModuleError) as raised:
        update(network, *messages, answer=answer, **context)
    return str(raised.value)


def test_says_what_it_cannot_learn_from():
    classes, _, words = scene()
    assert "learnt nothing" in refused(make_network(), *scene(), answer="recognize")
    assert "nothing to predict from" in refused(make_network(), words)
    assert "port 'observations'" in refused(make_network(), classes)
    assert "one sender, but words and more" in refused(make_network(), classes, words, targets(words["values"], "more"))
    assert "vae -> net.latent_vectors (latent_vectors): 5 rows came, the targets are 120" in refused(
        make_network(), classes, latents(np.zeros((5, D))), words
    )
    gone = targets(words["values"], mask=np.ones(N, bool))
    assert "nothing to learn from" in refused(make_network(), classes, gone)
    for step in ({"hidden": 3}, {"loss": "mse"}, {"network": "torch.nn:Linear"}):
        assert "cannot be set for a step" in refused(make_network(), *scene(), overrides=step)


def test_says_which_targets_its_loss_is_not_for():
    classes, integers = scene()[0], targets(truth()[:, None].astype(float))
    said = refused(make_network(), classes, integers)
    assert "span 0 to 2" in said
    said = refused(make_network(), classes, targets(np.full((N, K), 0.5)))
    assert "sums to 1.5 (120 such rows)" in said
    assert "one-hot" in said
    assert "use 'mse'" in refused(make_network(loss="bce"), classes, targets(np.full((N, 2), -0.1)))


def test_says_what_has_changed_since_it_learnt():
    classes, vectors, words = scene()
    network = make_network()
    update(network, classes, vectors, words)
    assert "targets of shape (4,) came, this network has learnt (3,)" in refused(
        network, classes, vectors, targets(np.eye(4)[truth()])
    )
    said = refused(network, classes, words, answer="recognize")
    assert "the inputs are 3 class_posteriors of gmm; this network has learnt 3 class_posteriors of gmm, 2 lat" in said
    assert "5 latent_vectors of vae; this" in refused(network, classes, latents(np.zeros((N, 5))), words)
    with pytest.raises(ModuleError, match="fit other networks"):
        make_network(hidden=4).load_state(network.state())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_network", "gives str"),
        ("nowhere", "no attribute"),
        ("too_narrow", r"with \(2, 4\), expected \(2, 3\)"),
        ("too_wide", r"fails on inputs \(2, 5\)"),
        ("nothing_to_learn", r"with \(2, 5\)"),
    ],
)
def test_says_what_is_wrong_with_a_users_network(name, why):
    with pytest.raises(ModuleError, match=why):
        update(make_network(network=f"{TOYS}:{name}"), *scene())


def test_says_which_users_network_cannot_be_trained():
    network = make_network(network=f"{TOYS}:Noisy", batch_size=N - 1)  # the last batch is one row
    assert "Noisy' cannot be trained" in refused(network, *scene())


def test_names_the_epoch_in_which_a_loss_is_not_finite():
    classes, vectors, _ = scene()
    with pytest.raises(NonFiniteError, match=r"loss is (nan|inf) after \d+ of 20 epochs.*scaling"):
        update(make_network(loss="mse", learning_rate=1e30), classes, vectors, targets(np.ones((N, 2))))


@pytest.mark.parametrize("given", [{"itr": -1}, {"loss": "hinge"}, {"trust": 0}, {"trust": 2}, {"network": "x"}])
def test_refuses_wrong_parameters(given):
    with pytest.raises(ModuleError):
        make_network(**given)


def test_asking_for_its_ports_does_not_import_torch():
    code = (
        "import sys; from actors.modules.network.network import Network; assert Network.ports; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_says_so_when_the_gpu_is_not_there(caplog):
    network = make_network()
    update(network, *scene())
    before = network.state()
    network.prepare("cuda", 1)
    assert network.device == "cpu"
    assert "uses the CPU" in caplog.text
    assert same(network.state(), before)
