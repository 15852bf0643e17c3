"""Modules with custom message kinds: a counter sends word counts, a reader sends the posteriors of their topics."""

from dataclasses import dataclass

import numpy as np

from actors.messaging.kinds import ArraySpec, Kind
from actors.messaging.message import rows_of
from actors.module import Module, Outbox, OutgoingMessage, Port

WORDS = Kind("word_counts", (ArraySpec("counts", ("N", "V"), "counts"), ArraySpec("weight", ("N",), optional=True)))
TOPIC = Kind(
    "topic",
    (ArraySpec("log_prob", ("N", "K"), "log_distribution"), ArraySpec("words", ("K", "V"), "distribution")),
    multiplies=True,
)


class Base(Module):
    kinds = (WORDS, TOPIC)

    @dataclass(frozen=True)
    class Parameters:
        fault: str = ""

    def update(self, inbox, context):
        return Outbox()

    def recognize(self, inbox, context):
        return self.update(inbox, context)

    def state(self):
        return {}

    def load_state(self, state):
        pass


class Counter(Base):
    """Sends counts, and sums the posteriors of the first topic over the updates."""

    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("about", "in", "backward", "topic", optional=True),
        Port("words", "out", "forward", "word_counts"),
    )
    total = 0.0

    def update(self, inbox, context):
        message, topic = inbox.require("observations"), inbox.log_product("about")
        if topic is not None:
            self.total += float(np.exp(topic[:, 0]).sum()) / (1.0 + self.total)
        counts = np.floor(np.abs(message["values"]) * 3).astype(np.int64)
        if self.parameters.fault:
            counts[2] = -1
        return Outbox([OutgoingMessage("words", {"counts": counts, **rows_of(message)})], {"total": self.total})

    def state(self):
        return {"total": self.total}

    def load_state(self, state):
        self.total = state.get("total", 0.0)


class Reader(Base):
    """Sends posteriors of two topics, one for each half of the vocabulary."""

    ports = (
        Port("words", "in", "forward", "word_counts"),
        Port("about", "out", "backward", "topic"),
    )

    def update(self, inbox, context):
        message = inbox.require("words")
        counts = message["counts"].astype(float)
        half = np.arange(counts.shape[1]) < counts.shape[1] // 2
        words = np.stack([half, ~half]) / np.stack([half, ~half]).sum(axis=1, keepdims=True)
        log_prob = np.log(np.stack([counts[:, half].sum(axis=1), counts[:, ~half].sum(axis=1)], axis=1) + 1.0)
        log_prob -= np.logaddexp.reduce(log_prob, axis=1, keepdims=True)
        return Outbox([OutgoingMessage("about", {"log_prob": log_prob, "words": words, **rows_of(message)})])


class Conflicting(Base):
    """Declares a different kind with the name of an existing one."""

    kinds = (Kind("topic", (ArraySpec("values", ("N", "...")),)),)


class Undeclared(Base):
    """Has a port of a kind that it does not declare."""

    kinds = ()
    ports = (Port("gossip", "out", "forward", "gossip"),)
