"""How the MLDA learns, between the messages that come and those that go (:mod:`actors.modules.mlda.mlda`)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from actors.kernels.mlda.bound import lower_bounds
from actors.kernels.mlda.gibbs import count, fold_in, likelihood_and_shares, place, row_counts, start, sweep
from actors.kernels.mlda.row_updates import Corpus, Counts, Settings
from actors.module import Context
from actors.modules.mlda.tokens import Layout, Modality
from actors.types import BoolArray, FloatArray, Int32Array, IntArray

Start = Literal["rows", "tokens"]


class Rows(NamedTuple):
    """What came, N rows, and where its tokens are.

    Attributes
    ----------
    modalities : list of Modality
    layout : Layout
    corpus : Corpus
    order : ndarray of int64 (T,)
        Where each token of the corpus is among those of the modalities.
    missing : ndarray of bool (N,)
        Which rows have no tokens.
    log_prior : ndarray of float64 (N, K)
        From above; uniform where nothing came, see `told`.
    told : bool
        Whether anything came.
    topics : ndarray of int32 (T,)
        Of each token, -1 for none.
    counts : Counts
    settings : Settings
        At temperature 1.
    """

    modalities: list[Modality]
    layout: Layout
    corpus: Corpus
    order: IntArray
    missing: BoolArray
    log_prior: FloatArray
    told: bool
    topics: Int32Array
    counts: Counts
    settings: Settings

    @property
    def prior(self) -> FloatArray:
        """The prior itself."""
        return np.exp(self.log_prior)


class Averages(NamedTuple):
    """What samples say of the rows, on average; see :func:`actors.kernels.mlda.gibbs.likelihood_and_shares`.

    Attributes
    ----------
    likelihood : ndarray of float64 (N, K)
        Proportional to p(the row's tokens | class k).
    shares : ndarray of float64 (N, K)
        P(the topic of one more token is k).
    """

    likelihood: FloatArray
    shares: FloatArray


def begin(rows: Rows, way: Start, restarts: int, context: Context) -> Rows:
    """Return the rows with a topic for every token, none having had one.

    Parameters
    ----------
    rows : Rows
    way : {"rows", "tokens"}
        As in :class:`actors.modules.mlda.mlda.MLDA`.
    restarts : int
    context : Context
    """
    generator, settings = context.generator, tempered(rows, context)
    if way == "rows":
        topics, counts = start(rows.corpus, rows.prior, settings, generator, restarts)
    else:
        classes = rows.log_prior.shape[1]
        topics = generator.integers(0, classes, len(rows.topics), dtype=np.int32)
        counts = count(rows.corpus, topics, classes, settings.beta)
    return rows._replace(topics=topics, counts=counts)


def resume(rows: Rows, context: Context) -> Rows:
    """Return the rows with a topic for every token; those that have one keep it."""
    order = np.arange(len(rows.missing))
    place(rows.corpus, rows.topics, rows.prior, rows.counts, tempered(rows, context), False, order, context.generator)
    return rows


def sample(rows: Rows, iterations: int, samples: int, context: Context) -> Averages | None:
    """Sweep, which changes topics and counts in place; return the averages of the last `samples` sweeps.

    Returns
    -------
    Averages or None
        None where no sweep was made at temperature 1: what goes out is never tempered.
    """
    settings, prior, classes = tempered(rows, context), rows.prior, rows.log_prior.shape[1]
    taken = []
    for done in range(1, iterations + 1):
        moved = sweep(rows.corpus, rows.topics, prior, rows.counts, settings, context.generator)
        if done > iterations - samples and settings.temperature == 1.0:
            n = row_counts(rows.corpus, rows.topics, classes)
            taken.append(likelihood_and_shares(n, prior, settings.alpha))
        context.report(done, iterations, moved=float(moved))
    return Averages(*(np.mean(kind, axis=0) for kind in zip(*taken, strict=True))) if taken else None


def ask(rows: Rows, samples: int, context: Context) -> Averages:
    """Return what each row says, asked alone, all others' topics staying as they are."""
    found = fold_in(*_plain(rows), samples, context.generator)
    return Averages(found.likelihood, found.shares)


def predict(rows: Rows, name: str, samples: int, context: Context) -> FloatArray:
    """Return the distribution (N, V) of a modality's word given each row's other modalities and its prior."""
    return fold_in(*_plain(rows), samples, context.generator, rows.layout.index(name)).words


def log_likelihood(rows: Rows, averages: Averages) -> FloatArray:
    """Return log p(the row's tokens | class k), (N, K); zeros for rows without tokens."""
    tokens = np.diff(rows.corpus.starts)[:, None]
    bounds = lower_bounds(rows.corpus, rows.topics, rows.counts, rows.settings, averages.shares * tokens)
    relative = averages.likelihood / averages.likelihood.mean(axis=1, keepdims=True)
    likelihood: FloatArray = np.log(relative) + bounds[:, None]
    likelihood[rows.missing] = 0.0
    return likelihood


def tempered(rows: Rows, context: Context) -> Settings:
    """Return the settings to learn with: as for the GMM, tempering is for priors from above, to give them a say."""
    return rows.settings._replace(temperature=context.temperature) if rows.told else rows.settings


def _plain(rows: Rows) -> tuple[Corpus, Int32Array, FloatArray, Counts, Settings]:
    return rows.corpus, rows.topics, rows.prior, rows.counts, rows.settings
