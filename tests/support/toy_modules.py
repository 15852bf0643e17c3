"""Small modules for tests of the code that calls modules: fast, deterministic, and with failures on demand."""

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.messaging.message import rows_of
from actors.module import Module, Outbox, OutgoingMessage, Port


def same_arrays(one, other):
    """Return whether two mappings have the same keys and equal arrays."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def check_state_transfer(update, one, other, *messages):
    """Check that a module continues in the same way from the state of another module of its type.

    `one` is updated twice; `other` loads its state after the first update and repeats the second one.

    Returns
    -------
    Outbox, Outbox
        The results of the second update, of `one` and of `other`.
    """
    update(one, *messages)
    state = one.state()
    kept = {name: np.array(value) for name, value in state.items()}
    continued = update(one, *messages, round=1)
    assert same_arrays(state, kept)
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    other.load_state(state)
    again = update(other, *messages, round=1)
    assert same_arrays(again.outputs, continued.outputs)
    assert again.metrics == continued.metrics
    assert same_arrays(one.state(), other.state())
    return continued, again


class Source(Module):
    """Sends the values of its state."""

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
    """Projects its observations; the weights make a random walk.

    Parameters: `dim` latent dimensions; `step`, the scale of a random step; `seconds`, the duration of an update;
    the rounds in which an update raises an exception, exits its process or crashes it; and `gates`, a directory. An
    update in round R and step S creates the file ``waiting-R-S`` there and waits for as long as there is a file
    ``R-S``.
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
        return self._outbox(message)

    def _wait(self, gates, name):
        while (gates / name).exists():
            (gates / f"waiting-{name}").touch()
            time.sleep(0.01)

    def recognize(self, inbox, context):
        return self._outbox(inbox.require("observations"))

    def _outbox(self, message):
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
    """Divides latent vectors into two random halves and sends the mean of each down."""

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
    """Learns only while `expected` chains are in their updates at the same time.

    Each chain writes a file with its process id into the directory `place` and waits for those of the other chains. A
    process in which it is prepared leaves a file with its id in the directory ``<place>-prepared``, if there is one.
    """

    ports = (Port("observations", "in", "forward", "observations"),)

    @dataclass(frozen=True)
    class Parameters:
        place: str = ""
        expected: int = 2

    def prepare(self, device, threads):
        prepared = Path(f"{self.parameters.place}-prepared")
        if prepared.is_dir():
            (prepared / str(os.getpid())).touch()

    def update(self, inbox, context):
        place = Path(self.parameters.place)
        (place / f"{context.chain}").write_text(str(os.getpid()))
        until = time.monotonic() + 60.0
        while len(list(place.iterdir())) < self.parameters.expected:
            if time.monotonic() > until:
                raise TimeoutError("the other chains did not start")
            time.sleep(0.01)
        return Outbox(metrics={"evidence": float(context.chain)})

    recognize = update

    def state(self):
        return {}

    def load_state(self, state):
        pass
