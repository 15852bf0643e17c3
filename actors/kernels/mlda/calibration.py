"""Calibrate an MLDA without labels, by how well each modality agrees with what the others say of the same rows.

Tokens of a row are rarely as many independent observations: frames of speech repeat each other, and the classes that a
module sends are one observation, however many tokens stand for it. Two things follow, both over-confident otherwise:

- The word probabilities of each modality are raised to the power t_m ≤ 1, its effective number of tokens relative to
  their number, so that a modality has the influence of its independent observations (:func:`calibrate_exponents`).
- The message down to a module gets an exponent and a lapse rate (:func:`calibrate_prediction`).

The criterion is that of a mixture's calibration (:mod:`actors.kernels.mixture.calibration`): the likelihood of one
source of information under the prediction of the others, which contains nothing of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actors.kernels.special import softmax
from actors.kernels.types import BoolArray, FloatArray

TOKEN_EXPONENTS = 2.0 ** -np.arange(0.0, 10.5, 0.5)
"""Candidates for the t_m; the lowest makes 100 tokens a tenth of an observation."""

TOKEN_LAPSE = 1e-3
"""Share of rows whose tokens may have any topic, so that single rows do not determine t_m."""

EXPONENTS = (1.0, 8.0, 5.6, 4.0, 2.8, 2.0, 1.4, 0.7, 0.5, 0.35, 0.25, 0.12, 0.05, 0.02)
LAPSES = (0.0, 0.003, 0.01, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
SHARPNESSES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)

MATCHED = 0.9
"""Share of a topic's predictions in its matched class (:func:`match_words`)."""


class PredictionCalibration(NamedTuple):
    """Calibration of the predictions of a modality's word, which :func:`calibrated_prediction` applies.

    Attributes
    ----------
    exponent, lapse : float
        a > 0 and ε in [0, 1].
    sharpness : float
        b ≥ 1, the power by which the predicted module's belief is sharper than it says.
    mean : ndarray of float64, shape (V,)
        m, the mean prediction; it sums to one.
    """

    exponent: float
    lapse: float
    sharpness: float
    mean: FloatArray


def calibrated_prediction(prediction: FloatArray, calibration: PredictionCalibration) -> FloatArray:
    """Return the calibrated distributions (N, V) of the predictions P (N, V):

        P̃_d(w) ∝ [(1 - ε) P_d(w)^a / Σ_v P_d(v)^a + ε m(w)]^(1/b).

    The receiver multiplies P̃ by its belief q. If q^b is what its rows say, q P̃ is the b-th root of the posterior, with
    the same order of the classes.
    """  # noqa: D400 (ends with the equation)
    exponent, lapse, sharpness, mean = calibration
    mixed = (1.0 - lapse) * softmax(exponent * np.log(prediction), axis=1) + lapse * mean
    result: FloatArray = softmax(np.log(mixed) / sharpness, axis=1)
    return result


def calibrate_prediction(prediction: FloatArray, log_belief: FloatArray) -> PredictionCalibration:
    """Choose the calibration under which the predictions fit best what the predicted module believes by itself.

    Maximises the predictive likelihood

        Σ_d log Σ_w [(1 - ε) P_d(w)^a / Σ_v P_d(v)^a + ε m(w)] · q_d(w)^b / Σ_v q_d(v)^b / q̄(w)

    over :data:`EXPONENTS` × :data:`LAPSES` × :data:`SHARPNESSES`, where q̄ is the mean of the sharpened belief over the
    rows: by Bayes' rule the quotient is the likelihood of the module's row, relative to its density. A belief says
    nothing of the prediction and reverse, so that over-confidence is penalised as in held-out data. Exponents above 1
    occur because P predicts one further token, whose topic may differ from that of the row.

    Parameters
    ----------
    prediction : ndarray of float64, shape (N, V)
        P, from the other modalities and the priors from above; positive.
    log_belief : ndarray of float64, shape (N, V)
        log q, from the module's own data; log-distributions.
    """
    mean = prediction.mean(axis=0)
    mean /= mean.sum()
    log_prediction, lapses = np.log(prediction), np.array(LAPSES)[:, None]
    likelihoods = []
    for sharpness in SHARPNESSES:
        sharp = softmax(sharpness * log_belief, axis=1)
        likelihoods.append(sharp / np.maximum(sharp.mean(axis=0), np.finfo(np.float64).tiny))
    best, chosen = -np.inf, PredictionCalibration(1.0, 0.0, 1.0, mean)
    for exponent in EXPONENTS:
        tempered = softmax(exponent * log_prediction, axis=1)
        for sharpness, likelihood in zip(SHARPNESSES, likelihoods, strict=True):
            fit, by_mean = (tempered * likelihood).sum(axis=1), likelihood @ mean
            with np.errstate(divide="ignore"):
                scores = np.log(fit + lapses * (by_mean - fit)).sum(axis=1)
            at = int(scores.argmax())
            if scores[at] > best:
                best, chosen = float(scores[at]), PredictionCalibration(exponent, LAPSES[at], sharpness, mean)
    return chosen


