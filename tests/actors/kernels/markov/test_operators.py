"""Tests of inference over rows cut into chunks, against that over all rows at once and against enumeration."""

import itertools
from functools import reduce

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.kernels.markov import operators as ops
from actors.kernels.markov.inference import OtherChunkError, forward_backward, viterbi
from actors.kernels.markov.order_test import EM_STEPS, fit_frequencies, frequency_sums, next_frequencies

FIELDS = ("filtered", "posterior", "row_log_likelihood")


def distributions(rng, rows, K, sparse=0.0):
    """Return random distributions; a fraction `sparse` of the entries is zero."""
    values = rng.gamma(1.0, size=(rows, K)) + 1e-3
    values[rng.random((rows, K)) < sparse] = 0.0
    values[np.arange(rows), rng.integers(0, K, rows)] += 0.1
    return values / values.sum(axis=1, keepdims=True)


def cut(lengths, cuts):
    """Return, for chunks that end at `cuts`, the slice of rows, the lengths of the pieces and `continued`."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    chunks = []
    for first, end in itertools.pairwise([0, *cuts, int(starts[-1])]):
        inside = [first, *(int(s) for s in starts if first < s < end), end]
        chunks.append((slice(first, end), np.diff(inside), first not in starts))
    return chunks


def chunks_of(evidence, T, initial, lengths, cuts, mask=None):
    """Return the arguments of the functions of a chunk, for each chunk."""
    return [
        chunk_of(evidence[rows], T, initial, pieces, continued, None if mask is None else mask[rows])
        for rows, pieces, continued in cut(lengths, cuts)
    ]


def chunk_of(evidence, T, initial, *given):
    """Return the arguments of the functions of a chunk."""
    return {"rows": ops.chunk_rows(evidence, *given), "model": ops.chain_model(T, initial)}


def evidence_of(chunk):
    """Return the log evidence of a chunk."""
    return chunk["rows"].evidence_of(0, len(chunk["rows"]))


def balanced(first, end):
    """Return the split of a stretch of chunks at the largest power of two below its size."""
    return first + (1 << ((end - first - 1).bit_length() - 1))


def from_the_left(first, end):
    """Return the split of a stretch of chunks before its last one."""
    return end - 1


def from_the_right(first, end):
    """Return the split of a stretch of chunks after its first one."""
    return first + 1


class Tree:
    """The pass up and the pass down over chunks, along the tree that `split` gives."""

    def __init__(self, leaves, combine, split):
        self.nodes, self.combine, self.split = {}, combine, split
        self.leaves = leaves
        self.up(0, len(leaves))

    def up(self, first, end):
        if end - first == 1:
            self.nodes[first, end] = self.leaves[first]
        else:
            middle = self.split(first, end)
            self.nodes[first, end] = self.combine(self.up(first, middle), self.up(middle, end))
        return self.nodes[first, end]

    def down(self, entering, leaving):
        """Return (entering, leaving) of each chunk."""
        ends = [None] * len(self.leaves)

        def visit(first, end, into, out):
            if end - first == 1:
                ends[first] = into, out
                return
            middle = self.split(first, end)
            halves = self.nodes[first, middle], self.nodes[middle, end]
            into_left, out_left, into_right, out_right = ops.descend(into, out, *halves)
            visit(first, middle, into_left, out_left)
            visit(middle, end, into_right, out_right)

        visit(0, len(self.leaves), entering, leaving)
        return ends

    def down_scores(self, entering):
        """Return the scores that enter each chunk."""
        ends = [None] * len(self.leaves)

        def visit(first, end, into):
            if end - first == 1:
                ends[first] = into
                return
            middle = self.split(first, end)
            into_left, into_right = ops.descend_scores(into, self.nodes[first, middle])
            visit(first, middle, into_left)
            visit(middle, end, into_right)

        visit(0, len(self.leaves), entering)
        return ends


def infer(chunks, split=balanced):
    """Return the results of the chunks."""
    K = chunks[0]["model"].initial.size
    tree = Tree([ops.summarise_chunk(**chunk) for chunk in chunks], ops.combine, split)
    ends = tree.down(ops.no_message(K), ops.no_message(K))
    return [
        ops.forward_backward_chunk(**chunk, entering=entering, leaving=leaving)
        for chunk, (entering, leaving) in zip(chunks, ends, strict=True)
    ]


def best_path(chunks, split=balanced):
    """Return the path from the chunks."""
    K = chunks[0]["model"].initial.size
    tree = Tree([ops.summarise_scores(**chunk) for chunk in chunks], ops.combine_scores, split)
    scores = tree.down_scores(ops.no_message(K))
    origins = [ops.trace_chunk(**chunk, entering=into) for chunk, into in zip(chunks, scores, strict=True)]
    last = -1
    parts = []
    for number in reversed(range(len(chunks))):
        parts.append(ops.viterbi_chunk(**chunks[number], entering=scores[number], last_class=last))
        last = int(origins[number][last])
    assert last == int(reduce(ops.compose_origins, origins)[-1]) == -1
    return np.concatenate(parts[::-1])


def joined(results):
    """Return the arrays of rows of all chunks and the sums."""
    rows = {name: np.concatenate([getattr(r, name) for r in results]) for name in FIELDS}
    return rows | {
        "cavity": np.concatenate([r.cavity for r in results]),
        "transitions": sum(r.transitions for r in results),
        "initial": sum(r.initial for r in results),
        "log_likelihood": sum(r.log_likelihood for r in results),
    }


def assert_agrees(results, whole):
    """Assert that the results of chunks are those of all rows."""
    together = joined(results)
    for name in FIELDS:
        assert_allclose(together[name], getattr(whole, name), rtol=1e-9, atol=1e-9, err_msg=name)
    assert_allclose(together["cavity"], np.exp(whole.log_cavity), atol=1e-9)
    assert_allclose(together["transitions"], whole.transitions, rtol=1e-9, atol=1e-9)
    assert_allclose(together["initial"], whole.initial, rtol=1e-9, atol=1e-9)
    assert_allclose(together["log_likelihood"], whole.log_likelihood, rtol=1e-9)


def random_cuts(rng, rows, number):
    return sorted(rng.choice(np.arange(1, rows), min(number, rows - 1), replace=False).tolist())


def random_rows(rng, K, N, scale, sparse, impossible):
    """Return evidence that one path of classes explains, and a model that allows the path."""
    T, initial = distributions(rng, K, K, sparse), distributions(rng, 1, K, sparse)[0]
    lengths = np.diff([0, *random_cuts(rng, N, int(rng.integers(0, 5))), N])
    evidence = rng.normal(size=(N, K)) * scale
    evidence[rng.random((N, K)) < impossible] = -np.inf
    openings = {0, *np.cumsum(lengths).tolist()}
    z = 0
    for t in range(N):
        z = rng.choice(K, p=initial if t in openings else T[z])
        evidence[t, z] = rng.normal()
    return evidence, T, initial, lengths


CASES = [
    # classes, rows, scale of the evidence, zeros in the model, share of impossible classes
    (1, 40, 1.0, 0.0, 0.0),
    (2, 60, 3.0, 0.3, 0.1),
    (3, 60, 3.0, 0.6, 0.3),
    (10, 120, 2.0, 0.0, 0.0),
    (10, 120, 3.0, 0.7, 0.3),
    (10, 120, 300.0, 0.0, 0.1),
    (10, 120, 1e4, 0.5, 0.1),
    (3, 50, 1e4, 0.0, 0.0),
    (30, 80, 30.0, 0.3, 0.1),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(6))
def test_chunks_cut_anywhere_give_the_results_of_all_rows(case, seed):
    rng = np.random.default_rng([seed, 7])
    N = case[1]
    evidence, T, initial, lengths = random_rows(rng, *case)
    mask = rng.random(N) < 0.2 if seed % 2 else None
    whole = forward_backward(evidence, T, initial, lengths, mask)
    cuts = list(range(1, N)) if seed == 5 else random_cuts(rng, N, int(rng.integers(1, 12)))
    chunks = chunks_of(evidence, T, initial, lengths, cuts, mask)
    assert_agrees(infer(chunks), whole)
    path, _ = viterbi(evidence, T, initial, lengths, mask)
    for split in (balanced, from_the_left):
        assert_array_equal(best_path(chunks, split), path)


@pytest.mark.parametrize("case", CASES)
def test_the_shape_of_the_tree_does_not_matter(case):
    rng = np.random.default_rng(3)
    evidence, T, initial, lengths = random_rows(rng, *case)
    chunks = chunks_of(evidence, T, initial, lengths, random_cuts(rng, case[1], 15))
    first, *others = [joined(infer(chunks, split)) for split in (balanced, from_the_left, from_the_right)]
    for other in others:
        for name, values in first.items():
            assert_allclose(other[name], values, rtol=1e-12, atol=1e-12, err_msg=name)


def test_one_long_sequence_is_the_same_in_chunks():
    rng = np.random.default_rng(0)
    K, N = 10, 20_000
    T, initial = distributions(rng, K, K), distributions(rng, 1, K)[0]
    evidence = rng.normal(size=(N, K)) * 3 - 1e4
    whole = forward_backward(evidence, T, initial)
    chunks = chunks_of(evidence, T, initial, [N], list(range(1024, N, 1024)))
    assert_agrees(infer(chunks), whole)
    assert_array_equal(best_path(chunks), viterbi(evidence, T, initial)[0])


def long_rows(rng, K, kind):
    """Return the evidence of 6,000 rows and transitions whose chain forgets its beginning fast, slowly or never."""
    T = distributions(rng, K, K)
    evidence = rng.normal(size=(6000, K)) * 3
    if kind == "far":
        evidence = evidence * 1e3 - 1e5
    if kind == "slow":  # the first and last 64 rows say nothing, the next ones little
        T = 0.7 * np.eye(K) + 0.3 * T
        evidence *= 0.01
    if kind == "never":
        T = (1.0 - 1e-12) * np.roll(np.eye(K), 1, axis=1) + 1e-12 / K
        evidence[:] = 0.0
    if kind == "zeros":
        T = np.where(rng.random((K, K)) < 0.3, 0.0, T) + 0.1 * np.eye(K)
        T /= T.sum(axis=1, keepdims=True)
    return evidence, T, distributions(rng, 1, K)[0]


@pytest.mark.parametrize("kind", ["fast", "far", "slow", "never", "zeros"])
@pytest.mark.parametrize("lengths", [[6000], [2900, 200, 2900]])
@pytest.mark.parametrize("continued", [True, False])
def test_the_first_and_the_last_rows_are_enough_for_the_operator_of_a_chain_that_forgets(
    kind, lengths, continued, monkeypatch
):
    K, rng = 4, np.random.default_rng(2)
    chunk = chunk_of(*long_rows(rng, K, kind), lengths, continued)
    used = []
    monkeypatch.setattr(ops, "_run_ends", lambda *given, real=ops._run_ends: used.append(real(*given)) or used[-1])
    found = ops.summarise_chunk(**chunk) | ops.summarise_scores(**chunk)
    assert any(each is not None for each in used) == (kind not in ("never", "zeros"))
    monkeypatch.setattr(ops, "WINDOWS", ())
    for name, expected in (ops.summarise_chunk(**chunk) | ops.summarise_scores(**chunk)).items():
        assert_allclose(found[name], expected, rtol=1e-11, atol=1e-9 if kind == "far" else 1e-11, err_msg=name)


@pytest.mark.parametrize("kind", ["fast", "far", "slow", "zeros"])
def test_summaries_have_the_same_bits_whether_or_not_likelihoods_are_kept(kind):
    evidence, T, initial = long_rows(np.random.default_rng(3), 4, kind)
    evidence[::7, 1] = -np.inf
    model, starts = ops.chain_model(T, initial), np.array([0, 2000, 6000])
    for bounds in (starts, starts[::2]):
        kept, other = (
            ops.ChunkRows(lambda first, end: evidence[first:end], bounds, continued=True, keeps=keeps)
            for keeps in (True, False)
        )
        for name, array in (ops.summarise_chunk(kept, model) | ops.summarise_scores(kept, model)).items():
            again = ops.summarise_chunk(other, model) | ops.summarise_scores(other, model)
            assert_array_equal(again[name], array, err_msg=name)


def test_a_path_ends_in_the_class_that_later_rows_have_determined():
    rng = np.random.default_rng(2)
    T, initial, evidence = distributions(rng, 3, 3), distributions(rng, 1, 3)[0], rng.normal(size=(4, 3))
    evidence[3, 2] = -np.inf
    paths, density = paths_after(evidence, T, initial)
    rows, model = ops.chunk_rows(evidence), ops.chain_model(T, initial)
    for last in (0, 1):
        ending = paths[:, -1] == last
        assert_array_equal(ops.viterbi_chunk(rows, model, None, last), paths[ending][density[ending].argmax()])
    with pytest.raises(ValueError, match="row 3 has probability zero"):
        ops.viterbi_chunk(rows, model, None, 2)


@pytest.mark.parametrize("kind", ["fast", "far", "slow", "zeros"])
def test_long_chunks_of_one_sequence_give_the_results_of_all_rows(kind):
    evidence, T, initial = long_rows(np.random.default_rng(1), 4, kind)
    chunks = chunks_of(evidence, T, initial, [6000], [1500, 3000, 4500])
    assert_agrees(infer(chunks), forward_backward(evidence, T, initial))
    assert_array_equal(best_path(chunks), viterbi(evidence, T, initial)[0])


def paths_after(evidence, T, before):
    """Return all paths through rows, and their log density given the class before (or its initial distribution)."""
    paths = np.array(list(itertools.product(range(T.shape[0]), repeat=len(evidence))))
    with np.errstate(divide="ignore"):
        steps = np.log(before)[paths[:, 0]] + np.log(T)[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    return paths, steps + evidence[np.arange(len(evidence)), paths].sum(axis=1)


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("lengths", [[5], [2, 3], [1, 1, 3]])
@pytest.mark.parametrize("continued", [True, False])
def test_the_operator_of_a_chunk_is_the_sum_over_all_paths(K, scale, lengths, continued):
    rng = np.random.default_rng(K)
    T, initial = distributions(rng, K, K), distributions(rng, 1, K)[0]
    evidence = rng.normal(size=(5, K)) * scale
    chunk = chunk_of(evidence, T, initial, lengths, continued)
    operator = ops.summarise_chunk(**chunk)
    last = evidence[5 - lengths[-1] :]
    weights, scores = np.zeros(K), np.full((K, K), -np.inf)
    for i in range(K):
        paths, density = paths_after(last, T, T[i] if continued and len(lengths) == 1 else initial)
        per_class = [np.logaddexp.reduce(density[paths[:, -1] == j]) for j in range(K)]
        expected = np.array(per_class) - np.logaddexp.reduce(per_class)
        assert_allclose(operator["log_operator"][i], expected, rtol=1e-12, atol=1e-12)
        scores[i] = [density[paths[:, -1] == j].max() for j in range(K)]
        if continued:
            first = paths_after(evidence[: lengths[0]], T, T[i])[1]
            weights[i] = np.logaddexp.reduce(first)
            scores[i] += first.max() if len(lengths) > 1 else 0.0
    assert_allclose(operator["log_weight"], weights - weights.max(), rtol=1e-12, atol=1e-12)
    assert_allclose(ops.summarise_scores(**chunk)["log_scores"], scores - scores.max(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_combining_is_associative(case):
    rng = np.random.default_rng(5)
    evidence, T, initial, lengths = random_rows(rng, *case)
    chunks = chunks_of(evidence, T, initial, lengths, [10, 25])
    a, b, c = (ops.summarise_chunk(**chunk) for chunk in chunks)
    left, right = ops.combine(ops.combine(a, b), c), ops.combine(a, ops.combine(b, c))
    for name in left:
        assert_allclose(left[name], right[name], rtol=1e-11, atol=1e-11)
    whole = ops.summarise_chunk(**chunk_of(evidence, T, initial, lengths))
    for name in left:
        assert_allclose(left[name], whole[name], rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("K", [1, 2, 3, 7, 10, 13, 100])
@pytest.mark.parametrize("scale", [3.0, 1e4])
def test_sequences_inside_chunks_give_the_same_bits_as_without_chunks(K, scale):
    rng = np.random.default_rng(K)
    lengths = [4, 9, 7, 1, 2, 3]
    T, initial = distributions(rng, K, K), distributions(rng, 1, K)[0]
    evidence = rng.normal(size=(26, K)) * scale
    chunks = chunks_of(evidence, T, initial, lengths, [13, 20])
    for chunk, result, (_, pieces, _) in zip(chunks, infer(chunks), cut(lengths, [13, 20]), strict=True):
        alone = forward_backward(evidence_of(chunk), T, initial, pieces)
        for name in (*FIELDS, "transitions", "initial", "log_likelihood"):
            assert_array_equal(getattr(result, name), getattr(alone, name), err_msg=name)
        assert_allclose(result.cavity, np.exp(alone.log_cavity), rtol=1e-12)
        none = ops.no_message(K)
        for name, sums in ops.expected_counts_chunk(**chunk, entering=none, leaving=none)._asdict().items():
            assert_array_equal(sums, getattr(result, name), err_msg=name)
    assert_array_equal(best_path(chunks), viterbi(evidence, T, initial, lengths)[0])


@pytest.mark.parametrize("K", [2, 10, 30])
def test_the_linear_and_the_log_domain_give_the_same_operator(K):
    rng = np.random.default_rng(K)
    T, shifted, rows = distributions(rng, K, K), rng.normal(size=(300, K)) * 5, (0, 300, 1)
    shifted -= shifted.max(axis=1, keepdims=True)
    linear, weight = T.copy(), np.zeros(K)
    assert ops.linear_operator(np.exp(shifted), shifted, T, rows, linear, weight)
    logs, log_weight = np.log(T), np.zeros(K)
    ops.logarithmic_operator(shifted, np.log(T), rows, logs, log_weight)
    linear = np.log(linear)
    ops.normalise_rows(linear, weight)
    ops.normalise_rows(logs, log_weight)
    assert_allclose(linear, logs, rtol=1e-11, atol=1e-11)
    assert_allclose(weight, log_weight, atol=1e-11)


CHAINS = {
    "forgets at once": np.full((4, 4), 0.25),
    "forgets slowly": np.roll(np.eye(4), 1, axis=1) * 0.999 + 0.00025,
    "never forgets": np.roll(np.eye(4), 1, axis=1),
    "two halves": np.kron(np.eye(2), np.full((2, 2), 0.5)),
    "one class is left": np.array(
        [[0.0, 0.5, 0.5, 0.0], [0.0, 0.3, 0.7, 0.0], [0.0, 0.6, 0.4, 0.0], [0.03, 0.03, 0.04, 0.9]]
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("scale", [0.01, 2.0])
@pytest.mark.parametrize("impossible", [False, True])
def test_the_operator_of_a_chain_is_right_whether_or_not_it_forgets_its_beginning(chain, scale, impossible):
    rng = np.random.default_rng(4)
    T, shifted, rows = CHAINS[chain], rng.normal(size=(500, 4)) * scale, (499, 500, -1)
    if impossible:  # in the first row of the pass after one class, and 200 rows later
        shifted[[499, 299], [0, 1]] = -np.inf
    shifted -= shifted.max(axis=1, keepdims=True)
    linear, weight, logs, log_weight = T.copy(), np.zeros(4), ops.logarithm(T), np.zeros(4)
    assert ops.linear_operator(np.exp(shifted), shifted, T, rows, linear, weight)
    ops.logarithmic_operator(shifted, ops.logarithm(T), rows, logs, log_weight)
    linear = ops.logarithm(linear)
    ops.normalise_rows(linear, weight)
    ops.normalise_rows(logs, log_weight)
    possible = log_weight > -np.inf
    assert np.array_equal(weight > -np.inf, possible)
    assert possible.any()
    assert_allclose(np.exp(linear[possible]), np.exp(logs[possible]), rtol=1e-11, atol=1e-12)
    assert_allclose(weight[possible], log_weight[possible], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("scale", [10.0, 1e4])
def test_extreme_evidence_needs_no_log_domain_if_all_transitions_are_possible(scale):
    rng = np.random.default_rng(8)
    shifted = rng.normal(size=(1000, 10)) * scale
    shifted -= shifted.max(axis=1, keepdims=True)
    T = np.roll(np.eye(10), 1, axis=1) + 1e-12
    assert ops.linear_operator(np.exp(shifted), shifted, T, (0, 1000, 1), T.copy(), np.zeros(10))


@pytest.mark.parametrize("rows", [1, 40])
def test_a_class_that_underflows_in_one_chunk_is_kept_where_the_next_chunk_requires_it(rows):
    # Class 1 is 800 nats less likely in each row of the first chunk, and the second is reachable from it alone.
    evidence = np.repeat([[0.0, -800.0], [-np.inf, 0.0]], rows, axis=0)
    T = np.array([[1.0, 0.0], [0.0, 1.0]])
    whole = forward_backward(evidence, T, [0.5, 0.5])
    results = infer(chunks_of(evidence, T, np.array([0.5, 0.5]), [2 * rows], [rows]))
    assert_agrees(results, whole)
    assert_allclose(results[0].posterior, np.repeat([[0.0, 1.0]], rows, axis=0))


def test_impossible_rows_after_one_class_do_not_disturb_the_others():
    T = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]])
    evidence = np.array([[-np.inf, 0.0, 1.0], [-np.inf, 2.0, 1.0]])
    chunk = ops.summarise_chunk(**chunk_of(evidence, T, np.full(3, 1 / 3), None, True))
    assert chunk["log_weight"].tolist() == [-np.inf, 0.0, 0.0]
    pair = ops.combine(chunk, chunk)
    assert pair["log_weight"].tolist() == [-np.inf, 0.0, 0.0]
    assert_allclose(np.exp(pair["log_operator"][1:]).sum(axis=1), 1.0)
    assert_allclose(np.exp(pair["log_operator"][1]), [0.0, np.e / (np.e + 1), 1 / (np.e + 1)])


def test_rows_that_are_impossible_given_those_of_another_chunk_are_named():
    evidence, T, initial = np.array([[0.0, -np.inf], [0.0, 0.0], [-np.inf, 0.0], [0.0, 0.0]]), np.eye(2), [0.5, 0.5]
    chunks = chunks_of(evidence, T, np.array(initial), [4], [1, 2, 3])
    leaves = [ops.summarise_chunk(**chunk) for chunk in chunks]
    ends = Tree(leaves, ops.combine, balanced).down(ops.no_message(2), ops.no_message(2))
    texts = ["the rows after row 0", "the rows after row 0", "row 0 has probability zero", "the rows before row 0"]
    for chunk, (entering, leaving), text in zip(chunks, ends, texts, strict=True):
        with pytest.raises(ValueError, match=text) as raised:
            ops.forward_backward_chunk(**chunk, entering=entering, leaving=leaving)
        assert isinstance(raised.value, OtherChunkError) == text.startswith("the rows")
    with pytest.raises(ValueError, match="row 0 has probability zero"):
        best_path(chunks)


def test_what_enters_must_be_given_and_be_logarithms():
    chunk = chunk_of(np.zeros((2, 2)), np.eye(2), [0.5, 0.5], None, True)
    with pytest.raises(ValueError, match="what enters must be given"):
        ops.forward_backward_chunk(**chunk)
    for bad in (np.zeros(3), np.array([np.nan, 0.0]), np.array([np.inf, 0.0])):
        with pytest.raises(ValueError, match="what enters must be logarithms"):
            ops.forward_backward_chunk(**chunk, entering=bad)
        with pytest.raises(ValueError, match="what leaves must be logarithms"):
            ops.forward_backward_chunk(**chunk, entering=np.zeros(2), leaving=bad)
    with pytest.raises(ValueError, match="what enters must be given"):
        ops.trace_chunk(**chunk)
    with pytest.raises(ValueError, match="row 0 of the log evidence"):
        ops.chunk_rows(np.full((1, 2), np.nan))


def test_equally_probable_paths_are_resolved_as_without_chunks():
    rng = np.random.default_rng(1)
    for _ in range(40):  # powers of two, whose logarithms tie exactly in many places
        K, N = int(rng.choice([2, 4])), 12
        T, initial = np.full((K, K), 1 / K), np.full(K, 1 / K)
        evidence = rng.integers(-1, 1, (N, K)).astype(float)
        lengths = np.diff([0, *random_cuts(rng, N, 2), N])
        chunks = chunks_of(evidence, T, initial, lengths, random_cuts(rng, N, 4))
        assert_array_equal(best_path(chunks), viterbi(evidence, T, initial, lengths)[0])


@pytest.mark.parametrize("K", [3, 10])
def test_results_are_the_same_bits_wherever_the_rows_lie_in_memory(K):
    rng = np.random.default_rng(6)
    evidence, T, initial, lengths = random_rows(rng, K, 101, 3.0, 0.0, 0.0)
    cuts = random_cuts(rng, 101, 4)
    chunks = chunks_of(evidence, T, initial, lengths, cuts)
    file_bytes = np.zeros(evidence.nbytes + 4, np.uint8)[4:]  # rows that are not aligned to 8 bytes
    unaligned = file_bytes.view(np.float64).reshape(evidence.shape)
    unaligned[:] = evidence
    for memory in (np.asfortranarray(evidence), unaligned):
        others = chunks_of(memory, T, initial, lengths, cuts)
        for one, other in zip(infer(chunks), infer(others), strict=True):
            for name in (*FIELDS, "cavity", "transitions", "initial", "log_likelihood"):
                assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        for name, sums in frequency_sums(evidence[: cuts[0]], initial).items():
            other = frequency_sums(memory[: cuts[0]], initial)
            assert_array_equal(other[name], sums, err_msg=name)


def test_messages_that_cannot_be_written_to_are_accepted():
    rng = np.random.default_rng(2)
    for K in (1, 3):
        evidence, T, initial = rng.normal(size=(6, K)), distributions(rng, K, K), distributions(rng, 1, K)[0]
        chunks = chunks_of(evidence, T, initial, [6], [2, 4])
        leaves = [ops.summarise_chunk(**chunk) for chunk in chunks]
        for array in itertools.chain(*(leaf.values() for leaf in leaves)):
            array.setflags(write=False)
        before = [{name: array.copy() for name, array in leaf.items()} for leaf in leaves]
        message = ops.no_message(K)
        message.setflags(write=False)
        Tree(leaves, ops.combine, balanced).down(message, message)
        for leaf, copy in zip(leaves, before, strict=True):
            for name in leaf:
                assert_array_equal(leaf[name], copy[name])


def test_the_frequencies_of_independent_rows_follow_from_sums_over_chunks():
    rng = np.random.default_rng(4)
    evidence = rng.normal(size=(500, 4)) * 3 - 1e6 * rng.random((500, 1))
    start = np.full(4, 0.25)
    frequencies, log_likelihood = fit_frequencies(evidence, start)
    for cuts in ([], [100, 101, 350]):
        parts, w = np.split(evidence, cuts), start
        for _ in range(EM_STEPS):
            w = next_frequencies(w, reduce(add, [frequency_sums(part, w) for part in parts]))
        sums = reduce(add, [frequency_sums(part, w) for part in parts])
        assert_allclose(w, frequencies, rtol=1e-12)
        assert_allclose(sums["log_likelihood"], log_likelihood, rtol=1e-12)
        assert sums["rows"] == 500


def add(left, right):
    return {name: left[name] + right[name] for name in left}


def test_kernels_compile_once():
    ops.compile_kernels()
    rng = np.random.default_rng(10)
    evidence, T = np.zeros((2, 6)).T.astype(np.float32), distributions(rng, 2, 2).T.copy().T
    chunks = chunks_of(evidence, T, [1, 0], [2, 4], [1, 3])
    infer(chunks)
    best_path(chunks)
    compiled = (ops.linear_operator, ops.logarithmic_operator, ops.product_of_ends, ops.composed, ops.divided)
    compiled += (ops.normalise_rows, ops.distribution_of, ops.have_met, ops.best_operator, ops.best_product)
    assert [len(f.signatures) for f in (*compiled, ops.origins_of_best_paths)] == [1] * 11
