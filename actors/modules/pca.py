"""Principal component analysis, by scikit-learn: the example of how a library's estimator becomes a module.

A module is one class: its ports, its parameters and a few methods. What the estimator has learnt is kept as plain
arrays, never the estimator itself, since they are what a commit holds; and the library is imported where it is used.
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
from actors.modules.decoding import pictures_of_means
from actors.types import Array, BoolArray, FloatArray, State

LEARNT = ("mean_", "components_", "explained_variance_")
"""All that scikit-learn's PCA knows after a fit, by the names that it gives them."""


@dataclass(frozen=True)
class PCAParameters:
    """See :class:`PCA`. They are checked with the config, before anything starts."""

    latent_dim: Annotated[int, Field(ge=1)] = 10
    whiten: bool = False
    solver: Literal["full", "covariance_eigh", "randomized"] = "full"


class PCA(Module[PCAParameters]):
    """Projects observations onto the directions in which they vary the most.

    Each update fits anew to the rows that are there. Class means from above are shown (:meth:`generate`), not learnt
    from. There is no evidence: this is a projection, not a density; and the latent vectors of the same observations
    stay the same from round to round, so that the evidence of who is above needs nothing added to compare.
    The metrics are ``explained``, the share of the variance that the components keep, and ``reconstruction_error``, the
    squared distance between a row and its reconstruction, mean over rows.

    Parameters
    ----------
    parameters : PCAParameters
        latent_dim : int
            D, the number of components; at most that of the rows, and of the values in a row.
        whiten : bool
            Whether latent vectors are scaled to unit variance.
        solver : {"full", "covariance_eigh", "randomized"}
            ``covariance_eigh`` is quick for many rows of few values, ``randomized`` (seeded) for few components.
    """

    Parameters: ClassVar[type[Any]] = PCAParameters
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("class_means", "in", "backward", "class_means", optional=True),
        Port("latent_vectors", "out", "forward", "latent_vectors"),
        Port("reconstructions", "out", "backward", "reconstructions"),
    )

    def __init__(self, parameters: PCAParameters) -> None:
        super().__init__(parameters)
        self._learnt: dict[str, Array] = {}  # LEARNT, and the shape of an observation

    def prepare(self, device: str, threads: int) -> None:  # noqa: ARG002 (numpy, on the CPU)
        """Import scikit-learn, so that the first update doesn't wait for it."""
        import sklearn.decomposition  # noqa: F401

    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Fit the components; send latent vectors up and reconstructions down.

        Raises
        ------
        ModuleError
            If there are fewer rows or values than components, or a step sets what recognition needs too.
        """
        parameters, message = self.at(context), inbox.require("observations")
        rows, seen = _rows(message)
        if (parameters.latent_dim, parameters.whiten) != (self.parameters.latent_dim, self.parameters.whiten):
            raise ModuleError("latent_dim and whiten are those of all rows to come and cannot be set for a step")
        if context.learn or not self._learnt:
            check_range(context.where, "observations", rows[seen])
            fitted = self._fit(rows[seen], parameters.solver, context)
            # As a state comes back from a commit, row by row in memory: the last bits of a product depend on it.
            self._learnt = {name: np.array(getattr(fitted, name), order="C") for name in LEARNT}
            self._learnt["shape"] = np.array(message["values"].shape[1:], dtype=np.int64)
        return self._outbox(message, context)

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Project new observations onto the components that were learnt.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the observations have another shape.
        """
        return self._outbox(inbox.require("observations"), context)

    def generate(self, inbox: Inbox, context: Context) -> Outbox:
        """Show what the class means from above look like: output ``mu_hat`` (K, …); nothing where none came.

        With ``context.rows`` also what their rows look like: output ``x_hat`` (N, …), each the picture of its mean.

        Raises
        ------
        ModuleError
            If nothing was learnt yet or the means have another dimension.
        """
        return pictures_of_means(inbox, context, lambda latents: self._pictures(latents, context))

    def state(self) -> State:
        """Return copies of mean, components, explained variances, and of the shape of an observation."""
        return {name: array.copy() for name, array in self._learnt.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an empty one is that of a PCA that has learnt nothing.

        Raises
        ------
        ModuleError
            If it has another number of components.
        """
        if state and len(state["components_"]) != self.parameters.latent_dim:
            came = len(state["components_"])
            raise ModuleError(f"the state has {came} components, this PCA {self.parameters.latent_dim}")
        self._learnt = {name: np.array(array) for name, array in state.items()}

    # --- pieces ---------------------------------------------------------------------------------------------------

    def _fit(self, rows: FloatArray, solver: str, context: Context) -> Any:
        from sklearn import decomposition

        own, most = self.parameters, min(rows.shape)
        if own.latent_dim > most or len(rows) < 2:
            raise ModuleError(
                f"module {context.module!r}: {len(rows)} rows of {rows.shape[1]} values came: that is not enough for "
                f"{own.latent_dim} components, which need as many rows (and 2 at least) and as many values"
            )
        seed = int(context.generator.integers(2**31))
        # The sign of a component means nothing: scikit-learn makes its largest value positive, whatever the solver.
        return decomposition.PCA(own.latent_dim, whiten=own.whiten, svd_solver=solver, random_state=seed).fit(rows)

    def _fitted(self, context: Context) -> Any:
        """Return scikit-learn's PCA as if it had just been fitted: with what was learnt."""
        from sklearn import decomposition

        if not self._learnt:
            raise ModuleError(f"module {context.module!r} has learnt nothing yet")
        estimator = decomposition.PCA(self.parameters.latent_dim, whiten=self.parameters.whiten)
        for name in LEARNT:
            setattr(estimator, name, self._learnt[name])
        return estimator

    def _outbox(self, message: Message, context: Context) -> Outbox:
        """Return what goes out. Of a missing row nothing is known: zeros, whose picture is the mean of all rows."""
        fitted, (rows, seen) = self._fitted(context), _rows(message)
        came, learnt = message["values"].shape[1:], tuple(self._learnt["shape"].tolist())
        if came != learnt:
            raise ModuleError(f"{message.header.route}: observations of shape {came} came, those learnt have {learnt}")
        z = np.zeros((len(rows), self.parameters.latent_dim))
        if seen.any():
            z[seen] = fitted.transform(rows[seen])
        x_hat = self._pictures(z, context)
        error = np.square(rows[seen] - x_hat.reshape(rows.shape)[seen]).sum()
        variation = np.square(rows[seen] - self._learnt["mean_"]).sum()
        metrics = {"reconstruction_error": error / seen.sum()} if seen.any() else {}
        if variation > 0:
            metrics["explained"] = 1.0 - error / variation
        up = OutgoingMessage("latent_vectors", {"mean": z, **rows_of(message)})
        down = OutgoingMessage("reconstructions", {"values": x_hat, **rows_of(message)})
        return Outbox([up, down], metrics, {"z": z, "x_hat": x_hat})

    def _pictures(self, latents: Array, context: Context) -> FloatArray:
        """Return what latent vectors (M, D) look like, (M, …)."""
        fitted, D = self._fitted(context), self.parameters.latent_dim
        if latents.shape[1] != D:
            raise ModuleError(f"module {context.module!r}: means of dimension {latents.shape[1]} came, expected {D}")
        pictures: FloatArray = fitted.inverse_transform(latents).reshape(len(latents), *self._learnt["shape"])
        return pictures


def _rows(message: Message) -> tuple[FloatArray, BoolArray]:
    """Return the observations as rows (N, P), and which of them are there (N,)."""
    rows = np.asarray(message["values"], dtype=np.float64).reshape(len(message["values"]), -1)
    return rows, np.ones(len(rows), dtype=np.bool_) if message.mask is None else ~message.mask
