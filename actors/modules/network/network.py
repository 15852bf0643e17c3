"""The network: learns to predict observations from messages, and says downwards what the observations say of them.

torch is imported when the module is prepared, not with this file, as with the VAE.
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
from actors.modules.network.inputs import Given, Part, received, said
from actors.types import Array, Float32Array, State

if TYPE_CHECKING:
    import torch

    from actors.kernels.neural.supervised import Ascent

_log = logging.getLogger(__name__)


FLOOR = 1e-10
"""Probability that a message leaves to every class: what a target says must not forbid what a row shows."""


@dataclass(frozen=True)
class NetworkParameters:
    """See :class:`Network`."""

    epochs: Annotated[int, Field(ge=0, validation_alias=AliasChoices("epochs", "itr"))] = 200
    batch_size: Annotated[int, Field(ge=1)] = 500
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
    """A supervised mapping: messages from below are the inputs x, the observations are the targets y.

    Maximises the mean of log p(y | x) over rows. The inputs of a row are the class probabilities of every sender of
    class posteriors, then the means of every sender of latent vectors, each in the order of their names. What a sender
    has missed is filled by what says nothing, equal probabilities or zeros; a row takes part if its target and at least
    one of its inputs are there.

    Downwards goes what each row's target says of each input, the other inputs being held as they came. What came from a
    receiver has no say in the message to it. How the input is optimised: :mod:`actors.kernels.neural.supervised`. A
    row without a target says nothing, and neither does a network that was never trained.

    Parameters
    ----------
    parameters : NetworkParameters
        epochs (or itr) : int
            Passes over the rows an update. With 0 nothing is learnt.
        batch_size : int
            Rows a step.
        hidden : int
            Rectified linear units in the one hidden layer of the default network.
        loss : {"mse", "bce", "cross_entropy"}
            What a target is: Gaussian of unit variance; columns of values in [0, 1], each Bernoulli; a distribution
            over its columns, one-hot where the category is known.
        learning_rate : float
            Adam's step size.
        weight_decay : float
            L2 penalty on all weights, as Adam takes it.
        restart_weights : bool
            Whether every update starts from new weights instead of the last ones. The losses start anew with them.
        backward : {"expected", "relaxed"}
            How a distribution q over classes is found for a message downwards. ``expected``: the one that maximises
            E_q[log p(y | class)] + H(q), the posterior under equal priors; the network is asked once for each class.
            ``relaxed``: q itself is the input, and log p(y | q) + H(q) is maximised in `input_steps`; softer, for
            networks that cannot be asked about a class that is certain.
        trust : float
            The power to which p(y | x) is raised in messages downwards; below 1 where the columns of a target say the
            same thing many times over.
        input_steps, input_rate : int, float
            Steps of Adam and their first size, when an input is optimised (latent vectors, and ``relaxed``).
        network : str, optional
            ``package.module:callable`` that makes the network instead of the default: ``callable(input_dim,
            output_dim)`` gives a torch module that answers (N, input_dim) with (N, output_dim), values (mse) or logits.

    Attributes
    ----------
    device : str
        Where the network is, ``cpu`` or ``cuda``.
    """

    Parameters: ClassVar[type[Any]] = NetworkParameters
    uses_gpu = True
    ports = (
        Port("class_posteriors", "in", "forward", "class_posteriors", optional=True),
        Port("latent_vectors", "in", "forward", "latent_vectors", optional=True, several=True),
        Port("observations", "in", "forward", "observations"),
        Port("transition_prior", "out", "backward", "transition_prior", per_receiver=True),
        Port("latent_means", "out", "backward", "latent_means", per_receiver=True),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    def __init__(self, parameters: NetworkParameters) -> None:
        super().__init__(parameters)
        self.device = "cpu"
        self._parts: tuple[Part, ...] = ()
        self._shape: tuple[int, ...] = ()
        self._loss: list[float] = []
        self._network: torch.nn.Module | None = None
        self._optimiser: torch.optim.Adam | None = None

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (the host limits the threads)
        """Import torch and choose the device; the CPU where there is no GPU."""
        import torch

        import actors.kernels.neural.supervised  # noqa: F401 (so that the first update doesn't wait for it)

        self.device = "cuda" if device == "cuda" and torch.cuda.is_available() else "cpu"
        if device != self.device:
            _log.warning("device %r was asked for and is not there: the network uses the CPU", device)
        if self._network is not None:
            self.load_state(self.state())

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Train on the rows whose inputs and targets are there; say downwards what the targets say of the inputs.

        No evidence is reported: that of a module below, under the priors sent down, counts the targets already.

        Raises
        ------
        ModuleError
            If the messages don't fit each other, the loss or what was learnt, or no row can be learnt from.
        NonFiniteError
            If the loss is not finite.
        """
        parameters = self._at(context)
        given = self._given(inbox, parameters)
        usable = given.seen & given.known
        if not usable.any():
            raise ModuleError(
                f"module {context.module!r}: every row lacks its target or all of its inputs: "
                "there is nothing to learn from"
            )
        learns = context.learn and parameters.epochs > 0
        if self._network is None or (parameters.restart_weights and learns):
            self._start(given.parts, given.shape, context.torch_seed)
            self._loss = []
        if learns:
            self._train(given.inputs[usable], given.targets[usable], parameters, context)
        outbox, log_likelihood = self._answer(given, parameters, context)
        metrics = {"log_likelihood": float(log_likelihood[usable].sum(dtype=np.float64))}
        if self._loss:
            metrics["loss"] = self._loss[-1]
        return Outbox(outbox.messages, metrics, outbox.outputs)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Predict the targets of new rows; where targets came, say downwards what they say of the inputs.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages don't fit.
        """
        if self._network is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        parameters = self._at(context)
        return self._answer(self._given(inbox, parameters), parameters, context)[0]

    def state(self) -> State:
        """Return copies of the weights, of the optimiser's state, their losses, and what inputs and targets are."""
        if self._network is None or self._optimiser is None:
            return {}
        from actors.kernels.neural import vae_training as kernels

        return {
            **kernels.save(self._network, self._optimiser),
            "loss": np.array(self._loss, dtype=np.float64),
            "shape": np.array(self._shape, dtype=np.int64),
            "inputs": json.dumps(self._parts),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a network that has learnt nothing.

        Raises
        ------
        ModuleError
            If the weights belong to another network.
        """
        if not state:
            self._network, self._optimiser, self._parts, self._shape, self._loss = None, None, (), (), []
            return
        from actors.kernels.neural import vae_training as kernels

        parts = tuple(Part(*part) for part in json.loads(str(state["inputs"])))
        self._start(parts, tuple(int(length) for length in state["shape"]), seed=0)
        self._loss = [float(loss) for loss in state["loss"]]
        assert self._network is not None
        assert self._optimiser is not None
        try:
            kernels.restore(self._network, self._optimiser, state)
        except ValueError as error:
            raise ModuleError(str(error)) from error

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _at(self, context: Context) -> NetworkParameters:
        parameters, own = self.at(context), self.parameters
        if (parameters.hidden, parameters.network, parameters.loss) != (own.hidden, own.network, own.loss):
            raise ModuleError("hidden, network and loss are the network's and cannot be set for a step")
        return parameters

    def _given(self, inbox: Inbox, parameters: NetworkParameters) -> Given:
        """Return what came, held against what was learnt."""
        given = received(inbox, parameters.loss)
        if self._network is not None and given.shape != self._shape:
            raise ModuleError(f"targets of shape {given.shape} came, this network has learnt {self._shape}")
        if self._network is not None and given.parts != self._parts:
            raise ModuleError(f"the inputs are {said(given.parts)}; this network has learnt {said(self._parts)}")
        return given

    def _start(self, parts: tuple[Part, ...], shape: tuple[int, ...], seed: int) -> None:
        """Make a new network and a new optimiser for these inputs and targets of this shape."""
        from actors.kernels.neural import supervised as kernels
        from actors.kernels.neural.vae_training import make_optimiser

        own, inputs = self.parameters, sum(part.width for part in parts)
        outputs = int(np.prod(shape, dtype=np.int64))
        try:
            network = kernels.build(inputs, own.hidden, outputs, seed, own.network).to(self.device)
            optimiser = make_optimiser(network)
        except ValueError as error:
            raise ModuleError(str(error)) from error
        self._network, self._optimiser, self._parts, self._shape = network, optimiser, parts, shape

    def _train(
        self, inputs: Float32Array, targets: Float32Array, parameters: NetworkParameters, context: Context
    ) -> None:
        """Train the network in place and note the losses."""
        import torch

        from actors.kernels.neural import supervised as kernels
        from actors.kernels.neural.vae_networks import seeded

        assert self._network is not None
        assert self._optimiser is not None
        how = kernels.Fit(
            epochs=parameters.epochs,
            batch_size=parameters.batch_size,
            learning_rate=parameters.learning_rate,
            weight_decay=parameters.weight_decay,
            loss=parameters.loss,
        )

        def on_epoch(done: int, total: int, loss: float) -> None:
            context.report(done, total, loss=loss)

        rows, generator = (self._tensor(inputs), self._tensor(targets)), torch.Generator(self.device)
        try:
            with seeded(context.torch_seed):  # dropout in a user's network draws from the process's generator
                generator.manual_seed(context.torch_seed)
                self._loss += kernels.fit(self._network, self._optimiser, *rows, how, generator, on_epoch)
        except NonFiniteError:  # says already where
            raise
        except FloatingPointError as error:
            remedy = "a smaller learning_rate" + (" or scaling the data down" if parameters.loss == "mse" else "")
            raise NonFiniteError(f"{context.where}: {error}; try {remedy}") from error
        except (RuntimeError, ValueError) as error:
            if self.parameters.network is None:
                raise
            raise ModuleError(f"{context.where}: {self.parameters.network!r} cannot be trained: {error}") from error

    def _answer(self, given: Given, parameters: NetworkParameters, context: Context) -> tuple[Outbox, Float32Array]:
        """Return what goes out, and the log-likelihood of the targets (N,), of no meaning where they are missing."""
        from actors.kernels.neural import supervised as kernels

        assert self._network is not None
        answer = kernels.predict(self._network, self._tensor(given.inputs))
        log_likelihood: Float32Array = (
            kernels.log_likelihood(answer, self._tensor(given.targets), parameters.loss).cpu().numpy()
        )
        y_hat = kernels.expected(answer, parameters.loss).cpu().numpy().reshape(-1, *given.shape)
        messages = [OutgoingMessage("reconstructions", {"values": y_hat, **given.rows(given.seen)})]
        how = kernels.Ascent(parameters.input_steps, parameters.input_rate, parameters.loss, parameters.trust)
        for part in given.parts:
            classes = part.port == "class_posteriors"
            port = "transition_prior" if classes else "latent_means"
            if part.sender in context.receivers.get(port, ()):
                told = self._prior(given, part, parameters.backward, how) if classes else self._mean(given, part, how)
                arrays = {"log_prob" if classes else "mean": told, **given.rows(given.known)}
                messages.append(OutgoingMessage(port, arrays, part.sender))
        outputs: dict[str, Array] = {"y_hat": y_hat, "loss": np.array(self._loss, dtype=np.float64)}
        return Outbox(messages, outputs=outputs), log_likelihood

    def _prior(self, given: Given, part: Part, backward: str, how: Ascent) -> Array:
        """Return log-distributions (N, K): what the targets say of one sender's classes, none of which they exclude."""
        from actors.kernels.neural import supervised as kernels

        log_prob = np.full((len(given.inputs), part.width), -np.log(part.width))
        if self._loss and given.known.any():
            assert self._network is not None
            find = kernels.expected_classes if backward == "expected" else kernels.relaxed_classes
            found = find(self._network, *self._told(given), given.block(part), how).cpu().numpy().astype(np.float64)
            log_prob[given.known] = np.logaddexp(found, np.log(FLOOR))
        normalised: Array = log_prob - np.logaddexp.reduce(log_prob, axis=1, keepdims=True)
        return normalised

    def _mean(self, given: Given, part: Part, how: Ascent) -> Array:
        """Return (N, D): where the targets put the latent vectors of one sender, zeros where they say nothing."""
        from actors.kernels.neural import supervised as kernels

        mean = np.zeros((len(given.inputs), part.width), dtype=np.float32)
        if self._loss and given.known.any():
            assert self._network is not None
            found = kernels.latent_modes(self._network, *self._told(given), given.block(part), how)
            mean[given.known] = found.cpu().numpy()
        return mean

    def _told(self, given: Given) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets of the rows whose targets are there."""
        return self._tensor(given.inputs[given.known]), self._tensor(given.targets[given.known])

    def _tensor(self, array: Float32Array) -> torch.Tensor:
        import torch

        return torch.from_numpy(array).to(self.device)
