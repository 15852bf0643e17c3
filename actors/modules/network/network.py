"""The network module: predicts observations from messages, and sends down what the observations imply about them.

torch is imported when the module is prepared, not with this file, as in :mod:`actors.modules.vae`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError, NonFiniteError
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.network.inputs import InputBlock, InputsAndTargets, describe_inputs, read_messages
from actors.modules.user_networks import named_failures
from actors.modules.value_ranges import check_float32, check_unit_interval, report_units
from actors.types import Array, Float32Array, State

if TYPE_CHECKING:
    import torch

    from actors.kernels.neural.adam import Adam
    from actors.kernels.neural.supervised import AscentOptions

_log = logging.getLogger(__name__)


MIN_INFORMATION = 1e-3
"""Least total variance of targets with loss ``mse``: what they then say of an input, in nats, is about half of it."""

FLOOR = 1e-10
"""Minimal probability of a class in a message: a target alone must not exclude the class that a row's data show."""


@dataclass(frozen=True)
class NetworkParameters:
    """Parameters of :class:`Network`, which describes them."""

    epochs: Annotated[int, Field(ge=0, validation_alias=AliasChoices("epochs", "itr"))] = 200
    batch_size: Annotated[int, Field(ge=1)] | None = 500
    hidden: Annotated[int, Field(ge=1)] = 128
    loss: Literal["mse", "bce", "cross_entropy"] = "mse"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    restart_weights: bool = False
    backward: Literal["expected", "relaxed"] = "expected"
    trust: Annotated[float, Field(gt=0, le=1)] = 1.0
    input_steps: Annotated[int, Field(ge=1)] = 100
    input_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    network: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None


