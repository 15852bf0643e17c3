"""A supervised mapping from inputs to targets, and what a target says about one of the inputs.

Learning maximises Σ_t log p(y_t | x_t), the density being that of the network's answer (:func:`log_likelihood`). The
other way round, a message about one block x_s of the inputs, the rest of the row held as it came, maximises what the
block explains of the row's target, plus its entropy or prior:

- of a class, E_{k~q}[log p(y | x_s = e_k)] + H(q) over distributions q (:func:`expected_classes`). This is the
  variational bound of log Σ_k p(y | e_k), and its optimum is the exact posterior under a uniform prior. One step of the
  natural gradient reaches it from anywhere (M. E. Khan, W. Lin, "Conjugate-computation variational inference", 2017),
  so that there is nothing to iterate.
- of the same, relaxed, log p(y | x_s = q) + H(q), in steps of Adam from uniform (:func:`relaxed_classes`). Where
  log p(y | x) is concave in x_s, a mixture of classes explains more than its classes do on average (Jensen), so that
  this is the softer message. (Without the entropy its confidence would be that of wherever the climb happens to end.)
- of a latent vector, log p(y | x_s = z) - |z|²/2, in steps of Adam from zero: the mode of z under N(0, I)
  (:func:`latent_modes`).

Throughout, N is the number of rows, I the width of an input, P that of a target. All tensors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus

from actors.kernels.neural.vae_networks import CHUNK, Decoder, initialise, plugged_in, seeded

Loss = Literal["mse", "bce", "cross_entropy"]
Network: TypeAlias = nn.Module


def build(inputs: int, hidden: int, outputs: int, seed: int, dotted: str | None = None) -> Network:
    """Return a new network on the CPU; equal seeds give equal weights in every process.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths; `hidden` is for the default network, one hidden layer of rectified linear units.
    seed : int
        Of the weights.
    dotted : str, optional
        ``package.module:callable``, called with (inputs, outputs); returns a torch module that answers (N, inputs) with
        (N, outputs).

    Raises
    ------
    ValueError
        If the dotted name leads to no torch module, or it does not answer so.
    """
    with seeded(seed):
        if dotted is None:
            network: Network = Decoder(inputs, hidden, outputs)
            initialise(network, torch.Generator().manual_seed(seed))
            return network
        network = plugged_in(dotted, inputs, outputs)
        try:
            answer = predict(network, torch.full((2, inputs), 0.5))
        except Exception as error:  # whatever somebody's network raises
            raise ValueError(f"network {dotted!r} fails on inputs (2, {inputs}): {error}") from error
    if not isinstance(answer, Tensor) or answer.shape != (2, outputs):
        came = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(f"network {dotted!r} answers inputs (2, {inputs}) with {came}, expected (2, {outputs})")
    return network


def log_likelihood(answer: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return log p(target | answer) of each row, (N,), in nats.

    Parameters
    ----------
    answer, targets : Tensor, shape (N, P)
        What the network gives, and what it should have given.
    loss : {"mse", "bce", "cross_entropy"}
        Gaussian of unit variance around the answer, without the constant P/2 log(2 pi); Bernoulli on logits; one
        category of P on logits, the target being one-hot or a distribution.
    """
    if loss == "mse":
        return -0.5 * (answer - targets).square().sum(dim=1)
    if loss == "bce":
        return (targets * answer - softplus(answer)).sum(dim=1)
    return (targets * log_softmax(answer, dim=1)).sum(dim=1)


def expected(answer: Tensor, loss: Loss) -> Tensor:
    """Return the expected targets (N, P) under the network's answer (N, P)."""
    if loss == "mse":
        return answer
    return torch.sigmoid(answer) if loss == "bce" else torch.softmax(answer, dim=1)


def predict(network: Network, inputs: Tensor) -> Tensor:
    """Return the network's answer (N, P) to inputs (N, I); learns nothing."""
    network.eval()
    with torch.no_grad():
        parts = [network(part) for part in torch.split(inputs, CHUNK)]
        return torch.cat(parts) if len(parts) > 1 else cast("Tensor", parts[0])


# --- learning -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How to learn: passes over the rows, rows a step, Adam's step size and its L2 penalty on weights, the loss."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    loss: Loss


