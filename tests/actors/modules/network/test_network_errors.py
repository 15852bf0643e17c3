"""Errors of the network module."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from actors.errors import ModuleError, NonFiniteError
from tests.support.network_modules import (
    USER_NETWORKS,
    D,
    K,
    N,
    all_messages,
    call,
    latents,
    make_network,
    targets,
    truth,
)
from tests.support.toy_modules import same_arrays

pytestmark = pytest.mark.usefixtures("one_thread")


def error_of(network, *messages, method="update", **context):
    """Return the message of the ModuleError that the call raises."""
    with pytest.raises(ModuleError) as raised:
        call(network, *messages, method=method, **context)
    return str(raised.value)


def test_rejects_messages_that_do_not_match():
    classes, _, words = all_messages()
    assert "learnt nothing" in error_of(make_network(), *all_messages(), method="recognize")
    assert "nothing to predict from" in error_of(make_network(), words)
    assert "port 'observations'" in error_of(make_network(), classes)
    assert "one sender, but words and more" in error_of(
        make_network(), classes, words, targets(words["values"], "more")
    )
    assert "vae -> net.latent_vectors (latent_vectors): received 5 rows, but there are 120 targets" in error_of(
        make_network(), classes, latents(np.zeros((5, D))), words
    )
    missing = targets(words["values"], mask=np.ones(N, bool))
    assert "nothing to learn from" in error_of(make_network(), classes, missing)
    for step in ({"hidden": 3}, {"loss": "mse"}, {"network": "torch.nn:Linear"}):
        assert "cannot be set for a step" in error_of(make_network(), *all_messages(), overrides=step)


def test_rejects_targets_outside_the_domain_of_the_loss():
    classes, integers = all_messages()[0], targets(truth()[:, None].astype(float))
    error = error_of(make_network(), classes, integers)
    assert "span 0 to 2" in error
    error = error_of(make_network(), classes, targets(np.full((N, K), 0.5)))
    assert "sums to 1.5 (120 such rows)" in error
    assert "one-hot" in error
    assert "use 'mse'" in error_of(make_network(loss="bce"), classes, targets(np.full((N, 2), -0.1)))


def test_rejects_inputs_and_states_that_do_not_match_the_trained_network():
    classes, vectors, words = all_messages()
    network = make_network()
    call(network, classes, vectors, words)
    assert "received targets of shape (4,), but this network was trained on (3,)" in error_of(
        network, classes, vectors, targets(np.eye(4)[truth()])
    )
    error = error_of(network, classes, words, method="recognize")
    assert "the inputs are 3 class_posteriors of gmm, but" in error
    assert "this network was trained on 3 class_posteriors of gmm, 2 lat" in error
    assert "5 latent_vectors of vae, but this" in error_of(network, classes, latents(np.zeros((N, 5))), words)
    with pytest.raises(ModuleError, match="fit other networks"):
        make_network(hidden=4).load_state(network.state())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_network", "returned str"),
        ("nowhere", "no attribute"),
        ("too_narrow", r"returned \(2, 4\) for inputs \(2, 5\), expected \(2, 3\)"),
        ("too_wide", r"fails on inputs \(2, 5\)"),
        ("without_parameters", r"returned \(2, 5\)"),
    ],
)
def test_rejects_an_invalid_user_network(name, reason):
    with pytest.raises(ModuleError, match=reason):
        call(make_network(network=f"{USER_NETWORKS}:{name}"), *all_messages())


def test_names_the_user_network_that_cannot_be_trained():
    network = make_network(network=f"{USER_NETWORKS}:Noisy", batch_size=1)  # batch normalisation needs two rows
    assert "Noisy' cannot be trained" in error_of(network, *all_messages())


def test_reports_the_epoch_of_a_non_finite_loss():
    classes, vectors, _ = all_messages()
    with pytest.raises(NonFiniteError, match=r"loss is (nan|inf) after \d+ of 20 epochs.*scaling"):
        call(make_network(loss="mse", learning_rate=1e30), classes, vectors, targets(np.ones((N, 2))))


@pytest.mark.parametrize("parameters", [{"itr": -1}, {"loss": "hinge"}, {"trust": 0}, {"trust": 2}, {"network": "x"}])
def test_rejects_invalid_parameters(parameters):
    with pytest.raises(ModuleError):
        make_network(**parameters)


def test_reading_the_ports_does_not_import_torch():
    code = (
        "import sys; from actors.modules.network.network import Network; assert Network.ports; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_warns_and_uses_the_cpu_without_a_gpu(caplog):
    network = make_network()
    call(network, *all_messages())
    before = network.state()
    network.prepare("cuda", 1)
    assert network.device == "cpu"
    assert "uses the CPU" in caplog.text
    assert same_arrays(network.state(), before)
