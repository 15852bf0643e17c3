"""The VAE's training on rows that workers share, and what it has in common with that in one process.

One pass is one step of the optimiser: :mod:`actors.kernels.neural.shared_training` says which rows it uses.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from actors.errors import ModuleError
from actors.limits import MAX_WHOLE_ROWS
from actors.messaging.message import Message, rows_of
from actors.messaging.validation import as_float32
from actors.module import Context, Inbox, Outbox, OutgoingMessage
from actors.modules.user_networks import named_failures, training_failures
from actors.modules.value_ranges import check_unit_interval
from actors.sharing.chunks import Chunk, Extent
from actors.sharing.contract import ShardedModule
from actors.sharing.shard import Statistics
from actors.types import Array, BoolArray, Float32Array, IntArray, State

if TYPE_CHECKING:
    import torch

    from actors.kernels.neural.pictures import Augmentation, Picture
    from actors.kernels.neural.shared_training import Batches, SharedNetworks
    from actors.kernels.neural.vae_networks import ClassPrior
    from actors.kernels.neural.vae_training import TrainingOptions
    from actors.modules.vae import VAEParameters

_NOTHING_TO_LEARN = "every row of the observations is missing: there is nothing to learn from"


class SharedVAE(ShardedModule["VAEParameters"]):
    """The methods of :class:`actors.modules.vae.VAE` for rows that workers share.

    The learnt parameters are the VAE's state. During an update they have ``progress`` too: the number of its epochs,
    and the sums so far over the rows of the present epoch of reconstruction loss, KL divergence and rows.
    """

    row_outputs = ("z", "x_hat")
    sampled_outputs = ("x_hat",)
    # Each gradient of a part is a sum of float32 products over hundreds of rows; adding a few of them as float32 adds
    # no error that is larger.
    float32_statistics = ("gradient",)

    def __init__(self, parameters: VAEParameters) -> None:
        super().__init__(parameters)
        self.device = "cpu"
        self._shared: SharedNetworks | None = None
        self._restarted: tuple[object, State] | None = None
        self._asked: tuple[Context | None, Extent | None, Collection[int]] = None, None, ()
        self._epoch: tuple[object, IntArray] | None = None
        self._step: tuple[object, Mapping[int, Sequence[int]]] | None = None
        self._divided: Batches | None = None
        self._options: tuple[VAEParameters, TrainingOptions] | None = None
        self._noise: torch.Generator | None = None
        self._memory: Float32Array = np.empty((0, 0), np.float32)

    def start(self, inbox: Inbox, context: Context) -> State:
        """Return new weights."""
        shape = inbox.require("observations").shape("values")[1:]
        self._check_shape(self.at(context), shape, None)
        return self._new_state(shape, context)

    def selects(self, index: int, extent: Extent, learnt: State, context: Context) -> bool:  # noqa: ARG002
        """Return whether a row of the chunk is used in this step."""
        if self._asked[0] is not context or self._asked[1] is not extent:  # the same for all chunks of a pass
            chosen = self._chosen(self._batches(extent.rows, extent.size, context), context)
            self._asked = context, extent, chosen.keys()
        return index in self._asked[2]

    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the gradient of the summed loss of the step's rows of this chunk, the terms of it, and their number.

        ``ends`` is above 0 in the last step of an epoch.
        """
        import torch

        parameters, learnt = self.at(context), self._begin(learnt, context)
        size = chunk.rows.start // chunk.index if chunk.index else len(chunk)
        batches = self._batches(chunk.total, size, context)
        message = chunk.inbox.require("observations")
        self._check_shape(parameters, message.shape("values")[1:], _shape_of(learnt))
        rows = self._rows_of_step(chunk, message, batches, context)
        shared = self._load(learnt, context)
        ends = np.array([float(((context.sweep or 0) + 1) % batches.steps == 0)])
        if len(rows):
            values = self._tensor(_read(message, rows, parameters, self._memory_of(message, len(rows))))
            means = self._tensor(prior_mean_of(chunk.inbox, len(chunk), parameters.latent_dim, rows))
            generator = self._torch_generator(context)
            noise = torch.randn(means.shape, generator=generator, device=self.device)
            if (augmentation := augmentation_of(parameters, _shape_of(learnt))) is not None:
                values = augmentation(values, generator)
            beta = self._beta(parameters, learnt)
            with self._learning(parameters, context):
                gradient, terms = shared.gradient(
                    values,
                    means,
                    noise,
                    beta,
                    parameters.likelihood,
                    parameters.mixed_precision,
                    self._classes(chunk.inbox, rows, parameters),
                    gaps=message.missing_values is not None,
                )
        else:
            gradient, terms = np.zeros(shared.weights, np.float32), np.zeros(2)
        return {"gradient": gradient, "terms": terms, "rows": np.array([float(len(rows))]), "ends": ends}

    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Take a step of Adam along the mean gradient; at the end of an epoch, append its loss.

        Raises
        ------
        ModuleError
            If every row is missing.
        NonFiniteError
            If the loss of the epoch is not finite.
        """
        parameters, learnt = self.at(context), dict(self._begin(learnt, context))
        progress = np.array(learnt["progress"]) if context.sweep else np.zeros(4)
        count = float(statistics["rows"][0])
        if count:
            shared, gradient = self._networks_of(learnt), statistics["gradient"]
            try:
                learnt.update(shared.step(learnt, gradient, count, parameters.learning_rate))
            except ValueError as error:
                raise ModuleError(f"{context.where}: {error}") from error
        progress[1:] += [*statistics["terms"], count]
        if statistics["ends"][0]:
            learnt["loss"] = np.append(learnt["loss"], self._epoch_loss(progress, learnt, parameters, context))
            progress = np.array([progress[0] + 1, 0.0, 0.0, 0.0])
            epochs = int(progress[0])
            total = epochs if self._is_converged(learnt, epochs, parameters) else parameters.epochs
            context.report(epochs, total, loss=float(learnt["loss"][-1]))
        return {**learnt, "progress": progress}

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:
        """Return whether the update ends: after its epochs, or an epoch without improvement by the patience."""
        parameters = self.at(context)
        if not context.learn or not passes:
            return not context.learn or parameters.epochs == 0
        epochs = int(learnt["progress"][0])
        return epochs >= parameters.epochs or self._is_converged(learnt, epochs, parameters)

    def broadcast(self, learnt: State) -> State:
        """Return the parameters without the moments of Adam."""
        return {name: value for name, value in learnt.items() if name[:5] != "adam."}

    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Return latent vectors and reconstructions of a chunk, and the sums over its rows of the terms of the bound.

        Raises
        ------
        ModuleError
            If nothing was learnt yet, or the messages do not match the parameters or the trained networks.
        """
        from actors.kernels.neural import vae_networks as kernels

        if not learnt:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        import torch

        parameters, message = self.at(context), chunk.inbox.require("observations")
        self._check_shape(parameters, message.shape("values")[1:], _shape_of(learnt))
        present, networks = _present(message), self._load(learnt, context).networks
        prior_mean = prior_mean_of(chunk.inbox, len(chunk), parameters.latent_dim)
        seen, gaps = np.flatnonzero(present), message.missing_values is not None
        rows = self._tensor(_read(message, seen, parameters, self._memory_of(message, len(seen))))
        generator, metrics, sample = self._torch_generator(context), {}, None
        with named_failures(context.where):
            if len(rows):
                encoded = kernels.encode(networks, kernels.without_gaps(rows) if gaps else rows)
            else:
                encoded = (torch.empty((0, parameters.latent_dim), device=self.device),) * 2
            if context.mode == "update":
                if len(rows):
                    means = self._tensor(prior_mean[present])
                    of_rows = networks, rows, means, encoded, parameters.likelihood, generator
                    sums = kernels.elbo_sums(*of_rows, gaps=gaps)
                    metrics = dict(zip(("loss", "kl", "entropy"), sums, strict=True))
                metrics["rows"] = float(len(rows))
                if parameters.send == "sample":
                    sample = torch.randn(encoded[0].shape, generator=generator, device=self.device)
            losses = np.array(learnt["loss"], dtype=np.float64)
            given = networks, message, prior_mean, present, encoded, sample, parameters, losses, metrics
            return self._outbox(*given, _room_of(chunk, message))

    def finish(self, sums: Mapping[str, float], learnt: State, context: Context) -> Mapping[str, float]:
        """Return the terms of the bound, means over rows.

        Raises
        ------
        ModuleError
            If every row is missing.
        """
        if context.mode != "update":
            return {}
        if not (count := sums["rows"]):
            raise ModuleError(_NOTHING_TO_LEARN)
        reconstruction, kl, entropy = -sums["loss"] / count, sums["kl"] / count, sums["entropy"] / count
        learns = context.learn and self.at(context).epochs > 0 and "progress" in learnt
        metrics = {
            "reconstruction": reconstruction,
            "kl": kl,
            "entropy": entropy,
            "bound": reconstruction - kl,
            "epochs": float(learnt["progress"][0]) if learns else 0.0,
            "score": count * (reconstruction + entropy),
        }
        return {**metrics, "loss": float(learnt["loss"][-1])} if len(learnt["loss"]) else metrics

    # --- steps ----------------------------------------------------------------------------------------------------

    def _batches(self, rows: int, size: int, context: Context) -> Batches:
        from actors.kernels.neural.shared_training import Batches

        wanted = rows, min(size, rows), self.at(context).batch_size
        if self._divided is None or (self._divided.rows, self._divided.size, self._divided.batch_size) != wanted:
            self._divided = Batches(*wanted)
        return self._divided

    def _rows_of_step(self, chunk: Chunk, message: Message, batches: Batches, context: Context) -> IntArray:
        """Return the rows of the chunk that this step uses; those of all steps of an epoch are kept."""
        epoch = (context.sweep or 0) // batches.steps
        if chunk.memo.get("epoch") != epoch:
            generator = context.within(sweep=epoch, chunk=context.chunk).generator
            present = np.flatnonzero(_present(message))
            chunk.memo["epoch"], chunk.memo["parts"] = epoch, batches.parts_of(chunk.index, present, generator)
        own, first = chunk.memo["parts"], chunk.index * batches.parts_of_chunk
        chosen = self._chosen(batches, context)[chunk.index]
        return own[chosen[0] - first] if len(chosen) == 1 else np.concatenate([own[part - first] for part in chosen])

    def _chosen(self, batches: Batches, context: Context) -> Mapping[int, Sequence[int]]:
        """Return the parts of this step, ascending, by chunk; those of one epoch and of one step are kept."""
        sweep = context.sweep or 0
        position = (batches, context.seed, context.chain, context.round, context.step, context.exchange)
        if self._step is not None and self._step[0] == (position, sweep):
            return self._step[1]
        epoch, step = divmod(sweep, batches.steps)
        if self._epoch is None or self._epoch[0] != (position, epoch):
            of_epoch = context.within(sweep=epoch)
            self._epoch = (position, epoch), batches.order(of_epoch.generator)
        chosen: dict[int, list[int]] = {}
        for part in sorted(self._epoch[1][step].tolist()):
            if part >= 0:
                chosen.setdefault(part // batches.parts_of_chunk, []).append(part)
        self._step = (position, sweep), chosen
        return chosen

    def _beta(self, parameters: VAEParameters, learnt: State) -> float:
        """Return β in the present epoch."""
        if self._options is None or self._options[0] is not parameters:
            self._options = parameters, _options(parameters)
        return self._options[1].beta(len(learnt["loss"]))

    def _epoch_loss(self, progress: Array, learnt: State, parameters: VAEParameters, context: Context) -> float:
        """Return the loss of the epoch that ends, mean over rows."""
        _, reconstruction, kl, count = (float(value) for value in progress)
        if not count:
            raise ModuleError(_NOTHING_TO_LEARN)
        reconstruction, kl = reconstruction / count, kl / count
        loss = reconstruction + self._beta(parameters, learnt) * kl
        if not math.isfinite(loss):
            with training_failures(context.where, None, None, parameters.likelihood):
                raise FloatingPointError(
                    f"the loss is {loss:g} after {int(progress[0]) + 1} of {parameters.epochs} epochs "
                    f"(reconstruction {reconstruction:g}, KL divergence {kl:g})"
                )
        return loss

    def _is_converged(self, learnt: State, epochs: int, parameters: VAEParameters) -> bool:
        """Return whether the losses of this update's epochs end it by the patience."""
        if parameters.patience is None:
            return False
        losses = [float(loss) for loss in learnt["loss"]]
        before = len(losses) - epochs
        return _options(parameters, before).converged(losses[before:])

    # --- networks -------------------------------------------------------------------------------------------------

    def _begin(self, learnt: State, context: Context) -> State:
        """Return what the first pass starts from: with ``restart_weights``, new weights."""
        if context.sweep or not self.at(context).restart_weights:
            return learnt
        key = (_update_seed(context), shape := _shape_of(learnt))
        if self._restarted is None or self._restarted[0] != key:
            self._restarted = key, self._new_state(shape, context)
        return self._restarted[1]

    def _new_state(self, shape: tuple[int, ...], context: Context) -> State:
        from actors.kernels.neural.shared_training import SharedNetworks
        from actors.kernels.neural.vae_training import make_optimiser, save

        networks = self._new_networks(shape, _update_seed(context))
        state = {
            **save(networks, make_optimiser(networks)),
            "loss": np.zeros(0),
            "shape": np.array(shape, dtype=np.int64),
        }
        if self._shared is None:
            self._shared = SharedNetworks(networks)
        return state

    def _new_networks(self, shape: tuple[int, ...], seed: int) -> torch.nn.ModuleDict:
        """Return new networks for observations of a shape, on the module's device."""
        from actors.kernels.neural.vae_networks import build

        own, pixels = self.parameters, int(np.prod(shape, dtype=np.int64))
        picture = picture_of_rows(own, shape) if own.networks == "conv" else None
        try:
            networks = build(
                pixels, own.hidden, own.latent_dim, seed, own.encoder, own.decoder, own.hidden_decoder, picture,
                own.filters,
            )  # fmt: skip
        except ValueError as error:
            raise ModuleError(str(error)) from error
        return networks.to(self.device)

    def _load(self, learnt: State, context: Context) -> SharedNetworks:
        """Return this worker's networks, with the learnt weights."""
        shared = self._networks_of(learnt)
        try:
            shared.load(learnt)
        except ValueError as error:
            raise ModuleError(f"{context.where}: {error}") from error
        return shared

    def _networks_of(self, learnt: State) -> SharedNetworks:
        """Return this worker's networks, with whatever weights."""
        if self._shared is None or self._shared.device.type != self.device:
            from actors.kernels.neural.shared_training import SharedNetworks

            self._shared = SharedNetworks(self._new_networks(_shape_of(learnt), seed=0))
        return self._shared

    @contextmanager
    def _learning(self, parameters: VAEParameters, context: Context) -> Iterator[None]:
        """Name a user's network in its failures, and give it the draws of this chunk and pass."""
        from actors.kernels.neural.vae_networks import seeded

        if parameters.encoder is None and parameters.decoder is None:
            yield
            return
        with (
            training_failures(context.where, parameters.encoder, parameters.decoder, parameters.likelihood),
            seeded(context.torch_seed),
        ):
            yield

    # --- rows and messages ----------------------------------------------------------------------------------------

    def _check_shape(self, parameters: VAEParameters, shape: tuple[int, ...], trained: tuple[int, ...] | None) -> None:
        """Raise ModuleError if a step sets what defines the networks, or observations have another shape."""
        own = self.parameters
        if parameters is not own and any(getattr(parameters, n) != getattr(own, n) for n in self.fixed_parameters):
            fixed = ", ".join(self.fixed_parameters)
            raise ModuleError(f"{fixed} define the networks and cannot be set for a step")
        if trained is not None and shape != trained:
            raise ModuleError(f"received observations of shape {shape}, but this VAE was trained on {trained}")

    def _tensor(self, array: Float32Array) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        return tensor if self.device == "cpu" else tensor.to(self.device)

    def _classes(self, inbox: Inbox, rows: IntArray | BoolArray, parameters: VAEParameters) -> ClassPrior | None:
        """Return what the message with class means says of some rows; None if it has no weight of its own."""
        message = inbox.first("class_means")
        if message is None or not parameters.class_weight:
            return None
        from actors.kernels.neural.vae_networks import ClassPrior

        means, responsibilities = message["means"], message["responsibilities"][rows]
        known, shares = (self._tensor(np.array(values, dtype=np.float32)) for values in (means, responsibilities))
        return ClassPrior(known, shares, parameters.class_weight)

    def _memory_of(self, message: Message, count: int) -> Float32Array:
        """Return memory for some observations, the same in every step, as far as it is large enough."""
        width = math.prod(message.shape("values")[1:])
        if self._memory.shape[1:] != (width,) or len(self._memory) < count:
            self._memory = np.empty((count, width), np.float32)
        return self._memory[:count]

    def _torch_generator(self, context: Context) -> torch.Generator:
        import torch

        if self._noise is None or self._noise.device.type != self.device:
            self._noise = torch.Generator(self.device)
        return self._noise.manual_seed(context.torch_seed)

    def _outbox(
        self,
        networks: torch.nn.ModuleDict,
        message: Message,
        prior_mean: Float32Array,
        present: BoolArray,
        encoded: tuple[torch.Tensor, torch.Tensor],
        noise: torch.Tensor | None,
        parameters: VAEParameters,
        losses: Array,
        metrics: Mapping[str, float],
        into: Float32Array | None = None,
    ) -> Outbox:
        """Return messages and outputs; missing rows get their prior, N(μ, I). Reconstructions go to `into`, if any."""
        from actors.kernels.neural import vae_networks as kernels

        mean, log_variance = encoded
        z = prior_mean.copy()
        z[present] = mean.cpu().numpy()
        room = None if into is None or self.device != "cpu" else self._tensor(into)
        pixels = kernels.reconstruct(networks, self._tensor(z), parameters.likelihood, room)
        x_hat = pixels.cpu().numpy().reshape(message.shape("values"))
        sent = z
        if noise is not None:
            sent = z.copy()
            sent[present] += ((0.5 * log_variance).exp() * noise).cpu().numpy()
        arrays: dict[str, Array] = {"mean": sent, **rows_of(message)}
        if parameters.send_variance:
            arrays["variance"] = np.ones_like(z)
            arrays["variance"][present] = log_variance.exp().cpu().numpy()
        return Outbox(
            messages=[
                OutgoingMessage("latent_vectors", arrays),
                OutgoingMessage("reconstructions", {"values": x_hat, **rows_of(message)}),
            ],
            metrics=metrics,
            outputs={"z": z, "x_hat": x_hat, "loss": losses},
        )


def prior_mean_of(inbox: Inbox, count: int, latent_dim: int, rows: IntArray | slice = slice(None)) -> Float32Array:
    """Return μ (…, D) of the given rows: the mean over the messages from above that contain the row, else zeros.

    Parameters
    ----------
    inbox : Inbox
    count : int
        Number of rows of its messages.
    latent_dim : int
        D.
    rows : ndarray of int64 or slice
        By default all rows.

    Raises
    ------
    ModuleError
        If the messages do not match.
    """
    chosen = len(range(count)[rows]) if isinstance(rows, slice) else len(rows)
    if not inbox.all("class_means") and not inbox.all("latent_means"):
        return np.zeros((chosen, latent_dim), dtype=np.float32)
    total, messages = np.zeros((chosen, latent_dim), dtype=np.float32), np.zeros((chosen, 1), dtype=np.float32)
    message = inbox.first("class_means")
    if message is not None:
        responsibilities, means = message["responsibilities"], message["means"]
        if len(responsibilities) != count or means.shape[1] != latent_dim:
            raise ModuleError(
                f"{message.header.route}: received responsibilities of {len(responsibilities)} rows and means of "
                f"dimension {means.shape[1]}, expected {count} and {latent_dim}"
            )
        total += responsibilities[rows] @ means
        messages += 1.0
    for message in inbox.all("latent_means").values():
        mean = message["mean"]
        if mean.shape != (count, latent_dim):
            raise ModuleError(
                f"{message.header.route}: received means of shape {mean.shape}, expected {(count, latent_dim)}"
            )
        present = _present(message)[rows]
        total[present] += mean[rows][present]
        messages[present] += 1.0
    return np.divide(total, np.maximum(messages, 1.0), dtype=np.float32)


def picture_of_rows(parameters: VAEParameters, shape: tuple[int, ...]) -> Picture:
    """Return the shape of the pictures that observations of a shape are.

    Raises
    ------
    ModuleError
        If they are none.
    """
    from actors.kernels.neural.pictures import picture_of

    try:
        return picture_of(shape, parameters.shape)
    except ValueError as error:
        raise ModuleError(f"{_reason_for_pictures(parameters)}: {error}") from error


def _reason_for_pictures(parameters: VAEParameters) -> str:
    """Return the parameter for which rows have to be pictures."""
    return "networks: conv" if parameters.networks == "conv" else "augment"


def augmentation_of(parameters: VAEParameters, shape: tuple[int, ...]) -> Augmentation | None:
    """Return how observations of a shape are changed at random while the VAE learns; None if they are not.

    Raises
    ------
    ModuleError
        If they are no pictures, or pictures that are too small.
    """
    shift = parameters.augment.get("shift", 0)
    if not shift:
        return None
    from actors.kernels.neural.pictures import Augmentation

    picture = picture_of_rows(parameters, shape)
    if shift >= min(picture.height, picture.width):
        raise ModuleError(
            f"augment: a shift of up to {shift} pixels leaves nothing of pictures of {picture.height}×{picture.width}; "
            "use a smaller shift"
        )
    return Augmentation(picture, shift)


def _present(message: Message) -> BoolArray:
    """Return which rows of a message are not missing, (N,)."""
    if message.mask is not None:
        return ~message.mask
    return np.ones(len(next(iter(message.arrays.values()))), dtype=np.bool_)


def _update_seed(context: Context) -> int:
    """Return the torch seed of the update, the same in all of its passes and chunks."""
    return context.within(sweep=None).torch_seed


def _shape_of(learnt: State) -> tuple[int, ...]:
    """Return the shape of an observation."""
    return tuple(int(length) for length in learnt["shape"])


def _read(
    message: Message, rows: IntArray, parameters: VAEParameters, memory: Float32Array | None = None
) -> Float32Array:
    """Return observations, none of them missing, as rows of float32, in the given memory if they are so already.

    Values that are missing in part of a row are NaN.

    Unlike in one process, a column of numbers that differ in no digit of float32 is no error: it may be so in a chunk.
    """
    held = message.arrays["values"]
    if memory is not None and isinstance(held, np.ndarray) and held.dtype == np.float32:
        held.take(rows, axis=0, out=memory.reshape(len(rows), *held.shape[1:]), mode="clip")
        read = memory
    else:
        values = message.take("values", rows)
        values = values.reshape(len(rows), int(np.prod(values.shape[1:], dtype=np.int64)))
        with np.errstate(over="ignore", under="ignore"):
            read = values.astype(np.float32, copy=False)
        if read is not values and not np.isfinite(read).all():
            as_float32(f"observations of {message.header.sender!r}", values)
    if parameters.likelihood == "bce" and len(rows) and (read.min() < 0 or read.max() > 1):
        check_unit_interval(read, "observations", "likelihood 'bce'")
        np.clip(read, 0, 1, out=read)
    if (absent := message.missing_values) is not None and len(rows):
        read = np.where(absent[rows], np.float32(np.nan), read)
    return read


def _room_of(chunk: Chunk, message: Message) -> Float32Array | None:
    """Return memory for the reconstructions of a chunk; none where those of a sample of the rows are kept."""
    if chunk.total > MAX_WHOLE_ROWS:
        return None
    return chunk.room("reconstructions", math.prod(message.shape("values")[1:]), np.float32)


def _options(parameters: VAEParameters, previous_epochs: int = 0) -> TrainingOptions:
    """Return the options of training that say how β rises and when an update ends."""
    from actors.kernels.neural.vae_training import TrainingOptions

    return TrainingOptions(
        epochs=parameters.epochs,
        batch_size=parameters.batch_size or 1,
        kl_weight=parameters.kl_weight,
        learning_rate=parameters.learning_rate,
        likelihood=parameters.likelihood,
        kl_warmup=parameters.kl_warmup,
        previous_epochs=previous_epochs,
        patience=parameters.patience,
    )
