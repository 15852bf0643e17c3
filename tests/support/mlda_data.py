"""Data of four classes for tests of the MLDA, and helpers for its messages."""

import numpy as np

from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

K, N = 4, 120
TRUTH = np.arange(N) % K
# Classes 0 and 1 are the same in one modality, 2 and 3 in the other.
MERGED = {"left": [0, 0, 1, 2], "right": [0, 1, 2, 2]}
BELOW = {"transition_prior": ("gmm", "other_gmm"), "reconstructions": ("left", "right")}


def make_mlda(**parameters):
    return make_module("mlda", {"topics": K, "itr": 20, **parameters})


def histograms(name, rows=N, tokens=40, seed=0, own=0.3):
    """Return counts over 12 words, drawn from the row's class except for a share `own` of a distribution of its own."""
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


def both(**options):
    return [observed(name, histograms(name, **options)) for name in MERGED]


def lacking(share=0.35, seed=2, **options):
    """Return histograms in which counts are missing: more often those of frequent words, which zeros would hide."""
    messages = []
    for message in both(**options):
        values = np.array(message["values"])
        absent = np.random.default_rng(seed).random(values.shape) < np.where(values > 4, 2 * share, share / 2)
        absent[5] = True
        messages.append(observed(message.header.sender, np.where(absent, 0.0, values), mask=absent))
    return messages


def call(mlda, *messages, method="update", receivers=("mm",), **context):
    """Call a method of the MLDA with an inbox of `messages` and return its outbox."""
    context = Context("mlda", receivers={"topic_posteriors": receivers, **BELOW}, **context)
    return getattr(mlda, method)(Inbox(messages), context)


def sent(outbox, port, receiver):
    """Return the outgoing message, checked as a message."""
    kind = {"topic_posteriors": "class_posteriors"}.get(port, port)
    (outgoing,) = [o for o in outbox.messages if (o.port, o.receiver) == (port, receiver)]
    return make_message(Header(kind, "mlda", port, receiver), outgoing.arrays)


def likelihood(outbox, receiver="mm"):
    message = sent(outbox, "topic_posteriors", receiver)
    return message["log_prob"] + message["log_norm"][:, None]


def most_common(mlda):
    """Return the most frequent topic of each row's tokens in "left"."""
    return np.array([np.bincount(row).argmax() for row in mlda.state()["topics.left"].reshape(N, -1)])
