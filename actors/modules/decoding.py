"""What class means look like, for modules that decode latent vectors."""

from __future__ import annotations

from collections.abc import Callable

from actors.module import Context, Inbox, Outbox
from actors.types import Array


def pictures_of_means(inbox: Inbox, context: Context, decode: Callable[[Array], Array]) -> Outbox:
    """Return what the class means from above look like; nothing where none came.

    Parameters
    ----------
    inbox : Inbox
    context : Context
    decode : callable
        Gives the pictures (M, …) of latent vectors (M, D).

    Returns
    -------
    Outbox
        Output ``mu_hat`` (K, …) and, with ``context.rows``, ``x_hat`` (N, …), each row the picture of its own mean μ.
    """
    message = inbox.first("class_means")
    if message is None:
        return Outbox()
    outputs = {"mu_hat": decode(message["means"])}
    if context.rows:
        outputs["x_hat"] = decode(message["responsibilities"] @ message["means"])
    return Outbox(outputs=outputs)
