"""Networks of the VAE and its evidence lower bound (ELBO), as functions on torch tensors.

Source: D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2014, section 3 and appendix B. The prior has a
given mean for each row in place of zero.

N is the number of rows, P the number of pixels per row, L the number of latent dimensions. All tensors are float32.
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, relu, softplus

from actors.kernels.jit import as_input
from actors.kernels.neural.layers import Linear, initialise
from actors.kernels.neural.pictures import ConvolutionalDecoder, ConvolutionalEncoder, Picture

Likelihood = Literal["bce", "mse"]

CHUNK = 4096
"""Rows per forward pass in inference; a constant, because the bits of a matrix product depend on it."""


class Encoder(nn.Module):
    """The default encoder: one hidden layer of rectified linear units.

    Parameters
    ----------
    pixels, hidden, latent_dim : int
        Widths of the three layers.
    """

    def __init__(self, pixels: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.hidden = Linear(pixels, hidden)
        # One layer for both heads: one product instead of two.
        self.heads = Linear(hidden, 2 * latent_dim)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (N, L) each, of q(z | row) for `rows` (N, P)."""
        mean, log_variance = self.heads(relu(self.hidden(rows))).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """The default decoder: one hidden layer of rectified linear units.

    Parameters
    ----------
    latent_dim, hidden, pixels : int
        Widths of the three layers.
    """

    def __init__(self, latent_dim: int, hidden: int, pixels: int) -> None:
        super().__init__()
        self.hidden = Linear(latent_dim, hidden)
        self.out = Linear(hidden, pixels)

    def forward(self, latents: Tensor) -> Tensor:
        """Return the logits (N, P) for `latents` (N, L)."""
        logits: Tensor = self.out(relu(self.hidden(latents)))
        return logits


_GLOBAL_GENERATORS = threading.RLock()
"""Held while the process's generators are seeded: workers in threads of one process draw from the same ones."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the process's torch generators within the context, and restore their states afterwards.

    Other threads wait at their own contexts until this one has ended.
    """
    with _GLOBAL_GENERATORS, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def build(
    pixels: int,
    hidden: int,
    latent_dim: int,
    seed: int,
    encoder: str | None = None,
    decoder: str | None = None,
    hidden_decoder: int | None = None,
    picture: Picture | None = None,
    filters: Sequence[int] = (),
) -> nn.ModuleDict:
    """Return new networks ``encoder`` and ``decoder`` on the CPU, with weights determined by the seed.

    Parameters
    ----------
    pixels, hidden, latent_dim : int
        Widths; `hidden` is that of the default networks.
    seed : int
        Seed of the initial weights.
    encoder, decoder : str, optional
        ``package.module:callable``, called with (pixels, latent_dim) and (latent_dim, pixels); must return torch
        modules with the outputs of `Encoder` and `Decoder`.
    hidden_decoder : int, optional
        Width of the default decoder, if it is not `hidden`.
    picture : Picture, optional
        For networks of convolutions in place of the default ones: the shape of a row of `pixels` values.
    filters : sequence of int
        Number of filters of each convolution.

    Raises
    ------
    ValueError
        If a callable cannot be loaded, fails, or does not return a torch module.
    """
    generator, width = torch.Generator().manual_seed(seed), hidden_decoder or hidden
    with seeded(seed):
        if encoder is not None:
            up = load_user_network(encoder, pixels, latent_dim, pair=True)
        elif picture is not None:
            up = _initialised(ConvolutionalEncoder(picture, filters, hidden, latent_dim), generator)
        else:
            up = _initialised(Encoder(pixels, hidden, latent_dim), generator)
        if decoder is not None:
            down = load_user_network(decoder, latent_dim, pixels)
        elif picture is not None:
            down = _initialised(ConvolutionalDecoder(latent_dim, width, picture, filters), generator)
        else:
            down = _initialised(Decoder(latent_dim, width, pixels), generator)
    return nn.ModuleDict({"encoder": up, "decoder": down})


