"""The GMM: classifies latent vectors by a Gaussian mixture, under priors over each row's class that come from above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AliasChoices, Field

from actors.finite import check_range
from actors.gmm_engines import ENGINES, Assignment, Engine, Start, Task, first_assignment
from actors.kernels.calibration import calibrate, calibrated_posterior, scaled_likelihood
from actors.kernels.gibbs import compile_kernels
from actors.kernels.niw import Factors, Prior, log_predictive
from actors.kinds import Array
from actors.messages import Message
from actors.module import Context, Inbox, Module, ModuleError, NonFiniteError, Outbox, Outgoing, Port, State, rows_of

Floats = npt.NDArray[np.float64]

SMALLEST_VARIANCE = 1e-6
"""Of the largest: a latent dimension that collapsed must not make the prior's scale singular."""

FIRST_LAPSE = 0.01
"""The share of rows that the likelihood is taken to be wrong about before anything else is known."""


@dataclass(frozen=True)
class GMMParameters:
    """See :class:`GMM`."""

    classes: Annotated[int, Field(ge=1)] = 10
    iterations: Annotated[int, Field(ge=0, validation_alias=AliasChoices("iterations", "itr"))] = 100
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    prior_count: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    degrees: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    prior_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["data"] = 0.1
    rule: Literal["extrinsic", "tutorial"] = "extrinsic"
    burn_in: Annotated[int, Field(ge=0)] = 0
    start: Start = "random"
    calibrate: bool = False
    engine: Engine = "gibbs"

    def __post_init__(self) -> None:
        if self.engine == "vb" and self.rule == "tutorial":
            raise ValueError("rule 'tutorial' is defined by sampling: it goes with engine 'gibbs', not with 'vb'")


@dataclass(frozen=True)
class _Calibration:
    """How far the likelihood is trusted, and the mean posterior (K,) under that trust of the rows learnt from."""

    temperature: float
    lapse: float
    mean: Floats


