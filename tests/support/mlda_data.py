"""Rows of four classes for tests of the MLDA, messages to it, and what comes of them."""

import numpy as np

from actors.graph.registry import make
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

K, N = 4, 120
TRUTH = np.arange(N) % K
# One modality takes classes 0 and 1 for the same, the other 2 and 3.
MERGED = {"left": [0, 0, 1, 2], "right": [0, 1, 2, 2]}
BELOW = {"transition_prior": ("gmm", "other_gmm"), "reconstructions": ("left", "right")}


def make_mlda(**given):
    return make("mlda", {"topics": K, "itr": 20, **given})


def histograms(name, rows=N, tokens=40, seed=0, own=0.3):
    """Return counts over 12 words; each row's words are its class's, but for a share that is the row's own."""
    generator = np.random.default_rng([seed, ord(name[0])])
    phi = np.eye(3).repeat(4, axis=1) / 4
    words = phi[np.array(MERGED[name])[np.arange(rows) % K]]
    noise = generator.dirichlet(np.full(12, 0.2), rows)
    return generator.multinomial(tokens, (1 - own) * words + own * noise).astype(float)


def observed(sender, values, **rows):
    header = Header("observations", sender, "observations", "mlda")
    return make_message(header, {"values": np.asarray(values, dtype=float), **rows})


def posteriors(sender, probabilities, **rows):
    probabilities = np.asarray(probabilities, dtype=float)
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities), "log_norm": np.zeros(len(probabilities)), **rows}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "mlda"), arrays)


def prior_of(sender, probabilities):
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities)}
    return make_message(Header("transition_prior", sender, "topic_prior", "mlda"), arrays)


def some_prior(sender, seed, rows=N):
    return prior_of(sender, np.random.default_rng(seed).dirichlet(np.ones(K), rows))


def both(**given):
    return [observed(name, histograms(name, **given)) for name in MERGED]


def update(mlda, *messages, answer="update", receivers=("mm",), **context):
    context = Context("mlda", receivers={"topic_posteriors": receivers, **BELOW}, **context)
    return getattr(mlda, answer)(Inbox(messages), context)


def sent(outbox, port, receiver):
    """Return what went out, checked as a message."""
    kind = {"topic_posteriors": "class_posteriors"}.get(port, port)
    (outgoing,) = [o for o in outbox.messages if (o.port, o.receiver) == (port, receiver)]
    return make_message(Header(kind, "mlda", port, receiver), outgoing.arrays)


def likelihood(outbox, receiver="mm"):
    message = sent(outbox, "topic_posteriors", receiver)
    return message["log_prob"] + message["log_norm"][:, None]


def most_common(mlda):
    """Return the topic of most of each row's tokens in "left"."""
    return np.array([np.bincount(row).argmax() for row in mlda.state()["topics.left"].reshape(N, -1)])
