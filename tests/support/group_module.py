"""A module of a user whose rows are sums over groups of the rows below."""

from dataclasses import dataclass

from actors import Module, Outbox, OutgoingMessage, Port

SIZE = 3
"""Rows of a group."""


@dataclass(frozen=True)
class GroupParameters:
    """No parameters."""


class GroupSum(Module):
    """Sum every :data:`SIZE` rows."""

    Parameters = GroupParameters
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("sums", "out", "forward", "latent_vectors"),
    )

    def update(self, inbox, context):
        values = inbox.require("observations")["values"]
        sums = values.reshape(-1, SIZE, values.shape[1]).sum(axis=1)
        return Outbox([OutgoingMessage("sums", {"mean": sums})], outputs={"sums": sums})

    def recognize(self, inbox, context):
        return self.update(inbox, context)

    def state(self):
        return {}

    def load_state(self, state):
        pass