class GMM(Module[GMMParameters]):
    """A Gaussian mixture with a normal-inverse-Wishart prior, learnt by collapsed Gibbs sampling or variational Bayes.

    With ``rule: extrinsic`` a prior that came replaces the mixture's weights; upwards goes the likelihood of each row
    as if it were left out, times every prior but the receiver's own. Without a module that sends latent vectors it
    takes the observations themselves for them. With ``rule: tutorial`` weights and prior
    multiply, and the posterior goes upwards as it is.

    Parameters
    ----------
    parameters : GMMParameters
        classes : int
            K.
        iterations (or itr) : int
            Sweeps (with ``vb`` iterations, at most) an update. With 0 nothing is learnt: labels stay, the factors are
            rebuilt from them, messages are composed anew (and the calibration is renewed under the latest prior).
        alpha : float
            Added to the count of each class.
        prior_count : float
            r0, how many rows the prior mean counts for.
        degrees : float, optional
            ν0, more than D - 1; D + 2 by default.
        prior_scale : float or "data"
            S0 is so many times the identity; ``data`` takes the variances of the data times K^(-2/D), the size of
            a class if K classes share the volume.
        rule : {"extrinsic", "tutorial"}
            What is sampled and sent; see above.
        burn_in : int
            Further sweeps in the very first update.
        start : {"random", "kmeans", "sequence"}
            Labels of the very first update: drawn uniformly, by k-means, or by what each row shares with its neighbours
            in the sequence (:mod:`actors.kernels.sequence`); of several chains each looks at it in another way.
        calibrate : bool
            Whether the likelihood is tempered, and allowed to lapse, as far as the priors from above say that it is
            over-confident (:mod:`actors.kernels.calibration`); it then goes upwards relative to the rows' density, and
            the evidence of the model above counts what the order explains.
        engine : {"gibbs", "vb"}
            Sampled labels, or responsibilities by variational Bayes: deterministic but for the start, with the metric
            ``bound``, a lower bound of the log evidence of the rows under the priors that came (left out where they
            forbid the classes that the rows are in and nothing is learnt). Not with ``tutorial``.
    """

    Parameters: ClassVar[type[Any]] = GMMParameters
    ports = (
        Port("latent_vectors", "in", "forward", "latent_vectors", optional=True),
        Port("observations", "in", "forward", "observations", optional=True),
        Port("transition_prior", "in", "backward", "transition_prior", optional=True),
        Port("class_posteriors", "out", "forward", "class_posteriors", per_receiver=True),
        Port("class_means", "out", "backward", "class_means"),
    )

    def __init__(self, parameters: GMMParameters) -> None:
        super().__init__(parameters)
        self._assignment: Assignment | None = None
        self._factors: Factors | None = None
        self._prior: Prior | None = None
        self._calibration: _Calibration | None = None

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
        log_prior = _log_prior(inbox, len(X), parameters.classes)
        prior = self._make_prior(seen, parameters)
        iterations = parameters.iterations + (parameters.burn_in if self._assignment is None else 0)
        # Tempering gives a prior its say. Without one it only blurs the classes, and chains don't recover from that.
        trust = 1.0 if self._calibration is None else self._calibration.temperature
        task = Task(
            rows=X,
            missing=missing,
            log_prior=log_prior,
            prior=prior,
            classes=parameters.classes,
            alpha=parameters.alpha,
            iterations=iterations if context.learn else 0,
            use_counts=log_prior is None or parameters.rule == "tutorial",
            temperature=1.0 if log_prior is None else context.temperature * trust,
        )
        try:
            start = self._start(X, missing, message.lengths, context)
            assignment, factors, left_out, metrics = ENGINES[parameters.engine](task, start, context)
            likelihood = log_predictive(X, factors, prior) if parameters.rule == "tutorial" else left_out
        except NonFiniteError:  # says already where
            raise
        except (ValueError, np.linalg.LinAlgError) as error:
            raise ModuleError(f"module {context.module!r}: {error}") from error
        self._assignment, self._factors, self._prior = assignment, factors, prior
        left_out[missing] = 0.0
        likelihood[missing] = 0.0
        if parameters.calibrate:
            self._calibration = self._calibrate(left_out[~missing], factors, parameters, log_prior, missing)
            likelihood = self._trusted(likelihood, factors, parameters)
            likelihood[missing] = 0.0
        # The mixture's own weights sum to one here, so that evidence with and without a prior is a density both times.
        log_weights = _log_weights(factors, parameters.alpha)
        evidence = _normalised(left_out + (log_weights if log_prior is None else log_prior))[1].sum()
        metrics = {"evidence": float(evidence), **metrics}
        if parameters.calibrate and context.receivers.get("class_posteriors"):
            # What goes up is relative to the rows' density, so the evidence above is short of just that.
            metrics["score"] = float(_normalised(left_out + log_weights)[1].sum())
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
        log_prior = _log_prior(inbox, context.rows, self.parameters.classes)
        if log_prior is None:
            weights = np.exp(_log_weights(self._factors, self.parameters.alpha))
            drawn = context.generator.choice(len(weights), context.rows, p=weights)
            responsibilities = np.eye(len(weights))[drawn]
        else:
            responsibilities = np.exp(log_prior)
        arrays = {"means": self._factors.mean.copy(), "responsibilities": responsibilities}
        return Outbox([Outgoing("class_means", arrays)], outputs={"class": responsibilities.argmax(axis=1)})

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
        if factors.counts.size != self.parameters.classes:
            raise ModuleError(f"the state has {factors.counts.size} classes, this GMM {self.parameters.classes}")
        soft = np.array(state["responsibilities"]) if "responsibilities" in state else None
        self._assignment, self._factors = Assignment(np.array(state["labels"], dtype=np.int64), soft), factors
        self._prior = Prior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
        if "temperature" in state:
            mean = np.array(state["mean_posterior"])
            self._calibration = _Calibration(float(state["temperature"]), float(state["lapse"]), mean)

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _at(self, context: Context) -> GMMParameters:
        parameters = self.at(context)
        if parameters.classes != self.parameters.classes:
            raise ModuleError("the number of classes cannot be set for a step: labels are carried over")
        return parameters

    def _start(self, X: Floats, missing: npt.NDArray[np.bool_], lengths: Array | None, context: Context) -> Assignment:
        """Return the assignment carried over, or that of the first update."""
        carried = self._assignment
        if carried is None:
            # A missing row is put where it can say nothing: in the middle of those that are there.
            filled = np.where(missing[:, None], X[~missing].mean(axis=0), X)
            return first_assignment(self.parameters.start, filled, self.parameters.classes, lengths, context)
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

    def _make_prior(self, seen: Floats, parameters: GMMParameters) -> Prior:
        if len(seen) == 0:
            raise ModuleError("every row of the latent vectors is missing: there is nothing to learn from")
        D = seen.shape[1]
        scale = np.full(D, 0.1)
        if parameters.prior_scale == "data":
            variance = seen.var(axis=0)
            floor = SMALLEST_VARIANCE * max(float(variance.max()), SMALLEST_VARIANCE)
            scale = np.maximum(variance, floor) * parameters.classes ** (-2.0 / D)
        else:
            scale[:] = parameters.prior_scale
        degrees = D + 2.0 if parameters.degrees is None else parameters.degrees
        try:
            return Prior(seen.mean(axis=0), parameters.prior_count, degrees, scale)
        except ValueError as error:
            raise ModuleError(f"the prior of {D} latent dimensions is not possible: {error}") from error

    def _calibrate(
        self,
        left_out: Floats,
        factors: Factors,
        parameters: GMMParameters,
        log_prior: Floats | None,
        missing: npt.NDArray[np.bool_],
    ) -> _Calibration:
        """Return how far the rows that are there (M, K) can be trusted; almost wholly until a prior judges it."""
        weights = np.exp(_log_weights(factors, parameters.alpha))
        trust, lapse = (1.0, FIRST_LAPSE) if log_prior is None else calibrate(left_out, weights, log_prior[~missing])
        return _Calibration(trust, lapse, calibrated_posterior(left_out, weights, trust, lapse).mean(axis=0))

    def _trusted(self, likelihood: Floats, factors: Factors, parameters: GMMParameters) -> Floats:
        """Return the likelihood (N, K) as far as it is trusted, relative to the rows' density."""
        trust = self._calibration
        assert trust is not None
        weights = np.exp(_log_weights(factors, parameters.alpha))
        posterior = calibrated_posterior(likelihood, weights, trust.temperature, trust.lapse)
        return scaled_likelihood(posterior, trust.mean)

    def _outbox(
        self,
        inbox: Inbox,
        context: Context,
        likelihood: Floats,
        missing: npt.NDArray[np.bool_],
        metrics: dict[str, float],
    ) -> Outbox:
        """Compose `likelihood` (N, K), zeros where rows are missing, with the priors that came, and address it."""
        assert self._factors is not None
        parameters, of_rows = self._at(context), rows_of(_received(inbox))
        rows, classes = likelihood.shape
        log_prior = _log_prior(inbox, rows, classes)
        scores = likelihood if log_prior is None else likelihood + log_prior
        if log_prior is None or parameters.rule == "tutorial":
            scores = scores + _log_weights(self._factors, parameters.alpha)
        log_posterior, log_norm = _normalised(scores)
        posterior = np.exp(log_posterior)
        best = log_posterior.argmax(axis=1)
        responsibilities = posterior
        messages = []
        for receiver in context.receivers.get("class_posteriors", ()):
            if parameters.rule == "extrinsic":
                # What came from the receiver is known to it; sent back, it would count twice.
                others = _log_prior(inbox, rows, classes, without=receiver)
                up, up_norm = _normalised(likelihood if others is None else likelihood + others)
            else:
                up, up_norm = log_posterior.copy(), log_norm.copy()
                up[missing] = -np.log(classes)
            up_norm[missing] = 0.0  # a row that is not there says nothing
            messages.append(Outgoing("class_posteriors", {"log_prob": up, "log_norm": up_norm, **of_rows}, receiver))
        if parameters.rule == "tutorial":
            responsibilities = np.eye(classes)[best]
        means = self._factors.mean.copy()
        messages.append(Outgoing("class_means", {"means": means, "responsibilities": responsibilities, **of_rows}))
        outputs: dict[str, Array] = {"class": best, "Pdz": posterior, "mu": means}
        return Outbox(messages=messages, metrics=metrics, outputs=outputs)


