"""The fixed tree over chunks: sums whose bits do not depend on where the chunks are, and scans along it."""

import itertools

import numpy as np
import pytest

from actors.kernels.chunk_tree import children_of, combine_below, covering_nodes, descend_from, root_of


def chunks_of(node, chunks):
    return range(node[1] << node[0], min((node[1] + 1) << node[0], chunks))


def total_of(values, cuts):
    """Add `values` along the tree as workers with the chunks between the cuts would."""
    chunks, parts = len(values), {}
    for first, last in itertools.pairwise(cuts):
        for node in covering_nodes(first, last, chunks):
            parts[node] = combine_below(node, chunks, lambda n: values[n[1]] if n[0] == 0 else None, np.add)
    return combine_below(root_of(chunks), chunks, parts.get, np.add)


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 8, 13, 100])
def test_the_covering_nodes_of_any_stretch_are_disjoint_largest_and_complete(chunks):
    for first in range(chunks):
        for last in range(first + 1, chunks + 1):
            nodes = covering_nodes(first, last, chunks)
            assert [c for node in nodes for c in chunks_of(node, chunks)] == list(range(first, last))
            assert len(nodes) <= max(1, 2 * int(np.log2(chunks) + 1))
            for level, index in nodes:  # the parent is not inside
                parent = chunks_of((level + 1, index // 2), chunks)
                assert (level, index) == root_of(chunks) or parent.start < first or parent.stop > last


def test_no_stretch_has_no_node():
    assert covering_nodes(3, 3, 8) == []


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 8, 13, 100])
def test_sums_have_the_same_bits_wherever_the_chunks_are_cut(chunks):
    generator = np.random.default_rng(chunks)
    values = generator.normal(size=chunks) * 10.0 ** generator.integers(-8, 8, chunks)
    whole = total_of(values, [0, chunks])
    assert whole == pytest.approx(values.sum(), rel=1e-12, abs=1e-12 * np.abs(values).max())
    for _ in range(50):
        cuts = np.sort(generator.integers(0, chunks + 1, generator.integers(0, 8)))
        assert total_of(values, [0, *cuts, chunks]) == whole


def test_the_tree_adds_pairs_of_neighbours():
    values = np.array([1.0, 2.0**-53, 2.0**-53, 2.0**-53, 2.0**-53])
    assert values.cumsum()[-1] == 1.0  # one after the other, each is lost
    assert total_of(values, [0, 5]) == ((1.0 + 2.0**-53) + 2.0**-52) + 2.0**-53


@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 8, 13])
def test_what_enters_each_chunk_is_the_product_of_all_before_it(chunks):
    matrices = np.random.default_rng(1).normal(size=(chunks, 3, 3))
    kept, entered = {}, {}

    def visit(node, entering):
        entered[node] = entering
        return True

    combine_below(root_of(chunks), chunks, lambda n: matrices[n[1]] if n[0] == 0 else None, np.matmul, kept)
    descend_from(root_of(chunks), chunks, np.eye(3), kept, lambda e, left, _right: (e, e @ left), visit)
    expected = np.eye(3)
    for c in range(chunks):
        np.testing.assert_allclose(entered[0, c], expected, atol=1e-12)
        expected = expected @ matrices[c]


def test_a_visit_that_returns_false_ends_the_descent_there():
    visited = []

    def visit(node, _entering):
        visited.append(node)
        return node[0] > 2

    descend_from((3, 0), 8, 0, {}, lambda e, _l, _r: (e, e), lambda *_: False)
    values = dict.fromkeys([(2, 0), (2, 1)], 1)
    descend_from((3, 0), 8, 0, values, lambda e, left, _r: (e, e + left), visit)
    assert visited == [(3, 0), (2, 0), (2, 1)]


def test_a_node_at_the_end_may_have_one_child():
    assert children_of((2, 1), 5) == ((1, 2),)
    assert children_of((1, 2), 5) == ((0, 4),)
    assert children_of((3, 0), 5) == ((2, 0), (2, 1))
