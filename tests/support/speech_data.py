"""Made-up histograms of speech: 205 frames a row that are far from independent, as frames of recorded words are."""

import numpy as np

FRAMES, CODEWORDS, PHONES, SPEAKERS = 205, 75, 18, 6
PHONES_PER_WORD = 4
RUN = 5.0
"""Mean number of neighbouring frames with the same codeword."""

SILENCE = 0.15
"""Mean share of a row's frames in which nobody speaks."""


def speech_histograms(labels, seed, run=RUN):
    """Return counts (N, 75) of the codewords of 205 frames a row.

    A word is a sequence of phones, some of which it shares with other words. A phone's codewords depend on who speaks;
    each phone of a row lasts for a random time, and its frames repeat one codeword for a while.

    Parameters
    ----------
    labels : ndarray of int, shape (N,)
        The word of each row, from 0.
    seed : int
        Of the words and the rows.
    run : float
        Mean number of neighbouring frames with the same codeword; with 1, they are independent given the phone.
    """
    generator = np.random.default_rng([seed, 205])
    N, W = len(labels), int(labels.max()) + 1
    words = np.array([generator.permutation(PHONES)[:PHONES_PER_WORD] for _ in range(W)])
    common = generator.dirichlet(np.full(CODEWORDS, 0.08), PHONES + 1)
    of_speaker = generator.dirichlet(np.full(CODEWORDS, 0.08), (SPEAKERS, PHONES + 1))
    codewords = np.cumsum(0.85 * common + 0.15 * of_speaker, axis=-1)
    speakers = generator.integers(0, SPEAKERS, N)
    shares = generator.dirichlet(np.full(PHONES_PER_WORD, 3.0), N)
    silence = generator.beta(3 * SILENCE, 3 * (1 - SILENCE), N)
    ends = np.cumsum(np.column_stack([silence, (1 - silence)[:, None] * shares]), axis=1) * FRAMES
    counts, codes = np.zeros((N, CODEWORDS)), np.zeros(N, dtype=np.int64)
    segments = np.column_stack([np.full(N, PHONES), words[labels]])  # silence, then the word's phones
    before = np.full(N, -1)
    for frame in range(FRAMES):
        place = np.minimum((frame + 0.5 >= ends).sum(axis=1), PHONES_PER_WORD)
        phone = segments[np.arange(N), place]
        new = (place != before) | (generator.random(N) < 1.0 / run)
        table = codewords[speakers, phone]
        drawn = np.minimum((generator.random(N)[:, None] > table).sum(axis=1), CODEWORDS - 1)
        codes, before = np.where(new, drawn, codes), place
        np.add.at(counts, (np.arange(N), codes), 1.0)
    return counts
