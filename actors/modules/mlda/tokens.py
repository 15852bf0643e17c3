"""Tokens of the MLDA: the messages of its modalities as word counts, and the topics kept between updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from actors.errors import ModuleError
from actors.kernels.mlda.gibbs import make_corpus
from actors.kernels.mlda.row_updates import Corpus, Counts
from actors.kernels.mlda.unobserved import Unobserved, make_unobserved
from actors.messaging.message import Message
from actors.messaging.validation import check_range
from actors.module import Context, Inbox
from actors.types import Array, BoolArray, FloatArray, Int32Array, IntArray

POSTERIOR_TOKENS = 100
"""Number of tokens per row of class posteriors without a weight."""

MAX_ROUNDED = 0.01
"""Share of a row's sum that rounding to counts may change: the standard deviation of a share among 10,000 tokens."""

MAX_TOKENS = 200_000_000
"""Limit on the tokens of one modality: they take a gigabyte or two of memory, and their sweeps hours."""


@dataclass(frozen=True)
class ReceivedModality:
    """The message of one sender: N rows of histograms.

    Attributes
    ----------
    name : str
        The sender's name; ``NAME_posteriors`` for the class posteriors of a sender that sends histograms too.
    message : Message
    size : int
        V, the number of words.
    totals : ndarray of float64, shape (N,)
        Sum of the row's histogram; zero where the row is missing.
    """

    name: str
    message: Message
    size: int
    totals: FloatArray

    @property
    def kind(self) -> str:
        """Kind of the message."""
        return self.message.header.kind

    @property
    def sender(self) -> str:
        """Sender of the message."""
        return self.message.header.sender


@dataclass(frozen=True)
class Modality(ReceivedModality):
    """The message of one sender as tokens: N rows, T tokens in all.

    Attributes
    ----------
    tokens : ndarray of int64, shape (N,)
        Number of tokens in each row.
    words : ndarray of int32, shape (T,)
        The word of each token, row after row, ascending within a row.
    absent : ndarray of bool, shape (N, V), or None
        True where a count is missing; None where rows are whole or missing as a whole.
    """

    tokens: IntArray
    words: Int32Array
    absent: BoolArray | None = None


@dataclass(frozen=True)
class CountedModality(ReceivedModality):
    """The message of one sender as counts, which need not be whole.

    Attributes
    ----------
    counts : ndarray of float64, shape (N, V)
        Zeros where the row is missing, or the count.
    absent : ndarray of bool, shape (N, V), or None
        True where a count is missing; None where rows are whole or missing as a whole.
    """

    counts: FloatArray
    absent: BoolArray | None = None


M = TypeVar("M", Modality, CountedModality)


@dataclass(frozen=True)
class ModalityState:
    """The part of the MLDA's state that belongs to one modality.

    Attributes
    ----------
    tokens : ndarray of int64, shape (N,)
        Number of tokens in each row; empty if only counts were learnt (engine ``vb``).
    words, topics : ndarray of int32, shape (T,)
        Word and topic of each token, in the order of :class:`Modality`; empty if only counts were learnt.
    counts : ndarray of int64 or float64, shape (V, K)
        Number of tokens by word and topic, expected ones if only counts were learnt. Where counts are missing, with the
        unobserved tokens.
    total : float
        Mean sum of a row's histogram, over the rows that have one.
    sender, kind : str
        Sender and kind of the modality's messages.
    """

    tokens: IntArray
    words: Int32Array
    topics: Int32Array
    counts: IntArray | FloatArray
    total: float
    sender: str
    kind: str

    @property
    def has_tokens(self) -> bool:
        """Whether topics of tokens were learnt, not only counts."""
        return len(self.tokens) > 0


def read_modalities(
    inbox: Inbox, weights: Mapping[str, int], context: Context, known: Iterable[str] = ()
) -> list[Modality]:
    """Convert the messages of all modalities to tokens, sorted by name.

    Parameters
    ----------
    inbox : Inbox
    weights : mapping of str to int
        Modality → tokens per row.
    context : Context
        Of the current call; for error messages.
    known : iterable of str
        Further names that `weights` may contain: modalities without a message this time.

    Raises
    ------
    ModuleError
        If there is no message, a histogram is negative, numbers of rows differ, or a weight names no modality.
    NonFiniteError
        If the values of a histogram are so large that sums overflow.
    """
    return _read(inbox, weights, context, known, _tokenize)


def read_counts(
    inbox: Inbox, weights: Mapping[str, int], context: Context, known: Iterable[str] = ()
) -> list[CountedModality]:
    """Return the messages of all modalities as counts, sorted by name; otherwise as :func:`read_modalities`."""
    return _read(inbox, weights, context, known, _count)


