"""What Gaussian mixtures have in common, whether the number of their classes is given (`gmm`) or not (`dp_gmm`).

Rows come as latent vectors or observations, priors over each row's class from above; class posteriors go up, class
means down. How the classes are learnt and what their weights are is the mixture's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from actors.errors import ModuleError, NonFiniteError
from actors.kernels.mixture.calibration import calibrate, calibrated_posterior, scaled_likelihood
from actors.kernels.mixture.gibbs import compile_kernels
from actors.kernels.mixture.niw import Factors, Prior, log_predictive
from actors.messaging.message import Message, rows_of
from actors.messaging.validation import check_range
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.class_posteriors import as_distributions, prior_from
from actors.modules.mixture.engines import Assignment, Fit, Settings, Task
from actors.types import Array, BoolArray, FloatArray, State

SMALLEST_VARIANCE = 1e-6
"""Of the largest: a latent dimension that collapsed must not make the prior's scale singular."""

PRIOR = "transition_prior"

FIRST_LAPSE = 0.01
"""The share of rows that the likelihood is taken to be wrong about before anything else is known."""


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class _Calibration:
    """How far the likelihood is trusted, and the mean posterior (K,) under that trust of the rows learnt from."""

    temperature: float
    lapse: float
    mean: FloatArray


class Mixture(Module[S]):
    """A mixture of Gaussians with a normal-inverse-Wishart prior, in the midst of other modules."""

    called: ClassVar[str]
    """What errors call it."""
    ports = (
        Port("latent_vectors", "in", "forward", "latent_vectors", optional=True),
        Port("observations", "in", "forward", "observations", optional=True),
        Port(PRIOR, "in", "backward", "transition_prior", optional=True),
        Port("class_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("class_means", "out", "backward", "class_means"),
    )

    def __init__(self, parameters: S) -> None:
        super().__init__(parameters)
        self._assignment: Assignment | None = None
        self._factors: Factors | None = None
        self._prior: Prior | None = None
        self._calibration: _Calibration | None = None

    # --- what a mixture says of itself ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def classes(self) -> int:
        """K, the columns of every message."""

    @abstractmethod
    def _first(self, rows: FloatArray, lengths: Array | None, context: Context) -> Assignment:
        """Return what the very first update of `rows` (N, D), all finite, starts from; ValueError where it cannot."""

    @abstractmethod
    def _learn(self, task: Task, start: Assignment, context: Context) -> Fit:
        """Learn the classes; ValueError or LinAlgError where the numbers don't allow it."""

    @abstractmethod
    def _log_weights(self, factors: Factors, parameters: S) -> FloatArray:
        """Return how frequent the classes are, (K,), in the log domain; they sum to one."""

    @abstractmethod
    def _sharing(self, rows: int, parameters: S) -> float:
        """Return how many classes are taken to share the volume of so many rows (`prior_scale` ``data``)."""

    def _multiplies(self, parameters: S) -> bool:  # noqa: ARG002 (the tutorial's rule is the GMM's)
        """Whether the weights count beside a prior that came, instead of being replaced by it."""
        return False

    def _heard(self, log_prior: FloatArray, factors: Factors, parameters: S) -> FloatArray:  # noqa: ARG002
        """Return what a prior (N, K) that came from above says of classes with these factors."""
        return log_prior

    def _judge(self, left_out: FloatArray, weights: FloatArray, log_prior: FloatArray) -> tuple[float, float]:
        """Return temperature and lapse (:func:`actors.kernels.mixture.calibration.calibrate`)."""
        return calibrate(left_out, weights, log_prior)

    # --- the contract ---------------------------------------------------------------------------------------------

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy and numba, on the CPU)
        """Compile the kernels, or load them from their cache."""
        compile_kernels()

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn the classes; send class posteriors up, class means and responsibilities down.

        Raises
        ------
        ModuleError
            If the messages don't fit the parameters or the labels carried over.
        """
        parameters = self._at(context)
        message = _received(inbox)
        X, missing = _rows(message)
        check_range(context.where, "observations or latent vectors", seen := X[~missing])
        log_prior = prior_from(inbox, PRIOR, (len(X), self.classes))
        prior = self._make_prior(seen, parameters)
        iterations = parameters.iterations + (parameters.burn_in if self._assignment is None else 0)
        # Tempering gives a prior its say. Without one it only blurs the classes, and chains don't recover from that.
        trust = 1.0 if self._calibration is None else self._calibration.temperature
        task = Task(
            rows=X,
            missing=missing,
            log_prior=log_prior,
            prior=prior,
            classes=self.classes,
            alpha=parameters.alpha,
            iterations=iterations if context.learn else 0,
            use_counts=log_prior is None or self._multiplies(parameters),
            temperature=1.0 if log_prior is None else context.temperature * trust,
        )
        try:
            start = self._start(X, missing, message.lengths, context)
            assignment, factors, left_out, metrics = self._learn(task, start, context)
            likelihood = log_predictive(X, factors, prior) if self._multiplies(parameters) else left_out
        except NonFiniteError:  # says already where
            raise
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        self._assignment, self._factors, self._prior = assignment, factors, prior
        if log_prior is not None:
            log_prior = self._heard(log_prior, factors, parameters)
        left_out[missing] = 0.0
        likelihood[missing] = 0.0
        if parameters.calibrate:
            self._calibration = self._calibrate(left_out[~missing], factors, parameters, log_prior, missing)
            likelihood = self._trusted(likelihood, factors, parameters)
            likelihood[missing] = 0.0
        # The mixture's own weights sum to one here, so that evidence with and without a prior is a density both times.
        log_weights = self._log_weights(factors, parameters)
        evidence = as_distributions(left_out + (log_weights if log_prior is None else log_prior))[1].sum()
        metrics = {"evidence": float(evidence), **metrics}
        if parameters.calibrate and context.receivers.get("class_posteriors"):
            # What goes up is relative to the rows' density, so the evidence above is short of just that.
            metrics["score"] = float(as_distributions(left_out + log_weights)[1].sum())
        return self._outbox(inbox, context, likelihood, missing, metrics)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Classify new rows by the factors that were learnt.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the messages don't fit.
        """
        if self._factors is None or self._prior is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot recognize")
        X, missing = _rows(_received(inbox))
        try:
            likelihood = log_predictive(X, self._factors, self._prior)
        except ValueError as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        if self._calibration is not None:
            likelihood = self._trusted(likelihood, self._factors, self.parameters)
        likelihood[missing] = 0.0
        return self._outbox(inbox, context, likelihood, missing, {})

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Send the means of the classes that the priors from above give, or that the weights draw; output ``class``.

        Raises
        ------
        ModuleError
            If nothing was learnt yet.
        """
        if self._factors is None:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet, so it cannot generate")
        if not context.rows:
            return Outbox()
        log_prior = prior_from(inbox, PRIOR, (context.rows, self.classes))
        if log_prior is None:
            weights = np.exp(self._log_weights(self._factors, self.parameters))
            drawn = context.generator.choice(len(weights), context.rows, p=weights)
            responsibilities = np.eye(len(weights))[drawn]
        else:
            responsibilities = np.exp(log_prior)
        arrays = {"means": self._factors.mean.copy(), "responsibilities": responsibilities}
        return Outbox([OutgoingMessage("class_means", arrays)], outputs={"class": responsibilities.argmax(axis=1)})

    def state(self) -> State:
        """Return copies of the labels (and responsibilities), the factors and the prior they were built with."""
        if self._assignment is None or self._factors is None or self._prior is None:
            return {}
        prior, trust = self._prior, self._calibration
        calibration = (
            {}
            if trust is None
            else {"temperature": trust.temperature, "lapse": trust.lapse, "mean_posterior": trust.mean.copy()}
        )
        return {
            **calibration,
            **{name: value.copy() for name, value in self._assignment._asdict().items() if value is not None},
            **{name: value.copy() for name, value in self._factors._asdict().items()},
            "prior_mean": prior.mean.copy(),
            "prior_scale": prior.scale.copy(),
            "prior_count": prior.r0,
            "degrees": prior.nu0,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a GMM that has learnt nothing.

        Raises
        ------
        ModuleError
            If it is that of another number of classes.
        """
        self._assignment, self._factors, self._prior, self._calibration = None, None, None, None
        if not state:
            return
        factors = Factors(*(np.array(state[name]) for name in Factors._fields))
        if factors.counts.size != self.classes:
            raise ModuleError(f"the state has {factors.counts.size} classes, this {self.called} {self.classes}")
        soft = np.array(state["responsibilities"]) if "responsibilities" in state else None
        self._assignment, self._factors = Assignment(np.array(state["labels"], dtype=np.int64), soft), factors
        self._prior = Prior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
        if "temperature" in state:
            mean = np.array(state["mean_posterior"])
            self._calibration = _Calibration(float(state["temperature"]), float(state["lapse"]), mean)

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _at(self, context: Context) -> S:
        """Return the parameters for this step."""
        return self.at(context)

    def _prior_for(self, inbox: Inbox, rows: int, parameters: S, without: str | None = None) -> FloatArray | None:
        """Return what is heard from above of so many rows; from nobody else but `without`, None."""
        assert self._factors is not None
        log_prior = prior_from(inbox, PRIOR, (rows, self.classes), without)
        return None if log_prior is None else self._heard(log_prior, self._factors, parameters)

    def _start(self, X: FloatArray, missing: BoolArray, lengths: Array | None, context: Context) -> Assignment:
        """Return the assignment carried over, or that of the first update."""
        carried = self._assignment
        if carried is None:
            # A missing row is put where it can say nothing: in the middle of those that are there.
            filled = np.where(missing[:, None], X[~missing].mean(axis=0), X)
            return self._first(filled, lengths, context)
        if len(carried.labels) != len(X):
            raise ModuleError(
                f"module {context.module!r} has labels of {len(carried.labels)} rows, {len(X)} rows came: "
                "start a new run"
            )
        assert self._factors is not None
        learnt = self._factors.mean.shape[1]
        if learnt != X.shape[1]:
            raise ModuleError(
                f"module {context.module!r} has labels of rows with {learnt} dimensions, rows with {X.shape[1]} came: "
                "start a new run"
            )
        return carried

    def _make_prior(self, seen: FloatArray, parameters: S) -> Prior:
        if len(seen) == 0:
            raise ModuleError("every row of the latent vectors is missing: there is nothing to learn from")
        D = seen.shape[1]
        scale = np.full(D, 0.1)
        if parameters.prior_scale == "data":
            variance = seen.var(axis=0)
            floor = SMALLEST_VARIANCE * max(float(variance.max()), SMALLEST_VARIANCE)
            scale = np.maximum(variance, floor) * self._sharing(len(seen), parameters) ** (-2.0 / D)
        else:
            scale[:] = parameters.prior_scale
        degrees = D + 2.0 if parameters.degrees is None else parameters.degrees
        try:
            return Prior(seen.mean(axis=0), parameters.prior_count, degrees, scale)
        except ValueError as error:
            raise ModuleError(f"the prior of {D} latent dimensions is not possible: {error}") from error

    def _calibrate(
        self,
        left_out: FloatArray,
        factors: Factors,
        parameters: S,
        log_prior: FloatArray | None,
        missing: BoolArray,
    ) -> _Calibration:
        """Return how far the rows that are there (M, K) can be trusted; almost wholly until a prior judges it."""
        weights = np.exp(self._log_weights(factors, parameters))
        trust, lapse = (1.0, FIRST_LAPSE) if log_prior is None else self._judge(left_out, weights, log_prior[~missing])
        return _Calibration(trust, lapse, calibrated_posterior(left_out, weights, trust, lapse).mean(axis=0))

    def _trusted(self, likelihood: FloatArray, factors: Factors, parameters: S) -> FloatArray:
        """Return the likelihood (N, K) as far as it is trusted, relative to the rows' density."""
        trust = self._calibration
        assert trust is not None
        weights = np.exp(self._log_weights(factors, parameters))
        posterior = calibrated_posterior(likelihood, weights, trust.temperature, trust.lapse)
        return scaled_likelihood(posterior, trust.mean)

    def _outbox(
        self,
        inbox: Inbox,
        context: Context,
        likelihood: FloatArray,
        missing: BoolArray,
        metrics: dict[str, float],
    ) -> Outbox:
        """Compose `likelihood` (N, K), zeros where rows are missing, with the priors that came, and address it."""
        assert self._factors is not None
        parameters, of_rows = self._at(context), rows_of(_received(inbox))
        multiplies = self._multiplies(parameters)
        rows, classes = likelihood.shape
        log_prior = self._prior_for(inbox, rows, parameters)
        scores = likelihood if log_prior is None else likelihood + log_prior
        if log_prior is None or multiplies:
            scores = scores + self._log_weights(self._factors, parameters)
        log_posterior, log_norm = as_distributions(scores)
        posterior = np.exp(log_posterior)
        best = log_posterior.argmax(axis=1)
        responsibilities = posterior
        messages = []
        for receiver in context.receivers.get("class_posteriors", ()):
            if not multiplies:
                # What came from the receiver is known to it; sent back, it would count twice.
                others = self._prior_for(inbox, rows, parameters, without=receiver)
                up, up_norm = as_distributions(likelihood if others is None else likelihood + others)
            else:
                up, up_norm = log_posterior.copy(), log_norm.copy()
                up[missing] = -np.log(classes)
            up_norm[missing] = 0.0  # a row that is not there says nothing
            messages.append(
                OutgoingMessage("class_posteriors", {"log_prob": up, "log_norm": up_norm, **of_rows}, receiver)
            )
        if multiplies:
            responsibilities = np.eye(classes)[best]
        means = self._factors.mean.copy()
        messages.append(
            OutgoingMessage("class_means", {"means": means, "responsibilities": responsibilities, **of_rows})
        )
        outputs: dict[str, Array] = {"class": best, "Pdz": posterior, "mu": means}
        return Outbox(messages=messages, metrics=metrics, outputs=outputs)


def _received(inbox: Inbox) -> Message:
    """Return the message whose rows are to be classified: latent vectors, or observations taken as such."""
    return inbox.first("latent_vectors") or inbox.require("observations")


def _rows(message: Message) -> tuple[FloatArray, BoolArray]:
    """Return the rows (N, D) as float64 and which of them are missing."""
    given = message["mean" if message.header.kind == "latent_vectors" else "values"]
    X = np.asarray(given, dtype=np.float64).reshape(len(given), -1)
    return X, np.zeros(len(X), dtype=np.bool_) if message.mask is None else np.array(message.mask)
