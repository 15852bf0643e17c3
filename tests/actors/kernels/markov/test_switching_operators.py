"""Chains with regimes over rows in chunks, against the recursions over whole sequences and products of matrices."""

from functools import reduce

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.kernels.markov.operators import combine, descend, no_message
from actors.kernels.markov.switching import switching_forward_backward
from actors.kernels.markov.switching_operators import summarise_switching, switching_chunk

N, K, R = 90, 4, 3


@pytest.fixture(params=[None, [30, 1, 39, 20], [10, 80]])
def problem(request):
    rng = np.random.default_rng(0)
    lengths = None if request.param is None else np.array(request.param)
    matrices, initial = rng.dirichlet(0.3 * np.ones(K), (R, K)), rng.dirichlet(np.ones(K))
    return 3.0 * rng.normal(size=(N, K)), matrices, rng.dirichlet(np.ones(R), N), initial, lengths


def chunks_of(problem, cuts):
    """Return what functions of chunks are given, for each: rows, boundaries, and whether they cross its ends."""
    evidence, _, prior, _, lengths = problem
    starts = {0, N} if lengths is None else {0, *np.cumsum(lengths).tolist()}
    given = []
    for first, end in zip([0, *cuts], [*cuts, N], strict=True):
        pieces = np.array(sorted({first, end} | {s for s in starts if first < s < end})) - first
        given.append((evidence[first:end], pieces, prior[first:end], first not in starts, end not in starts))
    return given


def results(problem, cuts):
    """Return the results of each chunk, with messages that were composed pair by pair."""
    _, matrices, _, initial, _ = problem
    given = chunks_of(problem, cuts)
    maps = [
        summarise_switching(evidence, pieces, matrices, prior, initial, continued)
        for evidence, pieces, prior, continued, _ in given
    ]
    fits = []
    for n, (evidence, pieces, prior, continued, continues) in enumerate(given):
        entering, leaving = no_message(K), no_message(K)
        if n > 0:
            entering = descend(entering, leaving, reduce(combine, maps[:n]), maps[n])[2]
        if n < len(maps) - 1:
            leaving = descend(no_message(K), leaving, maps[n], reduce(combine, maps[n + 1 :]))[1]
        ends = entering if continued else None, leaving if continues else None
        fits.append(switching_chunk(evidence, pieces, matrices, prior, initial, *ends))
    return fits


@pytest.mark.parametrize("cuts", [[45], [1, 2, 30], [16, 32, 48, 64, 80]])
def test_chunks_have_the_results_of_whole_sequences(problem, cuts):
    evidence, matrices, prior, initial, lengths = problem
    whole, fits = switching_forward_backward(evidence, matrices, prior, initial, lengths), results(problem, cuts)
    for name in ("filtered", "posterior", "log_cavity", "log_regimes", "row_log_likelihood"):
        assert_allclose(np.concatenate([getattr(fit, name) for fit in fits]), getattr(whole, name), atol=1e-11)
    for name in ("transitions", "initial"):
        assert_allclose(sum(getattr(fit, name) for fit in fits), getattr(whole, name), atol=1e-11)


def test_chunks_of_whole_sequences_have_the_bits_of_all_rows(problem):
    evidence, matrices, prior, initial, lengths = problem
    whole = switching_forward_backward(evidence, matrices, prior, initial, lengths)
    fits = results(problem, [] if lengths is None else [int(lengths[0])])
    for name in ("filtered", "posterior", "log_cavity", "log_regimes", "row_log_likelihood"):
        assert_array_equal(np.concatenate([getattr(fit, name) for fit in fits]), getattr(whole, name))


@pytest.mark.parametrize("rows", [1, 15, 17, 90])
def test_the_map_of_a_chunk_is_the_product_of_its_matrices(problem, rows):
    evidence, matrices, prior, initial, _ = problem
    product, scale = np.eye(K), 0.0
    for t in range(rows):
        mixed = np.tensordot(prior[t], matrices, axes=1)
        product = product @ mixed * np.exp(evidence[t])
        scale, product = scale + np.log(product.sum()), product / product.sum()
    found = summarise_switching(evidence[:rows], np.array([0, rows]), matrices, prior[:rows], initial, True)
    assert_allclose(np.exp(found["log_operator"]), product / product.sum(axis=1, keepdims=True), atol=1e-12)
    weights = product.sum(axis=1)
    assert_allclose(found["log_weight"], np.log(weights / weights.max()), atol=1e-11)


def test_a_class_after_which_the_rows_are_impossible_has_no_weight():
    stay, half = np.eye(2)[None], np.full((3, 1), 1.0)
    with np.errstate(divide="ignore"):
        evidence = np.log(np.array([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]))
    found = summarise_switching(evidence, np.array([0, 3]), stay, half, np.array([0.5, 0.5]), True)
    assert_array_equal(found["log_weight"], [0.0, -np.inf])
    opened = summarise_switching(evidence, np.array([0, 2, 3]), stay, half, np.array([0.5, 0.5]), True)
    assert_array_equal(opened["log_weight"], [0.0, -np.inf])
    nothing = np.full(2, -np.inf)  # the rows of another chunk are impossible: its own error says so
    fit = switching_chunk(evidence, np.array([0, 3]), stay, half, np.array([0.5, 0.5]), nothing, nothing)
    assert_allclose(fit.posterior[:, 0], 1.0)
