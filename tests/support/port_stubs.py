"""Stand-ins for modules, of which only the ports matter, and models drawn with them."""

from dataclasses import dataclass

from actors.graph.spec import Connection, ModuleSpec

from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.module import Module, Outbox, Port

HERE = "tests.support.port_stubs"


class Part(Module):
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


class Data(Part):
    ports = (Port("o", "out", "forward", "observations"),)


class Features(Part):
    ports = (
        Port("o", "in", "forward", "observations"),
        Port("means", "in", "backward", "class_means", optional=True),
        Port("z", "out", "forward", "latent_vectors"),
    )


class Classes(Part):
    ports = (
        Port("z", "in", "forward", "latent_vectors"),
        Port("priors", "in", "backward", "transition_prior", optional=True),
        Port("posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("means", "out", "backward", "class_means"),
    )


class Order(Part):
    ports = (
        Port("evidence", "in", "forward", "class_posteriors"),
        Port("prior", "out", "backward", "transition_prior"),
    )


class Gatherer(Part):
    """Tells several senders of latent vectors apart."""

    ports = (Port("z", "in", "forward", "latent_vectors", several=True),)


class Idle(Part):
    """Would learn without anything."""

    ports = (Port("o", "in", "forward", "observations", optional=True),)


class Gossip(Part):
    ports = (Port("o", "in", "forward", "observations"), Port("g", "out", "forward", "gossip"))


class TwoTongues(Part):
    """Sends evidence from two ports."""

    ports = (
        Port("z", "in", "forward", "latent_vectors"),
        Port("one", "out", "forward", "class_posteriors"),
        Port("two", "out", "forward", "class_posteriors"),
    )


class TwoEars(Part):
    """Hears evidence on two ports."""

    ports = (
        Port("one", "in", "forward", "class_posteriors"),
        Port("two", "in", "forward", "class_posteriors"),
    )


class Pupil(Part):
    """Learns only with a module above."""

    ports = (
        Port("o", "in", "forward", "observations"),
        Port("z", "out", "forward", "latent_vectors"),
        Port("advice", "in", "backward", "transition_prior"),
    )


class Adviser(Part):
    ports = (
        Port("z", "in", "forward", "latent_vectors", optional=True),
        Port("prior", "out", "backward", "transition_prior"),
    )


class Relay(Part):
    """Sends observations on."""

    ports = (Port("z", "in", "forward", "latent_vectors"), Port("o", "out", "forward", "observations"))


TYPES = {
    "pupil": "Pupil",
    "adviser": "Adviser",
    "relay": "Relay",
    "data": "Data",
    "vae": "Features",
    "gmm": "Classes",
    "mm": "Order",
    "gather": "Gatherer",
    "idle": "Idle",
    "gossip": "Gossip",
    "tongues": "TwoTongues",
    "ears": "TwoEars",
}


def graph(names, connections, steps=None):
    """A model of stand-ins: each module's type follows from its name without digits."""
    specs = [ModuleSpec(name, f"{HERE}:{TYPES[name.rstrip('0123456789')]}") for name in names.split()]
    drawn = [Connection(*connection.split(" -> ")) for connection in connections]
    return Graph(specs, drawn, None if steps is None else Schedule(3, tuple(Step(step) for step in steps)))


def hidden_markov():
    return graph("data vae gmm mm", ["data -> vae", "vae -> gmm", "gmm -> mm"])
