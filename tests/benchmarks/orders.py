"""MNIST digits in other orders than that of the reference task, for the controls of the accuracy benchmark."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runner.data.datasets import load

ROWS = 3000


def noisy(seed: int) -> np.ndarray:
    """Return the classes of a cycle in which one transition in ten is random."""
    generator = np.random.default_rng(seed)
    classes = np.zeros(ROWS, np.int64)
    for t in range(1, ROWS):
        classes[t] = generator.integers(10) if generator.random() < 0.1 else (classes[t - 1] + 1) % 10
    return classes


def uneven(seed: int) -> np.ndarray:
    """Return the classes of a random Markov chain with class frequencies of 0.03 to 0.2.

    Each class has three probable successors; all others have a small probability.
    """
    generator = np.random.default_rng(seed)
    while True:
        T = np.full((10, 10), 0.003)
        for k in range(10):
            T[k, generator.choice(10, 3, replace=False)] += generator.dirichlet(np.ones(3))
        T /= T.sum(1, keepdims=True)
        classes = np.zeros(ROWS, np.int64)
        for t in range(1, ROWS):
            classes[t] = generator.choice(10, p=T[classes[t - 1]])
        shares = np.bincount(classes, minlength=10) / ROWS
        if shares.min() >= 0.03 and shares.max() <= 0.2:
            return classes


def nine(_seed: int) -> np.ndarray:
    """Return the classes of a cycle of the digits 0 to 8, which the model learns with ten classes."""
    return np.arange(ROWS) % 9


ORDERS: dict[str, Callable[[int], np.ndarray]] = {
    "10 % random transitions": noisy, "uneven chain": uneven, "nine digits": nine,
}  # fmt: skip


def rows_for(classes: np.ndarray, seed: int) -> np.ndarray:
    """Return MNIST digits of these classes; the 500 digits of a class are repeated if there are more rows."""
    digits = load("mnist", count=5000, order="given")
    generator = np.random.default_rng(seed)
    pools = {k: np.flatnonzero(digits.categories == k) for k in range(10)}
    chosen = np.empty(len(classes), np.int64)
    for k, pool in pools.items():
        where = np.flatnonzero(classes == k)
        repeats = -(-len(where) // len(pool)) if len(where) else 0
        shuffled = [generator.permutation(pool) for _ in range(repeats)]
        chosen[where] = np.concatenate([*shuffled, np.empty(0, np.int64)])[: len(where)]
    return digits.observations[chosen]
