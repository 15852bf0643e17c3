"""Other methods for the accuracy benchmark: hmmlearn's Gaussian HMM and scikit-learn's Gaussian mixture."""

from __future__ import annotations

import logging

import numpy as np
from hmmlearn.hmm import GaussianHMM
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

K, STARTS = 10, 8


def hidden_markov(Z: np.ndarray) -> np.ndarray:
    """Return the classes (N,) of the best of :data:`STARTS` EM fits with full covariances, by smoothed posteriors."""
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it warns about starts that converge badly
    with threadpool_limits(1):
        fits = [GaussianHMM(K, "full", n_iter=100, tol=0.01, random_state=start).fit(Z) for start in range(STARTS)]
        best = max(fits, key=lambda fit: fit.score(Z))
        return best.predict_proba(Z).argmax(axis=1)


def mixture(Z: np.ndarray) -> np.ndarray:
    """Return the classes (N,) of the best of :data:`STARTS` EM fits, with full covariances."""
    with threadpool_limits(1):
        return GaussianMixture(K, n_init=STARTS, random_state=0).fit_predict(Z)


METHODS = {"hmmlearn's GaussianHMM, best of 8": hidden_markov, "scikit-learn's GaussianMixture, best of 8": mixture}
"""The methods, which receive the latent vectors of the reference model's VAE, trained alone."""
