"""Estimation of the concentration of symmetric Dirichlet distributions from counts.

Source: T. P. Minka, "Estimating a Dirichlet distribution", 2000, section 4 (Dirichlet-multinomial, or Polya,
distribution), eq. 55, for a symmetric Dirichlet distribution as in H. M. Wallach, D. Mimno, A. McCallum, "Rethinking
LDA: why priors matter", 2009.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.kernels.special import digamma
from actors.kernels.types import FloatArray


def concentration_step(counts: Sequence[FloatArray], concentration: float) -> float:
    """Return the concentration after one step of Minka's fixed point, which never lowers the counts' likelihood.

    With counts n_gw of W outcomes in each group g, drawn from θ_g ~ Dirichlet(a, …, a), the step is

        a ← a · Σ_g Σ_w [Ψ(n_gw + a) - Ψ(a)] / Σ_g W [Ψ(n_g + W a) - Ψ(W a)],

    where both sums run over all tables too: they share one concentration.

    Parameters
    ----------
    counts : sequence of ndarray of float64, shape (G, W)
        One table for each number of outcomes W.
    concentration : float
        a > 0.

    Returns
    -------
    float
        The new concentration; the old one where there are no counts, or only one outcome.
    """
    shown, possible = 0.0, 0.0
    for table in counts:
        positive, totals, outcomes = table[table > 0.0], table.sum(axis=1), table.shape[1]
        if outcomes > 1:
            shown += float((digamma(positive + concentration) - digamma(concentration)).sum())
            possible += outcomes * float(
                (digamma(totals + outcomes * concentration) - digamma(outcomes * concentration)).sum()
            )
    return concentration * shown / possible if possible > 0.0 and shown > 0.0 else concentration
