"""The GMM: classifies latent vectors by a Gaussian mixture, under priors over each row's class that come from above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.kernels.mixture.niw import Factors
from actors.module import Context
from actors.modules.mixture.base import Mixture
from actors.modules.mixture.engines import ENGINES, Assignment, Engine, Fit, Start, Task, first_assignment
from actors.types import Array, FloatArray


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


class GMM(Mixture[GMMParameters]):
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
            in the sequence (:mod:`actors.kernels.mixture.sequence_init`); of several chains each looks at it in
            another way.
        calibrate : bool
            Whether the likelihood is tempered, and allowed to lapse, as far as the priors from above say that it is
            over-confident (:mod:`actors.kernels.mixture.calibration`); it then goes upwards relative to the rows'
            density, and the evidence of the model above counts what the order explains.
        engine : {"gibbs", "vb"}
            Sampled labels, or responsibilities by variational Bayes: deterministic but for the start, with the metric
            ``bound``, a lower bound of the log evidence of the rows under the priors that came (left out where they
            forbid the classes that the rows are in and nothing is learnt). Not with ``tutorial``.
    """

    Parameters: ClassVar[type[Any]] = GMMParameters
    called = "GMM"

    @property
    def classes(self) -> int:
        """K."""
        return self.parameters.classes

    def _at(self, context: Context) -> GMMParameters:
        parameters = self.at(context)
        if parameters.classes != self.parameters.classes:
            raise ModuleError("the number of classes cannot be set for a step: labels are carried over")
        return parameters

    def _first(self, rows: FloatArray, lengths: Array | None, context: Context) -> Assignment:
        return first_assignment(self.parameters.start, rows, self.parameters.classes, lengths, context)

    def _learn(self, task: Task, start: Assignment, context: Context) -> Fit:
        return ENGINES[self._at(context).engine](task, start, context)

    def _log_weights(self, factors: Factors, parameters: GMMParameters) -> FloatArray:
        """Return log((N_k + alpha) / (N + K alpha)), (K,)."""
        weights = factors.counts + parameters.alpha
        log_weights: FloatArray = np.log(weights / weights.sum())
        return log_weights

    def _sharing(self, rows: int, parameters: GMMParameters) -> float:  # noqa: ARG002 (K, whatever the rows)
        return parameters.classes

    def _multiplies(self, parameters: GMMParameters) -> bool:
        return parameters.rule == "tutorial"
