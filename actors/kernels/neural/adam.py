"""Adam, with torch's own step for all weights at once.

torch.optim offers the same; making its first optimiser imports torch's compiler and sympy, which takes a second.
Source: D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

DECAYS = (0.9, 0.999)
"""β1 and β2, by which the moments decay."""

EPSILON = 1e-8

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of the two moments of a gradient, those of torch.optim."""


class Adam:
    """The optimiser of some weights.

    Parameters
    ----------
    weights : iterable of Tensor
        Those that are trained; others are left alone.
    maximize : bool
        Whether steps go up the gradient.

    Attributes
    ----------
    weights : list of Tensor
    state : dict of Tensor to dict of str to Tensor
        Moments and step count (``step``, a float32 scalar on the weight's device) of each weight that had a gradient.
    learning_rate, weight_decay : float
        Step size, and L2 penalty.
    """

    def __init__(self, weights: Iterable[Tensor], *, maximize: bool = False) -> None:
        self.weights = list(weights)
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.learning_rate = 1e-3
        self.weight_decay = 0.0
        self._maximize = maximize

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for weight in self.weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step on all weights that have a gradient."""
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for weight in self.weights:
            if weight.grad is not None:
                groups.setdefault((weight.device, weight.dtype), []).append(weight)
        for weights in groups.values():
            states = [self.state_of(weight) for weight in weights]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1.0)
            torch._fused_adam_(
                weights,
                [weight.grad for weight in weights if weight.grad is not None],
                [state[MOMENTS[0]] for state in states],
                [state[MOMENTS[1]] for state in states],
                [],
                steps,
                lr=self.learning_rate,
                beta1=DECAYS[0],
                beta2=DECAYS[1],
                weight_decay=self.weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=self._maximize,
            )

    def state_of(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the moments and step count of a weight, zeros before its first step."""
        if weight not in self.state:
            moments = {moment: torch.zeros_like(weight, memory_format=torch.preserve_format) for moment in MOMENTS}
            self.state[weight] = {"step": torch.zeros((), device=weight.device), **moments}
        return self.state[weight]