def calibrate_exponents(
    scores: FloatArray, log_prior: FloatArray, exponents: FloatArray, free: BoolArray
) -> FloatArray:
    """Choose the exponents t_m of the modalities, one after the other.

    With L_md(k) the log-likelihood of row d's tokens of modality m if all have topic k, each maximises

        Σ_d log Σ_k c_d(k) P_d(k) / P̄(k),   P_d(k) ∝ exp(t_m L_md(k)),   c_d(k) ∝ ψ_d(k) exp(Σ_{m' ≠ m} t_m' L_m'd(k))

    over :data:`TOKEN_EXPONENTS`, where P̄ is the mean of P over the rows. Tokens that are each repeated r times have r
    times the L, and thus t_m / r.

    Parameters
    ----------
    scores : ndarray of float64, shape (M, N, K)
        L (:func:`actors.kernels.mlda.row_updates.class_scores`).
    log_prior : ndarray of float64, shape (N, K)
        log ψ.
    exponents : ndarray of float64, shape (M,)
        The present ones.
    free : ndarray of bool, shape (M,)
        Which ones are chosen; the others stay.

    Returns
    -------
    ndarray of float64, shape (M,)
    """
    relative = scores - scores.max(axis=2, keepdims=True)
    result, K = exponents.copy(), scores.shape[2]
    for m in np.flatnonzero(free):
        shown = (scores[m] != 0.0).any(axis=1)  # the other rows have no tokens of this modality
        if not shown.any():
            continue
        own, others = relative[m, shown], np.arange(len(result)) != m
        cavity = softmax(log_prior[shown] + np.tensordot(result * others, relative[:, shown], axes=1), axis=1)
        fits = []
        for exponent in TOKEN_EXPONENTS:
            posterior = (1.0 - TOKEN_LAPSE) * softmax(exponent * own, axis=1) + TOKEN_LAPSE / K
            fits.append(float(np.log((cavity * posterior / posterior.mean(axis=0)).sum(axis=1)).sum()))
        result[m] = TOKEN_EXPONENTS[int(np.argmax(fits))]
    return result


# --- the same from sums over parts of the rows ----------------------------------------------------------------------


def exponent_posteriors(scores: FloatArray) -> dict[str, FloatArray]:
    """Return sums over rows, from which the P̄ of :func:`calibrate_exponents` follow.

    Parameters
    ----------
    scores : ndarray of float64, shape (M, N, K)
        L.

    Returns
    -------
    dict
        ``posteriors`` (M, T, K), the sums of P for each candidate, and ``shown`` (M,), the rows with tokens.
    """
    shown = (scores != 0.0).any(axis=2)
    posteriors = np.zeros((len(scores), len(TOKEN_EXPONENTS), scores.shape[2]))
    for m, own in enumerate(scores):
        for t, exponent in enumerate(TOKEN_EXPONENTS):
            posteriors[m, t] = _token_posterior(own[shown[m]], exponent).sum(axis=0)
    return {"posteriors": posteriors, "shown": shown.sum(axis=1).astype(np.float64)}


