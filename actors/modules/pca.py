"""The PCA module, with scikit-learn: the example of how to wrap a library's estimator as a module.

A module is one class: its ports, its parameters and a few methods. It keeps the estimator's fitted attributes as plain
arrays, not the estimator itself, because a commit stores arrays; and it imports the library where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from actors.errors import ModuleError
from actors.kernels.mixture.incomplete import with_column_means
from actors.kernels.mixture.row_moments import combine_extremes
from actors.kernels.moments import components_from_moments, moments_of, scatter_from_moments
from actors.kernels.probabilistic_pca import (
    MAX_ITERATIONS,
    MIN_RISE,
    Components,
    Model,
    as_components,
    expected_sums,
    fill_missing,
    first_model_from_sums,
    fit_components,
    improved_model,
)
from actors.limits import MAX_SCATTER_VALUES
from actors.messaging.message import Message, rows_of
from actors.messaging.validation import check_range
from actors.module import Context, Inbox, Outbox, OutgoingMessage, Port
from actors.modules.decoding import decode_class_means
from actors.sharing.chunks import Chunk
from actors.sharing.contract import ShardedModule
from actors.sharing.shard import Statistics, add_statistics
from actors.types import Array, BoolArray, FloatArray, State

MAX_VALUE = 1e160
"""Observations up to this are scaled before they are squared; larger ones are refused."""

MAX_EXPONENT = 20
"""Largest power of two, up or down, of deviations that are used as they are.