def _received(inbox: Inbox) -> Message:
    """Return the message whose rows are to be classified: latent vectors, or observations taken as such."""
    return inbox.first("latent_vectors") or inbox.require("observations")


def _rows(message: Message) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the rows (N, D) as float64 and which of them are missing."""
    given = message["mean" if message.header.kind == "latent_vectors" else "values"]
    X = np.asarray(given, dtype=np.float64).reshape(len(given), -1)
    return X, np.zeros(len(X), dtype=np.bool_) if message.mask is None else np.array(message.mask)


def _log_prior(inbox: Inbox, rows: int, classes: int, without: str | None = None) -> Floats | None:
    """Return the product of the priors that came, all but that of `without`; None where there is none."""
    for message in inbox.all("transition_prior").values():
        if message["log_prob"].shape != (rows, classes):
            shape = message["log_prob"].shape
            raise ModuleError(f"{message.header.route}: log_prob of shape {shape} came, expected {(rows, classes)}")
    return inbox.log_product("transition_prior", without=without)


def _log_weights(factors: Factors, alpha: float) -> Floats:
    """Return log((N_k + alpha) / (N + K alpha)), (K,)."""
    weights = factors.counts + alpha
    log_weights: Floats = np.log(weights / weights.sum())
    return log_weights


def _normalised(scores: Floats) -> tuple[Floats, Floats]:
    """Return rows of `scores` as log-distributions, and the log-normalisers (N,) that this took away."""
    log_norm = np.logaddexp.reduce(scores, axis=1)
    return scores - log_norm[:, None], log_norm