class Network(Module[NetworkParameters]):
    """Predict observations from messages with a neural network.

    The messages from below are the inputs x, the observations are the targets y. Maximises the mean of log p(y | x)
    over rows. The inputs of a row are the class probabilities of every sender of class posteriors, then the means of
    every sender of latent vectors, each sorted by the senders' names. Missing inputs are replaced by uninformative
    values, equal probabilities or zeros; a row is used for learning if its target and at least one of its inputs are
    present.

    The message down to a sender is what each row's target implies about that sender's input, with the other inputs
    fixed at their received values; the receiver's own input does not influence it. How the input is optimised:
    :mod:`actors.kernels.neural.supervised`. The message is uninformative for rows without a target, and for all rows
    if the network is untrained.

    Parameters
    ----------
    parameters : NetworkParameters
        epochs (or itr) : int
            Passes over the rows per update. With 0 nothing is learnt.
        batch_size : int, optional
            Rows per optimisation step, null for all rows; for a network of your own at most, as the rows are spread
            evenly over the steps.
        hidden : int
            Rectified linear units in the single hidden layer of the default network.
        loss : {"mse", "bce", "cross_entropy"}
            Distribution of a target: Gaussian with unit variance; independent Bernoulli columns with values in [0, 1];
            categorical over its columns, one-hot where the category is known.
        learning_rate : float
            Adam's step size.
        weight_decay : float
            Adam's L2 penalty on all weights.
        restart_weights : bool
            Whether every update starts from new weights instead of the last ones. The list of losses is then reset too.
        backward : {"expected", "relaxed"}
            How a distribution q over classes is computed for a message downwards. ``expected``: q maximises
            E_q[log p(y | class)] + H(q), the posterior under a uniform prior; the network is evaluated once per class.
            ``relaxed``: q itself is the input, and log p(y | q) + H(q) is maximised in `input_steps`; softer, for
            networks that cannot be evaluated at one-hot classes.
        trust : float
            The power to which p(y | x) is raised in messages downwards; below 1 where the columns of a target are
            redundant.
        input_steps, input_rate : int, float
            Number of Adam steps and their initial step size when an input is optimised (latent vectors, and
            ``relaxed``).
        network : str, optional
            ``package.module:callable`` that builds the network in place of the default one: ``callable(input_dim,
            output_dim)`` returns a torch module that maps (N, input_dim) to (N, output_dim), values (mse) or logits.

    Attributes
    ----------
    device : str
        The device of the network, ``cpu`` or ``cuda``.
    """

    Parameters: ClassVar[type[Any]] = NetworkParameters
    uses_gpu = True
    learning_parameters = ("epochs", "batch_size", "learning_rate", "weight_decay", "restart_weights")
    fixed_parameters = ("hidden", "network", "loss")
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors", optional=True),
        Port("latent_vectors", "in", "forward", "latent_vectors", optional=True, several=True),
        Port("observations", "in", "forward", "observations"),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
        Port("latent_means", "out", "backward", "latent_means", per_receiver=True),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    @classmethod
    def check_observations(cls, parameters: NetworkParameters, values: Array, source: str, learns: bool) -> None:
        """Raise ModuleError for targets outside float32, or outside [0, 1] where the loss is for probabilities.

        Log a warning for targets to learn with loss ``mse`` whose unit does not fit its variance of 1.
        """
        if not source:
            return
        check_float32(values, f"targets of {source}")
        if parameters.loss != "mse":
            check_unit_interval(values, f"targets of {source}", f"loss {parameters.loss!r}")
        elif learns:
            report_units(values, f"targets of {source}", "loss 'mse'", MIN_INFORMATION)

    def __init__(self, parameters: NetworkParameters) -> None:
        super().__init__(parameters)
        self.device = "cpu"
        self._blocks: tuple[InputBlock, ...] = ()
        self._shape: tuple[int, ...] = ()
        self._loss: list[float] = []
        self._network: torch.nn.Module | None = None
        self._optimiser: Adam | None = None

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (the host limits the threads)
        """Import torch and select the device; without a GPU this is the CPU."""
        import torch

        import actors.kernels.neural.supervised  # noqa: F401 (so that the first update does not wait for it)

        self.device = "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"
        if device != self.device:
            _log.warning("device %r was requested but is not available: the network uses the CPU", device)
        if self._network is not None:
            self.load_state(self.state())

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Train on the rows that have input and target; send down what the targets imply about the inputs.

        No evidence is reported: the evidence of a module below, under the priors sent down, already includes the
        targets.

        Raises
        ------
        ModuleError
            If the messages do not match each other, the loss or the trained network, or no row can be learnt from.
        NonFiniteError
            If the loss is not finite.
        """
        parameters = self._at(context)
        data = self._read(inbox, parameters)
        usable = data.has_input & data.has_target
        if not usable.any():
            raise ModuleError(
                f"module {context.module!r}: every row lacks its target or all of its inputs: "
                "there is nothing to learn from"
            )
        learns = context.learn and parameters.epochs > 0
        if self._network is None or (parameters.restart_weights and learns):
            self._build_network(data.blocks, data.shape, context.torch_seed)
            self._loss = []
        if learns:
            self._train(data.inputs[usable], data.targets[usable], parameters, context)
        with named_failures(context.where):
            outbox, log_likelihood = self._outbox(data, parameters, context)
        metrics = {"log_likelihood": float(log_likelihood[usable].sum(dtype=np.float64))}
        if self._loss:
            metrics["loss"] = self._loss[-1]
        return Outbox(outbox.messages, metrics, outbox.outputs)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Predict the targets of new rows; send down what the targets that are present imply about the inputs.

        Raises
        ------
        ModuleError
            If the network is untrained or the messages do not match it.
        """
        if self._network is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        parameters = self._at(context)
        with named_failures(f"module {context.module!r}"):
            return self._outbox(self._read(inbox, parameters), parameters, context)[0]

    def state(self) -> State:
        """Return copies of the weights, the optimiser's state, the losses, and the layout of inputs and targets."""
        if self._network is None or self._optimiser is None:
            return {}
        from actors.kernels.neural import vae_training as kernels

        return {
            **kernels.save(self._network, self._optimiser),
            "loss": np.array(self._loss, dtype=np.float64),
            "shape": np.array(self._shape, dtype=np.int64),
            "inputs": json.dumps(self._blocks),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; the empty state is that of an untrained network.

        Raises
        ------
        ModuleError
            If the weights belong to another network.
        """
        if not state:
            self._network, self._optimiser, self._blocks, self._shape, self._loss = None, None, (), (), []
            return
        from actors.kernels.neural import vae_training as kernels

        blocks = tuple(InputBlock(*block) for block in json.loads(str(state["inputs"])))
        self._build_network(blocks, tuple(int(length) for length in state["shape"]), seed=0)
        self._loss = [float(loss) for loss in state["loss"]]
        assert self._network is not None
        assert self._optimiser is not None
        try:
            kernels.restore(self._network, self._optimiser, state)
        except ValueError as error:
            raise ModuleError(str(error)) from error

    # --- helpers --------------------------------------------------------------------------------------------------

    def _at(self, context: Context) -> NetworkParameters:
        parameters, own = self.at(context), self.parameters
        if (parameters.hidden, parameters.network, parameters.loss) != (own.hidden, own.network, own.loss):
            raise ModuleError("hidden, network and loss define the network and cannot be set for a step")
        return parameters

    def _read(self, inbox: Inbox, parameters: NetworkParameters) -> InputsAndTargets:
        """Return inputs and targets, checked against those that the network was built for."""
        data = read_messages(inbox, parameters.loss)
        if self._network is not None and data.shape != self._shape:
            raise ModuleError(f"received targets of shape {data.shape}, but this network was trained on {self._shape}")
        if self._network is not None and data.blocks != self._blocks:
            raise ModuleError(
                f"the inputs are {describe_inputs(data.blocks)}, but this network was trained on "
                f"{describe_inputs(self._blocks)}"
            )
        return data

    def _build_network(self, blocks: tuple[InputBlock, ...], shape: tuple[int, ...], seed: int) -> None:
        """Build a new network and a new optimiser for these inputs and targets of this shape."""
        from actors.kernels.neural import supervised as kernels
        from actors.kernels.neural.vae_training import make_optimiser

        own, inputs = self.parameters, sum(block.width for block in blocks)
        outputs = int(np.prod(shape, dtype=np.int64))
        try:
            network = kernels.build(inputs, own.hidden, outputs, seed, own.network).to(self.device)
            optimiser = make_optimiser(network)
        except ValueError as error:
            raise ModuleError(str(error)) from error
        self._network, self._optimiser, self._blocks, self._shape = network, optimiser, blocks, shape

    def _train(
        self, inputs: Float32Array, targets: Float32Array, parameters: NetworkParameters, context: Context
    ) -> None:
        """Train the network in place and append the losses."""
        import torch

        from actors.kernels.neural import supervised as kernels
        from actors.kernels.neural.vae_networks import seeded

        assert self._network is not None
        assert self._optimiser is not None
        options = kernels.FitOptions(
            epochs=parameters.epochs,
            batch_size=parameters.batch_size or len(inputs),
            learning_rate=parameters.learning_rate,
            weight_decay=parameters.weight_decay,
            loss=parameters.loss,
            even_batches=parameters.network is not None,
        )

        def on_epoch(done: int, total: int, loss: float) -> None:
            context.report(done, total, loss=loss)

        rows, generator = (self._tensor(inputs), self._tensor(targets)), torch.Generator(self.device)
        try:
            # Dropout in a user's network draws from the global generator.
            with seeded(context.torch_seed):
                generator.manual_seed(context.torch_seed)
                self._loss += kernels.fit(self._network, self._optimiser, *rows, options, generator, on_epoch)
        except ModuleError:  # names the module already
            raise
        except FloatingPointError as error:
            remedy = "a smaller learning_rate" + (" or scaling the data down" if parameters.loss == "mse" else "")
            raise NonFiniteError(f"{context.where}: {error}; try {remedy}") from error
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if self.parameters.network is None:
                raise
            raise ModuleError(f"{context.where}: {self.parameters.network!r} cannot be trained: {error}") from error

    def _outbox(
        self, data: InputsAndTargets, parameters: NetworkParameters, context: Context
    ) -> tuple[Outbox, Float32Array]:
        """Return messages and outputs, and the targets' log-likelihoods (N,), undefined where a target is missing."""
        from actors.kernels.neural import supervised as kernels

        assert self._network is not None
        predicted = kernels.predict(self._network, self._tensor(data.inputs))
        log_likelihood: Float32Array = (
            kernels.log_likelihood(predicted, self._tensor(data.targets), parameters.loss).cpu().numpy()
        )
        y_hat = kernels.expected_targets(predicted, parameters.loss).cpu().numpy().reshape(-1, *data.shape)
        messages = [OutgoingMessage("reconstructions", {"values": y_hat, **data.lengths_and_mask(data.has_input)})]
        options = kernels.AscentOptions(
            parameters.input_steps, parameters.input_rate, parameters.loss, parameters.trust
        )
        for block in data.blocks:
            port = "transition_prior" if block.port == "class_posteriors" else "latent_means"
            if block.sender not in context.receivers.get(port, ()):
                continue
            if port == "transition_prior":
                arrays = {"log_prob": self._class_prior(data, block, parameters.backward, options)}
            else:
                arrays = {"mean": self._latent_mean(data, block, options)}
            arrays |= data.lengths_and_mask(data.has_target)
            messages.append(OutgoingMessage(port, arrays, block.sender))
        outputs: dict[str, Array] = {"y_hat": y_hat, "loss": np.array(self._loss, dtype=np.float64)}
        return Outbox(messages, outputs=outputs), log_likelihood

    def _class_prior(self, data: InputsAndTargets, block: InputBlock, backward: str, options: AscentOptions) -> Array:
        """Return the log-distributions (N, K) over one sender's classes given the targets, with :data:`FLOOR` added."""
        from actors.kernels.neural import supervised as kernels

        log_prob = np.full((len(data.inputs), block.width), -np.log(block.width))
        if self._loss and data.has_target.any():
            assert self._network is not None
            optimise = kernels.expected_classes if backward == "expected" else kernels.relaxed_classes
            log_q = optimise(self._network, *self._rows_with_targets(data), data.columns(block), options)
            log_prob[data.has_target] = np.logaddexp(log_q.cpu().numpy().astype(np.float64), np.log(FLOOR))
        normalised: Array = log_prob - np.logaddexp.reduce(log_prob, axis=1, keepdims=True)
        return normalised

    def _latent_mean(self, data: InputsAndTargets, block: InputBlock, options: AscentOptions) -> Array:
        """Return the modes (N, D) of one sender's latent vectors given the targets, zeros for rows without a target."""
        from actors.kernels.neural import supervised as kernels

        mean = np.zeros((len(data.inputs), block.width), dtype=np.float32)
        if self._loss and data.has_target.any():
            assert self._network is not None
            modes = kernels.latent_modes(self._network, *self._rows_with_targets(data), data.columns(block), options)
            mean[data.has_target] = modes.cpu().numpy()
        return mean

    def _rows_with_targets(self, data: InputsAndTargets) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of the rows that have a target."""
        return self._tensor(data.inputs[data.has_target]), self._tensor(data.targets[data.has_target])

    def _tensor(self, array: Float32Array) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.device)