def exponent_fits(
    scores: FloatArray, log_prior: FloatArray, exponents: FloatArray, means: FloatArray
) -> dict[str, FloatArray]:
    """Return the sums over rows that each exponent maximises, given the others, as ``fits`` (M, T).

    All are chosen from the present exponents of the others, and not one after the other.

    Parameters
    ----------
    scores, log_prior, exponents
        As in :func:`calibrate_exponents`.
    means : ndarray of float64, shape (M, T, K)
        P̄ for each candidate.
    """
    fits = np.zeros(means.shape[:2])
    for m, own in enumerate(scores):
        shown, others = (own != 0.0).any(axis=1), np.arange(len(scores)) != m
        relative = scores[:, shown]
        cavity = softmax(log_prior[shown] + np.tensordot(exponents * others, relative, axes=1), axis=1)
        for t, exponent in enumerate(TOKEN_EXPONENTS):
            posterior = _token_posterior(own[shown], exponent)
            fits[m, t] = np.log((cavity * posterior / means[m, t]).sum(axis=1)).sum()
    return {"fits": fits}


def _token_posterior(scores: FloatArray, exponent: float) -> FloatArray:
    """Return P (N, K) for one candidate."""
    posterior: FloatArray = (1.0 - TOKEN_LAPSE) * softmax(exponent * scores, axis=1) + TOKEN_LAPSE / scores.shape[1]
    return posterior


def best_exponents(fits: FloatArray, exponents: FloatArray, free: BoolArray) -> FloatArray:
    """Return the exponents (M,) with the largest fits (M, T), where they are free."""
    return np.where(free, TOKEN_EXPONENTS[fits.argmax(axis=1)], exponents)


def prediction_means(prediction: FloatArray, log_belief: FloatArray) -> dict[str, FloatArray]:
    """Return sums over rows, from which the m and q̄ of :func:`calibrate_prediction` follow.

    Returns
    -------
    dict
        ``prediction`` (V,), the sum of P, ``belief`` (B, V), of the sharpened beliefs, and ``shown`` (1,), the rows.
    """
    belief = np.stack([softmax(sharpness * log_belief, axis=1).sum(axis=0) for sharpness in SHARPNESSES])
    return {"prediction": prediction.sum(axis=0), "belief": belief, "shown": np.array([float(len(prediction))])}


def prediction_fits(
    prediction: FloatArray, log_belief: FloatArray, mean: FloatArray, mean_belief: FloatArray
) -> dict[str, FloatArray]:
    """Return the predictive likelihood of :func:`calibrate_prediction` for all candidates, ``fits`` (A, B, E).

    `mean` (V,) is m and `mean_belief` (B, V) is q̄.
    """
    log_prediction, lapses = np.log(prediction), np.array(LAPSES)[:, None]
    fits = np.zeros((len(EXPONENTS), len(SHARPNESSES), len(LAPSES)))
    for b, sharpness in enumerate(SHARPNESSES):
        likelihood = softmax(sharpness * log_belief, axis=1) / np.maximum(mean_belief[b], np.finfo(np.float64).tiny)
        by_mean = likelihood @ mean
        for a, exponent in enumerate(EXPONENTS):
            fit = (softmax(exponent * log_prediction, axis=1) * likelihood).sum(axis=1)
            with np.errstate(divide="ignore"):
                fits[a, b] = np.log(fit + lapses * (by_mean - fit)).sum(axis=1)
    return {"fits": fits}


def best_prediction(fits: FloatArray, mean: FloatArray) -> PredictionCalibration:
    """Return the calibration with the largest of the fits (A, B, E)."""
    a, b, e = (int(index) for index in np.unravel_index(int(fits.argmax()), fits.shape))
    return PredictionCalibration(EXPONENTS[a], LAPSES[e], SHARPNESSES[b], mean)


def match_words(words: FloatArray) -> FloatArray:
    """Return word distributions (K, V) in which each topic has a word of its own, as far as there are enough.

    The words are the classes of a module that has not learnt with the topics yet. Where two topics have one class and
    a third has two, learning rarely finds out: a topic follows its classes, and these the topic. Annealing therefore
    starts from the assignment of topics to different classes that keeps most tokens (H. W. Kuhn, "The Hungarian method
    for the assignment problem", 1955).

    Parameters
    ----------
    words : ndarray of float64, shape (K, V)
        Word distributions of the topics; positive.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    matched = words.copy()
    topics, own = linear_sum_assignment(-words)
    matched[topics] *= 1.0 - MATCHED
    matched[topics, own] += MATCHED
    return matched
