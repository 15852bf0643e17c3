"""Data and messages for tests of the network module, and user networks, valid and invalid ones."""

import numpy as np
import torch

from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.network.network import Network

USER_NETWORKS = "tests.support.network_modules"
N, K, D = 120, 3, 2
RECEIVERS = {"transition_prior": ("gmm",), "latent_means": ("vae",), "reconstructions": ("words",)}


def make_network(**parameters):
    quick = {"epochs": 20, "batch_size": 40, "hidden": 16, "learning_rate": 1e-2, "input_steps": 30}
    return make_module("network", {"loss": "cross_entropy", **quick, **parameters})


def truth(rows=N):
    return np.arange(rows) % K


def noisy_posteriors(labels, seed=0, strength=3.0):
    """Return noisy class posteriors of the labels, as log-distributions."""
    scores = strength * np.eye(K)[labels] + np.random.default_rng(seed).normal(size=(len(labels), K))
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


def posteriors(log_prob, sender="gmm", **rows):
    arrays = {"log_prob": log_prob, "log_norm": np.zeros(len(log_prob)), **rows}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "net"), arrays)


def latents(mean, sender="vae", **rows):
    return make_message(Header("latent_vectors", sender, "latent_vectors", "net"), {"mean": mean, **rows})


def targets(values, sender="words", **rows):
    return make_message(Header("observations", sender, "observations", "net"), {"values": values, **rows})


def all_messages(seed=0, rows=N):
    """Return messages with posteriors of three classes, latent vectors, and one-hot classes as targets."""
    rng = np.random.default_rng(seed)
    return [
        posteriors(noisy_posteriors(truth(rows), seed)),
        latents(rng.normal(size=(rows, D))),
        targets(np.eye(K)[truth(rows)]),
    ]


def call(network, *messages, method="update", receivers=RECEIVERS, **context):
    """Call a method of the network module with an inbox of `messages` and return its outbox."""
    return getattr(network, method)(Inbox(messages), Context("net", receivers=receivers, **context))


def sent(outbox, port, receiver=None):
    """Return the outgoing message on `port`, checked as a message."""
    (outgoing,) = [out for out in outbox.messages if out.port == port and receiver in (None, out.receiver)]
    kind = next(p.kind for p in Network.ports if p.name == port)
    return make_message(Header(kind, "net", port), outgoing.arrays)


class Noisy(torch.nn.Module):
    """A user's network that draws weights and dropout from torch's global generator and keeps running statistics."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(inputs, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.Tanh(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(8, outputs),
        )

    def forward(self, rows):
        return self.layers(rows)


def no_network(inputs, outputs):
    return "a network"


def too_narrow(inputs, outputs):
    return torch.nn.Linear(inputs, outputs + 1)


def too_wide(inputs, outputs):
    return torch.nn.Linear(inputs + 1, outputs)


def without_parameters(inputs, outputs):
    return torch.nn.Identity()
