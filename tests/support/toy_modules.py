"""Small modules for tests of whatever drives modules: quick, deterministic, and able to misbehave on demand."""

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.messaging.message import rows_of
from actors.module import Module, Outbox, OutgoingMessage, Port


def same(one, other):
    """Whether two mappings hold the same arrays."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def goes_on_in_another(update, one, other, *messages):
    """A module learns twice; another one takes over its state after the first time, and goes on alike.

    Returns what came of the second time, of both.
    """
    update(one, *messages)
    state = one.state()
    kept = {name: np.array(value) for name, value in state.items()}
    continued = update(one, *messages, round=1)
    assert same(state, kept)
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    other.load_state(state)
    again = update(other, *messages, round=1)
    assert same(again.outputs, continued.outputs)
    assert again.metrics == continued.metrics
    assert same(one.state(), other.state())
    return continued, again


class Source(Module):
    """Sends what it was given."""

    ports = (
        Port("observations", "out", "forward", "observations"),
        Port("reconstructions", "in", "backward", "reconstructions", optional=True, several=True),
    )

    @dataclass(frozen=True)
    class Parameters:
        pass

    values = None

    def update(self, inbox, context):
        return Outbox([OutgoingMessage("observations", {"values": self.values})])

    recognize = update

    def state(self):
        return {"values": self.values}

    def load_state(self, state):
        self.values = state["values"]


class Encoder(Module):
    """A random walk of projections; `step` and `size` make its steps and messages as large as a test wants them.

    In round 2 it waits in step 1 as long as there is a file ``2-1`` in the directory `gates`, and says so by a file
    ``waiting-2-1``; so in every round and step.
    """

    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("class_means", "in", "backward", "class_means", optional=True),
        Port("latents", "out", "forward", "latent_vectors"),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    @dataclass(frozen=True)
    class Parameters:
        dim: int = 3
        step: float = 1.0
        seconds: float = 0.0
        fail_in_round: int = 0
        die_in_round: int = 0

        crash_in_round: int = 0
        gates: str = ""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.weights = None
        self.updates = 0

    def update(self, inbox, context):
        parameters = self.at(context)
        if context.round and context.round == parameters.fail_in_round:
            raise ArithmeticError("as the test asked")
        if context.round and context.round == parameters.die_in_round:
            os._exit(1)
        if context.round and context.round == parameters.crash_in_round:
            ctypes.string_at(0)
        message = inbox.require("observations")
        values = message["values"]
        if self.weights is None:
            self.weights = context.generator.normal(size=(values.shape[1], parameters.dim))
        self.weights += parameters.step * context.generator.normal(size=self.weights.shape)
        context.report(1, 2, loss=0.5)
        time.sleep(parameters.seconds)
        if parameters.gates:
            self._wait(Path(parameters.gates), f"{context.round}-{context.step}")
        self.updates += 1
        return self._answer(message)

    def _wait(self, gates, name):
        while (gates / name).exists():
            (gates / f"waiting-{name}").touch()
            time.sleep(0.01)

    def recognize(self, inbox, context):
        return self._answer(inbox.require("observations"))

    def _answer(self, message):
        latents = message["values"] @ self.weights
        return Outbox(
            [OutgoingMessage("latents", {"mean": latents, **rows_of(message)})],
            {"evidence": float(latents.sum())},
            {"z": latents},
        )

    def state(self):
        return {"weights": self.weights.copy(), "updates": self.updates}

    def load_state(self, state):
        self.weights = state["weights"].copy()
        self.updates = state["updates"]


class Mirror(Module):
    """Receives latent vectors and sends the means of their two halves back down."""

    ports = (
        Port("latents", "in", "forward", "latent_vectors"),
        Port("class_means", "out", "backward", "class_means"),
    )

    @dataclass(frozen=True)
    class Parameters:
        pass

    def update(self, inbox, context):
        mean = inbox.require("latents")["mean"]
        order = context.generator.permutation(len(mean))
        first = np.zeros(len(mean), bool)
        first[order[: len(mean) // 2]] = True
        responsibilities = np.stack([first, ~first], axis=1).astype(float)
        means = responsibilities.T @ mean / responsibilities.sum(0)[:, None]
        return Outbox([OutgoingMessage("class_means", {"means": means, "responsibilities": responsibilities})])

    recognize = update

    def propose(self, inbox, context):
        return Outbox() if context.proposal > 1 else self.update(inbox, context)

    def state(self):
        return {}

    def load_state(self, state):
        pass


class Guest(Module):
    """Comes to `place`, and learns only once as many chains as are `expected` are there too."""

    ports = (Port("observations", "in", "forward", "observations"),)

    @dataclass(frozen=True)
    class Parameters:
        place: str = ""
        expected: int = 2

    def update(self, inbox, context):
        place = Path(self.parameters.place)
        (place / f"{context.chain}").write_text(str(os.getpid()))
        until = time.monotonic() + 60.0
        while len(list(place.iterdir())) < self.parameters.expected:
            if time.monotonic() > until:
                raise TimeoutError("nobody else came")
            time.sleep(0.01)
        return Outbox(metrics={"evidence": float(context.chain)})

    recognize = update

    def state(self):
        return {}

    def load_state(self, state):
        pass
