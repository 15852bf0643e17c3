"""Stub modules that have ports only, and graphs of them."""

from dataclasses import dataclass

from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.module import Module, Outbox, Port

HERE = "tests.support.port_stubs"


class StubModule(Module):
    @dataclass(frozen=True)
    class Parameters:
        pass

    def update(self, inbox, context):
        return Outbox()

    recognize = update

    def state(self):
        return {}

    def load_state(self, state):
        pass


class Data(StubModule):
    ports = (Port("o", "out", "forward", "observations"),)


class Features(StubModule):
    ports = (
        Port("o", "in", "forward", "observations"),
        Port("means", "in", "backward", "class_means", optional=True),
        Port("z", "out", "forward", "latent_vectors"),
    )


class Classes(StubModule):
    ports = (
        Port("z", "in", "forward", "latent_vectors"),
        Port("priors", "in", "backward", "transition_prior", optional=True),
        Port("posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("means", "out", "backward", "class_means"),
    )


class Order(StubModule):
    ports = (
        Port("evidence", "in", "forward", "class_posteriors"),
        Port("prior", "out", "backward", "transition_prior"),
    )


class Gather(StubModule):
    """Accepts latent vectors of several senders on one port."""

    ports = (Port("z", "in", "forward", "latent_vectors", several=True),)


class Idle(StubModule):
    """Has an optional input only."""

    ports = (Port("o", "in", "forward", "observations", optional=True),)


class UnknownKind(StubModule):
    ports = (Port("o", "in", "forward", "observations"), Port("g", "out", "forward", "gossip"))


class TwoOutputs(StubModule):
    """Sends class posteriors from two ports."""

    ports = (
        Port("z", "in", "forward", "latent_vectors"),
        Port("one", "out", "forward", "class_posteriors"),
        Port("two", "out", "forward", "class_posteriors"),
    )


class TwoInputs(StubModule):
    """Receives class posteriors on two ports."""

    ports = (
        Port("one", "in", "forward", "class_posteriors"),
        Port("two", "in", "forward", "class_posteriors"),
    )


class Pupil(StubModule):
    """Requires a message from a module above."""

    ports = (
        Port("o", "in", "forward", "observations"),
        Port("z", "out", "forward", "latent_vectors"),
        Port("advice", "in", "backward", "transition_prior"),
    )


class Adviser(StubModule):
    ports = (
        Port("z", "in", "forward", "latent_vectors", optional=True),
        Port("prior", "out", "backward", "transition_prior"),
    )


class Relay(StubModule):
    """Receives latent vectors and sends observations."""

    ports = (Port("z", "in", "forward", "latent_vectors"), Port("o", "out", "forward", "observations"))


TYPES = {
    "pupil": "Pupil",
    "adviser": "Adviser",
    "relay": "Relay",
    "data": "Data",
    "vae": "Features",
    "gmm": "Classes",
    "mm": "Order",
    "gather": "Gather",
    "idle": "Idle",
    "unknown": "UnknownKind",
    "outputs": "TwoOutputs",
    "inputs": "TwoInputs",
}


def graph(names, connections, steps=None):
    """Return a graph of stub modules; a module's name without digits is its type."""
    specs = [ModuleSpec(name, f"{HERE}:{TYPES[name.rstrip('0123456789')]}") for name in names.split()]
    pairs = [Connection(*connection.split(" -> ")) for connection in connections]
    return Graph(specs, pairs, None if steps is None else Schedule(3, tuple(Step(step) for step in steps)))


def hidden_markov():
    return graph("data vae gmm mm", ["data -> vae", "vae -> gmm", "gmm -> mm"])
