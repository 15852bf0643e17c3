"""What the MLDA counts: its modalities' messages as tokens, and the topics that these keep between updates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from actors.errors import ModuleError
from actors.kernels.mlda.gibbs import make_corpus
from actors.kernels.mlda.row_updates import Corpus, Counts
from actors.messaging.message import Message
from actors.messaging.validation import check_range
from actors.module import Context, Inbox
from actors.types import Array, BoolArray, FloatArray, Int32Array, IntArray

POSTERIOR_TOKENS = 100
"""Int32Array a row of class posteriors without a weight."""

MOST_TOKENS = 200_000_000
"""Of one modality: a gigabyte or two, and hours of sweeps."""


@dataclass(frozen=True)
class Modality:
    """One sender's message as tokens.

    Attributes
    ----------
    name : str
        The sender's; of class posteriors ``NAME_posteriors`` where it sends histograms too.
    message : Message
    size : int
        V, how many words there are.
    many : ndarray of int64, shape (N,)
        Int32Array of each row.
    words : ndarray of int32, shape (T,)
        Row after row, ascending within each.
    totals : ndarray of float64, shape (N,)
        What the row's histogram sums to; zeros where the row is missing.
    """

    name: str
    message: Message
    size: int
    many: IntArray
    words: Int32Array
    totals: FloatArray


@dataclass(frozen=True)
class Learnt:
    """What is kept of one modality.

    Attributes
    ----------
    tokens : ndarray of int64, shape (N,)
        Int32Array of each row.
    words, topics : ndarray of int32, shape (T,)
        Of each token, as in :class:`Modality`.
    counts : ndarray of int64, shape (V, K)
        Int32Array by word and topic.
    total : float
        The mean of the rows' sums, of those that have one.
    sender, kind : str
        Whose messages they were, and of which kind.
    """

    tokens: IntArray
    words: Int32Array
    topics: Int32Array
    counts: IntArray
    total: float
    sender: str
    kind: str


def received(inbox: Inbox, weights: Mapping[str, int], context: Context, known: Iterable[str] = ()) -> list[Modality]:
    """Return the messages of all modalities as tokens, by name.

    Parameters
    ----------
    inbox : Inbox
    weights : mapping of str to int
        Sender → tokens a row.
    context : Context
        Who asks, and when.
    known : iterable of str
        Further names that weights may have: modalities that say nothing this time.

    Raises
    ------
    ModuleError
        If nothing came, a histogram is negative, numbers of rows differ, or a weight belongs to nobody.
    NonFiniteError
        If a histogram's sums are no numbers any more.
    """
    module = context.module
    histograms, posteriors = inbox.all("observations"), inbox.all("class_posteriors")
    # Whoever sends both is two modalities.
    renamed = {f"{name}_posteriors" if name in histograms else name: sent for name, sent in posteriors.items()}
    messages = {**histograms, **renamed}
    if len(messages) < len(histograms) + len(posteriors):
        raise ModuleError(f"module {module!r}: two modalities would be called {min(set(histograms) & set(renamed))!r}")
    if not messages:
        raise ModuleError(f"module {module!r}: no histograms and no class posteriors came: connect what sends some")
    odd = sorted(set(weights) - set(messages) - set(known))
    if odd:
        raise ModuleError(f"module {module!r}: weights name {odd[0]!r}, which sends nothing; {_and(messages)} do")
    found = [_modality(name, messages[name], weights.get(name), context) for name in sorted(messages)]
    for modality in found[1:]:
        if len(modality.many) != len(found[0].many):
            raise ModuleError(
                f"module {module!r}: {len(found[0].many)} rows came from {found[0].name}, "
                f"{len(modality.many)} from {modality.name}; each row needs one of each (mask what is missing)"
            )
    return found


def _modality(name: str, message: Message, weight: int | None, context: Context) -> Modality:
    """Return the tokens of one message."""
    where = f"module {context.module!r}: {message.header.route}"
    if message.header.kind == "class_posteriors":
        values = np.exp(np.asarray(message["log_prob"], dtype=np.float64))
        weight = POSTERIOR_TOKENS if weight is None else weight
    else:
        given = message["values"]
        values = np.asarray(given, dtype=np.float64).reshape(len(given), -1)
    if message.mask is not None:
        values = np.where(message.mask[:, None], 0.0, values)
    check_range(context.where, f"histograms of {name}", values)
    if values.min() < 0:
        row = int(np.flatnonzero((values < 0).any(axis=1))[0])
        raise ModuleError(f"{where}: row {row} is negative, but histograms are counts: 0 or above")
    advice = f"give {name} a weight, the number of tokens a row"
    totals, rounded = values.sum(axis=1), np.rint(values)
    most = float(weight) * len(values) if weight is not None else float(rounded.sum())
    if not most <= MOST_TOKENS:
        raise ModuleError(f"{where}: {most:.3g} tokens are too many; {advice.replace('a weight', 'a smaller weight')}")
    counts = rounded.astype(np.int64) if weight is None else largest_remainder(values, weight)
    if weight is None and totals.any() and not counts.any():
        raise ModuleError(f"{where}: the counts are all rounded to 0; {advice}")
    words = np.broadcast_to(np.arange(values.shape[1], dtype=np.int32), counts.shape)
    return Modality(
        name, message, values.shape[1], counts.sum(axis=1), np.repeat(words.ravel(), counts.ravel()), totals
    )


def largest_remainder(values: FloatArray, total: int) -> IntArray:
    """Return `values` (N, V), each row scaled to `total`, as whole numbers that sum to it; rows of zeros stay.

    Each is rounded down; what is missing goes to the largest remainders, among equal ones to the first (Hamilton).
    """
    largest = values.max(axis=1, keepdims=True)
    # Sums of huge or tiny values are no numbers; relative to the largest they are.
    relative = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    sums = relative.sum(axis=1, keepdims=True)
    scaled = np.divide(relative, sums, out=np.zeros_like(values), where=sums > 0) * total
    counts: IntArray = np.floor(scaled).astype(np.int64)
    lacking = np.where(sums[:, 0] > 0, total - counts.sum(axis=1), 0)
    first = np.argsort(counts - scaled, axis=1, kind="stable")
    ranks = np.empty_like(first)
    np.put_along_axis(ranks, first, np.arange(values.shape[1])[None, :], axis=1)
    counts += ranks < lacking[:, None]
    return counts


@dataclass(frozen=True)
class Layout:
    """Which modalities there are, by name, and how many words each has; words are numbered through."""

    sizes: Mapping[str, int]

    @property
    def owner(self) -> list[int]:
        """The modality of each word."""
        return [m for m, size in enumerate(self.sizes.values()) for _ in range(size)]

    def index(self, name: str) -> int:
        """Return the number of a modality."""
        return list(self.sizes).index(name)

    def span(self, name: str) -> slice:
        """Return which words are a modality's."""
        sizes, at = list(self.sizes.values()), self.index(name)
        return slice(sum(sizes[:at]), sum(sizes[: at + 1]))


