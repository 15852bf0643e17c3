"""Alignment: which class of one module is which of another's, where several have classified the same rows.

Input m knows the class k of all as its own label s_m[k]. Looked for are the permutations s_1 … s_M that maximise the
evidence that the inputs speak of one and the same class,

    Σ_t log Σ_k Π_m [(1 - ε) P_m(t, s_m[k]) + ε / K],

where each input is allowed to lapse: with probability ε what it says of a row means nothing. Without lapses one row
of which two inputs are certain and one is wrong would outweigh all others, and a class that is impossible would make
all alignments as bad as each other.

For two inputs with certain labels this is the matching of the most rows, which Kuhn's method finds (1955, "The
Hungarian method for the assignment problem"); for more inputs no such exact method is known. Here one input after the
other is matched with the joint posterior R of *all* the others, by Kuhn's method on their expected agreement Σ_t R(t,
k) P_m(t, l), and two of its labels are exchanged where that helps; both are taken only if the evidence rises. So it
rises from step to step, there are finitely many permutations, and the ascent ends: where neither such a matching nor
an exchange of two labels of one input raises it. The joint knows more than any one input: two that confuse different
classes confuse none together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from actors.kernels.types import FloatArray, IntArray

RISE = 1e-9
"""Nats a row by which the evidence must rise: rounding alone moves nothing."""


def align(
    log_likelihoods: Sequence[FloatArray], start: Sequence[IntArray | None], lapse: float, sweeps: int
) -> IntArray:
    """Return the label by which each input knows each class.

    The classes are named by the first input that starts with a permutation, which keeps it; by the first of all, which
    keeps its labels, where none does. Then the ascent begins once from each input, the others being joined to it in
    their order, and the highest evidence stays.

    Parameters
    ----------
    log_likelihoods : sequence of M ndarrays (N, K) float64
        log P_m(t, label): a log-distribution, or 0 throughout for a row of which the input says nothing.
    start : sequence of M ndarrays (K,) int64 or None
        The permutations to start from; None for an input that has none yet.
    lapse : float
        ε, in (0, 1).
    sweeps : int
        At most so many passes over the inputs, 1 or more. They end with the first that changes nothing.

    Returns
    -------
    ndarray (M, K) int64
        Row m is s_m.
    """
    inputs = [_lapsing(log_prob, lapse) for log_prob in log_likelihoods]
    identity = np.arange(inputs[0].shape[1])
    given = [m for m, labels in enumerate(start) if labels is not None]
    seeds = [[identity if m == first else None for m in range(len(inputs))] for first in range(len(inputs))]
    found = [_ascent(inputs, _completed(inputs, seed), sweeps) for seed in ([list(start)] if given else seeds)]
    best = max(found, key=lambda labels: _agreement(inputs, labels))
    anchor = given[0] if given else 0
    kept = start[anchor]
    names = np.argsort(best[anchor])[identity if kept is None else kept]
    return np.stack([labels[names] for labels in best])


def _agreement(inputs: Sequence[FloatArray], labels: Sequence[IntArray]) -> float:
    """Return the evidence: Σ_t log Σ_k Π_m of `inputs` (M of (N, K), lapses allowed for) in the common labels."""
    product = sum(np.log(own)[:, of_own] for own, of_own in zip(inputs, labels, strict=True))
    return float(np.logaddexp.reduce(product, axis=1).sum())


def _lapsing(log_prob: FloatArray, lapse: float) -> FloatArray:
    """Return (1 - ε) P + ε / K."""
    lapsing: FloatArray = (1.0 - lapse) * np.exp(log_prob) + lapse / log_prob.shape[1]
    return lapsing


def _ascent(inputs: Sequence[FloatArray], labels: list[IntArray], sweeps: int) -> list[IntArray]:
    """Align one input after the other with all the others, until none moves."""
    for _ in range(sweeps):
        moved = False
        for m, own in enumerate(inputs):
            better = _aligned(_joint(inputs, labels, without=m), own, labels[m])
            moved |= better is not labels[m]
            labels[m] = better
        if not moved:
            break
    return labels


def _completed(inputs: Sequence[FloatArray], start: Sequence[IntArray | None]) -> list[IntArray]:
    """Align the inputs without a permutation, in their order, with the joint of those that have one by then."""
    labels = list(start)
    for m, own in enumerate(inputs):
        if labels[m] is None:
            labels[m] = _aligned(_joint(inputs, labels, without=m), own, np.arange(own.shape[1]))
    return [each for each in labels if each is not None]


def _joint(inputs: Sequence[FloatArray], labels: Sequence[IntArray | None], without: int) -> FloatArray:
    """Return the joint posterior (N, K) of all inputs that have a permutation, but one."""
    log_joint = np.zeros_like(inputs[0])
    for m, (own, of_own) in enumerate(zip(inputs, labels, strict=True)):
        if m != without and of_own is not None:
            log_joint += np.log(own)[:, of_own]
    joint: FloatArray = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    joint /= joint.sum(axis=1, keepdims=True)
    return joint


def _aligned(joint: FloatArray, own: FloatArray, labels: IntArray) -> IntArray:
    """Return labels of `own` that fit the `joint` of the others better; the same object where none were found."""
    matched = linear_sum_assignment(joint.T @ own, maximize=True)[1].astype(np.int64)
    before, after = ((joint * own[:, each]).sum(axis=1) for each in (labels, matched))
    if np.log(after / before).sum() > RISE * len(joint):
        labels = matched
    while (pair := _best_exchange(joint, own[:, labels])) is not None:
        labels = labels.copy()
        labels[list(pair)] = labels[list(reversed(pair))]
    return labels


def _best_exchange(joint: FloatArray, own: FloatArray) -> tuple[int, int] | None:
    """Return the two columns of `own` whose exchange raises Σ_t log Σ_k joint · own the most; None where none does."""
    agreed = (joint * own).sum(axis=1, keepdims=True)
    best, pair = RISE * len(joint), None
    for a in range(joint.shape[1] - 1):
        # Exchanged, a and b agree by joint_a own_b + joint_b own_a instead of joint_a own_a + joint_b own_b.
        less = (joint[:, a : a + 1] - joint[:, a + 1 :]) * (own[:, a : a + 1] - own[:, a + 1 :])
        gains = np.log1p(-less / agreed).sum(axis=0)
        b = int(gains.argmax())
        if gains[b] > best:
            best, pair = float(gains[b]), (a, a + 1 + b)
    return pair
