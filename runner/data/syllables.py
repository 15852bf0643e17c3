"""Made rows of two levels: words, each of which is an order of syllables of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actors.types import Array, IntArray

ORDERS = ((0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (0, 2, 4, 1, 3, 5))
SYLLABLES, WORDS = 6, len(ORDERS)

SHORTEST, MEAN_LENGTH = 4, 15
"""Rows of a word: the first one and a Poisson number."""

RANDOM_STEPS = 0.1

SEQUENCES, ROWS_PER_SEQUENCE, APART, SEED = 4, 500, 2.5, 3
"""Of the built-in data set ``syllables``, whose rows are the same in every run."""


class Spoken(NamedTuple):
    """Rows (N, 2), and the syllable (N,) and the word (N,) of each."""

    rows: Array
    syllables: IntArray
    words: IntArray


def speak(rows: int, apart: float, seed: int | list[int]) -> Spoken:
    """Return words after each other, whose rows are points around the corners of a hexagon, one for each syllable.

    Of the steps within a word one in ten is to a random syllable; a word is followed by one of the two others.

    Parameters
    ----------
    rows : int
        N.
    apart : float
        Distance of neighbouring corners, in standard deviations of the points around them.
    seed : int or list of int
    """
    rng = np.random.default_rng(seed)
    follows = np.full((WORDS, SYLLABLES, SYLLABLES), RANDOM_STEPS / SYLLABLES)
    for word, order in enumerate(ORDERS):
        follows[word, order, np.roll(order, -1)] += 1.0 - RANDOM_STEPS
    words: list[int] = []
    while len(words) < rows:
        others = [word for word in range(WORDS) if not words or word != words[-1]]
        words += [int(rng.choice(others))] * (SHORTEST + int(rng.poisson(MEAN_LENGTH - SHORTEST)))
    syllables = [int(rng.integers(SYLLABLES))]
    for word in words[1:rows]:
        syllables.append(int(rng.choice(SYLLABLES, p=follows[word, syllables[-1]])))
    angle = 2.0 * np.pi * np.array(syllables) / SYLLABLES
    X = apart * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(size=(rows, 2))
    return Spoken(X, np.array(syllables, dtype=np.int64), np.array(words[:rows], dtype=np.int64))


def builtin_sequences() -> list[Spoken]:
    """Return the sequences of the built-in data set ``syllables``."""
    return [speak(ROWS_PER_SEQUENCE, APART, [SEED, number]) for number in range(SEQUENCES)]


def make_syllables() -> tuple[Array, IntArray, IntArray]:
    """Return the rows (2,000, 2) of the built-in data set, the syllable of each, and the lengths of the sequences."""
    spoken = builtin_sequences()
    lengths = np.array([len(each.rows) for each in spoken], dtype=np.int64)
    return np.concatenate([each.rows for each in spoken]), np.concatenate([each.syllables for each in spoken]), lengths
