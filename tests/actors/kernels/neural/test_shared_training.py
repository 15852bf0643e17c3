"""Steps of training on shared rows: which rows they use, their gradient, and the step of Adam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.kernels.neural.shared_training import Batches, SharedNetworks
from actors.kernels.neural.vae_networks import UserNetworkError, build
from actors.kernels.neural.vae_training import make_optimiser, save

pytestmark = pytest.mark.usefixtures("one_thread")

P, L = 12, 3
NUMBERS = {"rows": st.integers(1, 900), "size": st.integers(1, 400), "batch": st.integers(1, 700) | st.none()}


def rows_by_step(batches: Batches, missing: frozenset[int] = frozenset(), seed: int = 0) -> list[list[int]]:
    """Return the rows, among all, that each step of an epoch uses."""
    order, used = batches.order(np.random.default_rng(seed)), []
    for step in order:
        parts, rows = np.sort(step[step >= 0]), list[int]()
        for chunk in np.unique(parts // batches.parts_of_chunk):
            start = int(chunk) * batches.size
            inside = range(start, min(start + batches.size, batches.rows))
            present = np.array([row - start for row in inside if row not in missing], dtype=np.int64)
            own = batches.parts_of(int(chunk), present, np.random.default_rng([seed, int(chunk)]))
            inside = parts[parts // batches.parts_of_chunk == chunk] % batches.parts_of_chunk
            rows += [start + int(row) for part in inside for row in own[part]]
        used.append(rows)
    return used


@settings(deadline=None)
@example(rows=749, size=400, batch=700)
@example(rows=900, size=375, batch=750)
@given(**NUMBERS)
def test_an_epoch_uses_every_row_once_and_no_step_more_than_a_batch(rows: int, size: int, batch: int | None) -> None:
    used = rows_by_step(Batches(rows, min(size, rows), batch))
    assert sorted(row for step in used for row in step) == list(range(rows))
    assert max(map(len, used)) <= (rows if batch is None else batch)
    assert len(used) == Batches(rows, min(size, rows), batch).steps
    if batch is None or batch >= rows:
        assert len(used) == 1


@settings(deadline=None)
@given(**NUMBERS)
def test_the_parts_of_a_step_lie_in_different_stretches_of_equal_length(rows: int, size: int, batch: int) -> None:
    batches = Batches(rows, min(size, rows), batch)
    order = batches.order(np.random.default_rng(0))
    columns = [column[column >= 0] for column in order.T]
    assert max(map(len, columns)) - min(map(len, columns)) <= 1
    np.testing.assert_array_equal(np.concatenate([np.sort(column) for column in columns]), np.arange(batches.parts))


@pytest.mark.parametrize(("rows", "size", "batch"), [(20_000, 4096, 500), (10**6, 4096, 500), (3000, 4096, 500)])
def test_steps_of_usual_sizes_are_nearly_full_and_no_more_than_in_one_process(rows: int, size: int, batch: int) -> None:
    batches = Batches(rows, min(size, rows), batch)
    assert batches.width == 2
    assert batches.steps <= 1.05 * -(-rows // batch)


def test_the_last_step_is_not_much_smaller_than_the_others() -> None:
    assert [len(step) for step in rows_by_step(Batches(512, 64, 450))] == [256, 256]


def test_missing_rows_are_left_out_and_the_others_are_spread_evenly() -> None:
    missing = frozenset(range(0, 1000, 3)) | frozenset(range(400, 500))
    used = rows_by_step(Batches(1000, 200, 100), missing)
    assert sorted(row for step in used for row in step) == sorted(set(range(1000)) - missing)
    assert max(map(len, used)) <= 100


def test_the_order_differs_between_epochs_and_is_that_of_the_generator() -> None:
    batches = Batches(1000, 100, 300)
    assert rows_by_step(batches) == rows_by_step(batches)
    one, other = rows_by_step(batches), rows_by_step(batches, seed=1)
    assert one != other
    assert [set(step) for step in one] != [set(step) for step in other]
    assert one[0][:30] != sorted(one[0][:30])


# --- gradients and steps ------------------------------------------------------------------------------------------


def networks_of(seed: int = 0) -> SharedNetworks:
    return SharedNetworks(build(P, 8, L, seed))


def batch(rows: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.rand(rows, P, generator=generator), *(torch.randn(rows, L, generator=generator) for _ in range(2)))
    return draws[0], draws[1], draws[2]


def state_of(shared: SharedNetworks) -> dict[str, np.ndarray]:
    return save(shared.networks, make_optimiser(shared.networks))


def torch_loss(networks: torch.nn.ModuleDict, likelihood: str, beta: float, *given: torch.Tensor) -> torch.Tensor:
    """Return the mean loss by torch's own functions."""
    rows, prior_mean, noise = given
    mean, log_variance = networks["encoder"](rows)
    logits = networks["decoder"](mean + (0.5 * log_variance).exp() * noise)
    if likelihood == "bce":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, rows, reduction="sum")
    else:
        loss = 0.5 * torch.nn.functional.mse_loss(logits, rows, reduction="sum")
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(q, torch.distributions.Normal(prior_mean, 1.0)).sum()
    return (loss + beta * divergence) / len(rows)


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
def test_steps_are_those_of_torch_on_the_whole_batch(likelihood: str) -> None:
    shared, theirs = networks_of(), build(P, 8, L, 0)
    adam, state = torch.optim.Adam(theirs.parameters(), lr=1e-2), state_of(shared)
    for step in range(4):
        given = batch(seed=step)
        parts = [slice(0, 7), slice(7, 8), slice(8, 40)]
        gradients = []
        for part in parts:
            shared.load(state)
            gradients.append(shared.gradient(*(each[part] for each in given), 0.7, likelihood)[0])
        state = shared.step(state, sum(gradients), 40, 1e-2)
        adam.zero_grad()
        torch_loss(theirs, likelihood, 0.7, *given).backward()
        adam.step()
    expected = save(theirs, adam)
    assert expected.keys() == state.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, rtol=2e-3, atol=2e-5 * max(np.abs(value).max(), 1e-3))


