"""A small module that fulfils the contract; the modules of ``wrong_modules`` derive from it."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.messaging.message import rows_of
from actors.module import Module, Outbox, OutgoingMessage, Port


class Sound(Module):
    """Soft k-means with momentum; if there are pictures, their mean is computed too."""

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

    state_names = ("start", "centres", "velocity", "average")

    def __init__(self, parameters):
        super().__init__(parameters)
        self.reset()

    def reset(self):
        self.start = self.centres = self.velocity = self.average = None

    def update(self, inbox, context):
        X, present, pictures, prior = self.read(inbox, context)
        if not present.any():
            raise ModuleError(f"module {context.module!r}: every row is missing")
        if self.centres is None:
            self.start = self.draw_centres(context, X.shape[1])
            self.centres, self.velocity = self.start.copy(), np.zeros_like(self.start)
        if context.learn:
            self.learn(X[present], self.responsibilities(X, prior)[present])
            if pictures is not None:
                self.average = pictures[present].mean(axis=0)
        context.report(1, 1)
        return self.make_outbox(inbox, context, X, prior)

    def recognize(self, inbox, context):
        if self.centres is None:
            raise ModuleError(f"module {context.module!r} has not been trained yet")
        X, _, _, prior = self.read(inbox, context)
        return self.make_outbox(inbox, context, X, prior)

    def read(self, inbox, context):
        message = inbox.require("rows")
        X = np.asarray(message["mean"], dtype=np.float64)
        present = np.ones(len(X), bool) if message.mask is None else ~message.mask
        pictures = inbox.first("pictures") and inbox.first("pictures")["values"]
        prior = inbox.log_product("prior")
        self.check_shapes(X, pictures, prior, context)
        return X, present, pictures, np.zeros((len(X), self.parameters.classes)) if prior is None else prior

    def check_shapes(self, X, pictures, prior, context):
        conditions = [
            self.centres is None or X.shape[1] == self.centres.shape[1],
            prior is None or prior.shape == (len(X), self.parameters.classes),
            pictures is None or len(pictures) == len(X),
            pictures is None or self.average is None or pictures.shape[1:] == self.average.shape,
        ]
        if not all(conditions):
            raise ModuleError(f"module {context.module!r}: the shapes of the messages do not fit")

    def draw_centres(self, context, width):
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

    def row_arrays(self, message):
        return rows_of(message)

    def make_outbox(self, inbox, context, X, prior):
        message = inbox.require("rows")
        scores = self.scores(X, prior)
        if message.mask is not None:
            scores[message.mask] = 0.0
        norm = np.logaddexp.reduce(scores, axis=1)
        row_arrays = self.row_arrays(message)
        arrays = {"log_prob": scores - norm[:, None], "log_norm": norm, **row_arrays}
        reconstruction = {"values": np.exp(arrays["log_prob"]) @ self.centres, **row_arrays}
        sent = [OutgoingMessage("posteriors", arrays, receiver) for receiver in context.receivers.get("posteriors", ())]
        present_norm = norm if message.mask is None else norm[~message.mask]
        return Outbox(
            [*sent, OutgoingMessage("reconstructions", reconstruction)],
            {"evidence": float(present_norm.sum())},
            {"class": scores.argmax(1)},
        )

    def state(self):
        arrays = {name: getattr(self, name) for name in self.state_names}
        return {name: array.copy() for name, array in arrays.items() if array is not None}

    def load_state(self, state):
        self.reset()
        for name, array in state.items():
            setattr(self, name, np.array(array))
