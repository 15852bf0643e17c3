"""A module that counts its updates, its host, and calls to it."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from actors.backends.module_host import ModuleHost
from actors.coordination.backend import ModuleCall
from actors.graph.spec import ModuleSpec, Slot
from actors.messaging.codec import make_message, pack_header
from actors.messaging.message import Header
from actors.module import Module, Outbox, Port
from tests.actors.messaging.test_messages import log_rows

TYPE = "tests.support.counter:Counter"


class Counter(Module):
    """Counts its updates; `behaviour` is a test's function for the result, `seen` the arguments of the last call."""

    ports = (
        Port("z", "in", "forward", "latent_vectors", optional=True),
        Port("prior", "in", "backward", "transition_prior", optional=True),
        Port("evidence", "out", "forward", "class_posteriors", per_receiver=True),
        Port("means", "out", "backward", "class_means"),
    )

    @dataclass(frozen=True)
    class Parameters:
        start: Annotated[int, Field(ge=0)] = 0
        step: int = 1

    def __init__(self, parameters):
        super().__init__(parameters)
        self.count = parameters.start
        self.prepared = []
        self.behaviour = lambda *_: Outbox()

    def prepare(self, device, threads):
        self.prepared.append((device, threads))
        self.device = "cpu"

    def update(self, inbox, context):
        self.count += self.at(context).step
        return self.recognize(inbox, context)

    def recognize(self, inbox, context):
        self.seen = (inbox, context)
        return self.behaviour(inbox, context)

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state["count"]


SLOTS = (
    Slot("evidence", "class_posteriors", "mm1"),
    Slot("evidence", "class_posteriors", "mm2"),
    Slot("means", "class_means"),
)


def host(behaviour=None, slots=SLOTS, threads=1, **parameters):
    made = ModuleHost(ModuleSpec("gmm", TYPE, parameters, threads), slots)
    if behaviour is not None:
        made.module.behaviour = behaviour
    return made


def call(*messages, **fields):
    """Return a call with `messages` in its inbox, and the arrays of the messages."""
    made = ModuleCall(
        mode=fields.pop("mode", "update"),
        run=fields.pop("run", "run"),
        **{"seed": 1, "round": 2, "step": 3, "sequence": 4, "receivers": {}, **fields},
        headers=tuple(pack_header(message.header) for message in messages),
        ports=tuple(message.header.port for message in messages),
    )
    return made, [message.arrays for message in messages]


def update(made, *messages, **fields):
    return made.call(*call(*messages, **fields))


def latents(port="z", sender="vae", **arrays):
    header = Header("latent_vectors", sender, port, receiver="gmm")
    return make_message(header, {"mean": np.arange(8.0).reshape(4, 2), **arrays})


def evidence(k=3, n=4):
    return {"log_prob": log_rows(n, k), "log_norm": np.zeros(n)}


def answering(*outgoing, **rest):
    return lambda *_: Outbox(list(outgoing), **rest)