def _read(
    inbox: Inbox,
    weights: Mapping[str, int],
    context: Context,
    known: Iterable[str],
    convert: Callable[[str, Message, int | None, Context], M],
) -> list[M]:
    """Convert the messages of all modalities, sorted by name."""
    module = context.module
    histograms, posteriors = inbox.all("observations"), inbox.all("class_posteriors")
    # A sender of both kinds counts as two modalities.
    renamed = {f"{name}_posteriors" if name in histograms else name: sent for name, sent in posteriors.items()}
    messages = {**histograms, **renamed}
    if len(messages) < len(histograms) + len(posteriors):
        raise ModuleError(
            f"module {module!r}: two modalities have the same name {min(set(histograms) & set(renamed))!r}"
        )
    if not messages:
        raise ModuleError(
            f"module {module!r}: received no histograms and no class posteriors; connect a module that sends them"
        )
    unknown = sorted(set(weights) - set(messages) - set(known))
    if unknown:
        raise ModuleError(
            f"module {module!r}: weights name {unknown[0]!r}, which sends nothing; expected {' or '.join(messages)}"
        )
    modalities = [convert(name, messages[name], weights.get(name), context) for name in sorted(messages)]
    for modality in modalities[1:]:
        if len(modality.totals) != len(modalities[0].totals):
            raise ModuleError(
                f"module {module!r}: received {len(modalities[0].totals)} rows from {modalities[0].name}, but "
                f"{len(modality.totals)} from {modality.name}; all modalities need the same rows (mask missing ones)"
            )
    return modalities


def _tokenize(name: str, message: Message, weight: int | None, context: Context) -> Modality:
    """Return the tokens of one message."""
    where = f"module {context.module!r}: {message.header.route}"
    values = _values(name, message, context)
    if weight is None and message.header.kind == "class_posteriors":
        weight = POSTERIOR_TOKENS
    totals, rounded = values.sum(axis=1), np.rint(values)
    count = float(weight) * len(values) if weight is not None else float(rounded.sum())
    if not count <= MAX_TOKENS:
        raise ModuleError(
            f"{where}: {count:.3g} tokens exceed the limit of {MAX_TOKENS:.3g}; "
            f"give {name} a smaller weight, the number of tokens per row"
        )
    counts = rounded.astype(np.int64) if weight is None else largest_remainder(values, weight)
    if weight is None and totals.any() and not counts.any():
        raise ModuleError(f"{where}: all counts are rounded to 0; give {name} a weight, the number of tokens per row")
    if weight is None and (problem := rounding_problem(values, name)):
        raise ModuleError(f"{where}: {problem}")
    tokens, absent = counts.sum(axis=1), _missing_counts(message)
    return Modality(name, message, values.shape[1], totals, tokens, _words_of(counts), absent)


def _count(name: str, message: Message, weight: int | None, context: Context) -> CountedModality:
    """Return the counts of one message; as with tokens, class posteriors have POSTERIOR_TOKENS without a weight."""
    values = _values(name, message, context)
    totals, size = values.sum(axis=1), values.shape[1]
    if weight is None and message.header.kind == "class_posteriors":
        weight = POSTERIOR_TOKENS
    if weight is not None:
        # Sums of very large or very small values overflow or underflow; relative to the row's largest they do not.
        largest = values.max(axis=1, keepdims=True)
        values = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
        sums = values.sum(axis=1, keepdims=True)
        values = np.divide(values, sums, out=np.zeros_like(values), where=sums > 0) * weight
    return CountedModality(name, message, size, totals, values, _missing_counts(message))


def _missing_counts(message: Message) -> BoolArray | None:
    """Return which counts (N, V) of a message are missing; None if rows are whole or missing as a whole."""
    return message.missing_values if message.header.kind == "observations" else None


def _values(name: str, message: Message, context: Context) -> FloatArray:
    """Return the histograms (N, V) of one message, zero where rows are missing."""
    if message.header.kind == "class_posteriors":
        values = np.exp(np.asarray(message["log_prob"], dtype=np.float64))
    else:
        histograms = message["values"]
        values = np.asarray(histograms, dtype=np.float64).reshape(len(histograms), -1)
    if message.mask is not None:
        values = np.where(message.mask[:, None], 0.0, values)
    if message.missing_values is not None:
        values = np.where(message.missing_values, 0.0, values)
    check_range(context.where, f"histograms of {name}", values)
    if values.min() < 0:
        row = int(np.flatnonzero((values < 0).any(axis=1))[0])
        raise ModuleError(
            f"module {context.module!r}: {message.header.route}: row {row} has a negative value, but the counts of a "
            "histogram must be 0 or above"
        )
    return values