def fit(
    network: Network,
    optimiser: torch.optim.Adam,
    inputs: Tensor,
    targets: Tensor,
    how: Fit,
    generator: torch.Generator,
    on_epoch: Callable[[int, int, float], None],
) -> list[float]:
    """Maximise Σ log p(target | input), in place.

    Parameters
    ----------
    network : Module
        Changed in place, like `optimiser`.
    optimiser : torch.optim.Adam
    inputs, targets : Tensor, shapes (N, I), (N, P)
        On the network's device.
    how : Fit
    generator : torch.Generator
        Of the order of rows; on the same device.
    on_epoch : callable
        Called with the epochs done, those that there will be, and the last one's loss.

    Returns
    -------
    list of float
        The loss of each epoch, mean over rows.

    Raises
    ------
    FloatingPointError
        If the loss of an epoch is not finite; says after how many epochs.
    """
    network.train()
    for group in optimiser.param_groups:
        group["lr"], group["weight_decay"] = how.learning_rate, how.weight_decay
    losses: list[float] = []
    for epoch in range(how.epochs):
        order = torch.randperm(len(inputs), generator=generator, device=generator.device)
        total = torch.zeros((), device=generator.device)
        for batch in torch.split(order, how.batch_size):
            loss = -log_likelihood(network(inputs[batch]), targets[batch], how.loss).sum()
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss / len(batch))
            optimiser.step()
            total += loss.detach()
        losses.append(float(total) / len(inputs))  # the only synchronisation with the device in an epoch
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]:g} after {epoch + 1} of {how.epochs} epochs")
        on_epoch(epoch + 1, how.epochs, losses[-1])
    return losses


# --- backwards ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ascent:
    """How an input is optimised: steps of Adam whose size falls to zero as a cosine does, and what is climbed.

    ``trust`` is the power to which the likelihood is raised.
    """

    steps: int
    rate: float
    loss: Loss
    trust: float = 1.0


def expected_classes(network: Network, inputs: Tensor, targets: Tensor, block: slice, how: Ascent) -> Tensor:
    """Return the q (N, K), as log-distributions, that maximises trust · E_{k~q}[log p(y | x_s = e_k)] + H(q).

    Parameters
    ----------
    network : Module
    inputs, targets : Tensor, shapes (N, I), (N, P)
    block : slice
        The K columns x_s of the inputs; what stands there has no say.
    how : Ascent
    """
    filled = inputs.clone()
    explained = []
    for k in range(block.start, block.stop):
        filled[:, block] = 0.0
        filled[:, k] = 1.0
        explained.append(log_likelihood(predict(network, filled), targets, how.loss))
    return log_softmax(how.trust * torch.stack(explained, dim=1), dim=1)


def relaxed_classes(network: Network, inputs: Tensor, targets: Tensor, block: slice, how: Ascent) -> Tensor:
    """Return the q (N, K), as log-distributions, that maximises trust · log p(y | x_s = q) + H(q) from uniform on.

    Parameters and returns are those of :func:`expected_classes`.
    """

    def entropy(logits: Tensor) -> Tensor:
        log_q = log_softmax(logits, dim=1)
        return -(log_q.exp() * log_q).sum(dim=1)

    logits = _climb(network, inputs, targets, block, how, lambda logits: torch.softmax(logits, dim=1), entropy)
    return log_softmax(logits, dim=1)


def latent_modes(network: Network, inputs: Tensor, targets: Tensor, block: slice, how: Ascent) -> Tensor:
    """Return the z (N, D) that maximises trust · log p(y | x_s = z) - |z|²/2, from zero on.

    Parameters are those of :func:`expected_classes`, `block` being D columns.
    """
    return _climb(network, inputs, targets, block, how, lambda z: z, lambda z: -0.5 * z.square().sum(dim=1))


def _climb(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    block: slice,
    how: Ascent,
    as_input: Callable[[Tensor], Tensor],
    regulariser: Callable[[Tensor], Tensor],
) -> Tensor:
    """Maximise, over v from zero, trust · log p(y | x_s = as_input(v)) + regulariser(v), for each row by itself."""
    network.eval()
    ends = []
    for before, target in zip(torch.split(inputs, CHUNK), torch.split(targets, CHUNK), strict=True):
        v = torch.zeros_like(before[:, block], requires_grad=True)
        adam = torch.optim.Adam([v], maximize=True)
        for step in range(how.steps):
            adam.param_groups[0]["lr"] = 0.5 * how.rate * (1.0 + math.cos(math.pi * step / how.steps))
            x = torch.cat((before[:, : block.start], as_input(v), before[:, block.stop :]), dim=1)
            objective = how.trust * log_likelihood(network(x), target, how.loss) + regulariser(v)
            (v.grad,) = torch.autograd.grad(objective.sum(), [v])
            adam.step()
        ends.append(v.detach())
    return torch.cat(ends)
