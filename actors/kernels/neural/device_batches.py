"""Placement of training rows: on the network's device if they fit there, else in page-locked host memory.

Rows in host memory are copied to the device in blocks of batches, each copy overlapping with training on the previous
block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def batch_sizes(rows: int, size: int, *, even: bool = False) -> list[int]:
    """Return the number of rows of each batch.

    Parameters
    ----------
    rows : int
    size : int
        Most rows of a batch.
    even : bool
        Whether the batches differ by at most one row; otherwise only the last one may have fewer than `size`. A network
        of a user may fail on a small last batch: one with batch normalisation cannot learn from a single row.

    Examples
    --------
    >>> batch_sizes(65, 32), batch_sizes(65, 32, even=True)
    ([32, 32, 1], [22, 22, 21])
    """
    count = -(-rows // size)
    if even:
        return [rows // count + (index < rows % count) for index in range(count)]
    return [min(size, rows - index * size) for index in range(count)]


def iterate_batches(
    rows: Tensor, order: Tensor, sizes: Sequence[int], device: torch.device, block: int = BATCHES_PER_COPY
) -> Iterator[Tensor]:
    """Yield batches of rows on `device`, in the given order of rows.

    Parameters
    ----------
    rows : Tensor (N, P)
        On the device or on the host.
    order : Tensor (N,) of int64
        Permutation of the rows; on the device.
    sizes : sequence of int
        Rows of each batch (:func:`batch_sizes`).
    device : torch.device
    block : int
        Batches per copy, if rows are on the host.
    """
    if rows.device.type == device.type:
        yield from torch.split(rows.index_select(0, order), list(sizes))
        return
    copies = [list(sizes[first : first + block]) for first in range(0, len(sizes), block)]
    for chosen, own in zip(torch.split(order.cpu(), [sum(own) for own in copies]), copies, strict=True):
        gathered = rows.index_select(0, chosen).pin_memory()
        yield from torch.split(gathered.to(device, non_blocking=True), own)
