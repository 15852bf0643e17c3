"""The VAE: compresses observations into latent vectors, under a prior whose means come from above.

torch is imported when the module is prepared, not with this file: it costs seconds and hundreds of MB in every process
that only asks what a VAE's ports are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AliasChoices, Field

from actors.errors import ModuleError, NonFiniteError
from actors.messaging.message import Message, rows_of
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.decoding import pictures_of_means
from actors.types import Array, BoolArray, Float32Array, State

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VAEParameters:
    """See :class:`VAE`."""

    latent_dim: Annotated[int, Field(ge=1)] = 18
    epochs: Annotated[int, Field(ge=0, validation_alias=AliasChoices("epochs", "itr"))] = 200
    batch_size: Annotated[int, Field(ge=1)] = 500
    hidden: Annotated[int, Field(ge=1)] = 128
    likelihood: Literal["bce", "mse"] = "bce"
    send: Literal["mean", "sample"] = "mean"
    send_variance: bool = False
    restart_weights: bool = False
    kl_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    kl_warmup: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=1)] | None = None
    mixed_precision: bool = False
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    encoder: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    decoder: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None


class VAE(Module[VAEParameters]):
    """A variational auto-encoder.

    Maximises E_q[log p(o | z1)] - β · KL(q(z1 | o) ‖ N(μ, I)), summed over pixels, mean over rows. μ is the
    mean that the class means and responsibilities from above give to each row, zeros before the first message. Latent
    means from above say the same row by row; of several that came, μ is the mean, as in a product of unit Gaussians.

    Parameters
    ----------
    parameters : VAEParameters
        latent_dim : int
            D, the size of a latent vector.
        epochs (or itr) : int
            Passes over the data an update.
        batch_size : int
            Rows a step.
        hidden : int
            Units of the hidden layer of the default networks.
        likelihood : {"bce", "mse"}
            Bernoulli on logits, for observations in [0, 1], or Gaussian of unit variance.
        send : {"mean", "sample"}
            Whether q's mean goes up or a sample of q. Recognition always sends the mean.
        send_variance : bool
            Whether q's variance goes with it.
        restart_weights : bool
            Whether every update starts from new weights instead of the last ones. The losses start anew with them.
        kl_weight : float
            β.
        kl_warmup : int
            Epochs of the weights' life, over all updates since they were new, in which β climbs linearly from 0 to
            `kl_weight`: with W of them it is kl_weight · e/W in epoch e = 0, 1, …, W. Keeps latent dimensions from
            collapsing before the decoder can use them.
        patience : int, optional
            An update ends before `epochs` when its best loss has not improved by more than half a percent within the
            last so many epochs, those of a warm-up not counted; never by default. The weights are the last epoch's.
        mixed_precision : bool
            Whether the networks' products are taken in bfloat16 while they learn: faster on a GPU, and less exact.
        learning_rate : float
            Adam's step size.
        encoder, decoder : str, optional
            ``package.module:callable`` that makes the network instead of the default.
            ``encoder(input_dim, latent_dim)`` gives a torch module that answers (N, input_dim) with mean and
            log-variance, (N, latent_dim) each; ``decoder(latent_dim, input_dim)`` one that answers (N, latent_dim)
            with logits (N, input_dim).

    Attributes
    ----------
    device : str
        Where the networks are, ``cpu`` or ``cuda``.
    """

    Parameters: ClassVar[type[Any]] = VAEParameters
    uses_gpu = True
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("class_means", "in", "backward", "class_means", optional=True),
        Port("latent_means", "in", "backward", "latent_means", optional=True, several=True),
        Port("latent_vectors", "out", "forward", "latent_vectors"),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    def __init__(self, parameters: VAEParameters) -> None:
        super().__init__(parameters)
        self.device = "cpu"
        self._shape: tuple[int, ...] | None = None
        self._loss: list[float] = []
        self._networks: torch.nn.ModuleDict | None = None
        self._optimiser: torch.optim.Adam | None = None

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (the host limits the threads)
        """Import torch and choose the device; the CPU where there is no GPU."""
        import torch

        import actors.kernels.neural.vae_training  # noqa: F401 (so that the first update doesn't wait for it)

        self.device = "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"
        if device != self.device:
            _log.warning("device %r was asked for and is not there: the VAE uses the CPU", device)
        if self._networks is not None:
            self.load_state(self.state())

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Train on the observations; send latent vectors up and reconstructions down.

        Raises
        ------
        ModuleError
            If observations or class means don't fit, or the loss is not finite.
        """
        import torch

        from actors.kernels.neural import vae_networks as kernels
        from actors.kernels.neural.device_batches import settle

        parameters, message = self.at(context), inbox.require("observations")
        values, seen = self._rows(message, parameters)
        prior_mean = self._prior_mean(inbox, len(values), parameters.latent_dim)
        if not seen.any():
            raise ModuleError("every row of the observations is missing: there is nothing to learn from")
        if self._networks is None or parameters.restart_weights:
            self._start(values.shape[1], context.torch_seed)
            self._shape, self._loss = message["values"].shape[1:], []
        net = self._networks
        assert net is not None
        rows, means = settle(values[seen], torch.device(self.device)), self._tensor(prior_mean[seen])
        generator = torch.Generator(self.device).manual_seed(context.torch_seed)
        epochs = self._train(rows, means, generator, parameters, context) if context.learn else 0
        encoded = kernels.encode(net, rows)
        parts = kernels.bound(net, rows, means, encoded, parameters.likelihood, generator)
        metrics = {**parts._asdict(), "bound": parts.reconstruction - parts.kl, "epochs": float(epochs)}
        metrics["score"] = len(rows) * (parts.reconstruction + parts.entropy)
        if self._loss:
            metrics["loss"] = self._loss[-1]
        noise = torch.randn(encoded[0].shape, generator=generator, device=self.device)
        sample = noise if parameters.send == "sample" else None
        return self._outbox(message, prior_mean, seen, encoded, sample, parameters, metrics)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Encode new observations: the mean of q goes up, its reconstruction down.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the observations don't fit.
        """
        from actors.kernels.neural import vae_networks as kernels

        if self._networks is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        parameters, message = self.at(context), inbox.require("observations")
        values, seen = self._rows(message, parameters)
        prior_mean = self._prior_mean(inbox, len(values), parameters.latent_dim)
        encoded = kernels.encode(self._networks, self._tensor(values[seen]))
        return self._outbox(message, prior_mean, seen, encoded, None, parameters, {})

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Show what the class means from above look like: output ``mu_hat`` (K, …); nothing where none came.

        With ``context.rows`` also what their rows look like: output ``x_hat`` (N, …), each decoded from its mean μ.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the means have another dimension.
        """
        return pictures_of_means(inbox, context, self.decode)

    def decode(self, latents: npt.ArrayLike) -> Float32Array:
        """Return what latent vectors look like.

        Parameters
        ----------
        latents : array_like, shape (M, D)

        Returns
        -------
        ndarray of float32, shape (M, …)
            In the shape of an observation.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the latent vectors have another dimension.
        """
        from actors.kernels.neural import vae_networks as kernels

        if self._networks is None or self._shape is None:
            raise ModuleError("the VAE has learnt nothing yet, so it cannot decode")
        rows = np.array(latents, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.parameters.latent_dim:
            raise ModuleError(f"latent vectors of shape {rows.shape} came, expected (M, {self.parameters.latent_dim})")
        pixels = kernels.reconstruct(self._networks, self._tensor(rows), self.parameters.likelihood)
        decoded: Float32Array = pixels.cpu().numpy().reshape(len(rows), *self._shape)
        return decoded

    def state(self) -> State:
        """Return copies of the weights, of the optimiser's state, of their losses and the shape of an observation."""
        if self._networks is None or self._optimiser is None or self._shape is None:
            return {}
        from actors.kernels.neural import vae_training as kernels

        return {
            **kernels.save(self._networks, self._optimiser),
            "loss": np.array(self._loss, dtype=np.float64),
            "shape": np.array(self._shape, dtype=np.int64),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a VAE that has learnt nothing.

        Raises
        ------
        ModuleError
            If the weights belong to other networks.
        """
        if not state:
            self._networks, self._optimiser, self._shape, self._loss = None, None, None, []
            return
        from actors.kernels.neural import vae_training as kernels

        self._shape = tuple(int(length) for length in state["shape"])
        self._loss = [float(loss) for loss in state["loss"]]
        self._start(int(np.prod(self._shape, dtype=np.int64)), seed=0)
        assert self._networks is not None
        assert self._optimiser is not None
        try:
            kernels.restore(self._networks, self._optimiser, state)
        except ValueError as error:
            raise ModuleError(str(error)) from error

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _start(self, pixels: int, seed: int) -> None:
        """Make new networks and a new optimiser."""
        from actors.kernels.neural import vae_networks as kernels
        from actors.kernels.neural.vae_training import make_optimiser

        own = self.parameters
        try:
            net = kernels.build(pixels, own.hidden, own.latent_dim, seed, own.encoder, own.decoder)
        except ValueError as error:
            raise ModuleError(str(error)) from error
        self._networks = net.to(self.device)
        self._optimiser = make_optimiser(self._networks)

    def _train(
        self,
        rows: torch.Tensor,
        means: torch.Tensor,
        generator: torch.Generator,
        parameters: VAEParameters,
        context: Context,
    ) -> int:
        """Train the networks in place and note the losses; return how many epochs it took."""
        from actors.kernels.neural import vae_training as kernels
        from actors.kernels.neural.vae_networks import seeded

        assert self._networks is not None
        assert self._optimiser is not None
        training = kernels.Training(
            epochs=parameters.epochs,
            batch_size=parameters.batch_size,
            kl_weight=parameters.kl_weight,
            learning_rate=parameters.learning_rate,
            likelihood=parameters.likelihood,
            kl_warmup=parameters.kl_warmup,
            age=len(self._loss),
            patience=parameters.patience,
            mixed_precision=parameters.mixed_precision,
        )

        def on_epoch(done: int, total: int, loss: float) -> None:
            context.report(done, total, loss=loss)

        try:
            with seeded(context.torch_seed):  # dropout in a user's network draws from the process's generator
                losses = kernels.train(self._networks, self._optimiser, rows, means, training, generator, on_epoch)
        except FloatingPointError as error:
            remedy = "a smaller learning_rate" + (" or scaling the data down" if parameters.likelihood == "mse" else "")
            raise NonFiniteError(f"{context.where}: {error}; try {remedy}") from error
        self._loss += losses
        return len(losses)

    def _rows(self, message: Message, parameters: VAEParameters) -> tuple[Float32Array, BoolArray]:
        """Return the observations as rows (N, P) float32, and which rows are there (N,)."""
        values = message["values"]
        if parameters.latent_dim != self.parameters.latent_dim or parameters.hidden != self.parameters.hidden:
            raise ModuleError("latent_dim and hidden are the networks' and cannot be set for a step")
        if self._shape is not None and values.shape[1:] != self._shape:
            raise ModuleError(f"observations of shape {values.shape[1:]} came, this VAE has learnt {self._shape}")
        rows = np.array(values.reshape(len(values), -1), dtype=np.float32)
        seen = np.ones(len(rows), dtype=np.bool_) if message.mask is None else ~message.mask
        if parameters.likelihood == "bce" and seen.any() and (rows[seen].min() < 0 or rows[seen].max() > 1):
            low, high = rows[seen].min(), rows[seen].max()
            raise ModuleError(
                f"observations span {low:g} to {high:g}: likelihood 'bce' is for values in [0, 1]; "
                "scale them or use 'mse'"
            )
        return rows, seen

    def _prior_mean(self, inbox: Inbox, count: int, latent_dim: int) -> Float32Array:
        """Return μ, (count, D): the mean of what the messages from above say of each row, zeros where none does."""
        total, said = np.zeros((count, latent_dim), dtype=np.float32), np.zeros((count, 1), dtype=np.float32)
        message = inbox.first("class_means")
        if message is not None:
            responsibilities, means = message["responsibilities"], message["means"]
            if len(responsibilities) != count or means.shape[1] != latent_dim:
                raise ModuleError(
                    f"{message.header.route}: responsibilities of {len(responsibilities)} rows and means of dimension "
                    f"{means.shape[1]} came, expected {count} and {latent_dim}"
                )
            total += responsibilities @ means
            said += 1.0
        for message in inbox.all("latent_means").values():
            mean = message["mean"]
            if mean.shape != (count, latent_dim):
                raise ModuleError(f"{message.header.route}: {mean.shape} came, expected {(count, latent_dim)}")
            told = np.ones(count, dtype=np.bool_) if message.mask is None else ~message.mask
            total[told] += mean[told]
            said[told] += 1.0
        return np.divide(total, np.maximum(said, 1.0), dtype=np.float32)

    def _tensor(self, array: Float32Array) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.device)

    def _outbox(
        self,
        message: Message,
        prior_mean: Float32Array,
        seen: BoolArray,
        encoded: tuple[torch.Tensor, torch.Tensor],
        noise: torch.Tensor | None,
        parameters: VAEParameters,
        metrics: Mapping[str, float],
    ) -> Outbox:
        """Return what goes out: of missing rows all that is known is the prior, N(μ, I)."""
        from actors.kernels.neural import vae_networks as kernels

        assert self._networks is not None
        mean, log_variance = encoded
        z = prior_mean.copy()
        z[seen] = mean.cpu().numpy()
        pixels = kernels.reconstruct(self._networks, self._tensor(z), parameters.likelihood)
        x_hat = pixels.cpu().numpy().reshape(message["values"].shape)
        sent = z
        if noise is not None:
            sent = z.copy()
            sent[seen] += ((0.5 * log_variance).exp() * noise).cpu().numpy()
        arrays: dict[str, Array] = {"mean": sent, **rows_of(message)}
        if parameters.send_variance:
            arrays["variance"] = np.ones_like(z)
            arrays["variance"][seen] = log_variance.exp().cpu().numpy()
        loss = np.array(self._loss, dtype=np.float64)
        return Outbox(
            messages=[
                OutgoingMessage("latent_vectors", arrays),
                OutgoingMessage("reconstructions", {"values": x_hat, **rows_of(message)}),
            ],
            metrics=metrics,
            outputs={"z": z, "x_hat": x_hat, "loss": loss},
        )
