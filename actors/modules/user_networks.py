"""Failures of users' networks as errors of the module that uses them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from actors.errors import ModuleError, NonFiniteError


@contextmanager
def named_failures(where: str) -> Iterator[None]:
    """Raise a :class:`UserNetworkError` as a ModuleError that names `where`."""
    from actors.kernels.neural.vae_networks import UserNetworkError

    try:
        yield
    except UserNetworkError as error:
        raise ModuleError(f"{where}: {error}") from error


@contextmanager
def training_failures(where: str, encoder: str | None, decoder: str | None, likelihood: str) -> Iterator[None]:
    """Raise what goes wrong in the training of a VAE as a ModuleError that names `where` and the user's networks."""
    try:
        yield
    except ModuleError:  # names the module already
        raise
    except FloatingPointError as error:
        remedy = "a smaller learning_rate" + (" or scaling the data down" if likelihood == "mse" else "")
        raise NonFiniteError(f"{where}: {error}; try {remedy}") from error
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        names = " and ".join(f"{name!r}" for name in (encoder, decoder) if name)
        if not names:
            raise
        raise ModuleError(f"{where}: {names} cannot be trained: {error}") from error
