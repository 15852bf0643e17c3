"""A small module that keeps to the contract; ``wrong_modules`` has others like it, each wrong in one way."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.messaging.message import rows_of
from actors.module import Module, Outbox, OutgoingMessage, Port


class Sound(Module):
    """Soft clusters that move with momentum; pictures beside the rows, where there are any, are averaged."""

    ports = (
        Port("rows", "in", "forward", "latent_vectors"),
        Port("pictures", "in", "forward", "observations", optional=True),
        Port("prior", "in", "backward", "transition_prior", optional=True),
        Port("posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    @dataclass(frozen=True)
    class Parameters:
        classes: Annotated[int, Field(ge=1)] = 2
        rate: Annotated[float, Field(gt=0)] = 0.5

    arrays = ("start", "centres", "velocity", "average")

    def __init__(self, parameters):
        super().__init__(parameters)
        self.forget()

    def forget(self):
        self.start = self.centres = self.velocity = self.average = None

    def update(self, inbox, context):
        X, seen, pictures, prior = self.read(inbox, context)
        if not seen.any():
            raise ModuleError(f"module {context.module!r}: every row is missing")
        if self.centres is None:
            self.start = self.draw(context, X.shape[1])
            self.centres, self.velocity = self.start.copy(), np.zeros_like(self.start)
        if context.learn:
            self.learn(X[seen], self.responsibilities(X, prior)[seen])
            if pictures is not None:
                self.average = pictures[seen].mean(axis=0)
        context.report(1, 1)
        return self.answer(inbox, context, X, prior)

    def recognize(self, inbox, context):
        if self.centres is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet")
        X, _, _, prior = self.read(inbox, context)
        return self.answer(inbox, context, X, prior)

    def read(self, inbox, context):
        message = inbox.require("rows")
        X = np.asarray(message["mean"], dtype=np.float64)
        seen = np.ones(len(X), bool) if message.mask is None else ~message.mask
        pictures = inbox.first("pictures") and inbox.first("pictures")["values"]
        prior = inbox.log_product("prior")
        self.check(X, pictures, prior, context)
        return X, seen, pictures, np.zeros((len(X), self.parameters.classes)) if prior is None else prior

    def check(self, X, pictures, prior, context):
        fits = [
            self.centres is None or X.shape[1] == self.centres.shape[1],
            prior is None or prior.shape == (len(X), self.parameters.classes),
            pictures is None or len(pictures) == len(X),
            pictures is None or self.average is None or pictures.shape[1:] == self.average.shape,
        ]
        if not all(fits):
            raise ModuleError(f"module {context.module!r}: the messages do not fit")

    def draw(self, context, width):
        return context.generator.normal(size=(self.parameters.classes, width))

    def learn(self, X, responsibilities):
        weights = responsibilities.sum(axis=0)[:, None]
        self.velocity *= 0.5
        self.velocity += self.parameters.rate * ((responsibilities.T @ X) / (weights + 1.0) - self.centres)
        self.centres += self.velocity

    def scores(self, X, prior):
        return prior - ((X[:, None] - self.centres) ** 2).sum(axis=2)

    def responsibilities(self, X, prior):
        scores = self.scores(X, prior)
        return np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))

    def rows(self, message):
        return rows_of(message)

    def answer(self, inbox, context, X, prior):
        message = inbox.require("rows")
        scores = self.scores(X, prior)
        if message.mask is not None:
            scores[message.mask] = 0.0
        norm = np.logaddexp.reduce(scores, axis=1)
        of_rows = self.rows(message)
        arrays = {"log_prob": scores - norm[:, None], "log_norm": norm, **of_rows}
        shown = {"values": np.exp(arrays["log_prob"]) @ self.centres, **of_rows}
        sent = [OutgoingMessage("posteriors", arrays, receiver) for receiver in context.receivers.get("posteriors", ())]
        seen = norm if message.mask is None else norm[~message.mask]
        return Outbox(
            [*sent, OutgoingMessage("reconstructions", shown)],
            {"evidence": float(seen.sum())},
            {"class": scores.argmax(1)},
        )

    def state(self):
        held = {name: getattr(self, name) for name in self.arrays}
        return {name: array.copy() for name, array in held.items() if array is not None}

    def load_state(self, state):
        self.forget()
        for name, array in state.items():
            setattr(self, name, np.array(array))
