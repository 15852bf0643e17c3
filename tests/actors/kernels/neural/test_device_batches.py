"""Where rows lie while a network learns from them: what comes in batches is the same, wherever they are."""

from __future__ import annotations

import pytest
import torch

from actors.kernels.neural.device_batches import batches, settle
from actors.kernels.neural.vae_networks import build, encode
from actors.kernels.neural.vae_training import Training, make_optimiser, train

ROWS = torch.rand(103, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [1, 3, 100])
def test_rows_on_the_host_come_in_the_same_batches(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # needs CUDA
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    order = torch.randperm(103, generator=torch.Generator().manual_seed(1))
    resident = list(batches(ROWS, order, 10, torch.device("cpu")))
    copied = list(batches(ROWS, order, 10, torch.device("cuda"), block))
    assert [len(batch) for batch in copied] == [10] * 10 + [3]
    assert all(torch.equal(one, other) for one, other in zip(resident, copied, strict=True))


def test_on_the_cpu_rows_stay_where_they_are() -> None:
    assert settle(ROWS.numpy(), torch.device("cpu")).data_ptr() == ROWS.data_ptr()


def losses(device: str = "cpu", *, mixed: bool = False, rows: torch.Tensor = ROWS) -> list[float]:
    networks = build(7, 8, 2, seed=3).to(device)
    training = Training(20, 25, 1.0, 1e-2, "bce", mixed_precision=mixed)
    generator = torch.Generator(device).manual_seed(4)
    means = torch.zeros(103, 2, device=device)
    return train(networks, make_optimiser(networks), rows, means, training, generator, lambda *_: None)


def test_mixed_precision_learns_the_same_less_exactly() -> None:
    exact, mixed = losses(), losses(mixed=True)
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.02)
    assert mixed[-1] < mixed[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_that_stay_with_the_host_are_learnt_from_as_those_on_the_gpu_are(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    there = settle(ROWS.numpy(), device)
    monkeypatch.setattr("actors.kernels.neural.device_batches.SHARE", 0.0)
    here = settle(ROWS.numpy(), device)
    assert there.device.type == "cuda"
    assert here.device.type == "cpu"
    assert here.is_pinned()
    assert losses("cuda", rows=here) == losses("cuda", rows=there)
    networks = build(7, 8, 2, seed=3).to(device)
    assert torch.equal(encode(networks, here)[0], encode(networks, there)[0])
