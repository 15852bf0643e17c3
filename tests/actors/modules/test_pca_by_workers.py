"""PCA by workers that share its rows: the components of all rows, and the same bits for any number of workers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.errors import ModuleError, NonFiniteError
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.sharing.contract import sharing_problem
from tests.support.sharded_updates import call_by_workers, cut_at, same_answers

N, PIXELS, D, SIZE = 230, (3, 4), 3, 16
MASK = np.random.default_rng(1).random(N) < 0.1


def images(rows=N, seed=0):
    """Return images with correlated pixels and variances that are clearly different."""
    mixing = np.linalg.qr(np.random.default_rng(99).normal(size=(12, 12)))[0] * 0.6 ** np.arange(12)[:, None]
    return 5.0 + (np.random.default_rng(seed).normal(size=(rows, 12)) @ mixing).reshape(rows, *PIXELS)


X = images()


def observations(values=X, **rows):
    return make_message(Header("observations", "data", "observations", "it"), {"values": values, **rows})


def pca(**given):
    return lambda: make_module("pca", {"latent_dim": D, **given})


def shared(make, *messages, cuts=(), rows=N, **context):
    return call_by_workers(make, cut_at(list(cuts), rows, SIZE), messages, **context)


def assert_agree(answer, module, outbox, rtol=1e-9):
    """Check an answer of workers against that of all rows in one process."""
    assert answer.metrics == pytest.approx(outbox.metrics, rel=rtol)
    for name, value in outbox.outputs.items():
        assert_allclose(answer.outputs[name], value, rtol=rtol, atol=rtol * np.abs(value).max())
    for each in outbox.messages:
        given = answer.messages[each.port, each.receiver]
        assert given.keys() == each.arrays.keys()
        for name, value in each.arrays.items():
            assert_allclose(given[name], value, rtol=rtol, atol=rtol * np.abs(value).max())
    assert answer.state.keys() - {"rows", "scatter"} == module.state().keys()
    for name, value in module.state().items():
        assert_allclose(answer.state[name], value, rtol=rtol, atol=rtol * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("rows", [{}, {"mask": MASK}, {"lengths": np.array([100, 1, 129])}])
@pytest.mark.parametrize("factor", [1.0, 2.0**40, 1e-140, 1e140])
def test_an_update_is_that_of_the_covariance_of_all_rows(whiten, rows, factor):
    module = make_module("pca", {"latent_dim": D, "whiten": whiten, "solver": "covariance_eigh"})
    message = observations(factor * X, **rows)
    outbox = module.update(Inbox([message]), Context("it"))
    answer = shared(pca(whiten=whiten), message, cuts=[3, 9], sample_rows=40)
    assert_agree(answer, module, outbox)


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(N)[:, None, None] < 16, X, X + 100.0),  # the sample is far from the mean
        np.where(np.arange(N)[:, None, None] < 16, 1e-150 * X, X),  # ... and has an extreme unit
        np.where(np.arange(N)[:, None, None] < 16, 1e-300 * X, 1e140 * X),
        np.where(np.arange(N)[:, None, None] < 16, 0.0, X),
    ],
)
def test_a_sample_that_is_unlike_the_other_rows_does_not_matter(values, monkeypatch):
    monkeypatch.setattr("actors.sharing.driver.sampled_chunks", lambda *_: [0])
    module = make_module("pca", {"latent_dim": D, "solver": "covariance_eigh"})
    outbox = module.update(Inbox([observations(values)]), Context("it"))
    assert_agree(shared(pca(), observations(values), cuts=[3]), module, outbox)


@pytest.mark.parametrize("cuts", [[8], [1, 6], [2, 3, 7, 13], list(range(1, 15))])
def test_the_bits_do_not_depend_on_the_number_of_workers_or_the_cuts(cuts):
    message = observations(mask=MASK, lengths=np.array([100, 1, 129]))
    one, several = (shared(pca(), message, cuts=at, sample_rows=40) for at in ([], cuts))
    assert same_answers(one, several)
    again = [shared(pca(), observations(images(seed=1)), cuts=at, state=one.state) for at in ([], cuts)]
    assert same_answers(*again)
    seen = [shared(pca(), message, cuts=at, state=one.state, mode="recognize") for at in ([], cuts)]
    assert same_answers(*seen)
    assert_array_equal(seen[0].outputs["z"], one.outputs["z"])


def test_every_update_fits_anew_unless_learning_is_off():
    first, other = shared(pca(), observations()), observations(images(seed=1))
    kept = shared(pca(), other, state=first.state, learn=False, cuts=[4])
    assert all(np.array_equal(kept.state[name], value) for name, value in first.state.items())
    learnt = shared(pca(), other, state=first.state, cuts=[4])
    assert_allclose(learnt.state["components_"], shared(pca(), other).state["components_"], rtol=1e-9, atol=1e-12)
    unfitted = shared(pca(), observations(), learn=False)
    assert same_answers(unfitted, first)


def test_a_state_goes_to_and_fro_between_workers_and_one_process():
    answer, module = shared(pca(), observations()), pca()()
    module.load_state(answer.state)
    outbox = module.recognize(Inbox([observations()]), Context("it", mode="recognize"))
    assert_allclose(outbox.outputs["z"], answer.outputs["z"], rtol=1e-12)
    module.update(Inbox([observations()]), Context("it"))
    again = shared(pca(), observations(), state=module.state(), learn=False)
    assert_allclose(again.outputs["z"], answer.outputs["z"], rtol=1e-9, atol=1e-9)


def test_wrong_input_is_refused_in_one_sentence():
    with pytest.raises(
        ModuleError, match=r"^module 'it': 1 row of 12 values is not enough for 3 components; give at least 2 rows"
    ):
        shared(pca(), observations(X[:1]), rows=1)
    with pytest.raises(ModuleError, match="0 rows of 12 values are not enough"):
        shared(pca(), observations(mask=np.ones(N, bool)))
    state = shared(pca(), observations()).state
    for mode in ("update", "recognize"):
        with pytest.raises(ModuleError, match=r"shape \(2, 4\), expected \(3, 4\)"):
            shared(pca(), observations(X[:, :2]), state=state, mode=mode)
    with pytest.raises(NonFiniteError, match="overflows"):
        shared(pca(), observations(np.where(np.arange(N)[:, None, None] == 99, 1e170, X)))
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        shared(pca(), observations(), overrides={"whiten": True})


def test_the_solver_that_draws_is_refused_for_workers():
    problem = lambda solver: sharing_problem(type(pca()()), pca(solver=solver)().parameters)  # noqa: E731
    assert problem("full") is problem("covariance_eigh") is None
    assert "use solver: covariance_eigh" in problem("randomized")


ABSENT = np.random.default_rng(8).random((N, *PIXELS)) < 0.2
ABSENT[5] = True


@pytest.mark.parametrize(("factor", "cuts"), [(1.0, [3, 9]), (2.0**40, []), (1e140, [7])])
def test_components_of_rows_that_lack_values_are_those_of_one_process(factor, cuts):
    module = make_module("pca", {"latent_dim": D})
    message = observations(np.where(ABSENT, 0.0, factor * X), mask=ABSENT)
    outbox = module.update(Inbox([message]), Context("it"))
    answer = shared(pca(), message, cuts=cuts, sample_rows=40)
    assert_agree(answer, module, outbox)


def test_the_bits_do_not_depend_on_workers_where_rows_lack_values():
    message = observations(np.where(ABSENT, 0.0, X), mask=ABSENT)
    answers = []
    for cuts in ([], [5], [1, 8], [2, 4, 9, 13]):
        first = shared(pca(), message, cuts=cuts)
        answers.append((first, shared(pca(), message, cuts=cuts, state=first.state, round=1)))
    assert all(same_answers(one, answers[0][n]) for each in answers for n, one in enumerate(each))
    whole = observations(X, mask=np.zeros_like(ABSENT))
    one, other = shared(pca(), whole), shared(pca(), observations(X))
    assert_allclose(one.state["components_"], other.state["components_"], rtol=1e-9)
    empty = ABSENT.copy()
    empty[:, 1, 2] = True
    with pytest.raises(ModuleError, match="column 7 has no value in any row"):
        shared(pca(), observations(X, mask=empty))
