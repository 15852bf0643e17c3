"""The GMM module: a Gaussian mixture with a fixed number of classes, under priors over each row's class from above."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AliasChoices, Field

from actors.errors import ModuleError
from actors.kernels.mixture.class_components import counts_of_classes, log_shares
from actors.kernels.mixture.context_init import compile_kernels as compile_contexts
from actors.kernels.mixture.niw import NIWPosterior
from actors.kernels.mixture.pooling import sums_of_posterior
from actors.kernels.mixture.scatter import compile_kernels as compile_scatter
from actors.module import Context, Port
from actors.modules.class_posteriors import LABELS
from actors.modules.mixture.class_states import unpack
from actors.modules.mixture.engines import (
    ENGINES,
    Assignment,
    Engine,
    FitProblem,
    FitResult,
    Start,
    initial_assignment,
)
from actors.modules.mixture.shared import SharedMixture
from actors.sharing.shard import Statistics
from actors.types import Array, FloatArray, State

_log = logging.getLogger(__name__)


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
    start: Start = "auto"
    calibrate: bool = False
    engine: Engine = "gibbs"
    components: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        if self.components > 1 and self.engine == "gibbs":
            raise ValueError(
                f"components: {self.components} (Gaussians of each class) are learnt by engine vb or blocked-gibbs, "
                "not by 'gibbs'; use engine: vb"
            )
        if self.engine != "gibbs" and self.rule == "tutorial":
            raise ValueError(
                f"rule 'tutorial' is defined by sampling: it goes with engine 'gibbs', not with {self.engine!r}"
            )


class GMM(SharedMixture[GMMParameters]):
    """Classify rows by a Gaussian mixture model, learnt by Gibbs sampling or variational Bayes.

    The classes have a normal-inverse-Wishart prior. Rows are latent vectors, or the observations themselves where no
    module sends latent vectors.

    With ``rule: extrinsic`` a prior from above replaces the class weights, and the message upwards is the leave-one-out
    likelihood of each row, times every prior except the receiver's own. With ``rule: tutorial`` weights and prior
    multiply, and the message upwards is the posterior.

    Parameters
    ----------
    parameters : GMMParameters
        classes : int
            K.
        iterations (or itr) : int
            Sweeps per update (with ``vb``: the maximum number of iterations). With 0 the labels are kept, the factors
            are rebuilt from them, and the messages are composed anew (the calibration follows the latest prior).
        alpha : float
            Pseudo-count of each class.
        prior_count : float
            r0, the number of rows that the prior mean counts for.
        degrees : float, optional
            ν0, more than D - 1; D + 2 by default.
        prior_scale : float or "data"
            S0 is this multiple of the identity, in each column at most the variance of the data; ``data`` takes these
            variances times K^(-2/D), the variance of one class if K classes share the volume. With ``data`` the classes
            do not depend on the units of the columns. Columns without variance are left out
            (:mod:`actors.kernels.mixture.columns`).
        rule : {"extrinsic", "tutorial"}
            What is sampled and sent; see above.
        burn_in : int
            Additional sweeps in the first update.
        start : {"auto", "random", "kmeans", "sequence", "contexts"}
            Initial labels: uniformly random; by k-means; from the directions that each row shares with its
            neighbours in the sequence (:mod:`actors.kernels.mixture.sequence_init`); or from several small components a
            class, merged by what precedes and follows them (:mod:`actors.kernels.mixture.context_init`), for many
            classes or classes of several clumps. The latter two have other settings in each of several chains;
            ``contexts`` is ``kmeans`` where the order says nothing. ``auto`` is ``random`` with ``rule: tutorial``,
            which is defined so. Else it is ``sequence`` if a module above learns from the order of the rows and rows
            correlate with their neighbours beyond chance, and ``kmeans`` if not.
        calibrate : bool
            Whether the likelihood is tempered and mixed with a lapse rate, to correct the over-confidence that the
            priors from above reveal (:mod:`actors.kernels.mixture.calibration`). The message upwards is then relative
            to the density of the rows, and the evidence of the module above measures what the order explains. A row
            that leaves an order which goes on without it counts as a lapse: its class is the one that the order gives.
        engine : {"gibbs", "vb", "blocked-gibbs"}
            Sampled labels, or responsibilities by variational Bayes. The latter is deterministic after the start and
            has the metric ``bound``, a lower bound of the log evidence of the rows under the priors from above (absent
            where these exclude the rows' classes and nothing is learnt). ``gibbs`` draws the label of one row after the
            other, with the parameters integrated out; ``blocked-gibbs`` draws the parameters of all classes, then the
            labels of all rows given these (:mod:`actors.kernels.mixture.blocked_gibbs`). ``tutorial`` goes with
            ``gibbs`` only.
        components : int
            m, the Gaussians of each class (:mod:`actors.kernels.mixture.class_components`), for classes that one does
            not fit; with ``vb`` and ``blocked-gibbs``, which draws class and component of a row jointly. The message
            upwards is the likelihood of the class, the sum over its components; the one downwards has the means of all
            components. ``alpha`` is the pseudo-count of each class, and of each component within its class.

    Notes
    -----
    With ``vb`` and ``blocked-gibbs`` workers can share the rows (:mod:`actors.modules.mixture.shared`). Their number
    does not change any bit. Prior and columns are those of all rows, the initial assignment is that of a sample. If the
    sample is all rows, a first update by ``vb`` is that of one process up to rounding. Later updates differ from those
    of one process where rows, or their columns and prior, have changed in between: one process carries the assignment
    of each row over and makes the classes anew from it, workers carry the classes over and assign the rows anew by
    them. With 0 iterations workers keep the factors, too; they make only calibration and messages anew, and a row is
    left out of its classes by its responsibilities given the factors. There is no ``bound`` then.
    """

    Parameters: ClassVar[type[Any]] = GMMParameters
    learning_parameters = ("iterations", "burn_in", "start")
    fixed_parameters = ("classes", "components")
    display_name = "GMM"
    ports = (
        *SharedMixture.ports,
        Port(LABELS, "in", "forward", "transition_prior", optional=True, several=True, beside=True),
    )

    def prepare(self, device: str, threads: int) -> None:
        """Compile the kernels, or load them from their cache."""
        super().prepare(device, threads)
        if self.parameters.engine == "vb":
            compile_scatter()
        if self.parameters.start == "contexts":
            compile_contexts()

    @property
    def classes(self) -> int:
        """K."""
        return self.parameters.classes

    @classmethod
    def check_observations(cls, parameters: GMMParameters, values: Array, source: str, learns: bool) -> None:  # noqa: ARG003
        """Raise ModuleError if there are fewer rows to learn from than classes; log if fewer than two for each.

        A class needs a row to be one. With fewer than two for each, most classes have no variance to learn.
        """
        rows, classes = len(values), parameters.classes
        if not learns:
            return
        if problem := _row_count_problem(rows, classes):
            raise ModuleError(problem)
        if rows < 2 * classes:
            _log.warning(
                "%d classes for %d rows: with fewer than two rows each, classes have no variance", classes, rows
            )

    @classmethod
    def unshared_setting(cls, parameters: GMMParameters) -> str | None:
        """Return which parameter needs all rows in one process; None if workers can share them."""
        if parameters.rule == "tutorial":
            return "has rule 'tutorial', which needs all rows in one process; use rule: extrinsic and engine: vb"
        if parameters.engine == "gibbs":
            return (
                "learns by engine 'gibbs', which needs all rows in one process; use engine: vb or engine: blocked-gibbs"
            )
        return None

    def statistics_of(self, learnt: State) -> Statistics:
        """Return the sums over rows behind the classes: their posterior without the prior.

        Raises
        ------
        ModuleError
            If the classes were sampled, or the likelihood was calibrated.
        """
        if self.parameters.engine != "vb":
            raise ModuleError(
                f"has learnt by engine {self.parameters.engine!r}, whose sums are those of one draw of the labels: use "
                "engine: vb"
            )
        if self.parameters.components > 1:
            raise ModuleError(
                f"has components: {self.parameters.components}, which are not matched between runs: use components: 1"
            )
        if self.parameters.calibrate:
            raise ModuleError(
                "has learnt with calibrate: true, and temperature and lapse rate follow from the densities of single "
                "rows, not from sums: use calibrate: false"
            )
        factors, prior, columns = unpack(learnt)
        if (factors.counts < 0).any():
            raise ModuleError("has a state with counts below zero: train the run again")
        return {**sums_of_posterior(factors, prior, columns), "rows": np.array([factors.counts.sum()])}

    def _step_parameters(self, context: Context) -> GMMParameters:
        parameters = self.at(context)
        if parameters.classes != self.parameters.classes:
            raise ModuleError("the number of classes cannot be set for a step: labels are carried over")
        if parameters.components != self.parameters.components:
            raise ModuleError("the number of components cannot be set for a step: responsibilities are carried over")
        return parameters

    def _initial_assignment(
        self,
        rows: FloatArray,
        lengths: Array | None,
        context: Context,
        *,
        lacking: bool = False,  # noqa: ARG002 (every start is as good)
    ) -> Assignment:
        parameters = self._step_parameters(context)
        if problem := _row_count_problem(len(rows), parameters.classes):
            raise ValueError(problem)  # the caller names the module
        start: Start = parameters.start
        if start == "auto" and parameters.rule == "tutorial":
            start = "random"
        return initial_assignment(start, rows, parameters.classes, lengths, context)

    def _engine(self, context: Context) -> Engine:
        parameters = self._step_parameters(context)
        if problem := self.unshared_setting(parameters):
            raise ModuleError(f"module {context.module!r} {problem}")
        return parameters.engine

    def _fit(self, problem: FitProblem, start: Assignment, context: Context) -> FitResult:
        return ENGINES[self._step_parameters(context).engine](problem, start, context)

    def _log_weights(self, factors: NIWPosterior, parameters: GMMParameters) -> FloatArray:
        """Return log((N_k + alpha) / (N + K alpha)), (K,)."""
        weights = counts_of_classes(factors.counts, parameters.components) + parameters.alpha
        log_weights: FloatArray = np.log(weights / weights.sum())
        return log_weights

    def _expected_class_count(self, rows: int, parameters: GMMParameters) -> float:  # noqa: ARG002 (always K)
        return parameters.classes * parameters.components

    @property
    def _components(self) -> int:
        return self.parameters.components

    def _log_shares(self) -> FloatArray | None:
        if self._components == 1:
            return None
        assert self._factors is not None
        return log_shares(self._factors.counts, self._components, self.parameters.alpha)

    def _class_means(self) -> FloatArray:
        means, shares = super()._class_means(), self._log_shares()
        if shares is None:
            return means
        weighted = np.exp(shares)[:, None] * means
        return np.asarray(weighted.reshape(self.classes, self._components, -1).sum(axis=1))

    def _weights_multiply_prior(self, parameters: GMMParameters) -> bool:
        return parameters.rule == "tutorial"


def _row_count_problem(rows: int, classes: int) -> str | None:
    """Return a sentence if there are fewer rows than classes."""
    if rows >= classes:
        return None
    return f"{rows} row{'s' * (rows != 1)} cannot start {classes} classes: use at most {rows}"