def _initialised(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a network of this package with its initial weights."""
    initialise(network, generator, getattr(network, "rectified", ()))
    return network


class UserNetworkError(ValueError):
    """A user's network failed, or returned what it should not; the message names it."""


def load_user_network(dotted: str, inputs: int, outputs: int, *, pair: bool = False) -> nn.Module:
    """Return the network that the user's ``package.module:callable`` builds from its two widths.

    Its ``forward`` raises :class:`UserNetworkError` for whatever goes wrong in it, and returns float32.

    Parameters
    ----------
    dotted : str
    inputs, outputs : int
    pair : bool
        Whether the network returns mean and log-variance, in place of one tensor.

    Raises
    ------
    ValueError
        If the callable cannot be loaded, fails, or does not return a torch module.
    """
    package, _, name = dotted.partition(":")
    try:
        network = getattr(importlib.import_module(package), name)(inputs, outputs)
    except SystemExit as error:
        raise ValueError(f"network {dotted!r} cannot be built: it called sys.exit({error.code!r})") from None
    except Exception as error:
        raise ValueError(f"network {dotted!r} cannot be built: {str(error) or type(error).__name__}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"network {dotted!r} returned {type(network).__name__}, expected a torch.nn.Module")
    forward = network.forward

    def checked(rows: Tensor) -> Any:
        version, given = rows._version, tuple(rows.shape)
        try:
            output = forward(rows)
        except SystemExit as error:
            raise UserNetworkError(f"network {dotted!r} called sys.exit({error.code!r})") from None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise UserNetworkError(f"network {dotted!r} fails on inputs {given}: {reason}") from error
        if rows._version != version:
            raise UserNetworkError(f"network {dotted!r} changes its inputs in place; give it a copy (clone())")
        _check_output(network, output, given, outputs, f"network {dotted!r}", pair=pair)
        return (output[0].float(), output[1].float()) if pair else output.float()

    network.forward = checked
    return network


def _describe(part: Any) -> str:
    if not isinstance(part, Tensor):
        return type(part).__name__
    return f"{tuple(part.shape)}{'' if part.is_floating_point() else f' of {part.dtype}, no floats,'}"


def _check_output(
    network: nn.Module, output: Any, given: tuple[int, ...], outputs: int, who: str, *, pair: bool
) -> None:
    """Refuse other shapes, which torch would broadcast, other types, and outputs by which nothing is learnt."""
    shape = (given[0], outputs)
    parts = output if pair and isinstance(output, tuple | list) else [output]
    expected = f"a pair of tensors {shape}, mean and log-variance" if pair else f"{shape}"
    fits = [isinstance(part, Tensor) and part.shape == shape and part.is_floating_point() for part in parts]
    if len(parts) != 1 + pair or not all(fits):
        found = " and ".join(map(_describe, parts[:3])) or "nothing"
        raise UserNetworkError(f"{who} returned {found} for inputs {given}, expected {expected}")
    trainable = torch.is_grad_enabled() and any(weight.requires_grad for weight in network.parameters())
    if trainable and not any(part.requires_grad for part in parts):
        raise UserNetworkError(
            f"{who} returned what does not depend on its weights, so that it learns nothing; leave out detach() and "
            "no_grad(), or freeze the weights with requires_grad_(False)"
        )


# --- ELBO ---------------------------------------------------------------------------------------------------------


class _BernoulliLoss(torch.autograd.Function):
    """Compute the summed negative log-probability of values in [0, 1] under logits.

    torch's function returns the same, but its gradient takes several passes over (N, P), and dominates the run time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(logits, values)
        return softplus(logits).sum() - torch.dot(logits.reshape(-1), values.reshape(-1))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, values = ctx.saved_tensors
        return torch.sigmoid(logits).sub_(values).mul_(gradient), None


def reconstruction_loss(logits: Tensor, values: Tensor, likelihood: Likelihood) -> Tensor:
    """Return -log p(values | logits), summed over rows and pixels.

    Parameters
    ----------
    logits, values : Tensor, shape (N, P)
        Output of the decoder, and its target.
    likelihood : {"bce", "mse"}
        Bernoulli, or Gaussian with the decoder's output as mean and unit variance, without the constant P/2 log(2 pi).
    """
    if likelihood == "bce":
        loss: Tensor = _BernoulliLoss.apply(logits, values)  # type: ignore[no-untyped-call]
        return loss
    return 0.5 * (logits - values).square().sum()


def observed_loss(logits: Tensor, rows: Tensor, likelihood: Likelihood) -> Tensor:
    """Return `reconstruction_loss` of the values of rows (N, P) that are not missing (NaN).

    Given z the values are independent, so that leaving one out integrates it out (A. Nazábal et al., "Handling
    incomplete heterogeneous data using VAEs", 2020, eq. 3; P.-A. Mattei and J. Frellsen, "MIWAE", 2019, section 2).
    """
    seen = ~torch.isnan(rows)
    return reconstruction_loss(logits[seen], rows[seen], likelihood)


def without_gaps(rows: Tensor) -> Tensor:
    """Return what the encoder gets of rows: 0 for what is missing (NaN), as in Nazábal et al. 2020, section 3.2.

    In columns that are scaled to the mean 0 this is the mean (Mattei and Frellsen 2019, section 3).
    """
    return torch.nan_to_num(rows, nan=0.0)


def _is_default(networks: nn.ModuleDict) -> bool:
    """Return whether the decoder is the default one on the CPU, whose kernels are compiled before it is used."""
    decoder = networks["decoder"]
    return type(decoder) is Decoder and decoder.out.weight.device.type == "cpu"


def _compiled_loss(logits: Tensor, rows: Tensor, likelihood: Likelihood) -> float:
    """Return `reconstruction_loss`, in one pass, of logits and rows of float32."""
    from actors.kernels.neural import step_kernels  # imports numba

    kernel = step_kernels.bernoulli_loss if likelihood == "bce" else step_kernels.gaussian_loss
    return kernel(as_input(logits.numpy(), np.float32), as_input(rows.numpy(), np.float32))


def kl_divergence(mean: Tensor, log_variance: Tensor, prior_mean: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) ‖ N(prior_mean, I)), summed over rows and dimensions (all (N, L))."""
    return 0.5 * ((mean - prior_mean).square() + log_variance.exp() - log_variance - 1.0).sum()


class ClassPrior(NamedTuple):
    """What is known of the classes of rows, from above.

    Parameters
    ----------
    means : Tensor, shape (K, L)
    responsibilities : Tensor, shape (N, K)
    weight : float
        Of :func:`class_loss`.
    """

    means: Tensor
    responsibilities: Tensor
    weight: float


def class_loss(latents: Tensor, classes: ClassPrior) -> Tensor:
    """Return -Σ_n Σ_k r_nk log p(k | z_n), summed over rows, for `latents` (N, L).

    Under equally probable classes with the densities N(m_k, I), p(k | z) is the softmax of z·m_k - |m_k|²/2. D. P.
    Kingma et al., "Semi-supervised learning with deep generative models", 2014, eq. 9, add the same with labels.
    """
    logits = latents @ classes.means.T - 0.5 * classes.means.square().sum(dim=1)
    return -(classes.responsibilities * log_softmax(logits, dim=1)).sum()


def reconstruct(networks: nn.ModuleDict, latents: Tensor, likelihood: Likelihood, into: Tensor | None = None) -> Tensor:
    """Return the expected values (N, P) for `latents` (N, L), in evaluation mode; in the memory `into`, if given."""
    networks.eval()
    with torch.no_grad():
        for first, part in zip(range(0, max(1, len(latents)), CHUNK), torch.split(latents, CHUNK), strict=True):
            logits = networks["decoder"](part)
            if into is None:
                into = torch.empty((len(latents), logits.shape[1]), dtype=logits.dtype, device=logits.device)
            own = into[first : first + len(part)]
            if likelihood == "bce":
                torch.sigmoid(logits, out=own)
            else:
                own.copy_(logits)
    assert into is not None  # without latents there is one part, of no rows
    return into


def encode(networks: nn.ModuleDict, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log-variance, (N, L) each, of q(z | row) for `rows` (N, P), in evaluation mode."""
    networks.eval()
    device = next(networks.parameters()).device  # rows may be in host memory
    with torch.no_grad():
        parts = (networks["encoder"](part.to(device)) for part in torch.split(rows, CHUNK))
        means, log_variances = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(log_variances)


class ElboTerms(NamedTuple):
    """Terms of the ELBO, in nats, means over rows: ``reconstruction - kl`` is the ELBO, ``entropy`` that of q."""

    reconstruction: float
    kl: float
    entropy: float


def elbo(
    networks: nn.ModuleDict,
    rows: Tensor,
    prior_mean: Tensor,
    encoded: tuple[Tensor, Tensor],
    likelihood: Likelihood,
    generator: torch.Generator,
    *,
    gaps: bool = False,
) -> ElboTerms:
    """Return the terms of the evidence lower bound, with one sample of q per row (Kingma and Welling, eq. 7).

    Parameters
    ----------
    networks : ModuleDict
    rows, prior_mean : Tensor, shapes (N, P), (N, L)
    encoded : tuple of Tensor
        Mean and log-variance of q for the rows, from `encode`.
    likelihood : {"bce", "mse"}
    generator : torch.Generator
    gaps : bool
        Whether values of rows may be missing (NaN).
    """
    loss, kl, entropy = elbo_sums(networks, rows, prior_mean, encoded, likelihood, generator, gaps=gaps)
    count = len(rows)
    return ElboTerms(-loss / count, kl / count, entropy / count)


def elbo_sums(
    networks: nn.ModuleDict,
    rows: Tensor,
    prior_mean: Tensor,
    encoded: tuple[Tensor, Tensor],
    likelihood: Likelihood,
    generator: torch.Generator,
    *,
    gaps: bool = False,
) -> tuple[float, float, float]:
    """Return the sums over rows of reconstruction loss, KL divergence and entropy, as :func:`elbo` does their means."""
    mean, log_variance = encoded
    networks.eval()
    with torch.no_grad():
        latents = torch.addcmul(mean, torch.exp(0.5 * log_variance), standard_normal(mean.shape, generator))
        parts = zip(torch.split(latents, CHUNK), torch.split(rows, CHUNK), strict=True)
        of_values = observed_loss if gaps else _compiled_loss if _is_default(networks) else reconstruction_loss
        losses = (of_values(networks["decoder"](z), row.to(z.device), likelihood) for z, row in parts)
        loss = sum(map(float, losses))
        kl = float(kl_divergence(mean, log_variance, prior_mean))
        entropy = 0.5 * float((log_variance + math.log(2 * math.pi * math.e)).sum())
    return loss, kl, entropy


def standard_normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return standard normal noise, on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)
