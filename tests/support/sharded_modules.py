"""Small modules whose rows workers can share."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from actors import ModuleError, Outbox, OutgoingMessage, Port, rows_of
from actors.backends.module_host import ModuleHost
from actors.backends.shard_host import ShardHost
from actors.errors import WorkerConnectionError
from actors.sharing.contract import ShardedModule


class KMeans(ShardedModule):
    """Assign each vector to the nearest of K centres, and send the likelihood of each class."""

    ports = (
        Port("latent_vectors", "in", "forward", "latent_vectors"),
        Port("class_posteriors", "out", "forward", "class_posteriors"),
    )
    learning_parameters = ("iterations",)
    row_outputs = ("class",)

    @dataclass(frozen=True)
    class Parameters:
        classes: Annotated[int, Field(ge=1)] = 3
        iterations: Annotated[int, Field(ge=0)] = 5

    def start(self, inbox, context):
        x = self.present(inbox)
        if len(x) < self.parameters.classes:
            raise ModuleError(f"{context.where}: {len(x)} rows for {self.parameters.classes} classes")
        return {"centres": context.generator.choice(x, self.parameters.classes, replace=False).astype(float)}

    def accumulate(self, chunk, learnt, context):
        x = self.present(chunk.inbox)
        member = np.eye(self.parameters.classes)[self.log_likelihood(x, learnt).argmax(axis=1)]
        return {"rows": member.sum(axis=0), "sums": member.T @ x}

    def maximise(self, statistics, learnt, context):
        rows = statistics["rows"][:, None]
        return {"centres": np.where(rows > 0, statistics["sums"] / np.maximum(rows, 1), learnt["centres"])}

    def respond(self, chunk, learnt, context):
        message = chunk.inbox.require("latent_vectors")
        log_likelihood = self.log_likelihood(message["mean"], learnt)
        log_norm = np.logaddexp.reduce(log_likelihood, axis=1)
        arrays = {"log_prob": log_likelihood - log_norm[:, None], "log_norm": log_norm, **rows_of(message)}
        outputs = {"class": log_likelihood.argmax(axis=1), "centres": learnt["centres"]}
        score = log_norm.sum() if message.mask is None else log_norm[~message.mask].sum()
        return Outbox([OutgoingMessage("class_posteriors", arrays)], {"score": float(score)}, outputs)

    def present(self, inbox):
        message = inbox.require("latent_vectors")
        return message["mean"] if message.mask is None else message["mean"][~message.mask]

    def log_likelihood(self, x, learnt):  # log N(x | centre, I), (N, K)
        if x.shape[1] != learnt["centres"].shape[1]:
            raise ModuleError(f"vectors of size {x.shape[1]} do not match the learnt centres")
        distance = ((x[:, None] - learnt["centres"]) ** 2).sum(axis=2)
        return -0.5 * (distance + x.shape[1] * np.log(2 * np.pi))


class Labels(KMeans):
    """Return a parameter for each row."""

    row_outputs = ("class", "label")
    prepared = ()

    @dataclass(frozen=True)
    class Parameters(KMeans.Parameters):
        label: int = 0

    def prepare(self, device, threads):
        self.prepared = (*self.prepared, "module")

    def prepare_sharing(self):
        self.prepared = (*self.prepared, "sharing")

    def respond(self, chunk, learnt, context):
        outbox = super().respond(chunk, learnt, context)
        return replace(outbox, outputs={**outbox.outputs, "label": np.full(len(chunk), self.at(context).label)})


class ScoredKMeans(KMeans):
    """K-means that reports the log-likelihood of the rows as its evidence, and starts from few passes."""

    def finish(self, sums, learnt, context):
        return {"evidence": sums["score"]}


class CountedKMeans(KMeans):
    """K-means that keeps the number of rows of each class, so that runs can be merged if their classes were matched."""

    def maximise(self, statistics, learnt, context):
        return {**super().maximise(statistics, learnt, context), "members": statistics["rows"]}

    def statistics_of(self, learnt):
        members = learnt["members"]
        return {"rows": np.array([members.sum()]), "members": members, "sums": members[:, None] * learnt["centres"]}

    def learnt_from(self, statistics):
        members = statistics["members"]
        return {"centres": statistics["sums"] / np.maximum(members, 1.0)[:, None], "members": members}


class Noise(ShardedModule):
    """Add a random number to each row, drawn anew in each of three passes."""

    ports = (
        Port("latent_vectors", "in", "forward", "latent_vectors"),
        Port("latent_means", "out", "forward", "latent_means"),
    )
    learning_parameters = ("iterations",)
    row_outputs = ("noise",)

    @dataclass(frozen=True)
    class Parameters:
        iterations: Annotated[int, Field(ge=0)] = 3

    def start(self, inbox, context):
        return {"total": np.zeros(1), "own": np.zeros(1)}

    def accumulate(self, chunk, learnt, context):
        return {"drawn": np.array([context.generator.normal(size=len(chunk)).sum()])}

    def maximise(self, statistics, learnt, context):
        return {"total": learnt["total"] + statistics["drawn"], "own": context.generator.normal(size=1)}

    def respond(self, chunk, learnt, context):
        return Outbox(outputs={"noise": context.generator.normal(size=len(chunk))})


class Sums(ShardedModule):
    """Return for each row the sums of the rows before it and after it in its sequence: two scans."""

    ports = (Port("latent_vectors", "in", "forward", "latent_vectors"),)
    row_outputs = ("before", "after")
    sequence_outputs = ("whole",)

    @dataclass(frozen=True)
    class Parameters:
        pass

    def start(self, inbox, context):
        return {"started": True}

    def accumulate(self, chunk, learnt, context):
        return {}

    def maximise(self, statistics, learnt, context):
        return learnt

    def scans(self, learnt, responding, context):
        return ("before", "after") if responding else ()

    def pieces(self, chunk):
        lengths = [len(chunk)] if chunk.lengths is None else chunk.lengths
        return np.split(chunk.inbox.require("latent_vectors")["mean"].sum(axis=1), np.cumsum(lengths)[:-1])

    def summarise(self, scan, chunk, learnt, context):
        pieces = self.pieces(chunk)
        edge, inner = (-1, not chunk.continued) if scan == "before" else (0, not chunk.continues)
        return {"opens": len(pieces) > 1 or inner, "sum": pieces[edge].sum()}

    def combine(self, scan, left, right):
        near, far = (right, left) if scan == "before" else (left, right)
        return {
            "opens": left["opens"] or right["opens"],
            "sum": near["sum"] if near["opens"] else near["sum"] + far["sum"],
        }

    def descend(self, scan, entering, left, right):
        near = left if scan == "before" else right
        brought = entering or 0.0
        second = near["sum"] if near["opens"] else near["sum"] + brought
        return (brought, second) if scan == "before" else (second, brought)

    def respond(self, chunk, learnt, context):
        pieces = self.pieces(chunk)
        before = [np.cumsum(piece) - piece for piece in pieces]
        after = [piece[::-1].cumsum()[::-1] - piece for piece in pieces]
        if chunk.continued:
            before[0] = before[0] + (chunk.entering["before"] or 0.0)
        if chunk.continues:
            after[-1] = after[-1] + (chunk.entering["after"] or 0.0)
        whole = np.array([piece.sum() for piece in pieces])
        return Outbox(outputs={"before": np.concatenate(before), "after": np.concatenate(after), "whole": whole})


class UnconnectedShardHost(ShardHost):
    """A worker to which no other one can connect, as behind a firewall."""

    def listen(self, host, secret, workers):
        raise WorkerConnectionError("the firewall is shut")


def unconnected_host(spec, slots):
    """Return the host of a module, or of a worker to which no other one can connect."""
    return (ModuleHost if spec.sharing is None else UnconnectedShardHost)(spec, slots)
