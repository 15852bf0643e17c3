"""Supervised mapping from inputs to targets, and backward messages from a target to one block of the inputs.

Training maximises Σ_t log p(y_t | x_t), the likelihood given the network's output (:func:`log_likelihood`). A backward
message to a block x_s of the inputs, with the rest of the row fixed, maximises the log-likelihood of the row's target
plus an entropy or a prior:

- to a class, E_{k~q}[log p(y | x_s = e_k)] + H(q) over distributions q (:func:`expected_classes`). This is the
  variational bound of log Σ_k p(y | e_k), and its optimum is the exact posterior under a uniform prior. One natural
  gradient step reaches it from any start (M. E. Khan, W. Lin, "Conjugate-computation variational inference", 2017), so
  that no iteration is needed.
- to a class, relaxed, log p(y | x_s = q) + H(q), with Adam from a uniform start (:func:`relaxed_classes`). Where
  log p(y | x) is concave in x_s, a mixture of classes has a higher log-likelihood than its classes on average (Jensen),
  so that this message is softer. (Without the entropy its confidence would depend on where the optimisation stops.)
- to a latent vector, log p(y | x_s = z) - |z|²/2, with Adam from zero: the mode of z under the prior N(0, I)
  (:func:`latent_modes`).

N is the number of rows, I the width of an input, P that of a target. All tensors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softplus

from actors.kernels.neural.adam import Adam
from actors.kernels.neural.device_batches import batch_sizes
from actors.kernels.neural.layers import initialise
from actors.kernels.neural.vae_networks import CHUNK, Decoder, UserNetworkError, load_user_network, seeded

Loss = Literal["mse", "bce", "cross_entropy"]
Network: TypeAlias = nn.Module


def build(inputs: int, hidden: int, outputs: int, seed: int, dotted: str | None = None) -> Network:
    """Return a new network on the CPU, with weights determined by the seed.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths; `hidden` is that of the default network, one hidden layer of rectified linear units.
    seed : int
        Seed of the initial weights.
    dotted : str, optional
        ``package.module:callable``, called with (inputs, outputs); must return a torch module that maps (N, inputs) to
        (N, outputs).

    Raises
    ------
    ValueError
        If the callable cannot be loaded, fails, or does not return such a torch module.
    """
    with seeded(seed):
        if dotted is None:
            network: Network = Decoder(inputs, hidden, outputs)
            initialise(network, torch.Generator().manual_seed(seed))
            return network
        network = load_user_network(dotted, inputs, outputs)
        try:
            output = predict(network, torch.full((2, inputs), 0.5))
        except UserNetworkError:
            raise
        except Exception as error:
            raise ValueError(f"network {dotted!r} fails on inputs (2, {inputs}): {error}") from error
    if not isinstance(output, Tensor) or output.shape != (2, outputs):
        actual = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"network {dotted!r} returned {actual} for inputs (2, {inputs}), expected (2, {outputs})")
    return network


def log_likelihood(output: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return log p(target | output) of each row, (N,), in nats.

    Parameters
    ----------
    output, targets : Tensor, shape (N, P)
        Output of the network, and its targets.
    loss : {"mse", "bce", "cross_entropy"}
        Gaussian with the output as mean and unit variance, without the constant P/2 log(2 pi); Bernoulli on logits;
        categorical over P on logits, where the target is one-hot or a distribution.
    """
    if loss == "mse":
        return -0.5 * (output - targets).square().sum(dim=1)
    if loss == "bce":
        return (targets * output - softplus(output)).sum(dim=1)
    return (targets * log_softmax(output, dim=1)).sum(dim=1)


def expected_targets(output: Tensor, loss: Loss) -> Tensor:
    """Return the expected targets (N, P) given the network's output (N, P)."""
    if loss == "mse":
        return output
    return torch.sigmoid(output) if loss == "bce" else torch.softmax(output, dim=1)


def predict(network: Network, inputs: Tensor) -> Tensor:
    """Return the network's output (N, P) for inputs (N, I), in evaluation mode."""
    network.eval()
    with torch.no_grad():
        parts = [network(part) for part in torch.split(inputs, CHUNK)]
        return torch.cat(parts) if len(parts) > 1 else cast("Tensor", parts[0])


# --- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit`: passes over the rows, rows per step, Adam's step size and L2 penalty, and the loss.

    With `even_batches` the rows are spread evenly over the steps, for a network that may fail on a small last batch.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    loss: Loss
    even_batches: bool = False


