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
from actors.messaging.message import Message, rows_of
from actors.messaging.validation import check_range
from actors.module import Context, Inbox, Module, Outbox, OutgoingMessage, Port
from actors.modules.decoding import decode_class_means
from actors.types import Array, BoolArray, FloatArray, State

MAX_VALUE = 1e160
"""Observations up to this are scaled before they are squared; larger ones are refused."""

MAX_EXPONENT = 20
"""Largest power of two, up or down, of deviations that are used as they are.

Squares of much larger ones overflow, and scikit-learn's whitening takes standard deviations below 2^-52 for zero.
"""

FITTED_ATTRIBUTES = ("mean_", "components_", "explained_variance_")
"""The attributes of a fitted scikit-learn PCA that transform and inverse_transform need."""


@dataclass(frozen=True)
class PCAParameters:
    """Parameters of :class:`PCA`, which describes them; they are validated with the config, before a run starts."""

    latent_dim: Annotated[int, Field(ge=1)] = 10
    whiten: bool = False
    solver: Literal["full", "covariance_eigh", "randomized"] = "full"


class PCA(Module[PCAParameters]):
    """Project observations onto their principal components.

    Each update fits the components anew to the rows that are present. Class means from above are decoded
    (:meth:`generate`), but do not influence the fit. No evidence or score is reported: PCA is a projection, not a
    density, and its latent vectors of the same observations stay the same from round to round, so that the evidence of
    the modules above can be compared without a correction.
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
            ``covariance_eigh`` is fast for many rows of few values, ``randomized`` (seeded) for few components.
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

    def __init__(self, parameters: PCAParameters) -> None:
        super().__init__(parameters)
        self._fitted: dict[str, Array] = {}  # FITTED_ATTRIBUTES, and the shape of an observation

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
        parameters, message = self.at(context), inbox.require("observations")
        rows, present = _read_rows(message)
        if (parameters.latent_dim, parameters.whiten) != (self.parameters.latent_dim, self.parameters.whiten):
            raise ModuleError("latent_dim and whiten also apply to recognition and cannot be set for a step")
        if context.learn or not self._fitted:
            if np.abs(rows[present]).max(initial=0.0) > MAX_VALUE:
                check_range(context.where, "observations", rows[present])
            exponent = _extreme_exponent(rows[present])
            fitted = self._fit(np.ldexp(rows[present], -exponent), parameters.solver, context)
            # In C order, as arrays are loaded from a commit: the last bits of a matrix product depend on the order.
            self._fitted = {name: np.array(getattr(fitted, name), order="C") for name in FITTED_ATTRIBUTES}
            if exponent:
                self._fitted["exponent"] = np.array([exponent])
            self._fitted["shape"] = np.array(message["values"].shape[1:], dtype=np.int64)
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
        """Return copies of the mean, components, explained variances and the shape of an observation.

        They refer to observations divided by 2^``exponent``, an array that is present only for extreme units.
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

    # --- helpers --------------------------------------------------------------------------------------------------

    def _fit(self, rows: FloatArray, solver: str, context: Context) -> Any:
        """Return scikit-learn's PCA fitted to rows (N, P)."""
        from sklearn import decomposition

        own, limit = self.parameters, min(rows.shape)
        if own.latent_dim > limit or len(rows) < 2:
            raise ModuleError(
                f"module {context.module!r}: {len(rows)} rows of {rows.shape[1]} values are not enough for "
                f"{own.latent_dim} components, which need as many rows (and at least 2) and as many values"
            )
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
        """Return messages, metrics and outputs; a missing row gets z = 0, which decodes to the mean of all rows."""
        estimator, (rows, present) = self._estimator(context), _read_rows(message)
        received, expected = message["values"].shape[1:], tuple(self._fitted["shape"].tolist())
        if received != expected:
            raise ModuleError(
                f"{message.header.route}: received observations of shape {received}, expected {expected} as in training"
            )
        z = np.zeros((len(rows), self.parameters.latent_dim))
        if present.any():
            z[present] = self._in_units(estimator.transform(np.ldexp(rows[present], -self._exponent)))
        x_hat = self._decode(z, context)
        # Squares of values in extreme units would overflow or underflow: the sums are those of scaled values.
        error = np.square(np.ldexp(rows[present] - x_hat.reshape(rows.shape)[present], -self._exponent)).sum()
        variation = np.square(np.ldexp(rows[present], -self._exponent) - self._fitted["mean_"]).sum()
        metrics = {}
        with np.errstate(over="ignore"):
            squared = np.ldexp(error / present.sum(), 2 * self._exponent) if present.any() else np.inf
        if np.isfinite(squared):
            metrics["reconstruction_error"] = float(squared)
        if variation > 0:
            metrics["explained"] = 1.0 - error / variation
        up = OutgoingMessage("latent_vectors", {"mean": z, **rows_of(message)})
        down = OutgoingMessage("reconstructions", {"values": x_hat, **rows_of(message)})
        return Outbox([up, down], metrics, {"z": z, "x_hat": x_hat})

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
        return int(self._fitted["exponent"][0]) if "exponent" in self._fitted else 0

    def _in_units(self, latents: FloatArray) -> FloatArray:
        """Return latent vectors in the units of the observations; whitened ones have none."""
        scaled: FloatArray = latents if self.parameters.whiten else np.ldexp(latents, self._exponent)
        return scaled


def _extreme_exponent(rows: FloatArray) -> int:
    """Return e so that deviations from the mean are at most 2^e; 0 where they are ordinary."""
    largest = int(np.frexp(np.abs(rows).max(initial=0.0))[1])
    scaled = np.ldexp(rows, -largest)  # the mean of rows near the limit of float64 would overflow
    deviation = np.abs(scaled - scaled.mean(axis=0)).max(initial=0.0) if len(rows) else 0.0
    exponent = largest + int(np.frexp(deviation)[1]) if deviation > 0 else largest
    return exponent if abs(exponent) > MAX_EXPONENT else 0


def _read_rows(message: Message) -> tuple[FloatArray, BoolArray]:
    """Return the observations as rows (N, P) float64, and which of them are present, (N,) bool."""
    rows = np.asarray(message["values"], dtype=np.float64).reshape(len(message["values"]), -1)
    return rows, np.ones(len(rows), dtype=np.bool_) if message.mask is None else ~message.mask