Squares of much larger ones overflow, and scikit-learn's whitening takes standard deviations below 2^-52 for zero.
"""

MAX_PASSES = 4
"""Passes over rows that workers share: one as a rule, others if the first reference or unit does not fit all rows."""

FITTED_ATTRIBUTES = ("mean_", "components_", "explained_variance_")
"""The attributes of a fitted scikit-learn PCA that transform and inverse_transform need."""

_NOISE = "noise_variance_"
"""The mean variance in all other directions, for rows in which values are missing."""


@dataclass(frozen=True)
class PCAParameters:
    """Parameters of :class:`PCA`, which describes them; they are validated with the config, before a run starts."""

    latent_dim: Annotated[int, Field(ge=1)] = 10
    whiten: bool = False
    solver: Literal["full", "covariance_eigh", "randomized"] = "full"


class PCA(ShardedModule[PCAParameters]):
    """Project observations onto their principal components.

    Each update fits the components anew to the rows that are present. Class means from above are decoded
    (:meth:`generate`), but do not influence the fit. No evidence or score is reported: PCA is a projection, not a
    density, and its latent vectors of the same observations stay the same from round to round, so that the evidence of
    the modules above can be compared without a correction.
    Values that are missing in part of a row are left out: the components are then those of probabilistic PCA, by EM
    (:mod:`actors.kernels.probabilistic_pca`), and a latent vector is its mean given the observed columns.
    The metrics are ``explained``, the share of the variance that the components retain, and ``reconstruction_error``,
    the squared distance between a row and its reconstruction, mean over rows.

    Parameters
    ----------
    parameters : PCAParameters
        latent_dim : int
            D, the number of components; at most the number of rows and the number of values per row.
        whiten : bool
            Whether latent vectors are scaled to unit variance.
        solver : {"full", "covariance_eigh", "randomized"}
            ``covariance_eigh`` is fast for many rows of few values, ``randomized`` (seeded) for few components. Where
            workers share the rows it is ``covariance_eigh`` of summed moments, also with the default ``full``.
    """

    Parameters: ClassVar[type[Any]] = PCAParameters
    learning_parameters = ("solver",)
    fixed_parameters = ("latent_dim", "whiten")
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("class_means", "in", "backward", "class_means", optional=True),
        Port("latent_vectors", "out", "forward", "latent_vectors"),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )
    missing_values = True
    row_outputs = ("z", "x_hat")
    sampled_outputs = ("x_hat",)

    def __init__(self, parameters: PCAParameters) -> None:
        super().__init__(parameters)
        self._fitted: dict[str, Array] = {}  # FITTED_ATTRIBUTES, and the shape of an observation

    @classmethod
    def check_observations(cls, parameters: PCAParameters, values: Array, source: str, learns: bool) -> None:
        """Raise ModuleError if there are fewer rows to learn from, or values in each, than components."""
        if source and learns:
            _check_enough(len(values), int(np.prod(values.shape[1:])), parameters.latent_dim)

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy, on the CPU)
        """Import scikit-learn, so that the first update does not wait for it."""
        import sklearn.decomposition  # noqa: F401

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Fit the components; send latent vectors up and reconstructions down.

        Raises
        ------
        ModuleError
            If there are fewer rows or values than components, or a step sets ``latent_dim`` or ``whiten``.
        """
        parameters, message = self._step_parameters(context), inbox.require("observations")
        rows, present = _read_rows(message)
        seen = _seen_values(message)
        if seen is not None:
            rows = with_column_means(rows, seen)
        if context.learn or not self._fitted:
            _check_range(rows[present], context)
            exponent = _extreme_exponent(rows[present])
            scaled = np.ldexp(rows[present], -exponent)
            if seen is None:
                fitted = self._fit(scaled, parameters.solver, context)
                # In C order, as arrays are loaded from a commit: the last bits of a matrix product depend on the order.
                self._fitted = {name: np.array(getattr(fitted, name), order="C") for name in FITTED_ATTRIBUTES}
                self._fitted[_NOISE] = np.array([fitted.noise_variance_], np.float64)
            else:
                _check_enough(scaled.shape[0], scaled.shape[1], self.parameters.latent_dim, context.module)
                found = fit_components(scaled, seen[present], self.parameters.latent_dim)
                self._fitted = dict(zip((*FITTED_ATTRIBUTES, _NOISE), found[:3], strict=False))
                self._fitted[_NOISE] = np.array([found.noise])
            if exponent:
                self._fitted["exponent"] = np.array([exponent])
            self._fitted["shape"] = _shape_of(message)
        return self._outbox(message, context)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Project new observations onto the fitted components.

        Raises
        ------
        ModuleError
            If the PCA is unfitted or the observations have another shape.
        """
        return self._outbox(inbox.require("observations"), context)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Decode the class means from above: output ``mu_hat`` (K, …); no output without such a message.

        With ``context.rows`` the rows are decoded too: output ``x_hat`` (N, …), each decoded from its mean.

        Raises
        ------
        ModuleError
            If the PCA is unfitted or the means have another dimension.
        """
        return decode_class_means(inbox, context, lambda latents: self._decode(latents, context))

    def state(self) -> State:
        """Return copies of the mean, components, explained variances, noise and the shape of an observation.

        They refer to observations divided by 2^``exponent``, an array that is present only for extreme units. Where
        workers shared the rows there are also their number, ``rows``, and their ``scatter`` about the mean.
        """
        return {name: array.copy() for name, array in self._fitted.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state; the empty state is that of an unfitted PCA.

        Raises
        ------
        ModuleError
            If the state has another number of components.
        """
        if state and len(state["components_"]) != self.parameters.latent_dim:
            components = len(state["components_"])
            raise ModuleError(f"the state has {components} components, this PCA {self.parameters.latent_dim}")
        self._fitted = {name: np.array(array) for name, array in state.items()}

    # --- rows that workers share ----------------------------------------------------------------------------------

    @classmethod
    def unshared_setting(cls, parameters: PCAParameters) -> str | None:
        """Return which parameter needs all rows in one process; None if workers can share them."""
        if parameters.solver == "randomized":
            return "has solver 'randomized', which needs all rows in one process; use solver: covariance_eigh"
        return None

    def start(self, inbox: Inbox, context: Context) -> State:  # noqa: ARG002 (draws nothing)
        """Return the reference and the unit of a first pass: mean and unit of a sample of the rows."""
        message = inbox.require("observations")
        rows, present = _read_rows(message)
        if (seen := _seen_values(message)) is not None:
            rows = with_column_means(rows, seen)
        rows = rows[present]
        exponent = _extreme_exponent(rows)
        mean = np.ldexp(rows, -exponent).mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
        return {"reference": mean, "exponent": np.array([exponent]), "shape": _shape_of(message), "passes": 0}

    def accumulate(self, chunk: Chunk, learnt: State, context: Context) -> Statistics:
        """Return the moments of a chunk's rows about the reference, and its smallest and largest values.

        Where values are missing, they are the reference in the moments. In a pass of EM, the sums are those of
        :func:`actors.kernels.probabilistic_pca.expected_sums`.

        Raises
        ------
        ModuleError
            If a value is too large, or the observations have another shape.
        """
        message = chunk.inbox.require("observations")
        rows, present = _read_rows(message)
        _check_shape(message, learnt)
        rows, seen = rows[present], _seen_values(message)
        _check_range(rows, context)
        with np.errstate(over="ignore", invalid="ignore"):  # in the unit of a sample; then there is another pass
            scaled = np.ldexp(rows, -_exponent_of(learnt))
            if seen is not None and "em_noise" in learnt:
                return expected_sums(scaled, seen[present], _model_of(learnt))
            if seen is not None:
                scaled = np.where(seen[present], scaled, _reference_of(learnt))
            moments = moments_of(scaled, _reference_of(learnt))
        counted: dict[str, Any] = {} if seen is None else {"where": seen[present]}
        minimum, maximum = rows.min(axis=0, initial=np.inf, **counted), rows.max(axis=0, initial=-np.inf, **counted)
        values = {} if seen is None else {"seen": seen[present].sum(axis=0, dtype=np.float64)}
        return {**moments, **values, "minimum": minimum, "maximum": maximum}

    def merge(self, left: Statistics, right: Statistics) -> Statistics:
        """Return the sums of both, and their smallest and largest values; of runs, the scatter about their mean."""
        if "scatter" in left:
            return _pooled(left, right)
        if "moments" in left:
            return add_statistics(left, right)
        names = ("count", "first", "second", *(("seen",) if "seen" in left else ()))
        added = add_statistics({name: left[name] for name in names}, {name: right[name] for name in names})
        return {**added, **combine_extremes(left, right)}

    def maximise(self, statistics: Statistics, learnt: State, context: Context) -> State:
        """Return the components; or, if reference or unit do not fit all rows, others for another pass.

        Raises
        ------
        ModuleError
            If there are fewer rows or values than components.
        """
        self._step_parameters(context)
        if "moments" in statistics:
            return self._after_em(statistics, learnt)
        count, exponent, reference = int(statistics["count"][0]), _exponent_of(learnt), _reference_of(learnt)
        _check_enough(count, reference.size, self.parameters.latent_dim, context.module)
        passes = 1 + (learnt["passes"] if "reference" in learnt else 0)
        if gaps := "seen" in statistics:
            if not statistics["seen"].all():
                raise ModuleError(
                    f"column {int(statistics['seen'].argmin()) + 1} has no value in any row; leave it out"
                )
            # The mean of the values that are there: those that are missing are at the reference.
            statistics = {**statistics, "first": statistics["first"] * (count / statistics["seen"])}
        mean, unit, near = _improved(statistics, reference, exponent)
        if gaps:
            near = near and "exact" in learnt  # the first model needs deviations from the mean itself
        if gaps and (near or passes >= MAX_PASSES) and (statistics["seen"] < count).any():
            first = first_model_from_sums(reference, statistics["second"], count, self.parameters.latent_dim)
            kept = {name: learnt[name] for name in ("reference", "exponent", "shape", "passes")}
            return {**kept, **_entries_of(first), "em_passes": 0, "em_likelihood": -np.inf}
        if passes < MAX_PASSES and (unit != exponent or not near):
            return {
                "reference": np.ldexp(mean, -unit),
                "exponent": np.array([unit]),
                "shape": learnt["shape"],
                "passes": passes,
                **({"exact": True} if gaps else {}),
            }
        fitted: State = {**components_from_moments(statistics, reference, self.parameters.latent_dim)}
        if exponent:
            fitted["exponent"] = np.array([exponent])
        if reference.size <= MAX_SCATTER_VALUES:
            fitted |= {"rows": statistics["count"].copy(), "scatter": scatter_from_moments(statistics)}
        return {**fitted, "shape": learnt["shape"]}

    def _after_em(self, sums: Statistics, learnt: State) -> State:
        """Return the model after an iteration of EM, or the components after the last one."""
        model, likelihood, done = (
            improved_model(sums, _model_of(learnt)),
            float(sums["likelihood"][0]),
            learnt["em_passes"],
        )
        rows = float(sums["rows"][0])
        if likelihood - learnt["em_likelihood"] >= MIN_RISE * rows and done + 1 < MAX_ITERATIONS:
            return {**learnt, **_entries_of(model), "em_passes": done + 1, "em_likelihood": likelihood}
        found, exponent = as_components(model, rows), _exponent_of(learnt)
        fitted: State = dict(zip(FITTED_ATTRIBUTES, found[:3], strict=True))
        units = {"exponent": np.array([exponent])} if exponent else {}
        return {**fitted, _NOISE: np.array([found.noise]), **units, "shape": learnt["shape"]}

    def is_finished(self, learnt: State, passes: int, context: Context) -> bool:
        """Return whether the components are those of the present rows."""
        return "reference" not in learnt and (passes > 0 or not context.learn)

    def respond(self, chunk: Chunk, learnt: State, context: Context) -> Outbox:
        """Project and reconstruct a chunk's rows; the metrics are sums for `finish`.

        Raises
        ------
        ModuleError
            If the observations have another shape.
        """
        own = type(self)(self.parameters)
        own.load_state(learnt)
        self._step_parameters(context)
        outbox, sums = own._project(chunk.inbox.require("observations"), context)
        return Outbox(outbox.messages, sums, outbox.outputs)

    def finish(self, sums: Mapping[str, float], learnt: State, context: Context) -> Mapping[str, float]:  # noqa: ARG002
        """Return ``explained`` and ``reconstruction_error`` of all rows."""
        return _metrics(sums, _exponent_of(learnt))

    # --- runs that are merged -------------------------------------------------------------------------------------

    def statistics_of(self, learnt: State) -> Statistics:
        """Return number, mean and scatter of the rows, in their unit, and the shape of an observation.

        Raises
        ------
        ModuleError
            If the state has no scatter.
        """
        if "scatter" not in learnt:
            values = len(learnt["mean_"])
            raise ModuleError(
                "has learnt without workers, which keep the scatter of the rows, or from rows that lack values, which "
                "have none: train the runs with workers: 1, from whole rows"
                if values <= MAX_SCATTER_VALUES
                else f"keeps the scatter of rows of at most {MAX_SCATTER_VALUES} values, these have {values}: use fewer"
            )
        exponent = np.array([float(_exponent_of(learnt))])
        kept = {name: learnt[name] for name in ("rows", "scatter", "shape")}
        return {**kept, "mean": learnt["mean_"], "exponent": exponent}

    def learnt_from(self, statistics: Statistics) -> State:
        """Return the components of the rows of all runs.

        Raises
        ------
        ModuleError
            If there are fewer rows or values than components.
        """
        mean, scatter, count = statistics["mean"], statistics["scatter"], statistics["rows"]
        moments = {"count": count, "first": np.zeros_like(mean), "second": scatter}
        try:
            fitted: State = {**components_from_moments(moments, mean, self.parameters.latent_dim)}
        except ValueError as error:
            raise ModuleError(str(error)) from error
        exponent = int(statistics["exponent"][0])
        units = {"exponent": np.array([exponent])} if exponent else {}
        return {**fitted, **units, "rows": count, "scatter": scatter, "shape": statistics["shape"]}

    # --- helpers --------------------------------------------------------------------------------------------------

    def _step_parameters(self, context: Context) -> PCAParameters:
        parameters = self.at(context)
        if (parameters.latent_dim, parameters.whiten) != (self.parameters.latent_dim, self.parameters.whiten):
            raise ModuleError("latent_dim and whiten also apply to recognition and cannot be set for a step")
        return parameters

    def _fit(self, rows: FloatArray, solver: str, context: Context) -> Any:
        """Return scikit-learn's PCA fitted to rows (N, P)."""
        from sklearn import decomposition

        own = self.parameters
        _check_enough(rows.shape[0], rows.shape[1], own.latent_dim, context.module)
        seed = int(context.generator.integers(2**31))
        # The sign of a component is arbitrary: scikit-learn makes its largest value positive, with every solver.
        return decomposition.PCA(own.latent_dim, whiten=own.whiten, svd_solver=solver, random_state=seed).fit(rows)

    def _estimator(self, context: Context) -> Any:
        """Return scikit-learn's PCA with the fitted attributes set."""
        from sklearn import decomposition

        if not self._fitted:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet")
        estimator = decomposition.PCA(self.parameters.latent_dim, whiten=self.parameters.whiten)
        for name in FITTED_ATTRIBUTES:
            setattr(estimator, name, self._fitted[name])
        return estimator

    def _outbox(self, message: Message, context: Context) -> Outbox:
        """Return messages, metrics and outputs."""
        outbox, sums = self._project(message, context)
        return Outbox(outbox.messages, _metrics(sums, self._exponent), outbox.outputs)

    def _project(self, message: Message, context: Context) -> tuple[Outbox, dict[str, float]]:
        """Return messages and outputs, and the sums for the metrics.

        A missing row gets z = 0, which decodes to the mean of all rows; one in which values are missing, the mean of z
        given the others. The sums are of what is observed.
        """
        estimator, (rows, present) = self._estimator(context), _read_rows(message)
        _check_shape(message, self._fitted)
        seen = _seen_values(message)
        if seen is not None:
            rows[present] = self._filled(rows[present], seen[present], context)
        z = np.zeros((len(rows), self.parameters.latent_dim))
        if present.any():
            z[present] = self._in_units(estimator.transform(np.ldexp(rows[present], -self._exponent)))
        x_hat = self._decode(z, context)
        # Squares of values in extreme units would overflow or underflow: the sums are those of scaled values.
        errors = np.square(np.ldexp(rows[present] - x_hat.reshape(rows.shape)[present], -self._exponent))
        deviations = np.square(np.ldexp(rows[present], -self._exponent) - self._fitted["mean_"])
        counted: dict[str, Any] = {} if seen is None else {"where": seen[present]}
        error, variation = errors.sum(**counted), deviations.sum(**counted)
        up = OutgoingMessage("latent_vectors", {"mean": z, **rows_of(message)})
        down = OutgoingMessage("reconstructions", {"values": x_hat, **rows_of(message)})
        sums = {"error": float(error), "variation": float(variation), "rows": float(present.sum())}
        return Outbox([up, down], outputs={"z": z, "x_hat": x_hat}), sums

    def _filled(self, rows: FloatArray, seen: BoolArray, context: Context) -> FloatArray:
        """Return rows (n, P) with the means of missing values given the others.

        Raises
        ------
        ModuleError
            If the state is one of an earlier version.
        """
        if _NOISE not in self._fitted:
            raise ModuleError(
                f"module {context.module!r} was trained by an earlier version, which did not keep what rows that lack "
                "values need: train the run again"
            )
        noise = float(self._fitted[_NOISE][0])
        mean, components, variances = (self._fitted[name] for name in FITTED_ATTRIBUTES)
        found = Components(mean, components, variances, noise)
        scaled = fill_missing(np.ldexp(rows, -self._exponent), seen, found)
        filled: FloatArray = np.where(seen, rows, np.ldexp(scaled, self._exponent))
        return filled

    def _decode(self, latents: Array, context: Context) -> FloatArray:
        """Return the reconstructions (M, …) of latent vectors (M, D)."""
        estimator, D = self._estimator(context), self.parameters.latent_dim
        if latents.shape[1] != D:
            raise ModuleError(
                f"module {context.module!r}: received means of dimension {latents.shape[1]}, expected {D}"
            )
        internal = latents if self.parameters.whiten else np.ldexp(latents, -self._exponent)
        values = np.ldexp(estimator.inverse_transform(internal), self._exponent)
        decoded: FloatArray = values.reshape(len(latents), *self._fitted["shape"])
        return decoded

    @property
    def _exponent(self) -> int:
        """The observations were divided by 2 to this power before the fit."""
        return _exponent_of(self._fitted)

    def _in_units(self, latents: FloatArray) -> FloatArray:
        """Return latent vectors in the units of the observations; whitened ones have none."""
        scaled: FloatArray = latents if self.parameters.whiten else np.ldexp(latents, self._exponent)
        return scaled


def _check_enough(rows: int, values: int, components: int, module: str = "") -> None:
    """Raise ModuleError if there are too few rows or values; `module` names the module where the caller does not."""
    if components <= min(rows, values) and rows > 1:
        return
    found = f"{rows} row{'s' * (rows != 1)} of {values} value{'s' * (values != 1)} {'is' if rows == 1 else 'are'}"
    remedy = f"use latent_dim: {min(rows, values)} or fewer" if rows > 1 else "give at least 2 rows"
    where = f"module {module!r}: " if module else ""
    raise ModuleError(f"{where}{found} not enough for {components} component{'s' * (components != 1)}; {remedy}")


def _extreme_exponent(rows: FloatArray) -> int:
    """Return e so that deviations from the mean are at most 2^e; 0 where they are ordinary."""
    largest = int(np.frexp(np.abs(rows).max(initial=0.0))[1])
    scaled = np.ldexp(rows, -largest)  # the mean of rows near the limit of float64 would overflow
    deviation = np.abs(scaled - scaled.mean(axis=0)).max(initial=0.0) if len(rows) else 0.0
    return _ordinary(largest + int(np.frexp(deviation)[1]) if deviation > 0 else largest)


def _read_rows(message: Message) -> tuple[FloatArray, BoolArray]:
    """Return the observations as rows (N, P) float64, and which of them are present, (N,) bool."""
    values = message["values"]
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    if message.missing_values is not None:
        rows = rows.copy()  # missing values are filled in
    return rows, np.ones(len(rows), dtype=np.bool_) if message.mask is None else ~message.mask


def _seen_values(message: Message) -> BoolArray | None:
    """Return which values are not missing, (N, P) bool; None where rows are whole or missing as a whole."""
    absent = message.missing_values
    return None if absent is None else ~absent


def _entries_of(model: Model) -> State:
    """Return a model of EM as entries of the parameters between two passes."""
    return {"em_mean": model.mean, "em_weights": model.weights, "em_noise": np.array([model.noise])}


def _model_of(learnt: State) -> Model:
    return Model(learnt["em_mean"], learnt["em_weights"], float(learnt["em_noise"][0]))


def _exponent_of(fitted: Mapping[str, Any]) -> int:
    """Return the power of two by which observations are divided."""
    return int(fitted["exponent"][0]) if "exponent" in fitted else 0


def _reference_of(learnt: State) -> FloatArray:
    """Return the reference of the moments (P,), in the unit of the exponent: the mean of an earlier update, say."""
    reference: FloatArray = learnt["reference"] if "reference" in learnt else learnt["mean_"]
    return reference


def _improved(moments: Statistics, reference: FloatArray, exponent: int) -> tuple[FloatArray, int, bool]:
    """Return the mean (P,) of the observations, the exponent that fits all rows, and whether the sums are good.

    They are if no sum overflowed and the mean is within the spread of the rows from the reference; see
    :func:`actors.kernels.moments.components_from_moments` for the error.
    """
    minimum, maximum = moments["minimum"], moments["maximum"]
    finite = bool(np.isfinite(moments["second"]).all() and np.isfinite(moments["first"]).all())
    offset = moments["first"] / moments["count"] if finite else np.zeros_like(reference)
    about = np.clip(np.ldexp(reference + offset, exponent), minimum, maximum)
    mean = about if finite else minimum / 2.0 + maximum / 2.0
    distance = float(np.square(offset).sum())
    near = finite and distance <= float(np.trace(moments["second"]) / moments["count"][0]) - distance
    half = np.maximum(maximum / 2.0 - mean / 2.0, mean / 2.0 - minimum / 2.0)  # a difference could overflow
    return mean, _ordinary(int(np.frexp(half.max())[1]) + 1 if half.max() > 0 else _magnitude(minimum, maximum)), near


def _magnitude(minimum: FloatArray, maximum: FloatArray) -> int:
    return int(np.frexp(max(np.abs(minimum).max(), np.abs(maximum).max()))[1])


def _ordinary(exponent: int) -> int:
    """Return the exponent, 0 where it is an ordinary one."""
    return exponent if abs(exponent) > MAX_EXPONENT else 0


def _metrics(sums: Mapping[str, float], exponent: int) -> dict[str, float]:
    """Return the metrics from sums over the rows, of values divided by 2^exponent."""
    error, variation, rows = (np.float64(sums[name]) for name in ("error", "variation", "rows"))
    metrics = {}
    with np.errstate(over="ignore"):
        squared = np.ldexp(error / rows, 2 * exponent) if rows else np.inf
    if np.isfinite(squared):
        metrics["reconstruction_error"] = float(squared)
    if variation > 0:
        metrics["explained"] = float(1.0 - error / variation)
    return metrics


def _pooled(left: Statistics, right: Statistics) -> Statistics:
    """Return number, mean and scatter of the rows of two runs.

    Raises
    ------
    ModuleError
        If the observations have different shapes.
    """
    shapes = [tuple(each["shape"].tolist()) for each in (left, right)]
    if shapes[0] != shapes[1]:
        raise ModuleError(f"observations have the shape {shapes[0]} in one run and {shapes[1]} in another")
    exponent = max(float(left["exponent"][0]), float(right["exponent"][0]))
    units = [int(each["exponent"][0] - exponent) for each in (left, right)]
    means = [np.ldexp(each["mean"], unit) for each, unit in zip((left, right), units, strict=True)]
    scatters = [np.ldexp(each["scatter"], 2 * unit) for each, unit in zip((left, right), units, strict=True)]
    rows, distance = left["rows"] + right["rows"], means[1] - means[0]
    # Chan, Golub and LeVeque 1983: the scatter of all rows is that of both about their means, and that of the means.
    between = (left["rows"] * right["rows"] / rows)[0] * np.outer(distance, distance)
    return {
        "rows": rows,
        "mean": means[0] + distance * (right["rows"] / rows),
        "scatter": scatters[0] + scatters[1] + between,
        "exponent": np.array([exponent]),
        "shape": left["shape"],
    }


def _shape_of(message: Message) -> Array:
    """Return the shape of an observation."""
    return np.array(message.shape("values")[1:], dtype=np.int64)


def _check_shape(message: Message, fitted: Mapping[str, Any]) -> None:
    """Raise ModuleError if observations have another shape than those that were learnt from."""
    received, expected = message.shape("values")[1:], tuple(fitted["shape"].tolist())
    if received != expected:
        raise ModuleError(
            f"{message.header.route}: received observations of shape {received}, expected {expected} as in training"
        )


def _check_range(rows: FloatArray, context: Context) -> None:
    """Raise ModuleError if a value is too large to be squared after division."""
    if np.abs(rows).max(initial=0.0) > MAX_VALUE:
        check_range(context.where, "observations", rows)