def fit(
    network: Network,
    optimiser: Adam,
    inputs: Tensor,
    targets: Tensor,
    options: FitOptions,
    generator: torch.Generator,
    on_epoch: Callable[[int, int, float], None],
) -> list[float]:
    """Maximise Σ log p(target | input) over the weights, in place.

    Parameters
    ----------
    network : Module
        Changed in place, like `optimiser`.
    optimiser : Adam
    inputs, targets : Tensor, shapes (N, I), (N, P)
        On the network's device.
    options : FitOptions
    generator : torch.Generator
        Generator of the order of rows; on the network's device.
    on_epoch : callable
        Called after each epoch with the number of epochs done, their total, and the epoch's loss.

    Returns
    -------
    list of float
        The loss of each epoch, mean over rows.

    Raises
    ------
    FloatingPointError
        If the loss of an epoch is not finite; the message names the epoch.
    """
    network.train()
    optimiser.learning_rate, optimiser.weight_decay = options.learning_rate, options.weight_decay
    losses: list[float] = []
    sizes = batch_sizes(len(inputs), options.batch_size, even=options.even_batches)
    for epoch in range(options.epochs):
        order = torch.randperm(len(inputs), generator=generator, device=generator.device)
        total = torch.zeros((), device=generator.device)
        for batch in torch.split(order, sizes):
            loss = -log_likelihood(network(inputs[batch]), targets[batch], options.loss).sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss / len(batch))
            optimiser.step()
            total += loss.detach()
        losses.append(float(total) / len(inputs))  # the only synchronisation with the device in an epoch
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss is {losses[-1]:g} after {epoch + 1} of {options.epochs} epochs")
        on_epoch(epoch + 1, options.epochs, losses[-1])
    return losses


# --- backward messages --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AscentOptions:
    """Options of the optimisation of an input.

    Attributes
    ----------
    steps : int
        Steps of Adam.
    rate : float
        Initial step size, which falls to zero by a cosine schedule.
    loss : {"mse", "bce", "cross_entropy"}
    trust : float
        The exponent of the likelihood.
    """

    steps: int
    rate: float
    loss: Loss
    trust: float = 1.0


def expected_classes(network: Network, inputs: Tensor, targets: Tensor, block: slice, options: AscentOptions) -> Tensor:
    """Return the q (N, K), as log-distributions, that maximises trust · E_{k~q}[log p(y | x_s = e_k)] + H(q).

    Parameters
    ----------
    network : Module
    inputs, targets : Tensor, shapes (N, I), (N, P)
    block : slice
        The K columns x_s of the inputs; their values are ignored.
    options : AscentOptions
    """
    filled = inputs.clone()
    log_likelihoods = []
    for k in range(block.start, block.stop):
        filled[:, block] = 0.0
        filled[:, k] = 1.0
        log_likelihoods.append(log_likelihood(predict(network, filled), targets, options.loss))
    return log_softmax(options.trust * torch.stack(log_likelihoods, dim=1), dim=1)


def relaxed_classes(network: Network, inputs: Tensor, targets: Tensor, block: slice, options: AscentOptions) -> Tensor:
    """Return the q (N, K), as log-distributions, that maximises trust · log p(y | x_s = q) + H(q).

    The optimisation starts from the uniform distribution. Parameters are those of :func:`expected_classes`.
    """

    def entropy(logits: Tensor) -> Tensor:
        log_q = log_softmax(logits, dim=1)
        return -(log_q.exp() * log_q).sum(dim=1)

    logits = _maximise_over_input(
        network, inputs, targets, block, options, lambda logits: torch.softmax(logits, dim=1), entropy
    )
    return log_softmax(logits, dim=1)


def latent_modes(network: Network, inputs: Tensor, targets: Tensor, block: slice, options: AscentOptions) -> Tensor:
    """Return the z (N, D) that maximises trust · log p(y | x_s = z) - |z|²/2.

    The optimisation starts from zero. Parameters are those of :func:`expected_classes`, with a `block` of D columns.
    """
    return _maximise_over_input(
        network, inputs, targets, block, options, lambda z: z, lambda z: -0.5 * z.square().sum(dim=1)
    )


def _maximise_over_input(
    network: Network,
    inputs: Tensor,
    targets: Tensor,
    block: slice,
    options: AscentOptions,
    as_input: Callable[[Tensor], Tensor],
    regulariser: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the v that maximises trust · log p(y | x_s = as_input(v)) + regulariser(v) for each row, from zero."""
    network.eval()
    optima = []
    for fixed, target in zip(torch.split(inputs, CHUNK), torch.split(targets, CHUNK), strict=True):
        v = torch.zeros_like(fixed[:, block], requires_grad=True)
        adam = Adam([v], maximize=True)
        for step in range(options.steps):
            adam.learning_rate = 0.5 * options.rate * (1.0 + math.cos(math.pi * step / options.steps))
            x = torch.cat((fixed[:, : block.start], as_input(v), fixed[:, block.stop :]), dim=1)
            objective = options.trust * log_likelihood(network(x), target, options.loss) + regulariser(v)
            (v.grad,) = torch.autograd.grad(objective.sum(), [v])
            adam.step()
        optima.append(v.detach())
    return torch.cat(optima)
