"""A lower bound of the likelihood of each row of tokens, the rest of the corpus being what it is (see `lda`)."""

from __future__ import annotations

import math

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.mlda.row_updates import Corpus, Counts, Floats, Settings, Tokens, Work, make_work, move

STEPS = 20
"""Of the fixed point in :func:`lower_bounds`."""


@kernel
def lower_bounds(corpus: Corpus, topics: Tokens, counts: Counts, settings: Settings, n: Floats) -> Floats:
    """Return for each row a lower bound of log p(its tokens), with φ as the other rows have it and no prior from above.

    The counts are afterwards what they were.

    Parameters
    ----------
    corpus : Corpus
    topics : ndarray of int32, shape (T,)
        -1 for tokens that are not in the counts.
    counts : Counts
    settings : Settings
        Its temperature has no say.
    n : ndarray of float64, shape (N, K)
        Tokens of each row by topic, to start the bound from.

    Returns
    -------
    ndarray of float64, shape (N,)
        Zeros for rows without tokens.
    """
    work, bounds = make_work(counts.totals.shape[0], counts.totals.shape[1]), np.zeros(n.shape[0])
    for d in range(n.shape[0]):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        if words.shape[0] > 0:
            move(words, own, -1.0, corpus, counts, settings)
            work.n[:] = n[d]
            bounds[d] = _bound_row(words, corpus, counts, settings, work, STEPS)
            move(words, own, 1.0, corpus, counts, settings)
    return bounds


@kernel
def digamma(x: float) -> float:
    """Return the logarithmic derivative of Γ at x > 0 (Abramowitz and Stegun 1964, 6.3.5 and 6.3.18)."""
    shift = 0.0
    while x < 10.0:
        shift -= 1.0 / x
        x += 1.0
    r = 1.0 / (x * x)
    series = r * (1.0 / 12.0 - r * (1.0 / 120.0 - r * (1.0 / 252.0 - r * (1.0 / 240.0 - r / 132.0))))
    return shift + math.log(x) - 0.5 / x - series


@kernel
def _bound_row(words: Tokens, corpus: Corpus, counts: Counts, settings: Settings, work: Work, steps: int) -> float:
    """Return a lower bound of log p(words) under θ ~ Dirichlet(α) and the counts' mean φ, which are without the row.

    Of Blei, Ng, Jordan 2003, "Latent Dirichlet allocation", section 5.3: with q(θ) = Dirichlet(γ), which starts at
    α + work.n and takes `steps` steps of its fixed point, the greatest bound of them all.
    """
    K, alpha, beta = work.n.shape[0], settings.alpha, settings.beta
    gamma, weights, shares = work.n, work.gains, work.scores
    gamma += alpha
    best, constant = -np.inf, math.lgamma(K * alpha) - K * math.lgamma(alpha)
    for _ in range(steps):
        total = gamma.sum()
        at_total = digamma(total)
        bound = constant - math.lgamma(total)
        for k in range(K):
            mean_log = digamma(gamma[k]) - at_total
            bound += math.lgamma(gamma[k]) + (alpha - gamma[k]) * mean_log
            weights[k] = math.exp(mean_log)
            gamma[k] = alpha
        i = 0
        while i < words.shape[0]:
            w, many = words[i], 0.0
            while i < words.shape[0] and words[i] == w:
                many += 1.0
                i += 1
            norm = 0.0
            for k in range(K):
                shares[k] = weights[k] * (counts.words[w, k] + beta) * counts.inverse[corpus.owner[w], k]
                norm += shares[k]
            bound += many * math.log(norm)
            for k in range(K):
                gamma[k] += many * shares[k] / norm
        best = max(best, bound)
    return best