def _words_of(counts: IntArray) -> Int32Array:
    """Return the word of each token of counts (N, V), row after row."""
    words = np.broadcast_to(np.arange(counts.shape[1], dtype=np.int32), counts.shape)
    return np.repeat(words.ravel(), counts.ravel())


def tokenize_counts(modality: CountedModality, most: int) -> Modality:
    """Return whole tokens that represent the counts: as many as their sum, rounded, but from one to `most` in a row."""
    sums = modality.counts.sum(axis=1)
    tokens = np.clip(np.rint(sums), 1, most).astype(np.int64)
    counts = largest_remainder(modality.counts, tokens)
    return Modality(
        modality.name, modality.message, modality.size, modality.totals, counts.sum(axis=1), _words_of(counts)
    )


def proportions_problem(values: FloatArray, name: str) -> str:
    """Return why histograms (N, V) are proportions and no counts, empty if they are counts.

    They are proportions if no row is whole, and none sums to more than one.
    """
    totals = values.sum(axis=1)
    shown = totals > 0
    changed = np.abs(np.rint(values) - values).sum(axis=1)
    if not shown.any() or not ((totals < 1.5) & (changed > MAX_ROUNDED * totals))[shown].all():
        return ""
    return (
        f"histograms of {name} are proportions (no row sums to more than {totals.max():g}), not counts; give {name} a "
        f"weight, the number of tokens per row (weights: {{{name}: 100}})"
    )


def rounding_problem(values: FloatArray, name: str) -> str:
    """Return why rounding histograms (N, V) to counts would change them, empty if it does not.

    A row may change by :data:`MAX_ROUNDED` of its sum, or by half a token, as rounding one count does. A row that is
    not whole and sums to no more than one has no counts at all: it has proportions.
    """
    totals = values.sum(axis=1)
    changed = np.abs(np.rint(values) - values).sum(axis=1)
    proportions = (totals < 1.5) & (changed > MAX_ROUNDED * totals)
    bad = proportions | (changed > np.maximum(MAX_ROUNDED * totals, 0.5))
    if not bad.any():
        return ""
    row = int(bad.argmax())
    kept = int(np.rint(values).sum(axis=1)[row])
    return (
        f"rounding histograms of {name} to counts would change {int(bad.sum()):,} of {len(values):,} rows by more than "
        f"{MAX_ROUNDED:.0%} (row {row + 1}, with the sum {totals[row]:g}, would keep {kept} tokens); give {name} a "
        f"weight, the number of tokens per row (weights: {{{name}: 100}})"
    )


def largest_remainder(values: FloatArray, total: int | IntArray) -> IntArray:
    """Scale each row of `values` (N, V) to whole numbers that sum to `total`, one or (N,); rows of zeros stay zeros.

    Uses the largest remainder method (Hamilton): values are rounded down, and the units still missing go to the
    largest remainders, among equal ones to the first.
    """
    largest = values.max(axis=1, keepdims=True)
    # Sums of very large or very small values overflow or underflow; relative to the row's largest value they do not.
    relative = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    sums = relative.sum(axis=1, keepdims=True)
    scaled = np.divide(relative, sums, out=np.zeros_like(values), where=sums > 0) * np.reshape(total, (-1, 1))
    counts: IntArray = np.floor(scaled).astype(np.int64)
    lacking = np.where(sums[:, 0] > 0, total - counts.sum(axis=1), 0)
    by_remainder = np.argsort(counts - scaled, axis=1, kind="stable")
    ranks = np.empty_like(by_remainder)
    np.put_along_axis(ranks, by_remainder, np.arange(values.shape[1])[None, :], axis=1)
    counts += ranks < lacking[:, None]
    return counts


@dataclass(frozen=True)
class Vocabulary:
    """The number of words of each modality, by name; words are numbered consecutively over all modalities."""

    sizes: Mapping[str, int]

    @property
    def modality_of_word(self) -> list[int]:
        """The index of each word's modality."""
        return [m for m, size in enumerate(self.sizes.values()) for _ in range(size)]

    def index(self, name: str) -> int:
        """Return the index of a modality."""
        return list(self.sizes).index(name)

    def word_slice(self, name: str) -> slice:
        """Return the range of a modality's words."""
        sizes, at = list(self.sizes.values()), self.index(name)
        return slice(sum(sizes[:at]), sum(sizes[: at + 1]))


