"""Cases of MLDA with one modality beside LDA of scikit-learn and, where it is installed, tomotopy.

Rows are made: 400 of 100 tokens from 20 topics over 1,000 words. A sweep of ours also proposes a swap of two topics in
each row, which the others do not do. One thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import LatentDirichletAllocation

from actors.kernels.mlda import gibbs
from tests.benchmarks.harness import Case

N, TOKENS, WORDS, TRUE = 400, 100, 1000, 20
ALPHA, BETA = 0.1, 0.01
BURN_IN = 30
"""Sweeps before the first that counts, in both samplers."""


def made_tokens() -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the word of each token, sorted."""
    rng = np.random.default_rng(0)
    topics = rng.dirichlet(np.full(WORDS, 0.05), size=TRUE)
    words = [rng.choice(WORDS, size=TOKENS, p=rng.dirichlet(np.full(TRUE, 0.2)) @ topics) for _ in range(N)]
    return np.repeat(np.arange(N), TOKENS), np.concatenate([np.sort(row) for row in words])


def our_sweep(rows: np.ndarray, words: np.ndarray, classes: int) -> Callable[[], object]:
    """Return a sweep, after some."""
    corpus, _ = gibbs.make_corpus(rows, words, [0] * WORDS, N)
    generator, prior = np.random.default_rng(1), np.full((N, classes), 1.0 / classes)
    topics = generator.integers(0, classes, len(words)).astype(np.int32)
    counts = gibbs.count(corpus, topics, classes, BETA)

    def sweep() -> None:
        gibbs.sweep(corpus, topics, prior, counts, gibbs.Settings(ALPHA, BETA, 1.0), generator)

    for _ in range(BURN_IN):
        sweep()
    return sweep


def sklearn_iteration(rows: np.ndarray, words: np.ndarray, classes: int) -> Callable[[], object]:
    """Return an iteration of batch variational Bayes from new topics."""
    counts = np.zeros((N, WORDS))
    np.add.at(counts, (rows, words), 1.0)
    model = LatentDirichletAllocation(
        classes, doc_topic_prior=ALPHA, topic_word_prior=BETA, learning_method="batch", max_iter=1, random_state=0
    )
    return lambda: model.fit(counts)


def tomotopy_sweep(rows: np.ndarray, words: np.ndarray, classes: int) -> Callable[[], object] | None:
    """Return a sweep of tomotopy after some; None if it is not installed."""
    try:
        tomotopy = importlib.import_module("tomotopy")
    except ImportError:
        return None
    model = tomotopy.LDAModel(k=classes, alpha=ALPHA, eta=BETA, seed=1)
    for row in range(N):
        model.add_doc([str(word) for word in words[rows == row]])
    model.optim_interval = 0
    model.train(BURN_IN, workers=1)
    return lambda: model.train(1, workers=1)


def cases() -> list[Case]:
    """Return a sweep for several numbers of topics beside each of the others."""
    rows, words = made_tokens()
    found = []
    for classes in (10, 100):
        name, ours = f"MLDA sweep, {N} x {TOKENS} tokens, {classes} topics", our_sweep(rows, words, classes)
        found.append(
            Case(
                f"{name}, beside scikit-learn", ours, sklearn_iteration(rows, words, classes), "an iteration of its LDA"
            )
        )
        if (other := tomotopy_sweep(rows, words, classes)) is not None:
            found.append(Case(f"{name}, beside tomotopy", ours, other, "a sweep of its LDA, without swaps"))
    return found
