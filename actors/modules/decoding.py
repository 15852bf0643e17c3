"""Decoding of class means for modules that map latent vectors back to data."""

from __future__ import annotations

from collections.abc import Callable

from actors.module import Context, Inbox, Outbox
from actors.types import Array


def decode_class_means(inbox: Inbox, context: Context, decode: Callable[[Array], Array]) -> Outbox:
    """Return the decoded class means of the message on port ``class_means``; an empty outbox without one.

    Parameters
    ----------
    inbox : Inbox
    context : Context
    decode : callable
        Maps latent vectors (M, D) to data (M, …).

    Returns
    -------
    Outbox
        Output ``mu_hat`` (K, …) and, with ``context.rows``, ``x_hat`` (N, …), each row decoded from its own prior mean
        on port ``latent_means``, from the latent vector that its class has drawn, or else from its expected class mean,
        responsibilities times means.
    """
    message, expected = inbox.first("class_means"), inbox.first("latent_means")
    if message is None:
        return Outbox()
    outputs = {"mu_hat": decode(message["means"])}
    if context.rows and expected is not None:
        outputs["x_hat"] = decode(expected["mean"])
    elif context.rows and "drawn" in message.arrays:
        outputs["x_hat"] = decode(message["drawn"])
    elif context.rows:
        outputs["x_hat"] = decode(message["responsibilities"] @ message["means"])
    return Outbox(outputs=outputs)
