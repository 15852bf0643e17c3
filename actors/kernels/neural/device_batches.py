"""Placement of training rows: on the network's device if they fit there, else in page-locked host memory.

Rows in host memory are copied to the device in blocks of batches, each copy overlapping with training on the previous
block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy.typing as npt
import torch
from torch import Tensor

MEMORY_SHARE = 0.5
"""Share of the device's free memory for rows; the rest is for weights, activations and other processes."""

BATCHES_PER_COPY = 16
"""Batches that are gathered and copied together."""


def place_rows(rows: npt.ArrayLike, device: torch.device) -> Tensor:
    """Return rows as a float32 tensor on `device` if they fit there, else in page-locked host memory.

    Parameters
    ----------
    rows : array_like (N, P)
    device : torch.device
    """
    tensor = torch.as_tensor(rows, dtype=torch.float32)
    if device.type != "cuda":
        return tensor.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    if tensor.nbytes > MEMORY_SHARE * free:
        return tensor.pin_memory()
    return tensor.pin_memory().to(device, non_blocking=True)


def iterate_batches(
    rows: Tensor, order: Tensor, size: int, device: torch.device, block: int = BATCHES_PER_COPY
) -> Iterator[Tensor]:
    """Yield batches of `size` rows on `device`, in the given order of rows.

    Parameters
    ----------
    rows : Tensor (N, P)
        On the device or on the host.
    order : Tensor (N,) of int64
        Permutation of the rows; on the device.
    size : int
        Rows per batch; the last batch may have fewer.
    device : torch.device
    block : int
        Batches per copy, if rows are on the host.
    """
    if rows.device.type == device.type:
        yield from torch.split(rows.index_select(0, order), size)
        return
    for chosen in torch.split(order.cpu(), block * size):
        gathered = rows.index_select(0, chosen).pin_memory()
        yield from torch.split(gathered.to(device, non_blocking=True), size)