def joined(modalities: Sequence[Modality], layout: Layout) -> tuple[Corpus, IntArray]:
    """Return the tokens of all modalities row by row, and where each is among them taken modality by modality."""
    rows = [np.repeat(np.arange(len(modality.many)), modality.many) for modality in modalities]
    words = [modality.words.astype(np.int64) + layout.span(modality.name).start for modality in modalities]
    return make_corpus(np.concatenate(rows), np.concatenate(words), layout.owner, len(modalities[0].many))


def carried(modalities: Sequence[Modality], learnt: Mapping[str, Learnt], order: IntArray) -> Int32Array:
    """Return the topics (T,) that the joined tokens keep, -1 for new ones."""
    kept = [_kept(modality, learnt.get(modality.name)) for modality in modalities]
    return np.concatenate(kept)[order]


def _kept(now: Modality, before: Learnt | None) -> Int32Array:
    """Return the topics of a modality's tokens: the j-th token of a word keeps that of the row's j-th such token."""
    topics = np.full(len(now.words), -1, dtype=np.int32)
    if before is None:
        return topics
    cells, old = (
        _cells(many, words, now.size) for many, words in ((now.many, now.words), (before.tokens, before.words))
    )
    place = np.arange(len(cells)) - np.searchsorted(cells, cells)  # among the tokens of its cell
    at = np.searchsorted(old, cells) + place
    there = at < np.searchsorted(old, cells, side="right")
    topics[there] = before.topics[at[there]]
    return topics


def _cells(many: IntArray, words: Int32Array, size: int) -> IntArray:
    """Return row and word of each token as one number, ascending."""
    cells: IntArray = np.repeat(np.arange(len(many)), many) * size + words
    return cells


def parted(
    modalities: Sequence[Modality], layout: Layout, order: IntArray, topics: Int32Array, counts: Counts
) -> dict[str, Learnt]:
    """Return what is to be kept of each modality."""
    apart, found, done = np.empty_like(topics), {}, 0
    apart[order] = topics
    for modality in modalities:
        own = apart[done : done + len(modality.words)]
        done += len(modality.words)
        seen = modality.totals[modality.totals > 0]
        total = float(seen.mean()) if len(seen) else 0.0
        by_word = counts.words[layout.span(modality.name)].astype(np.int64)
        sent = modality.message.header
        found[modality.name] = Learnt(modality.many, modality.words, own, by_word, total, sent.sender, sent.kind)
    return found


def nobody(modalities: Sequence[Modality]) -> BoolArray:
    """Return which rows have no token at all, (N,)."""
    missing: BoolArray = np.sum([modality.many for modality in modalities], axis=0) == 0
    return missing


def rows_with(modalities: Sequence[Modality], missing: BoolArray) -> dict[str, Array]:
    """Return the lengths and the mask that go with what is made of all modalities."""
    messages = [modality.message for modality in modalities]
    arrays: dict[str, Array] = {}
    lengths = next((message.lengths for message in messages if message.lengths is not None), None)
    if lengths is not None:
        arrays["lengths"] = lengths
    if missing.any() or any(message.mask is not None for message in messages):
        arrays["mask"] = missing
    return arrays


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)
