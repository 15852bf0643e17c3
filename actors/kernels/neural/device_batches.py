"""Where the rows that a network learns from lie: on its device if they fit there, else in page-locked host memory.

Rows that stay with the host are copied to the device in blocks of batches, each while the one before it is learnt from.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy.typing as npt
import torch
from torch import Tensor

SHARE = 0.5
"""Of the device's free memory that rows may take; the rest is for weights, activations and other processes."""

BLOCK = 16
"""Batches that are gathered and copied at a time."""


def settle(rows: npt.ArrayLike, device: torch.device) -> Tensor:
    """Return rows as a float32 tensor on `device` if they fit there, else page-locked on the host.

    Parameters
    ----------
    rows : array_like (N, P)
    device : torch.device
    """
    tensor = torch.as_tensor(rows, dtype=torch.float32)
    if device.type != "cuda":
        return tensor.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    if tensor.nbytes > SHARE * free:
        return tensor.pin_memory()
    return tensor.pin_memory().to(device, non_blocking=True)


def batches(rows: Tensor, order: Tensor, size: int, device: torch.device, block: int = BLOCK) -> Iterator[Tensor]:
    """Give `rows` in a given order, `size` of them at a time, on `device`.

    Parameters
    ----------
    rows : Tensor (N, P)
        On the device, or on the host.
    order : Tensor (N,) of int64
        On the device.
    size : int
    device : torch.device
    block : int
        Batches that are copied at a time where rows are on the host.
    """
    if rows.device.type == device.type:
        yield from torch.split(rows.index_select(0, order), size)
        return
    for chosen in torch.split(order.cpu(), block * size):
        gathered = rows.index_select(0, chosen).pin_memory()
        yield from torch.split(gathered.to(device, non_blocking=True), size)
