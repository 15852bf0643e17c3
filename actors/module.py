"""The contract of modules: ports, updates and states, independent of Ray and of the coordinator.

To write a module, subclass :class:`Module`: declare ``ports`` and a ``Parameters`` dataclass, and implement ``update``,
``recognize``, ``state`` and ``load_state``. The model determines the rest: the connections, the schedule and the
machine on which each module runs.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from actors.errors import ModuleError, NonFiniteError
from actors.kernels.log_rows import log_sum_exp
from actors.messaging.kinds import Kind
from actors.messaging.message import Message
from actors.types import Array, FloatArray, State

Direction = Literal["in", "out"]
Pass = Literal["forward", "backward"]
Mode = Literal["update", "recognize", "generate", "propose"]
"""The kinds of call to a module, named after the methods of :class:`Module`."""
Report: TypeAlias = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Port:
    """An input or output of a module for messages of one kind.

    Parameters
    ----------
    name : str
        Unique within the module.
    direction : {"in", "out"}
    pass_ : {"forward", "backward"}
        Forward messages go up, away from the data; backward messages go down, from the more abstract module. A
        connection ``a -> b`` joins the forward outputs of a to the forward inputs of b of the same kind, and the
        backward outputs of b to the backward inputs of a.
    kind : str
        A key of :data:`actors.messaging.kinds.KINDS`, or the name of one of the module class's own ``kinds``.
    optional : bool
        For an input: the module can learn without a message on it.
    per_receiver : bool
        For an output: each receiver gets its own message, such as one without what that receiver sent, instead
        of the same one.
    several : bool
        For an input: the module accepts several senders and distinguishes them. Ports of kinds that multiply
        (``log_prob``) always accept several.
    beside : bool
        For an input from below: its messages are about the rows of another input from below, which is needed too.
    """

    name: str
    direction: Direction
    pass_: Pass
    kind: str
    optional: bool = False
    per_receiver: bool = False
    several: bool = False
    beside: bool = False


class Inbox:
    """The messages that a module received, by port and by sender.

    Parameters
    ----------
    messages : sequence of Message
        Addressed messages; a later message replaces an earlier one of the same sender and port.
    """

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages: dict[str, dict[str, Message]] = {}
        for message in messages:
            self._messages.setdefault(message.header.port, {})[message.header.sender] = message

    def __iter__(self) -> Iterator[Message]:
        return (message for by_sender in self._messages.values() for message in by_sender.values())

    def all(self, port: str) -> dict[str, Message]:
        """Return the messages on `port` by sender, in the order of delivery."""
        return self._messages.get(port, {})

    def first(self, port: str) -> Message | None:
        """Return the first message on `port`, or None if there is none."""
        return next(iter(self.all(port).values()), None)

    def require(self, port: str) -> Message:
        """Return the first message on `port`.

        Raises
        ------
        ModuleError
            If there is none.
        """
        message = self.first(port)
        if message is None:
            raise ModuleError(f"no message on port {port!r}, connect a module that sends one, or update it first")
        return message

    def log_product(self, port: str, without: str | None = None) -> FloatArray | None:
        """Return the normalised product of the distributions on `port`, in the log domain.

        Parameters
        ----------
        port : str
            A port whose messages carry ``log_prob``.
        without : str, optional
            A sender whose message is left out of the product. The message to a receiver must not contain that
            receiver's own message: it is the cavity message, the product of all others.

        Returns
        -------
        ndarray (N, K) float64, or None if there are no messages
            Rows are log-distributions.

        Raises
        ------
        ModuleError
            If the shapes differ, or if the messages exclude each other: every class of a row has probability zero.
        """
        factors = {sender: message["log_prob"] for sender, message in self.all(port).items() if sender != without}
        if not factors:
            return None
        if len({factor.shape for factor in factors.values()}) > 1:
            shapes = " and ".join(f"{factor.shape} from {sender}" for sender, factor in factors.items())
            raise ModuleError(f"the messages on port {port!r} have different shapes: {shapes}")
        product = np.sum([factor.astype(np.float64) for factor in factors.values()], axis=0)
        norm = log_sum_exp(product)[:, None]
        excluded = np.flatnonzero(norm == -np.inf)
        if len(excluded):
            raise ModuleError(f"the messages of {', '.join(factors)} exclude each other in row {excluded[0]}")
        result: FloatArray = product - norm
        return result


@cache
def _words_of(name: str) -> tuple[int, int]:
    """Return two words of 32 bits that stand for the name of a module in seeds."""
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    return digest & 0xFFFFFFFF, digest >> 32


@dataclass(frozen=True)
class Context:
    """The arguments of a call besides its inbox: its position in the schedule, and the settings for this call.

    Parameters
    ----------
    module : str
        Name of the module in the model.
    mode : {"update", "recognize", "generate", "propose"}
        The method that is called.
    seed : int
        Seed of the run.
    run : str
        Name of the run.
    round, step, exchange, chain : int
        Position in the schedule; together with seed and module it determines every random draw.
    temperature : float
        The power τ to which likelihoods are raised, 0 < τ ≤ 1 (annealing).
    learn : bool
        False in an update that only evaluates the learnt parameters for the present inbox, for instance to compute the
        evidence again: messages are computed and sent, the parameters stay as they are.
    proposal : int
        Index of the proposal, from 0.
    receivers : mapping of str to tuple of str
        Names of the receivers of each output port.
    overrides : mapping
        Parameters that the schedule sets for this step; in a call that does not learn, also those that were set when
        the present state was learnt.
    ordered : bool
        At recognition: whether the rows are in temporal order.
    order_above : bool
        Whether a module above, to which forward messages lead, learns from the order of the rows
        (:attr:`Module.uses_order`).
    rows : int
        At generation: the number of rows to generate; 0 for none.
    noise : bool
        At generation: whether the latent vectors of rows are drawn from their classes, instead of being class means.
    sweep, chunk : int, optional
        In a module whose rows are divided among workers: the pass over the rows, from 0, and the chunk that is being
        computed. Each chunk and pass has a generator of its own.
    reporter : callable, optional
        Called by :meth:`report`.
    """

    module: str
    seed: int = 0
    run: str = ""
    mode: Mode = "update"
    round: int = 0
    step: int = 0
    exchange: int = 0
    chain: int = 0
    temperature: float = 1.0
    learn: bool = True
    proposal: int = 0
    receivers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = True
    order_above: bool = False
    rows: int = 0
    noise: bool = False
    sweep: int | None = None
    chunk: int | None = None
    reporter: Report | None = None

    @cached_property
    def generator(self) -> np.random.Generator:
        """The only source of randomness; equal for every attempt at the same update, on any machine."""
        return np.random.default_rng(self._seed_sequence(0))

    def within(self, *, sweep: int | None, chunk: int | None = None) -> Context:
        """Return the context of a pass, or of a chunk in it; the copy takes a tenth of the time of a new one."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, sweep=sweep, chunk=chunk)
        other.__dict__.pop("generator", None)
        return other

    @property
    def torch_seed(self) -> int:
        """A seed for a torch generator, independent of the stream of :attr:`generator`."""
        return int(self._seed_sequence(1).generate_state(1, np.uint64)[0] >> 1)

    def _seed_sequence(self, stream: int) -> np.random.SeedSequence:
        position = (self.chain, self.round, self.step, self.exchange)
        key: tuple[int, ...] = (*_words_of(self.module), *position, stream)
        if self.sweep is not None:
            key = (*key, self.sweep, 0 if self.chunk is None else self.chunk + 1)
        if max(key) < 1 << 32:  # numpy converts one array, not nine integers: the same words in half of the time
            return np.random.SeedSequence(self.seed, spawn_key=(np.array(key, np.uint32),))  # type: ignore[arg-type]
        return np.random.SeedSequence(self.seed, spawn_key=key)

    @property
    def where(self) -> str:
        """Name of the module and position in the schedule, for messages."""
        inside = [f"{name} {value}" for name, value in (("exchange", self.exchange), ("chain", self.chain)) if value]
        return ", ".join([f"module {self.module!r}, round {self.round}, step {self.step}", *inside])

    def report(self, done: int, total: int, **metrics: float) -> None:
        """Report the progress of an update: `done` of `total` epochs, sweeps or samples, and any metrics.

        Raises
        ------
        ModuleError
            If a metric is not a number.
        NonFiniteError
            If a metric is not finite, so that a diverged update ends at once.
        """
        for name, value in metrics.items():
            try:
                finite = math.isfinite(value)
            except (TypeError, OverflowError) as error:
                raise ModuleError(
                    f"{self.where}: the metric {name} of a progress report is not usable: {error}"
                ) from error
            if not finite:
                raise NonFiniteError(f"{self.where}: {name} is {value:g} after {done} of {total}")
        if self.reporter is not None:
            self.reporter(done, total, metrics)