def test_terms_are_sums_over_rows() -> None:
    shared, given = networks_of(), batch()
    whole = shared.gradient(*given, 0.3, "bce")[1]
    halves = [shared.gradient(*(each[part] for each in given), 0.3, "bce")[1] for part in (slice(15), slice(15, 40))]
    np.testing.assert_allclose(sum(halves), whole, rtol=1e-5)
    loss = float(torch_loss(shared.networks, "bce", 0.3, *given).detach())
    assert (whole[0] + 0.3 * whole[1]) / 40 == pytest.approx(loss, rel=1e-5)


def test_a_step_has_the_same_bits_from_any_copy_of_the_state_and_does_not_change_it() -> None:
    one, other = networks_of(), networks_of(seed=1)
    state = state_of(one)
    for step in range(3):
        copy = {name: np.array(value) for name, value in reversed(state.items())}
        for value in copy.values():
            value.flags.writeable = False
        one.load(state)
        other.load(copy)
        gradient, same = (each.gradient(*batch(seed=step), 1.0, "bce")[0] for each in (one, other))
        np.testing.assert_array_equal(gradient, same)
        after, also = one.step(state, gradient, 40, 1e-2), other.step(copy, gradient, 40, 1e-2)
        assert after.keys() == also.keys()
        assert all(np.array_equal(after[name], also[name]) for name in after)
        assert all(np.array_equal(state[name], copy[name]) for name in state)
        state = after


def test_weights_that_took_different_numbers_of_steps_go_on_from_their_own() -> None:
    shared, theirs = networks_of(), build(P, 8, L, 0)
    adam, state = torch.optim.Adam(theirs.parameters(), lr=1e-2), state_of(shared)
    torch_loss(theirs, "bce", 1.0, *batch()).backward()
    adam.step()
    adam.state[theirs["decoder"].out.bias]["step"] += 5.0
    state = save(theirs, adam)
    for seed in (1, 2):
        shared.load(state)
        state = shared.step(state, shared.gradient(*batch(seed=seed), 1.0, "bce")[0], 40, 1e-2)
        adam.zero_grad()
        torch_loss(theirs, "bce", 1.0, *batch(seed=seed)).backward()
        adam.step()
    for name, value in save(theirs, adam).items():
        np.testing.assert_allclose(state[name], value, rtol=2e-3, atol=2e-5 * max(np.abs(value).max(), 1e-3))


def test_gradients_of_several_batches_do_not_share_memory_and_have_no_garbage_between_weights() -> None:
    shared = networks_of()
    first = shared.gradient(*batch(), 1.0, "bce")[0]
    kept = first.copy()
    second = shared.gradient(*batch(seed=1), 1.0, "bce")[0]
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    count = sum(weight.numel() for weight in shared.networks.parameters())
    assert np.count_nonzero(first) <= count < len(first)


def test_the_gradient_of_a_loss_that_is_not_finite_is_nan() -> None:
    gradient, terms = networks_of().gradient(batch()[0] * 1e30, *batch()[1:], 1.0, "mse")
    assert not np.isfinite(terms).all()
    assert np.isnan(gradient).all()


def test_weights_that_are_not_trained_stay_and_have_no_gradient() -> None:
    networks = build(P, 8, L, 0)
    for weight in networks["decoder"].parameters():
        weight.requires_grad_(False)
    shared = SharedNetworks(networks)
    state = state_of(shared)
    gradient, _ = shared.gradient(*batch(), 1.0, "bce")
    whole, _ = networks_of().gradient(*batch(), 1.0, "bce")
    np.testing.assert_allclose(gradient, whole[: len(gradient)], rtol=1e-4, atol=1e-5)
    assert len(gradient) < len(whole)
    after = shared.step(state, gradient, 40, 1e-2)
    changed = {name for name in state if not np.array_equal(state[name], after[name])}
    assert changed == {name for name in state if name.startswith("weights.encoder")}


def test_weights_of_other_networks_are_refused() -> None:
    state = state_of(networks_of())
    with pytest.raises(ValueError, match=r"fit other networks.*weight has the shape"):
        SharedNetworks(build(P, 9, L, 0)).load(state)
    del state["weights.encoder.hidden.bias"]
    with pytest.raises(ValueError, match=r"fit other networks: \['encoder.hidden.bias'\] differ"):
        networks_of().load(state)


def test_a_network_that_keeps_running_means_is_refused_by_name() -> None:
    networks = build(P, 8, L, 0)
    networks["decoder"] = torch.nn.Sequential(torch.nn.Linear(L, P), torch.nn.BatchNorm1d(P))
    with pytest.raises(UserNetworkError, match=r"changes decoder\.1\..*LayerNorm.*leave out workers"):
        SharedNetworks(networks).gradient(*batch(), 1.0, "bce")
