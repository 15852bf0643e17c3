"""Tests of the placement of training rows: batches are the same for rows on the host and on the device."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.kernels.neural.device_batches import batch_sizes, iterate_batches, place_rows
from actors.kernels.neural.vae_networks import build, encode
from actors.kernels.neural.vae_training import TrainingOptions, make_optimiser, train

ROWS = torch.rand(103, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_rows_on_the_host_give_the_same_batches(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # the method needs CUDA
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    order = torch.randperm(103, generator=torch.Generator().manual_seed(1))
    resident = list(iterate_batches(ROWS, order, batch_sizes(103, 10), torch.device("cpu")))
    copied = list(iterate_batches(ROWS, order, batch_sizes(103, 10), torch.device("cuda"), block))
    assert [len(batch) for batch in copied] == [10] * 10 + [3]
    assert all(torch.equal(one, other) for one, other in zip(resident, copied, strict=True))


def test_rows_are_not_copied_on_the_cpu() -> None:
    assert place_rows(ROWS.numpy(), torch.device("cpu")).data_ptr() == ROWS.data_ptr()


def losses(device: str = "cpu", *, mixed: bool = False, rows: torch.Tensor = ROWS) -> list[float]:
    networks = build(7, 8, 2, seed=3).to(device)
    options = TrainingOptions(20, 25, 1.0, 1e-2, "bce", mixed_precision=mixed)
    generator = torch.Generator(device).manual_seed(4)
    means = torch.zeros(103, 2, device=device)
    return train(networks, make_optimiser(networks), rows, means, options, generator, lambda *_: None)


def test_mixed_precision_gives_similar_losses() -> None:
    exact, mixed = losses(), losses(mixed=True)
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.02)
    assert mixed[-1] < mixed[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_rows_in_host_memory_equals_training_on_rows_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    on_device = place_rows(ROWS.numpy(), device)
    monkeypatch.setattr("actors.kernels.neural.device_batches.MEMORY_SHARE", 0.0)
    on_host = place_rows(ROWS.numpy(), device)
    assert on_device.device.type == "cuda"
    assert on_host.device.type == "cpu"
    assert on_host.is_pinned()
    assert losses("cuda", rows=on_host) == losses("cuda", rows=on_device)
    networks = build(7, 8, 2, seed=3).to(device)
    assert torch.equal(encode(networks, on_host)[0], encode(networks, on_device)[0])


@given(rows=st.integers(1, 400), size=st.integers(1, 60), even=st.booleans())
def test_batches_hold_every_row_once_and_even_ones_differ_by_one_row(rows: int, size: int, even: bool) -> None:
    sizes = batch_sizes(rows, size, even=even)
    assert sum(sizes) == rows
    assert max(sizes) <= size
    assert len(sizes) == -(-rows // size)  # never more steps than batches of full size need
    if even:
        assert max(sizes) - min(sizes) <= 1
