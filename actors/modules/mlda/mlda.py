"""The MLDA: finds the topics that several modalities of the same rows share, histograms and class posteriors alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.kernels.mlda.gibbs import compile_kernels, count, counts_of
from actors.kernels.mlda.row_updates import Settings
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import as_distributions, prior_from
from actors.modules.mlda.sampler import Averages, Rows, Start, ask, begin, log_likelihood, predict, resume, sample
from actors.modules.mlda.tokens import Layout, Learnt, Modality, carried, joined, nobody, parted, received, rows_with
from actors.types import Array, Float32Array, FloatArray, IntArray, State

SMALLEST, LARGEST = 1e-6, 1e6
"""Of α and β: beyond, a topic without tokens is as good as forbidden or tokens have no say, and products overflow."""

ARRAYS, SCALARS = ("tokens", "words", "topics", "counts"), ("total", "sender", "kind")
"""Of :class:`actors.modules.mlda.tokens.Learnt`, in the state as ``tokens.NAME`` and so on."""

PREDICTED = {"class_posteriors": "transition_prior", "observations": "reconstructions"}
"""What came → where it is predicted."""


@dataclass(frozen=True)
class MLDAParameters:
    """See :class:`MLDA`."""

    topics: Annotated[int, Field(ge=1, validation_alias=AliasChoices("topics", "classes"))] = 10
    iterations: Annotated[int, Field(ge=0, validation_alias=AliasChoices("iterations", "itr"))] = 100
    alpha: Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)] = 0.1
    beta: Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)] = 0.1
    burn_in: Annotated[int, Field(ge=0)] = 0
    samples: Annotated[int, Field(ge=1)] = 10
    start: Start = "rows"
    restarts: Annotated[int, Field(ge=1)] = 5
    weights: Mapping[str, Annotated[int, Field(ge=1)]] = field(default_factory=dict)


class MLDA(Module[MLDAParameters]):
    """Multimodal latent Dirichlet allocation, by collapsed Gibbs sampling (:mod:`actors.kernels.mlda.gibbs`).

    Each sender is a modality: histograms of words (observations; what has more dimensions is flattened), or class
    posteriors, whose classes are the words. Row d has θ_d ~ Dirichlet(α); a token of modality m draws its topic from
    θ_d and its word from φ_mk ~ Dirichlet(β). The row's class is one more draw from θ_d, and what comes from above is a
    prior ψ_d over it, so that P(class k | d) ∝ ψ_d(k) p(tokens of d | class k): priors multiply, and what goes up to
    one module is the likelihood times the others' priors. A ψ_d certain of topic k makes θ_d ~ Dirichlet(α + e_k).

    Upwards, ``log_prob + log_norm`` is log p(tokens of d | class k), times those priors: the average over samples,
    normalised, times a lower bound of the row's predictive likelihood p(tokens of d) (of the tokens in their order, the
    words' distributions being those of the other rows). Its mean under a uniform prior is just that bound.

    Downwards goes to a sender of class posteriors the distribution of its word given the row's other modalities and the
    priors from above, to a sender of histograms what the row's topics make of them. A row that a modality lacks is
    predicted all the same.

    Outputs: ``class`` and ``Pdz`` of P(class k | d), and ``Pzw_NAME`` (K, V), each topic's words in modality NAME.

    When tokens come and go between updates, the row's first j tokens of a word keep the topics that its first j tokens
    of it had; further ones are drawn given all that is kept.

    Parameters
    ----------
    parameters : MLDAParameters
        topics (or classes) : int
            K.
        iterations (or itr) : int
            Sweeps an update. With 0 nothing is learnt: topics stay, messages are composed anew from rows asked alone.
        alpha, beta : float
            Of the Dirichlet distributions of a row's topics and of a topic's words.
        burn_in : int
            Further sweeps in the very first update.
        samples : int
            How many sweeps, the last ones, are averaged in what goes out.
        start : {"rows", "tokens"}
            Topics of the very first update: whole rows are assigned while the temperature falls, or tokens drawn
            uniformly. The latter ends in much worse optima where rows form classes.
        restarts : int
            So many starts by rows are tried; the most probable one is taken.
        weights : mapping of str to int
            Sender → tokens a row: its histograms are scaled to as many. Without a weight a histogram's counts are taken
            as they are (rounded), and class posteriors get 100 tokens.
    """

    Parameters: ClassVar[type[Any]] = MLDAParameters
    ports = (
        Port("observations", "in", "forward", "observations", optional=True, several=True),
        Port("class_posteriors", "in", "forward", "class_posteriors", optional=True),
        Port("topic_prior", "in", "backward", "transition_prior", optional=True),
        Port("topic_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
        Port("reconstructions", "out", "backward", "reconstructions", per_receiver=True),
    )

    def __init__(self, parameters: MLDAParameters) -> None:
        super().__init__(parameters)
        self._learnt: dict[str, Learnt] = {}

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the topics; send what the rows say of them up, predictions down.

        Raises
        ------
        ModuleError
            If the messages don't fit the parameters, each other or what was learnt before.
        """
        parameters = self._at(context)
        rows = self._carried(self._received(inbox, parameters, context), inbox, parameters, context)
        iterations = parameters.iterations
        if self._learnt:
            rows = resume(rows, context)
        else:
            rows = begin(rows, parameters.start, parameters.restarts, context)
            iterations += parameters.burn_in
        averages = sample(rows, iterations if context.learn else 0, parameters.samples, context)
        self._learnt = parted(rows.modalities, rows.layout, rows.order, rows.topics, rows.counts)
        return self._outbox(inbox, context, rows, averages, learning=True)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Say which topics new rows are of, by what was learnt; a modality may be missing in any or all of them.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages don't fit.
        """
        if not self._learnt:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        parameters = self._at(context)
        modalities = self._received(inbox, parameters, context)
        for modality in modalities:
            if modality.name not in self._learnt:
                raise ModuleError(
                    f"module {context.module!r} has learnt {' and '.join(self._learnt)}, but nothing of {modality.name}"
                )
        layout = Layout({name: len(learnt.counts) for name, learnt in self._learnt.items()})
        corpus, order = joined(modalities, layout)
        words = np.concatenate([learnt.counts for learnt in self._learnt.values()]).astype(np.float64)
        rows = Rows(
            modalities,
            layout,
            corpus,
            order,
            nobody(modalities),
            *self._log_prior(inbox, len(modalities[0].many)),
            np.full(len(corpus.words), -1, dtype=np.int32),
            counts_of(corpus, words, parameters.beta),
            Settings(parameters.alpha, parameters.beta, 1.0),
        )
        return self._outbox(inbox, context, rows, None, learning=False)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Send to each sender of class posteriors what the topics from above look like, or those that their sizes draw.

        Output ``class`` (N,). All that is made up of a row is of its one topic.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if not self._learnt:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        parameters = self._at(context)
        log_prior, told = self._log_prior(inbox, context.rows)
        topics = np.exp(log_prior)
        if not told:
            sizes = np.sum([learnt.counts.sum(axis=0) for learnt in self._learnt.values()], axis=0)
            drawn = context.generator.choice(parameters.topics, context.rows, p=sizes / sizes.sum())
            topics = np.eye(parameters.topics)[drawn]
        messages = []
        for learnt in self._learnt.values():
            port = PREDICTED[learnt.kind]
            if port == "transition_prior" and learnt.sender in context.receivers.get(port, ()):
                words = topics @ _word_distributions(learnt.counts, parameters.beta)
                messages.append(OutgoingMessage(port, {"log_prob": _log(words)}, learnt.sender))
        return Outbox(messages, outputs={"class": topics.argmax(axis=1)})

    def state(self) -> State:
        """Return copies of all that is kept of each modality (:class:`actors.modules.mlda.tokens.Learnt`).

        The keys are ``tokens.NAME``, ``words.NAME`` and so on.
        """
        state: State = {}
        for name, learnt in self._learnt.items():
            state |= {f"{part}.{name}": getattr(learnt, part).copy() for part in ARRAYS}
            state |= {f"{part}.{name}": getattr(learnt, part) for part in SCALARS}
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of an MLDA that has learnt nothing.

        Raises
        ------
        ModuleError
            If it is that of another number of topics.
        """
        names = sorted(key.removeprefix("counts.") for key in state if key.startswith("counts."))
        found = {}
        for name in names:
            tokens, words, topics, counts = (np.array(state[f"{part}.{name}"]) for part in ARRAYS)
            total, sender, kind = (state[f"{part}.{name}"] for part in SCALARS)
            found[name] = Learnt(tokens, words, topics, counts, float(total), str(sender), str(kind))
            if counts.shape[1] != self.parameters.topics:
                raise ModuleError(f"the state has {counts.shape[1]} topics, this MLDA {self.parameters.topics}")
        self._learnt = found

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _carried(self, modalities: list[Modality], inbox: Inbox, parameters: MLDAParameters, context: Context) -> Rows:
        """Return the rows with the topics that their tokens had before the update."""
        missing = nobody(modalities)
        if missing.all():
            raise ModuleError(
                f"module {context.module!r}: every row is missing or empty: there is nothing to learn from"
            )
        for learnt in self._learnt.values():
            if len(learnt.tokens) != len(missing):
                raise ModuleError(
                    f"module {context.module!r} has topics of {len(learnt.tokens)} rows, {len(missing)} rows came: "
                    "start a new run"
                )
        layout = Layout({modality.name: modality.size for modality in modalities})
        corpus, order = joined(modalities, layout)
        topics = carried(modalities, self._learnt, order)
        counts = count(corpus, topics, parameters.topics, parameters.beta)
        settings = Settings(parameters.alpha, parameters.beta, 1.0)
        prior = self._log_prior(inbox, len(missing))
        return Rows(modalities, layout, corpus, order, missing, *prior, topics, counts, settings)

    def _at(self, context: Context) -> MLDAParameters:
        parameters = self.at(context)
        if parameters.topics != self.parameters.topics:
            raise ModuleError("the number of topics cannot be set for a step: those of the tokens are carried over")
        return parameters

    def _received(self, inbox: Inbox, parameters: MLDAParameters, context: Context) -> list[Modality]:
        """Return the modalities' tokens."""
        below = [context.receivers.get(port, ()) for port in ("transition_prior", "reconstructions")]
        modalities = received(inbox, parameters.weights, context, {*self._learnt, *sum(below, ())})
        for modality in modalities:
            learnt = self._learnt.get(modality.name)
            if learnt is not None and len(learnt.counts) != modality.size:
                raise ModuleError(
                    f"{modality.message.header.route}: {modality.size} words or classes came, "
                    f"{context.module!r} has learnt {len(learnt.counts)}"
                )
        return modalities

    def _log_prior(self, inbox: Inbox, rows: int) -> tuple[FloatArray, bool]:
        """Return the product of the priors from above (rows, K), uniform where there is none, and whether one came."""
        expected = (rows, self.parameters.topics)
        product = prior_from(inbox, "topic_prior", expected)
        return (np.full(expected, -np.log(expected[1])), False) if product is None else (product, True)

    def _outbox(
        self, inbox: Inbox, context: Context, rows: Rows, averages: Averages | None, *, learning: bool
    ) -> Outbox:
        """Compose what the rows say with the priors that came, and address it."""
        parameters = self._at(context)
        if averages is None:
            averages = ask(rows, parameters.samples, context)
        likelihood = log_likelihood(rows, averages)
        log_posterior, log_norm = as_distributions(likelihood + rows.log_prior)
        of_rows = rows_with(rows.modalities, rows.missing)
        messages = []
        for receiver in context.receivers.get("topic_posteriors", ()):
            # What came from the receiver is known to it; sent back, it would count twice.
            others = inbox.log_product("topic_prior", without=receiver)
            up, up_norm = as_distributions(likelihood if others is None else likelihood + others)
            up_norm[rows.missing] = 0.0  # a row that is not there says nothing
            messages.append(
                OutgoingMessage("topic_posteriors", {"log_prob": up, "log_norm": up_norm, **of_rows}, receiver)
            )
        for modality in rows.modalities:
            port, receiver = PREDICTED[modality.message.header.kind], modality.message.header.sender
            if receiver not in context.receivers.get(port, ()):
                continue
            arrays = dict(of_rows)
            if port == "transition_prior":
                arrays["log_prob"] = _log(predict(rows, modality.name, parameters.samples, context))
            else:
                arrays["values"] = self._reconstructed(modality, averages.shares, parameters)
            messages.append(OutgoingMessage(port, arrays, receiver))
        outputs: dict[str, Array] = {"class": log_posterior.argmax(axis=1), "Pdz": np.exp(log_posterior)}
        for name, learnt in self._learnt.items():
            outputs[f"Pzw_{name}"] = _word_distributions(learnt.counts, parameters.beta)
        metrics = {"evidence": float(log_norm[~rows.missing].sum())} if learning else {}
        return Outbox(messages, metrics, outputs)

    def _reconstructed(self, modality: Modality, shares: FloatArray, parameters: MLDAParameters) -> Float32Array:
        """Return the histograms that the rows' topics predict, as they came; the sum of a missing one is the mean."""
        learnt = self._learnt[modality.name]
        totals = np.where(modality.totals > 0, modality.totals, learnt.total)
        values = shares @ _word_distributions(learnt.counts, parameters.beta) * totals[:, None]
        return values.astype(np.float32).reshape(modality.message["values"].shape)


def _word_distributions(counts: IntArray, beta: float) -> FloatArray:
    """Return φ, (K, V): the words' distributions of topics with `counts` (V, K)."""
    raised = counts.T + beta
    distributions: FloatArray = raised / raised.sum(axis=1, keepdims=True)
    return distributions


def _log(distributions: FloatArray) -> FloatArray:
    """Return the logarithms of rows (N, V) that sum to one but for rounding."""
    log_prob: FloatArray = np.log(distributions) - np.log(distributions.sum(axis=1, keepdims=True))
    return log_prob