@dataclass(frozen=True)
class OutgoingMessage:
    """A message that a module returns: output port, arrays, and the receiver or, if empty, every receiver."""

    port: str
    arrays: Mapping[str, npt.ArrayLike]
    receiver: str = ""


@dataclass(frozen=True)
class Outbox:
    """The result of a call to a module.

    Parameters
    ----------
    messages : sequence of OutgoingMessage
        The messages of an update replace all those of the previous update; a message that is not sent again is
        withdrawn.
    metrics : mapping of str to float
        Metrics of this update, all finite; leave out unknown ones. Names consist of letters, digits and ``_``, and are
        not those of an event's fields (``round``, ``seconds``, …). Chains are selected by ``evidence`` (nats). When
        exchanges or rounds are compared, the ``score`` (nats) of all other modules is added to the evidence of the most
        abstract module.
    outputs : mapping of str to array
        Named results for the run directory (``z``, ``class``, ``trans_prob``, …). The names are names of files, the
        arrays have one to eight dimensions. They contain neither NaN nor +∞; −∞, the logarithm of zero, is allowed.
    """

    messages: Sequence[OutgoingMessage] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)


P = TypeVar("P")


class Module(ABC, Generic[P]):
    """A part of a model that learns from messages and sends messages; the base class of every module.

    Parameters
    ----------
    parameters : P
        An instance of the class's ``Parameters`` dataclass.

    Attributes
    ----------
    ports : tuple of Port
        The inputs and outputs of the module.
    kinds : tuple of Kind
        The message kinds of the ports that are not built in.
    Parameters : type
        A frozen dataclass of the parameters that a model file may set; pydantic validates its fields.
    uses_gpu : bool
        Whether the module computes on a GPU if it has one.
    learning_parameters : tuple of str
        Parameters that only control how an update learns, such as the number of iterations; with the first of them at
        0, an update learns nothing. All others that a step sets are kept with the state, and :meth:`at` returns them
        wherever the state is used, until the next update that learns.
    fixed_parameters : tuple of str
        Parameters that determine what a state contains and that no step can set.
    uses_order : bool
        Whether the module learns from the order of the rows, as a Markov model does.
    missing_values : bool
        Whether observations may lack values in part of a row (:attr:`actors.messaging.message.Message.missing_values`);
        other modules are given rows that are whole or missing as a whole.
    sampled_outputs : tuple of str
        Outputs that are kept for a sample of the rows only, where there are more than
        :data:`actors.limits.MAX_WHOLE_ROWS`, such as reconstructions; the output ``<name>_rows`` says which.

    Examples
    --------
    A complete module: k-means clustering, as the EM algorithm with hard assignments for a mixture of Gaussians of unit
    variance.

    >>> from dataclasses import dataclass
    >>> from typing import Annotated
    >>> import numpy as np
    >>> from pydantic import Field
    >>> from actors import Context, Header, Inbox, Module, ModuleError, Outbox, OutgoingMessage, Port
    >>> from actors import make_message, rows_of

    >>> class KMeans(Module):
    ...     '''Assign each vector to the nearest of K centres, and send the likelihood of each class.'''
    ...
    ...     ports = (
    ...         Port("latent_vectors", "in", "forward", "latent_vectors"),
    ...         Port("class_posteriors", "out", "forward", "class_posteriors"),
    ...     )
    ...
    ...     @dataclass(frozen=True)
    ...     class Parameters:
    ...         classes: Annotated[int, Field(ge=1)] = 3
    ...         iterations: Annotated[int, Field(ge=0)] = 10
    ...
    ...     centres = None  # (K, D)
    ...
    ...     def update(self, inbox, context):
    ...         message = inbox.require("latent_vectors")
    ...         x = message["mean"] if message.mask is None else message["mean"][~message.mask]
    ...         if self.centres is None:
    ...             if len(x) < self.parameters.classes:
    ...                 raise ModuleError(f"{context.where}: {len(x)} rows for {self.parameters.classes} classes")
    ...             self.centres = context.generator.choice(x, self.parameters.classes, replace=False).astype(float)
    ...         for _ in range(self.at(context).iterations if context.learn else 0):
    ...             nearest = self.log_likelihood(x).argmax(axis=1)
    ...             for k in np.unique(nearest):
    ...                 self.centres[k] = x[nearest == k].mean(axis=0)
    ...         return self.recognize(inbox, context)
    ...
    ...     def recognize(self, inbox, context):
    ...         message = inbox.require("latent_vectors")
    ...         log_likelihood = self.log_likelihood(message["mean"])
    ...         log_norm = np.logaddexp.reduce(log_likelihood, axis=1)
    ...         arrays = {"log_prob": log_likelihood - log_norm[:, None], "log_norm": log_norm, **rows_of(message)}
    ...         classes = log_likelihood.argmax(axis=1)
    ...         return Outbox([OutgoingMessage("class_posteriors", arrays)], outputs={"class": classes})
    ...
    ...     def log_likelihood(self, x):  # log N(x | centre, I), (N, K)
    ...         if self.centres is None or x.shape[1] != self.centres.shape[1]:
    ...             raise ModuleError(f"vectors of size {x.shape[1]} do not match the learnt centres")
    ...         distance = ((x[:, None] - self.centres) ** 2).sum(axis=2)
    ...         return -0.5 * (distance + x.shape[1] * np.log(2 * np.pi))
    ...
    ...     def state(self):
    ...         return {} if self.centres is None else {"centres": self.centres.copy()}
    ...
    ...     def load_state(self, state):
    ...         self.centres = state["centres"].copy() if state else None

    An update with a message, as the model would send it:

    >>> x = np.array([[0.0, 0.2], [0.2, 0.0], [5.0, 5.2], [5.2, 5.0]])
    >>> header = Header("latent_vectors", sender="vae", receiver="kmeans", port="latent_vectors")
    >>> module = KMeans(KMeans.Parameters(classes=2))
    >>> outbox = module.update(Inbox([make_message(header, {"mean": x})]), Context("kmeans", seed=0))
    >>> outbox.outputs["class"].tolist()
    [1, 1, 0, 0]
    >>> module.state()["centres"].round(1).tolist()
    [[5.1, 5.1], [0.1, 0.1]]
    """

    ports: ClassVar[tuple[Port, ...]] = ()
    kinds: ClassVar[tuple[Kind, ...]] = ()
    Parameters: ClassVar[type[Any]]
    uses_gpu: ClassVar[bool] = False
    learning_parameters: ClassVar[tuple[str, ...]] = ()
    fixed_parameters: ClassVar[tuple[str, ...]] = ()
    uses_order: ClassVar[bool] = False
    missing_values: ClassVar[bool] = False
    sampled_outputs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters

    def at(self, context: Context) -> P:
        """Return the parameters for this call: the module's parameters with the overrides of the context."""
        return replace(self.parameters, **context.overrides) if context.overrides else self.parameters  # type: ignore[type-var]

    @classmethod
    def check_observations(cls, parameters: P, values: Array, source: str, learns: bool) -> None:
        """Raise ModuleError if rows cannot be used; called before a run starts, for each source. By default, all can.

        Parameters
        ----------
        parameters : Parameters
            Those of the module's first step.
        values : ndarray of float32 or float64, shape (N, …)
            The rows that are not missing, N ≥ 1; of shape (N, 0), for all rows, if the module is above no source.
        source : str
            Name of the source; empty if there is none.
        learns : bool
            Whether the run learns from the rows; if not, it recognises them.
        """

    @classmethod
    def whole_rows_setting(cls, parameters: P) -> str | None:  # noqa: ARG003 (for overriding)
        """Return which parameter needs rows that lack none of their values; None if there is none.

        It is asked where :attr:`missing_values` says that the module can use them; in words that follow its name.
        """
        return None

    def prepare(self, device: str, threads: int) -> None:
        """Prepare for the first update; called once.

        Parameters
        ----------
        device : str
            ``cpu`` or ``cuda``.
        threads : int
            Number of threads to use.
        """

    @abstractmethod
    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn from the inbox and return messages.

        The result and the new state depend on nothing but the inbox, whose arrays are read-only, the context and the
        previous state, so that an update can be repeated after a failure.
        """

    @abstractmethod
    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Return messages and outputs for new data, from the learnt parameters; does not change the state."""

    def generate(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (optional to override)
        """Decode the backward messages in the inbox to the module's own data; return backward messages and outputs.

        With ``context.rows`` > 0, generate that number of rows: the most abstract module draws them, and the modules
        below decode them. Does not change the state. By default, returns an empty outbox.
        """
        return Outbox()

    def propose(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (optional to override)
        """Return the proposal `context.proposal`: messages that differ from those sent last, for a chain to start from.

        One chain starts from each proposal (:class:`actors.graph.schedule.Block`, ``moves``): the receivers keep their
        states, this module starts anew. Proposals are requested in order, the most promising first; an empty outbox,
        the default, means that there are no more. Does not change the state.
        """
        return Outbox()

    @abstractmethod
    def state(self) -> State:
        """Return everything that updates changed, so that updates after :meth:`load_state` give the same bits.

        A flat dict of copies of arrays, and of plain scalars (:data:`actors.types.Scalar`); what a commit would change,
        such as a tuple, a dict or a masked array, is refused (:mod:`actors.storage.state_codec`). Arrays contain
        neither NaN nor +∞; −∞, the logarithm of zero, is allowed. Scalars may be ±∞, like the best loss before the
        first epoch, but not NaN (:mod:`actors.messaging.validation`).
        """

    def state_without_rows(self) -> State:
        """Return the state without what it holds of single rows; by default, the whole state.

        With it, a model is handed to others who have not the rows that it learnt from (``serket export``): after
        :meth:`load_state`, recognition and generation have the same results; updates are not asked for.
        """
        return self.state()

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state` returned; its arrays may be read-only, so copy those that are modified."""