def join_modalities(modalities: Sequence[Modality], vocabulary: Vocabulary) -> tuple[Corpus, IntArray]:
    """Merge the tokens of all modalities into one corpus, row by row.

    Parameters
    ----------
    modalities : sequence of Modality
        T tokens in all.
    vocabulary : Vocabulary

    Returns
    -------
    corpus : Corpus
    order : ndarray of int64, shape (T,)
        Position of each token of the corpus in the modalities' concatenated tokens.
    """
    rows = [np.repeat(np.arange(len(modality.tokens)), modality.tokens) for modality in modalities]
    words = [modality.words.astype(np.int64) + vocabulary.word_slice(modality.name).start for modality in modalities]
    return make_corpus(
        np.concatenate(rows), np.concatenate(words), vocabulary.modality_of_word, len(modalities[0].tokens)
    )


def find_unobserved(modalities: Sequence[Modality], vocabulary: Vocabulary) -> Unobserved | None:
    """Return the words of the vocabulary that rows lack, without those of rows and modalities without a token."""
    own = {modality.name: modality for modality in modalities}
    absent = [own[name].absent if name in own else None for name in vocabulary.sizes]
    none = np.zeros_like(modalities[0].tokens)
    tokens = [own[name].tokens if name in own else none for name in vocabulary.sizes]
    return make_unobserved(absent, tokens, [vocabulary.word_slice(name).start for name in vocabulary.sizes])


def unobserved_tokens(state: ModalityState) -> FloatArray:
    """Return the numbers of unobserved tokens (V, K) among the counts of a modality that has tokens."""
    V, K = state.counts.shape
    observed = np.bincount(state.words.astype(np.int64) * K + state.topics, minlength=V * K).reshape(V, K)
    return (state.counts - observed).astype(np.float64)


def carry_over_topics(
    modalities: Sequence[Modality], states: Mapping[str, ModalityState], order: IntArray
) -> Int32Array:
    """Return the topics (T,) of the joined tokens from the last update, -1 for new tokens."""
    topics = [_matched_topics(modality, states.get(modality.name)) for modality in modalities]
    return np.concatenate(topics)[order]


def _matched_topics(now: Modality, before: ModalityState | None) -> Int32Array:
    """Return the topics (T,) of a modality's tokens: the j-th token of a word in a row keeps the topic of its j-th."""
    topics = np.full(len(now.words), -1, dtype=np.int32)
    if before is None:
        return topics
    cells, old = (
        _row_word_cells(tokens, words, now.size)
        for tokens, words in ((now.tokens, now.words), (before.tokens, before.words))
    )
    place = np.arange(len(cells)) - np.searchsorted(cells, cells)  # j: among the tokens of its cell
    at = np.searchsorted(old, cells) + place
    exists = at < np.searchsorted(old, cells, side="right")
    topics[exists] = before.topics[at[exists]]
    return topics


def _row_word_cells(tokens: IntArray, words: Int32Array, size: int) -> IntArray:
    """Return each token's cell of the (row, word) table as one flat index (T,), ascending."""
    cells: IntArray = np.repeat(np.arange(len(tokens)), tokens) * size + words
    return cells


def split_by_modality(
    modalities: Sequence[Modality], vocabulary: Vocabulary, order: IntArray, topics: Int32Array, counts: Counts
) -> dict[str, ModalityState]:
    """Return the state of each modality, by name, from the topics (T,) and counts of the joined tokens."""
    by_modality, states, done = np.empty_like(topics), {}, 0
    by_modality[order] = topics
    for modality in modalities:
        own = by_modality[done : done + len(modality.words)]
        done += len(modality.words)
        present = modality.totals[modality.totals > 0]
        total = float(present.mean()) if len(present) else 0.0
        by_word = counts.words[vocabulary.word_slice(modality.name)].astype(np.int64)
        header = modality.message.header
        states[modality.name] = ModalityState(
            modality.tokens, modality.words, own, by_word, total, header.sender, header.kind
        )
    return states


def rows_without_tokens(modalities: Sequence[Modality]) -> BoolArray:
    """Return which rows have no token in any modality, (N,)."""
    missing: BoolArray = np.sum([modality.tokens for modality in modalities], axis=0) == 0
    return missing


def lengths_and_mask(modalities: Sequence[ReceivedModality], missing: BoolArray) -> dict[str, Array]:
    """Return the lengths and the mask, where there are any, of messages computed from all modalities."""
    messages = [modality.message for modality in modalities]
    arrays: dict[str, Array] = {}
    lengths = next((message.lengths for message in messages if message.lengths is not None), None)
    if lengths is not None:
        arrays["lengths"] = lengths
    if missing.any() or any(message.mask is not None for message in messages):
        arrays["mask"] = missing
    return arrays
