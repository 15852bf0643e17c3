"""Failures of users' networks as errors of the module that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from actors.errors import ModuleError


@contextmanager
def named_failures(where: str) -> Iterator[None]:
    """Raise a :class:`UserNetworkError` as a ModuleError that names `where`."""
    from actors.kernels.neural.vae_networks import UserNetworkError

    try:
        yield
    except UserNetworkError as error:
        raise ModuleError(f"{where}: {error}") from error
