"""The functions of ``scipy.special`` that kernels use, imported at their first call: its import takes 0.2 seconds.

A process that only checks the parameters of modules calls none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _on_first_call(name: str) -> Callable[..., Any]:
    """Return a function that calls one of ``scipy.special``."""
    found: list[Callable[..., Any]] = []

    def call(*arguments: Any, **options: Any) -> Any:
        if not found:
            import scipy.special  # slow to import

            found.append(getattr(scipy.special, name))
        return found[0](*arguments, **options)

    call.__name__ = call.__qualname__ = name
    return call


chdtrc, digamma, entr, gammaln, logsumexp, multigammaln, softmax, xlogy = map(
    _on_first_call, ("chdtrc", "digamma", "entr", "gammaln", "logsumexp", "multigammaln", "softmax", "xlogy")
)
betainc, betaln, gammainc = map(_on_first_call, ("betainc", "betaln", "gammainc"))
