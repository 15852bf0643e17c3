"""Compiled forward, backward and Viterbi recursions of hidden semi-Markov models, over segments of rows.

Source: S.-Z. Yu, "Hidden semi-Markov models", Artificial Intelligence 174, 2010 (the explicit duration model, and
residual times). Everything is in the log domain. Time is O(N K (K + D)) for D durations, memory O(K (N + D)).

N is the number of rows, K that of classes. Arrays of rows are (K, N), so that the rows of a class lie side by side. A
segment is a class and the number of its rows; a sequence is [first, end) and begins with a segment. Its last segment
may go on beyond the end, so that its weight is the survivor function, the sum over all durations that reach the end.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.types import FloatArray, IntArray

NEGLIGIBLE = 50.0
"""Nats below the largest term of a sum from which on a term is left out: 2e-22, of at most 10,000 terms."""


class SegmentWeights(NamedTuple):
    """Log-weights of a semi-Markov model; they need not be normalised.

    Attributes
    ----------
    transitions : ndarray of float64, shape (K, K)
        From the class of a segment to that of the next one.
    initial : ndarray of float64, shape (K,)
        Of the class of the first segment of a sequence.
    durations : ndarray of float64, shape (K, D)
        Of 1 to D rows.
    survival : ndarray of float64, shape (K, D)
        Of at least 1 to D rows.
    """

    transitions: FloatArray
    initial: FloatArray
    durations: FloatArray
    survival: FloatArray


class SegmentMessages(NamedTuple):
    """Logarithms of what rows say of where segments begin and end, each (K, N) float64.

    Attributes
    ----------
    into : p(rows before t, a segment begins at t in class k)
    begun : p(rows from t on | a segment begins at t in class k)
    ended : p(rows after t | a segment ends at t in class k); 0 for the last row of a sequence
    """

    into: FloatArray
    begun: FloatArray
    ended: FloatArray


class SegmentCounts(NamedTuple):
    """Expected numbers of segments that a pass adds to.

    Attributes
    ----------
    transitions : ndarray of float64, shape (K, K)
        Segments of class i that are followed by one of class j.
    initial : ndarray of float64, shape (K,)
        Segments that open a sequence.
    durations : ndarray of float64, shape (K, D)
        Segments of each duration, but the last one of each sequence.
    censored : ndarray of float64, shape (K, D)
        Last segments, by the number of their rows in the sequence.
    """

    transitions: FloatArray
    initial: FloatArray
    durations: FloatArray
    censored: FloatArray


@kernel
def log_add(a: float, b: float) -> float:
    """Return log(exp a + exp b); either may be -inf."""
    high, low = (a, b) if a > b else (b, a)
    if not low - high > -NEGLIGIBLE:  # also where both are -inf
        return high
    return high + math.log1p(math.exp(low - high))


@kernel
def log_sum(values: FloatArray, count: int, top: float) -> float:
    """Return the logarithm of the sum of the first `count` exponentials; `top` is the largest of the values."""
    if top == -np.inf:
        return top
    total = 0.0
    for i in range(count):
        gap = values[i] - top
        if gap > -NEGLIGIBLE:
            total += math.exp(gap)
    return top + math.log(total)


@kernel
def count_passes(
    evidence: FloatArray, weights: SegmentWeights, starts: IntArray, messages: SegmentMessages, counts: SegmentCounts
) -> tuple[float, int]:
    """Run the backward and the forward pass of each sequence; return the log-likelihood of all, and -1.

    Where no segments explain a sequence, its number is returned instead of -1.
    """
    K, D = weights.durations.shape
    work, total = np.empty(max(K, D)), 0.0
    for s in range(starts.shape[0] - 1):
        _backward_pass(evidence, weights, starts[s], starts[s + 1], work, messages)
        log_likelihood = _forward_pass(evidence, weights, starts[s], starts[s + 1], work, messages, counts)
        if log_likelihood == -np.inf:
            return log_likelihood, s
        total += log_likelihood
    return total, -1


@kernel
def row_passes(
    evidence: FloatArray,
    weights: SegmentWeights,
    starts: IntArray,
    ended: FloatArray,
    filtered: FloatArray,
    cavity: FloatArray,
) -> None:
    """Fill in log p(rows up to t, z_t = k) and log p(all rows but t, z_t = k), each (K, N); `ended` as in the messages.

    A segment of class k with r more rows after row t is followed from row to row (Yu, residual times):
    open_t(k, r) = p(row t | k) (open_{t-1}(k, r + 1) + into_t(k) p_k(r + 1)). Row t is of class k if any is open, and
    what follows says Π_{s=t+1}^{t+r} p(row s | k) ended_{t+r}(k) of each. No difference is taken, so that small
    probabilities keep their digits.
    """
    for s in range(starts.shape[0] - 1):
        _row_pass(evidence, weights, starts[s], starts[s + 1], ended, filtered, cavity)


@kernel
def best_paths(
    evidence: FloatArray, weights: SegmentWeights, starts: IntArray, path: IntArray, best: FloatArray
) -> tuple[float, int]:
    """Fill in the path of each sequence (:func:`_best_segments`); return as `count_passes`."""
    total = 0.0
    for s in range(starts.shape[0] - 1):
        log_joint = _best_segments(evidence, weights, starts[s], starts[s + 1], path, best)
        if log_joint == -np.inf:
            return log_joint, s
        total += log_joint
    return total, -1


@kernel
def pick(logs: FloatArray, count: int, uniform: float) -> int:
    """Return one of the first `count` numbers with probabilities of these logarithms; -1 if all are zero.

    `logs` is overwritten.
    """
    top = -np.inf
    for i in range(count):
        top = max(top, logs[i])
    if top == -np.inf:
        return -1
    total = 0.0
    for i in range(count):
        logs[i] = math.exp(logs[i] - top)
        total += logs[i]
    threshold, last = uniform * total, -1
    for i in range(count):
        if logs[i] > 0.0:
            last = i
            if threshold < logs[i]:
                break
            threshold -= logs[i]
    return last


@kernel
def sample_segments(
    evidence: FloatArray,
    weights: SegmentWeights,
    starts: IntArray,
    uniforms: FloatArray,
    messages: SegmentMessages,
    counts: SegmentCounts,
) -> bool:
    """Draw the segments of all sequences and add them to the counts; return False if a sequence is impossible.

    After the backward pass a sequence is drawn from its first row on: the class of a segment in proportion to `begun`,
    its duration to the terms of `begun`. What a last segment has beyond the end is drawn as well and counted with the
    complete ones. `uniforms` has two numbers for each row and two for each sequence.
    """
    K, D = weights.durations.shape
    work, used = np.empty(max(K, D)), 0
    for s in range(starts.shape[0] - 1):
        t, end, before = starts[s], starts[s + 1], -1
        _backward_pass(evidence, weights, t, end, work, messages)
        while t < end:
            for k in range(K):
                into = weights.initial[k] if before < 0 else weights.transitions[before, k]
                work[k] = into + messages.begun[k, t]
            k = pick(work, K, uniforms[used])
            if k < 0:
                return False
            if before < 0:
                counts.initial[k] += 1.0
            else:
                counts.transitions[before, k] += 1.0
            of_rows, count = 0.0, min(D, end - t)
            for i in range(count):
                of_rows += evidence[k, t + i]
                if t + i == end - 1:
                    work[i] = of_rows + weights.survival[k, i]
                else:
                    work[i] = of_rows + weights.durations[k, i] + messages.ended[k, t + i]
            i = pick(work, count, uniforms[used + 1])
            used += 2
            last = t + i == end - 1
            t, before = t + i + 1, k
            if last:
                for d in range(i, D):
                    work[d - i] = weights.durations[k, d]
                i += pick(work, D - i, uniforms[used])
                used += 1
            counts.durations[k, i] += 1.0
    return True


@kernel
def _backward_pass(
    evidence: FloatArray, weights: SegmentWeights, first: int, end: int, work: FloatArray, messages: SegmentMessages
) -> None:
    """Fill in `begun` and `ended` of a sequence.

    begun_t(k) = Σ_d p_k(d) Π_{s=t}^{t+d-1} p(row s | k) ended_{t+d-1}(k), with P(D ≥ d) in place of p_k(d) where the
    segment reaches the end; ended_t(k) = Σ_j T_kj begun_{t+1}(j).
    """
    K, D = weights.durations.shape
    for t in range(end - 1, first - 1, -1):
        for k in range(K):
            if t == end - 1:
                messages.ended[k, t] = 0.0
                continue
            top = -np.inf
            for j in range(K):
                work[j] = weights.transitions[k, j] + messages.begun[j, t + 1]
                top = max(top, work[j])
            messages.ended[k, t] = log_sum(work, K, top)
        for k in range(K):
            top, of_rows, count = -np.inf, 0.0, min(D, end - t)
            for i in range(count):
                of_rows += evidence[k, t + i]
                if t + i == end - 1:
                    work[i] = of_rows + weights.survival[k, i]
                else:
                    work[i] = of_rows + weights.durations[k, i] + messages.ended[k, t + i]
                top = max(top, work[i])
            messages.begun[k, t] = log_sum(work, count, top)


@kernel
def _forward_pass(
    evidence: FloatArray,
    weights: SegmentWeights,
    first: int,
    end: int,
    work: FloatArray,
    messages: SegmentMessages,
    counts: SegmentCounts,
) -> float:
    """Fill in `into` of a sequence after its backward pass, and add to the counts; return its log-likelihood."""
    K, D = weights.durations.shape
    top = -np.inf
    for k in range(K):
        messages.into[k, first] = weights.initial[k]
        work[k] = weights.initial[k] + messages.begun[k, first]
        top = max(top, work[k])
    log_likelihood = log_sum(work, K, top)
    if log_likelihood == -np.inf:
        return log_likelihood
    for k in range(K):
        counts.initial[k] += math.exp(messages.into[k, first] + messages.begun[k, first] - log_likelihood)
    ending = np.empty(K)
    for t in range(first, end):
        for k in range(K):  # p(rows up to t, a segment of class k ends at t)
            top, of_rows, count = -np.inf, 0.0, min(D, t - first + 1)
            for i in range(count):
                of_rows += evidence[k, t - i]
                work[i] = of_rows + weights.durations[k, i] + messages.into[k, t - i]
                top = max(top, work[i])
            ending[k] = log_sum(work, count, top)
            _count_durations(k, t, end, log_likelihood, evidence, weights, messages, counts)
        if t == end - 1:
            break
        for j in range(K):
            top = -np.inf
            for k in range(K):
                work[k] = ending[k] + weights.transitions[k, j]
                top = max(top, work[k])
                counts.transitions[k, j] += math.exp(work[k] + messages.begun[j, t + 1] - log_likelihood)
            messages.into[j, t + 1] = log_sum(work, K, top)
    return log_likelihood


@kernel
def _count_durations(
    k: int,
    t: int,
    end: int,
    log_likelihood: float,
    evidence: FloatArray,
    weights: SegmentWeights,
    messages: SegmentMessages,
    counts: SegmentCounts,
) -> None:
    """Add the posterior probabilities of the segments that begin at row t in class k to the counts of durations."""
    before = messages.into[k, t] - log_likelihood
    if not before + messages.begun[k, t] > -NEGLIGIBLE:  # all durations together
        return
    for i in range(min(weights.durations.shape[1], end - t)):
        before += evidence[k, t + i]
        if t + i == end - 1:
            counts.censored[k, i] += math.exp(before + weights.survival[k, i])
        else:
            log_prob = before + weights.durations[k, i] + messages.ended[k, t + i]
            if log_prob > -NEGLIGIBLE:
                counts.durations[k, i] += math.exp(log_prob)


@kernel
def _row_pass(
    evidence: FloatArray,
    weights: SegmentWeights,
    first: int,
    end: int,
    ended: FloatArray,
    filtered: FloatArray,
    cavity: FloatArray,
) -> None:
    """Fill in the rows of one sequence (:func:`row_passes`)."""
    K, D = weights.durations.shape
    opened, terms, work = np.full((K, D + 1), -np.inf), np.empty(D), np.empty(K)
    into = weights.initial.copy()
    for t in range(first, end):
        for k in range(K):
            row, of_row, after = opened[k], evidence[k, t], 0.0
            top_open, top_cavity = -np.inf, -np.inf
            for r in range(D):
                term = log_add(row[r + 1], into[k] + weights.durations[k, r])
                if r > 0 and t + r < end:
                    after += evidence[k, t + r]
                terms[r] = term + after + (ended[k, t + r] if t + r < end else 0.0)
                top_cavity = max(top_cavity, terms[r])
                row[r] = term + of_row
                top_open = max(top_open, row[r])
            filtered[k, t] = log_sum(row, D, top_open)
            cavity[k, t] = log_sum(terms, D, top_cavity)
        for j in range(K):
            top = -np.inf
            for k in range(K):
                work[k] = opened[k, 0] + weights.transitions[k, j]
                top = max(top, work[k])
            into[j] = log_sum(work, K, top)


@kernel
def _best_segments(
    evidence: FloatArray, weights: SegmentWeights, first: int, end: int, path: IntArray, best: FloatArray
) -> float:
    """Fill in the classes of the most probable segments of a sequence; return their log joint density with the rows.

    Of equally probable ones, the last segment has the lowest class, then the fewest rows, and so on backwards. `best`
    (K, N) is overwritten: the score of the best segments before row t, where one of class k begins there.
    """
    K, D = weights.durations.shape
    origin, length = np.zeros((K, end - first), np.int64), np.zeros((K, end - first), np.int64)
    best[:, first] = weights.initial
    scores = np.empty(K)
    for t in range(first, end):
        for k in range(K):
            scores[k], of_rows = -np.inf, 0.0
            for i in range(min(D, t - first + 1)):
                of_rows += evidence[k, t - i]
                weight = weights.survival[k, i] if t == end - 1 else weights.durations[k, i]
                value = of_rows + weight + best[k, t - i]
                if value > scores[k]:
                    scores[k], length[k, t - first] = value, i + 1
        if t == end - 1:
            break
        for j in range(K):
            best[j, t + 1] = -np.inf
            for k in range(K):
                value = scores[k] + weights.transitions[k, j]
                if value > best[j, t + 1]:
                    best[j, t + 1], origin[j, t + 1 - first] = value, k
    k = int(np.argmax(scores))
    top, t = scores[k], end - 1
    while top > -np.inf and t >= first:
        begin = t - length[k, t - first] + 1
        path[begin : t + 1] = k
        k, t = origin[k, begin - first], begin - 1
    return float(top)
