"""Images and messages for tests of the VAE."""

import numpy as np

from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

N, PIXELS, D = 60, (4, 4), 3


def images(seed=0, rows=N):
    """Return images of three patterns with a little noise, in [0, 1]."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((3, *PIXELS)) > 0.5
    return np.clip(patterns[np.arange(rows) % 3] * 0.8 + 0.2 * rng.random((rows, *PIXELS)), 0, 1)


def make_vae(**parameters):
    return make_module("vae", {"latent_dim": D, "epochs": 5, "batch_size": 25, "hidden": 16, **parameters})


def observations(values, **rows):
    return make_message(Header("observations", "data", "observations", "vae"), {"values": values, **rows})


def class_means(means, responsibilities):
    arrays = {"means": means, "responsibilities": responsibilities}
    return make_message(Header("class_means", "gmm", "class_means", "vae"), arrays)


def latent_means(mean, sender="net", **rows):
    return make_message(Header("latent_means", sender, "latent_means", "vae"), {"mean": mean, **rows})


def call(vae, *messages, method="update", **context):
    """Call a method of the VAE with an inbox of `messages` and return its outbox."""
    return getattr(vae, method)(Inbox(messages), Context("vae", **context))


def sent(outbox, port):
    """Return the outgoing message on `port`, checked as a message."""
    (outgoing,) = [outgoing for outgoing in outbox.messages if outgoing.port == port]
    return make_message(Header(port, "vae", port), outgoing.arrays)
