"""Label alignment: match the class labels of several classifiers of the same rows, without ground truth.

Input m denotes the common class k by its own label s_m[k]. The permutations s_1 … s_M maximise the evidence that all
inputs classify by one and the same class variable,

    Σ_t log Σ_k Π_m [(1 - ε) P_m(t, s_m[k]) + ε / K],

where ε is the lapse rate, the probability that an input's posterior of a row carries no information. Without lapses one
row of which two inputs are certain and one is wrong would outweigh all others, and a class of probability zero would
make all alignments equally impossible.

For two inputs with certain labels this is the matching of the most rows, which the Hungarian method solves exactly
(H. W. Kuhn, "The Hungarian method for the assignment problem", 1955); for more inputs no such exact method is known.
Here each input in turn is matched with the joint posterior R of *all* the others, by the Hungarian method on their
expected agreement Σ_t R(t, k) P_m(t, l), and then pairs of its labels are exchanged; a change is accepted only if the
evidence rises. So this coordinate ascent is monotone over finitely many permutations and ends where neither such a
matching nor an exchange of two labels of one input raises the evidence. The joint posterior is used because it is more
informative than any single input: two inputs that confuse different classes confuse none together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.kernels.types import FloatArray, IntArray

MIN_RISE = 1e-9
"""Least rise of the evidence, in nats a row, for which a change is accepted: above rounding errors."""

MAX_STARTS = 12
"""Inputs from each of which the ascent is run, without a permutation to start from; of more, this many of them spread
evenly, so that the time grows with the number of inputs and not with its square."""


def align(
    log_likelihoods: Sequence[FloatArray], start: Sequence[IntArray | None], lapse: float, sweeps: int
) -> IntArray:
    """Return, for each input, its label of each common class.

    The common classes are numbered by the first input that starts with a permutation, which keeps it; if none does, by
    the first input, which keeps its labels. In that case the ascent is run once from each input (:data:`MAX_STARTS`),
    with the others added to it in their order, and the alignment of highest evidence is returned.

    Parameters
    ----------
    log_likelihoods : sequence of M ndarrays (N, K) float64
        log P_m(t, label): a log-distribution, or all zeros for a row of which the input has no information.
    start : sequence of M ndarrays (K,) int64 or None
        The initial permutations; None for an input without one.
    lapse : float
        The lapse rate ε, in (0, 1).
    sweeps : int
        Maximum number of passes over the inputs, 1 or more; the ascent ends at the first pass without a change.

    Returns
    -------
    ndarray (M, K) int64
        Row m is s_m.
    """
    inputs = [_Input(log_prob, lapse) for log_prob in log_likelihoods]
    identity = np.arange(log_likelihoods[0].shape[1])
    started = [m for m, labels in enumerate(start) if labels is not None]
    firsts = np.unique(np.linspace(0, len(inputs) - 1, min(len(inputs), MAX_STARTS)).astype(int))
    seeds = [[identity if m == first else None for m in range(len(inputs))] for first in firsts]
    results = [_ascend(inputs, _complete(inputs, seed), sweeps) for seed in ([list(start)] if started else seeds)]
    best = max(results, key=lambda labels: _evidence(inputs, labels))
    anchor = started[0] if started else 0
    kept = start[anchor]
    order = np.argsort(best[anchor])[identity if kept is None else kept]
    return np.stack([labels[order] for labels in best])


def match_classes(distances: FloatArray) -> IntArray:
    """Return for each class k of one clustering the class (K,) of another that it is matched with.

    The sum of the distances of matched classes is the smallest (H. W. Kuhn, "The Hungarian method for the assignment
    problem", 1955).

    Parameters
    ----------
    distances : ndarray of float64, shape (K, K)
        From each class of the first to each of the second; inf where either has no rows. Such classes are matched with
        each other where possible.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    finite = np.isfinite(distances)
    neither = np.logical_and.outer(~finite.any(axis=1), ~finite.any(axis=0))
    unlike = float(distances[finite].sum()) + 1.0  # more than all others together
    known = np.where(finite, distances, np.where(neither, 0.0, unlike))
    matched: IntArray = linear_sum_assignment(known)[1].astype(np.int64)
    return matched


class _Input:
    """An input: its posterior (N, K), lapses included, (1 - ε) P + ε / K, and the logarithm."""

    def __init__(self, log_prob: FloatArray, lapse: float) -> None:
        self.posterior: FloatArray = (1.0 - lapse) * np.exp(log_prob) + lapse / log_prob.shape[1]
        self._log: FloatArray = np.log(self.posterior)

    def log_of(self, labels: IntArray) -> FloatArray:
        """Return the logarithm with its columns in the order of the common classes."""
        ordered: FloatArray = self._log[:, labels]
        return ordered


def _sum_of(inputs: Sequence[_Input], labels: Sequence[IntArray | None]) -> FloatArray:
    """Return Σ_m log of the inputs that have a permutation, (N, K)."""
    total = np.zeros_like(inputs[0].posterior)
    for own, of_own in zip(inputs, labels, strict=True):
        if of_own is not None:
            total += own.log_of(of_own)
    return total


def _evidence(inputs: Sequence[_Input], labels: Sequence[IntArray]) -> float:
    """Return Σ_t log Σ_k Π_m of `inputs` under the permutations `labels`."""
    return float(np.logaddexp.reduce(_sum_of(inputs, labels), axis=1).sum())


def _ascend(inputs: Sequence[_Input], labels: list[IntArray], sweeps: int) -> list[IntArray]:
    """Align each input in turn with all the others, until none changes."""
    for _ in range(sweeps):
        changed, total = False, _sum_of(inputs, labels)
        for m, own in enumerate(inputs):
            total -= own.log_of(labels[m])  # the logarithms are finite, as of lapses
            better = _improve(_normalised(total), own.posterior, labels[m])
            changed |= better is not labels[m]
            labels[m] = better
            total += own.log_of(better)
        if not changed:
            break
    return labels


def _complete(inputs: Sequence[_Input], start: Sequence[IntArray | None]) -> list[IntArray]:
    """Align the inputs without a permutation, in their order, with the joint of those that have one by then."""
    labels, total = list[IntArray](), _sum_of(inputs, start)
    for own, given in zip(inputs, start, strict=True):
        if given is None:
            given = _improve(_normalised(total), own.posterior, np.arange(total.shape[1]))
            total += own.log_of(given)
        labels.append(given)
    return labels


def _normalised(log_joint: FloatArray) -> FloatArray:
    """Return the joint posterior (N, K) with this logarithm and any constant in a row."""
    joint: FloatArray = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    joint /= joint.sum(axis=1, keepdims=True)
    return joint


def _improve(joint: FloatArray, own: FloatArray, labels: IntArray) -> IntArray:
    """Return labels of `own` with more evidence given the `joint` of the others; the same object if there are none."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    matched = linear_sum_assignment(joint.T @ own, maximize=True)[1].astype(np.int64)
    before, after = ((joint * own[:, each]).sum(axis=1) for each in (labels, matched))
    if np.log(after / before).sum() > MIN_RISE * len(joint):
        labels = matched
    while (pair := _best_exchange(joint, own[:, labels])) is not None:
        labels = labels.copy()
        labels[list(pair)] = labels[list(reversed(pair))]
    return labels


def _best_exchange(joint: FloatArray, own: FloatArray) -> tuple[int, int] | None:
    """Return the two columns of `own` whose exchange raises Σ_t log Σ_k joint · own the most; None if none does."""
    agreement = (joint * own).sum(axis=1, keepdims=True)
    best, pair = MIN_RISE * len(joint), None
    for a in range(joint.shape[1] - 1):
        # The exchange replaces joint_a own_a + joint_b own_b by joint_a own_b + joint_b own_a, a loss of
        # (joint_a - joint_b) (own_a - own_b).
        loss = (joint[:, a : a + 1] - joint[:, a + 1 :]) * (own[:, a : a + 1] - own[:, a + 1 :])
        gains = np.log1p(-loss / agreement).sum(axis=0)
        b = int(gains.argmax())
        if gains[b] > best:
            best, pair = float(gains[b]), (a, a + 1 + b)
    return pair
