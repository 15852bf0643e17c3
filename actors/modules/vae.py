"""The VAE module: compresses observations into latent vectors, with prior means received from the modules above.

torch is imported when the module is prepared, not with this file: the import takes seconds and hundreds of MB, and
many processes read no more than the module's ports.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.messaging.message import Message
from actors.messaging.validation import as_float32
from actors.module import Context, Inbox, Outbox, Port
from actors.modules.decoding import decode_class_means
from actors.modules.shared_vae import SharedVAE, augmentation_of, picture_of_rows, prior_mean_of
from actors.modules.user_networks import named_failures, training_failures
from actors.modules.value_ranges import check_float32, check_unit_interval, report_units
from actors.types import Array, BoolArray, Float32Array, State

if TYPE_CHECKING:
    import torch

    from actors.kernels.neural.adam import Adam
    from actors.kernels.neural.vae_networks import ClassPrior

_log = logging.getLogger(__name__)

Likelihood = Literal["bce", "mse"]
_Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class VAEParameters:
    """Parameters of :class:`VAE`, which describes them."""

    latent_dim: Annotated[int, Field(ge=1)] = 18
    epochs: Annotated[int, Field(ge=0, validation_alias=AliasChoices("epochs", "itr"))] = 200
    batch_size: Annotated[int, Field(ge=1)] | None = 500
    hidden: Annotated[int, Field(ge=1)] = 128
    likelihood: Likelihood = "bce"
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
    hidden_decoder: Annotated[int, Field(ge=1)] | None = None
    networks: Literal["dense", "conv"] = "dense"
    filters: Annotated[tuple[_Positive, ...], Field(min_length=1, max_length=8)] = (16, 32)
    shape: Annotated[tuple[_Positive, ...], Field(min_length=2, max_length=3)] | None = None
    augment: Mapping[Literal["shift"], Annotated[int, Field(ge=0)]] = field(default_factory=dict)
    class_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class VAE(SharedVAE):
    """Compress observations into latent vectors with a variational auto-encoder.

    Maximises E_q[log p(o | z1)] - β · KL(q(z1 | o) ‖ N(μ, I)), summed over pixels, mean over rows. The prior mean μ of
    a row is the mean of the class means from above, weighted by its responsibilities, and zero before the first
    message. Latent means from above give μ directly; with several messages, μ is their mean, as in a product of unit
    Gaussians.

    Values that are missing in part of a row are left out of p(o | z1), and 0 for the encoder.

    Parameters
    ----------
    parameters : VAEParameters
        latent_dim : int
            D, the size of a latent vector.
        epochs (or itr) : int
            Passes over the data per update.
        batch_size : int, optional
            Rows per optimisation step, null for all rows; for networks of your own, and where workers share the rows
            (:mod:`actors.kernels.neural.shared_training`), at most, as the rows are spread evenly over the steps.
        hidden : int
            Units of the hidden layer of the default networks.
        likelihood : {"bce", "mse"}
            Bernoulli on logits, for observations in [0, 1], or Gaussian with unit variance.
        send : {"mean", "sample"}
            Whether the mean of q or a sample of q is sent up. Recognition always sends the mean.
        send_variance : bool
            Whether the variance of q is sent with it.
        restart_weights : bool
            Whether every update starts from new weights instead of the last ones. The list of losses is then reset too.
        kl_weight : float
            β.
        kl_warmup : int
            W, the number of epochs since the weights were initialised, counted over all updates, in which β rises
            linearly from 0 to `kl_weight`: it is kl_weight · e/W in epoch e = 0, 1, …, W. Keeps latent dimensions from
            collapsing before the decoder can use them.
        patience : int, optional
            Number of epochs, those of the warm-up not counted, after which an update stops early if its best loss has
            not improved by more than half a percent; by default it never does. The weights of the last epoch are kept.
        mixed_precision : bool
            Whether matrix products are computed in bfloat16 during training: faster on a GPU, and less exact.
        learning_rate : float
            Adam's step size.
        encoder, decoder : str, optional
            ``package.module:callable`` that builds the network in place of the default one.
            ``encoder(input_dim, latent_dim)`` returns a torch module that maps (N, input_dim) to mean and
            log-variance, (N, latent_dim) each; ``decoder(latent_dim, input_dim)`` returns one that maps
            (N, latent_dim) to logits (N, input_dim).
        hidden_decoder : int, optional
            Units of the hidden layer of the default decoder, if they are not as many as those of the encoder.
        networks : {"dense", "conv"}
            Whether the default networks have one hidden layer, or are those for pictures: convolutions, each of which
            halves height and width, and one hidden layer (:mod:`actors.kernels.neural.pictures`).
        filters : list of int
            Number of filters of each convolution of the encoder; those of the decoder follow in reverse.
        shape : list of int, optional
            Height, width and, if there are several, channels of a picture, where rows are flat. Observations of shape
            (N, height, width) or (N, height, width, channels) say it themselves.
        augment : mapping
            How pictures are changed at random in each step of the training, and never else. ``shift`` is the most
            pixels by which one is moved up or down and left or right; pixels at its edge are repeated.
        class_weight : float
            α. Above 0, Σ_k r_k E_q[log p(k | z1)] is added α times to what is maximised, r_k being the responsibilities
            from above and p(k | z1) the posterior of equally probable classes with the densities N(m_k, I). The bound
            depends little on whether latent vectors tell their classes; this makes them do so.

    Attributes
    ----------
    device : str
        The device of the networks, ``cpu`` or ``cuda``.
    """

    Parameters: ClassVar[type[Any]] = VAEParameters
    uses_gpu = True
    missing_values = True
    learning_parameters = (
        "epochs",
        "batch_size",
        "restart_weights",
        "kl_weight",
        "kl_warmup",
        "patience",
        "mixed_precision",
        "learning_rate",
        "augment",
        "class_weight",
    )
    fixed_parameters = (
        "latent_dim",
        "hidden",
        "hidden_decoder",
        "encoder",
        "decoder",
        "networks",
        "filters",
        "shape",
    )
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("class_means", "in", "backward", "class_means", optional=True),
        Port("latent_means", "in", "backward", "latent_means", optional=True, several=True),
        Port("latent_vectors", "out", "forward", "latent_vectors"),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    @classmethod
    def check_observations(cls, parameters: VAEParameters, values: Array, source: str, learns: bool) -> None:
        """Raise ModuleError for values outside float32, or outside [0, 1] with likelihood ``bce``, or no pictures.

        Log a warning for rows to learn from with likelihood ``mse`` whose unit does not fit its variance of 1.
        """
        if not source:
            return
        if parameters.networks == "conv":
            picture_of_rows(parameters, values.shape[1:])
        augmentation_of(parameters, values.shape[1:])
        check_float32(values, f"observations of {source}")
        if parameters.likelihood == "bce":
            check_unit_interval(values, f"observations of {source}", "likelihood 'bce'")
        elif learns and parameters.epochs > 0:
            report_units(values, f"observations of {source}", "likelihood 'mse'", parameters.kl_weight)

    def __init__(self, parameters: VAEParameters) -> None:
        super().__init__(parameters)
        self._shape: tuple[int, ...] | None = None
        self._loss: list[float] = []
        self._networks: torch.nn.ModuleDict | None = None
        self._optimiser: Adam | None = None

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (the host limits the threads)
        """Import torch, select the device (without a GPU this is the CPU), and load the kernels that it needs."""
        import torch

        import actors.kernels.neural.vae_training  # noqa: F401 (so that the first update does not wait for it)

        self.device = "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"
        if device != self.device:
            _log.warning("device %r was requested but is not available: the VAE uses the CPU", device)
        own = self.parameters
        is_default = own.encoder is None and own.decoder is None and own.networks == "dense"
        if self.device == "cpu" and is_default and not own.mixed_precision:
            from actors.kernels.neural.step_kernels import compile_kernels

            compile_kernels(own.likelihood)
        if self._networks is not None:
            self.load_state(self.state())

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Train on the observations; send latent vectors up and reconstructions down.

        Raises
        ------
        ModuleError
            If the messages do not match the parameters, the trained networks or each other, or the loss is not finite.
        """
        import torch

        from actors.kernels.neural import vae_networks as kernels
        from actors.kernels.neural.device_batches import place_rows

        parameters, message = self.at(context), inbox.require("observations")
        values, present = self._read_rows(message, parameters)
        prior_mean = prior_mean_of(inbox, len(present), parameters.latent_dim)
        if not present.any():
            raise ModuleError("every row of the observations is missing: there is nothing to learn from")
        if self._networks is None or parameters.restart_weights:
            self._build_networks(message["values"].shape[1:], context.torch_seed)
            self._shape, self._loss = message["values"].shape[1:], []
        networks = self._networks
        assert networks is not None
        rows, means = place_rows(values, torch.device(self.device)), self._tensor(prior_mean[present])
        generator = torch.Generator(self.device).manual_seed(context.torch_seed)
        gaps = message.missing_values is not None
        classes = self._classes(inbox, present, parameters)
        epochs = self._train(rows, means, generator, parameters, context, classes, gaps=gaps) if context.learn else 0
        with named_failures(context.where):
            encoded = kernels.encode(networks, kernels.without_gaps(rows) if gaps else rows)
            parts = kernels.elbo(networks, rows, means, encoded, parameters.likelihood, generator, gaps=gaps)
        metrics = {**parts._asdict(), "bound": parts.reconstruction - parts.kl, "epochs": float(epochs)}
        metrics["score"] = len(rows) * (parts.reconstruction + parts.entropy)
        if self._loss:
            metrics["loss"] = self._loss[-1]
        noise = torch.randn(encoded[0].shape, generator=generator, device=self.device)
        sample = noise if parameters.send == "sample" else None
        with named_failures(context.where):
            losses = np.array(self._loss, dtype=np.float64)
            return self._outbox(networks, message, prior_mean, present, encoded, sample, parameters, losses, metrics)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Encode new observations: send the mean of q up and its reconstruction down.

        Raises
        ------
        ModuleError
            If the VAE is untrained or the messages do not match the trained networks.
        """
        from actors.kernels.neural import vae_networks as kernels

        if self._networks is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        parameters, message = self.at(context), inbox.require("observations")
        values, present = self._read_rows(message, parameters)
        prior_mean = prior_mean_of(inbox, len(present), parameters.latent_dim)
        with named_failures(f"module {context.module!r}"):
            rows = self._tensor(values)
            gaps = message.missing_values is not None
            encoded = kernels.encode(self._networks, kernels.without_gaps(rows) if gaps else rows)
            losses = np.array(self._loss, dtype=np.float64)
            return self._outbox(self._networks, message, prior_mean, present, encoded, None, parameters, losses, {})

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Decode the class means from above: output ``mu_hat`` (K, …); no output without such a message.

        With ``context.rows`` the rows are decoded too: output ``x_hat`` (N, …), each decoded from its prior mean μ.

        Raises
        ------
        ModuleError
            If the VAE is untrained or the means have another dimension.
        """
        likelihood = self.at(context).likelihood
        return decode_class_means(inbox, context, lambda latents: self.decode(latents, likelihood))

    def decode(self, latents: npt.ArrayLike, likelihood: Likelihood | None = None) -> Float32Array:
        """Decode latent vectors into observations.

        Parameters
        ----------
        latents : array_like, shape (M, D)
        likelihood : {"bce", "mse"}, optional
            That under which the networks were trained; by default the module's parameter.

        Returns
        -------
        ndarray of float32, shape (M, …)
            One reconstruction per latent vector, in the shape of an observation.

        Raises
        ------
        ModuleError
            If the VAE is untrained or the latent vectors have another dimension.
        """
        from actors.kernels.neural import vae_networks as kernels

        if self._networks is None or self._shape is None:
            raise ModuleError("the VAE has learnt nothing yet, so it cannot decode")
        rows = np.array(latents, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.parameters.latent_dim:
            raise ModuleError(
                f"received latent vectors of shape {rows.shape}, expected (M, {self.parameters.latent_dim})"
            )
        with named_failures("decoding"):
            pixels = kernels.reconstruct(self._networks, self._tensor(rows), likelihood or self.parameters.likelihood)
        decoded: Float32Array = pixels.cpu().numpy().reshape(len(rows), *self._shape)
        return decoded

    def state(self) -> State:
        """Return copies of the weights, the optimiser's state, the losses and the shape of an observation."""
        if self._networks is None or self._optimiser is None or self._shape is None:
            return {}
        from actors.kernels.neural import vae_training as kernels

        return {
            **kernels.save(self._networks, self._optimiser),
            "loss": np.array(self._loss, dtype=np.float64),
            "shape": np.array(self._shape, dtype=np.int64),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; the empty state is that of an untrained VAE.

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
        self._build_networks(self._shape, seed=0)
        assert self._networks is not None
        assert self._optimiser is not None
        try:
            kernels.restore(self._networks, self._optimiser, state)
        except ValueError as error:
            raise ModuleError(str(error)) from error

    # --- helpers --------------------------------------------------------------------------------------------------

    def _build_networks(self, shape: tuple[int, ...], seed: int) -> None:
        """Build new networks for observations of a shape, and a new optimiser."""
        from actors.kernels.neural.vae_training import make_optimiser

        self._networks = self._new_networks(shape, seed)
        self._optimiser = make_optimiser(self._networks)

    def _train(
        self,
        rows: torch.Tensor,
        means: torch.Tensor,
        generator: torch.Generator,
        parameters: VAEParameters,
        context: Context,
        classes: ClassPrior | None,
        *,
        gaps: bool = False,
    ) -> int:
        """Train the networks in place, append the losses and return the number of epochs."""
        from actors.kernels.neural import vae_training as kernels
        from actors.kernels.neural.vae_networks import seeded

        assert self._networks is not None
        assert self._optimiser is not None
        assert self._shape is not None
        training = kernels.TrainingOptions(
            epochs=parameters.epochs,
            batch_size=parameters.batch_size or len(rows),
            kl_weight=parameters.kl_weight,
            learning_rate=parameters.learning_rate,
            likelihood=parameters.likelihood,
            kl_warmup=parameters.kl_warmup,
            previous_epochs=len(self._loss),
            patience=parameters.patience,
            mixed_precision=parameters.mixed_precision,
            even_batches=parameters.encoder is not None or parameters.decoder is not None,
            gaps=gaps,
            augmentation=augmentation_of(parameters, self._shape),
        )

        def on_epoch(done: int, total: int, loss: float) -> None:
            context.report(done, total, loss=loss)

        with (
            training_failures(context.where, parameters.encoder, parameters.decoder, parameters.likelihood),
            seeded(context.torch_seed),  # dropout in a user's network draws from the global generator
        ):
            losses = kernels.train(self._networks, self._optimiser, rows, means, training, generator, on_epoch, classes)
        self._loss += losses
        return len(losses)

    def _read_rows(self, message: Message, parameters: VAEParameters) -> tuple[Float32Array, BoolArray]:
        """Return the present observations as rows (n, P) float32, and which are present, (N,) bool.

        Values that are missing in part of a row are NaN.
        """
        values = message["values"]
        self._check_shape(parameters, values.shape[1:], self._shape)
        present = np.ones(len(values), dtype=np.bool_) if message.mask is None else ~message.mask
        flat = values.reshape(len(values), -1)
        absent = message.missing_values
        if absent is not None:
            flat = np.where(absent, flat.dtype.type(0), flat)
        rows: Float32Array = as_float32(
            f"observations of {message.header.sender!r}", flat if present.all() else flat[present]
        )
        if parameters.likelihood == "bce" and len(rows):
            check_unit_interval(rows, "observations", "likelihood 'bce'")
            rows.clip(0, 1, out=rows)
        if absent is not None:
            rows[absent[present]] = np.nan
        return rows, present
