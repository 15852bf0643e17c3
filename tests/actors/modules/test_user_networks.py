"""What users' networks may do wrong: each is one sentence that names the network, and nothing is learnt silently."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.kernels.neural import vae_networks
from actors.kernels.neural.vae_networks import UserNetworkError, load_user_network

ROWS = torch.rand(7, 6, generator=torch.Generator().manual_seed(0))
HERE = "serket_test_networks"


class Net(nn.Module):
    """A layer of `outputs` values, and what a user makes of its input and output."""

    def __init__(self, inputs: int, outputs: int, change: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(inputs, outputs), change

    def forward(self, rows: Tensor) -> Any:
        return self.change(rows, self.layer(rows))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    def make(change: Callable[[Tensor, Tensor], Any], *, pair: bool, width: int = 4) -> nn.Module:
        package: Any = types.ModuleType(HERE)
        package.net = lambda inputs, _: Net(inputs, width, change)
        monkeypatch.setitem(sys.modules, HERE, package)
        return load_user_network(f"{HERE}:net", 6, 2, pair=pair)

    return make


def raise_(error: BaseException) -> Any:
    raise error


ENCODERS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "one tensor": (lambda _, y: y, r"returned \(7, 4\) for inputs \(7, 6\), expected a pair of tensors \(7, 2\)"),
    "three": (lambda _, y: (y[:, :2], y[:, 2:], y), r"returned .* and \(7, 4\)"),
    "wide": (lambda _, y: (y, y), r"returned \(7, 4\) and \(7, 4\)"),
    "one row": (lambda _, y: (y[:1, :2], y[:1, 2:]), r"returned \(1, 2\) and \(1, 2\)"),
    "integers": (lambda _, y: (y[:, :2].long(), y[:, 2:].long()), "of torch.int64, no floats"),
    "complex": (lambda _, y: (y[:, :2] * 1j, y[:, 2:]), "of torch.complex64, no floats"),
    "numpy": (lambda _, y: (y[:, :2].detach().numpy(), y[:, 2:]), "returned ndarray and"),
    "dict": (lambda _, y: {"mean": y}, "returned dict"),
    "detached": (lambda _, y: (y[:, :2].detach(), y[:, 2:].detach()), "does not depend on its weights"),
    "in place": (lambda x, y: (x.mul_(0), y[:, :2], y[:, 2:])[1:], "changes its inputs in place"),
    "raises": (lambda _x, _y: raise_(KeyError("boom")), r"fails on inputs \(7, 6\): KeyError: 'boom'"),
    "exits": (lambda _x, _y: raise_(SystemExit(3)), r"called sys.exit\(3\)"),
    "memory": (lambda _x, _y: raise_(MemoryError()), "MemoryError"),
}


@pytest.mark.parametrize(("change", "message"), ENCODERS.values(), ids=ENCODERS)
def test_a_wrong_encoder_is_named(load: Callable[..., nn.Module], change: Any, message: str) -> None:
    with pytest.raises(UserNetworkError, match=f"network '{HERE}:net' .*{message}|{message}"):
        load(change, pair=True)(ROWS.clone())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_becomes_float32_with_its_gradient(load: Callable[..., nn.Module], dtype: torch.dtype) -> None:
    network = load(lambda _, y: y.to(dtype), pair=False, width=2)
    output = network(ROWS)
    assert output.dtype == torch.float32
    output.sum().backward()
    np.testing.assert_allclose(network.layer.weight.grad, ROWS.sum(0).expand(2, 6), rtol=1e-6)


def test_a_frozen_network_may_not_depend_on_its_weights(load: Callable[..., nn.Module]) -> None:
    network = load(lambda _, y: y.detach(), pair=False, width=2)
    with pytest.raises(UserNetworkError, match="does not depend on its weights"):
        network(ROWS)
    assert network.requires_grad_(False)(ROWS).shape == (7, 2)


def test_ctrl_c_is_no_failure_of_a_network(load: Callable[..., nn.Module]) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(lambda _x, _y: raise_(KeyboardInterrupt()), pair=False)(ROWS)


@pytest.mark.parametrize("error", [SystemExit(4), RuntimeError("boom"), KeyError("boom")], ids=["exit", "run", "key"])
def test_a_network_that_cannot_be_built_is_named(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    package: Any = types.ModuleType(HERE)
    package.net = lambda *_: raise_(error)
    monkeypatch.setitem(sys.modules, HERE, package)
    with pytest.raises(ValueError, match=f"network '{HERE}:net' cannot be built: "):
        vae_networks.build(6, 4, 2, seed=0, encoder=f"{HERE}:net")
