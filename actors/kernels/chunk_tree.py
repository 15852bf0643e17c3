"""A fixed binary tree over chunks of rows, along which values of chunks are combined.

Node (l, i) covers the chunks from i·2^l to (i + 1)·2^l - 1, as far as there are that many. A node's value is the
combination of those of its two children, or that of the only child there is. The tree depends on the number of chunks
alone: floating-point sums have the same bits, whichever processes computed which parts of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import TypeAlias, TypeVar

Node: TypeAlias = tuple[int, int]
"""Level, from 0 for a single chunk, and index within the level."""

T = TypeVar("T")
E = TypeVar("E")


def root_of(chunks: int) -> Node:
    """Return the node that covers all of `chunks` ≥ 1 chunks."""
    return (chunks - 1).bit_length(), 0


def children_of(node: Node, chunks: int) -> tuple[Node, ...]:
    """Return the one or two children of a node above level 0."""
    level, index = node[0] - 1, 2 * node[1]
    both = (level, index), (level, index + 1)
    return both if (index + 1) << level < chunks else both[:1]


def covering_nodes(first: int, last: int, chunks: int) -> list[Node]:
    """Return the largest nodes that lie inside the chunks from `first` to `last` - 1, in the order of these.

    They are at most 2 log₂ of the number of chunks.
    """

    def inside(node: Node) -> list[Node]:
        start, end = node[1] << node[0], min((node[1] + 1) << node[0], chunks)
        if first <= start and end <= last:
            return [node]
        if end <= first or last <= start:
            return []
        return [each for child in children_of(node, chunks) for each in inside(child)]

    return inside(root_of(chunks)) if first < last else []


def combine_below(
    node: Node,
    chunks: int,
    value_of: Callable[[Node], T | None],
    combine: Callable[[T, T], T],
    keep: MutableMapping[Node, T] | None = None,
) -> T:
    """Return the value of a node.

    Parameters
    ----------
    node : Node
    chunks : int
        Number of all chunks.
    value_of : callable
        Returns the value of a node; None if it has to be combined from those of the node's children. It is called from
        the first chunk to the last, and at most one value of each level is held at a time.
    combine : callable
        Combines the values of two neighbouring nodes, left and right.
    keep : mutable mapping, optional
        Receives the values of the node and of all nodes below it that were visited.
    """
    value = value_of(node)
    if value is None:
        left, *rest = (combine_below(child, chunks, value_of, combine, keep) for child in children_of(node, chunks))
        value = combine(left, rest[0]) if rest else left
    if keep is not None:
        keep[node] = value
    return value


def descend_from(
    node: Node,
    chunks: int,
    entering: E,
    values: Mapping[Node, T],
    descend: Callable[[E, T, T], tuple[E, E]],
    visit: Callable[[Node, E], bool],
) -> None:
    """Pass what enters a node on to the nodes below it.

    Parameters
    ----------
    node : Node
    chunks : int
        Number of all chunks.
    entering : E
        What enters the node from outside of it.
    values : mapping of Node to T
        The values of the nodes below, as :func:`combine_below` kept them.
    descend : callable
        Returns what enters the left and the right child, from what enters their parent and the values of both.
    visit : callable
        Called with a node and what enters it, from the first chunk to the last; False if the nodes below are not to be
        visited.
    """
    if not visit(node, entering) or node[0] == 0:
        return
    below = children_of(node, chunks)
    if len(below) == 1:
        descend_from(below[0], chunks, entering, values, descend, visit)
        return
    into_left, into_right = descend(entering, values[below[0]], values[below[1]])
    descend_from(below[0], chunks, into_left, values, descend, visit)
    descend_from(below[1], chunks, into_right, values, descend, visit)
