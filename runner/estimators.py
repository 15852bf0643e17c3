"""Models as scikit-learn estimators: clustering of rows that form sequences.

They follow scikit-learn's conventions: ``fit`` learns, attributes with a final underscore are what was learnt, and
``clone``, pipelines, ``set_output`` and metadata routing (``set_fit_request(lengths=True)``) work. Rows of NaN alone
are missing rows.
"""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from actors.errors import GraphError
from actors.graph.registry import BUILT_IN
from actors.types import Array, FloatArray, IntArray
from runner.data.conversion import unwrap
from runner.model import Model
from runner.report.printable import brief

_MAX_SEED = 2**31 - 1


def _reports_evidence(estimator: ModelClusterer) -> bool:
    """Return whether a module of an estimator's model may report the evidence of new rows."""
    kinds = estimator._make_model(0).types()
    return bool(kinds & {"markov", "gmm", "dp_gmm", "ar_gmm"}) or not kinds <= set(BUILT_IN)


class ModelClusterer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster rows by any model whose modules find classes.

    Parameters
    ----------
    model : Model, str or Path
        A model, which is copied and not changed, or a model file.
    random_state : int, RandomState instance or None
        Seed of the model; None draws one.
    ray : bool
        Whether to learn on a Ray cluster; otherwise in this process. The results have the same bits.
    address : str, optional
        Address of the cluster; by default, one is started on this machine for each fit.
    verbose : bool
        Whether to show a line of progress on stderr.

    Attributes
    ----------
    model_ : Model
        The trained model, with all results (``model_.run``).
    labels_ : ndarray of int64, shape (n_samples,)
        Class of each training row.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if the rows came with names of columns that are texts.
    n_iter_ : int
        Rounds of learning.

    Examples
    --------
    >>> import numpy as np
    >>> from runner import Model, ModelClusterer
    >>> rows = np.random.default_rng(0).normal(size=(60, 2)) + 8.0 * (np.arange(60) % 2)[:, None]
    >>> model = Model(gmm={"type": "gmm", "classes": 2, "prior_scale": "data"})
    >>> labels = ModelClusterer(model, random_state=0).fit_predict(rows)
    >>> bool((labels[:-1] != labels[1:]).all())
    True
    """

    def __init__(
        self,
        model: Model | str | Path | None = None,
        *,
        random_state: Any = None,
        ray: bool = False,
        address: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.random_state = random_state
        self.ray = ray
        self.address = address
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, lengths: Any = None) -> Self:  # noqa: ARG002 (as scikit-learn calls it)
        """Learn from rows in temporal order.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
        y : ignored
        lengths : array_like of int, optional
            Lengths of the sequences, with sum n_samples; by default all rows are one sequence.

        Returns
        -------
        self
        """
        rows = self._validated(X, reset=True)
        self.model_ = self._make_model(self._seed())
        self.model_.fit(rows, lengths, ray=self.ray, address=self.address, progress=bool(self.verbose))
        run = self.model_.run
        classes = dict(run.classes)
        named = {name: own["class"] for name, own in run.outputs.items() if "class" in own}
        self.labels_: IntArray = list((named or classes).values())[-1]
        self.n_iter_ = int(run.metrics["round"][-1])
        self._n_features_out = self._latent_width()
        return self

    def predict(self, X: Any, lengths: Any = None) -> IntArray:
        """Return the class of each row; rows are in temporal order, and neighbours count.

        Parameters
        ----------
        X : array_like, shape (n_samples, n_features)
        lengths : array_like of int, optional
            Lengths of the new sequences.
        """
        return self._trained().predict(self._validated(X), lengths)

    def predict_proba(self, X: Any, lengths: Any = None) -> FloatArray:
        """Return P(class) of each row, (n_samples, n_classes); parameters as for :meth:`predict`."""
        return self._trained().predict_proba(self._validated(X), lengths)

    def transform(self, X: Any, lengths: Any = None) -> FloatArray:
        """Return the latent vector of each row, else P(class); parameters as for :meth:`predict`."""
        return self._trained().transform(self._validated(X), lengths)

    def fit_transform(self, X: Any, y: Any = None, lengths: Any = None) -> FloatArray:
        """Learn from rows and return their latent vectors, as :meth:`transform` does."""
        return self.fit(X, y, lengths).transform(X, lengths)

    @available_if(_reports_evidence)  # type: ignore[untyped-decorator]
    def score(self, X: Any, y: Any = None, lengths: Any = None) -> float:  # noqa: ARG002 (as scikit-learn calls it)
        """Return the log evidence of rows in nats per row (:meth:`runner.Model.score`); higher is better.

        Only models with a Markov model, a mixture or a module of an own type have it.
        """
        return self._trained().score(self._validated(X), lengths)

    def sample(self, n_samples: int = 1) -> tuple[Any, IntArray]:
        """Return generated rows and their classes (:meth:`runner.Model.generate`)."""
        rows, classes = self._trained().generate(n_samples)
        return rows, classes

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn may expect; NaN is a missing value."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.allow_nan = True
        return tags

    def _make_model(self, seed: int) -> Model:
        """Return an untrained model."""
        if isinstance(self.model, str | Path):
            return Model.from_file(self.model, seed=seed)
        if isinstance(self.model, Model):
            return self.model.copy(seed=seed)
        raise GraphError(f"model is {brief(self.model)}; give a runner.Model, or the path of a model file")

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(_MAX_SEED))

    def _validated(self, X: Any, *, reset: bool = False) -> Array:
        if not reset:
            self._trained()
        if hasattr(X, "detach"):  # a tensor, perhaps with a gradient or on a GPU
            X = unwrap(X, "X")
        if isinstance(X, np.ma.MaskedArray) and X.dtype.kind in "biuf":  # scikit-learn would drop the mask
            X = np.ma.filled(X.astype(np.float64), np.nan)
        rows: Array = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            order="C",
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )
        if np.isinf(rows).any():
            raise ValueError("Input X contains infinity; remove or replace it.")
        return rows

    def _trained(self) -> Model:
        if not hasattr(self, "model_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call 'fit' before")
        model: Model = self.model_
        return model

    def _latent_width(self) -> int:
        run = self.model_.run
        learnt = list(run.latents.values()) or [
            own["Pdz"] for own in run.outputs.values() if "Pdz" in own and "class" in own
        ]
        return int(learnt[-1].shape[1]) if learnt else 0


class SequenceClusterer(ModelClusterer):
    """Cluster rows that form sequences: a Gaussian mixture and a Markov model that learn jointly.

    The classes have the shapes of Gaussians and follow each other by learnt probabilities, so that the order of the
    rows helps where shapes overlap: a hidden Markov model, with full covariances and a prior that is set from the
    units of the data. Several starts compete by evidence. Transitions are used only if they explain more of the rows
    than they cost; for rows without an order it is a Gaussian mixture.

    Parameters
    ----------
    n_clusters : int
        Number of classes, at most; superfluous ones stay empty.
    n_components : int, optional
        Number of principal components that are clustered instead of the columns; by default the columns themselves.
    chains : int
        Number of starts that compete.
    max_iter : int
        Maximal number of exchanges between mixture and Markov model from each start.
    tol : float
        An exchange that changes the score by less than this, in nats, is the last.
    calibrate : bool
        Whether the mixture's likelihood is weighted by its agreement with the neighbouring rows, which helps where the
        classes are no Gaussians. ``score`` is then no log-density, and cannot be compared between models.
    random_state, ray, address, verbose
        As for :class:`ModelClusterer`.

    Attributes
    ----------
    transition_matrix_ : ndarray, shape (n_clusters, n_clusters)
        P(next class | class); rows sum to one.
    cluster_centers_ : ndarray, shape (n_clusters, n_features or n_components)
        Means of the classes.
    model_, labels_, n_features_in_, feature_names_in_, n_iter_
        As for :class:`ModelClusterer`.

    Examples
    --------
    Four classes that come in turn. The labels are those of the classes up to their numbers.

    >>> import numpy as np
    >>> from runner import SequenceClusterer
    >>> centres = np.array([[0, 0], [4, 0], [4, 4], [0, 4]])
    >>> rows = centres[np.arange(120) % 4] + np.random.default_rng(0).normal(size=(120, 2))
    >>> clusterer = SequenceClusterer(4, random_state=0).fit(rows)
    >>> bool((clusterer.labels_[4:] == clusterer.labels_[:-4]).all())
    True
    >>> clusterer.transition_matrix_.max(axis=1).round(1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        n_components: int | None = None,
        chains: int = 4,
        max_iter: int = 20,
        tol: float = 0.01,
        calibrate: bool = False,
        random_state: Any = None,
        ray: bool = False,
        address: str | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(random_state=random_state, ray=ray, address=address, verbose=verbose)
        self.n_clusters = n_clusters
        self.n_components = n_components
        self.chains = chains
        self.max_iter = max_iter
        self.tol = tol
        self.calibrate = calibrate

    def fit(self, X: Any, y: Any = None, lengths: Any = None) -> Self:
        """Learn from rows in temporal order; parameters as for :meth:`ModelClusterer.fit`."""
        super().fit(X, y, lengths)
        self.transition_matrix_: FloatArray = self.model_.run.transitions["markov"]
        self.cluster_centers_: Array = self.model_.run.means["mixture"]
        return self

    def _make_model(self, seed: int) -> Model:
        modules: dict[str, Any] = {} if self.n_components is None else {"pca": _pca(self.n_components)}
        modules["mixture"] = {
            "type": "gmm",
            "classes": self.n_clusters,
            "iterations": 2,
            "prior_scale": "data",
            "calibrate": self.calibrate,
        }
        modules["markov"] = {"type": "markov", "estimate": "variational", "test_order": True}
        block = {"steps": ["mixture", "markov"], "repeat": self.max_iter, "tolerance": self.tol, "chains": self.chains}
        last = {"module": "mixture", "set": {"iterations": 0}}
        first = [name for name in modules if name == "pca"]
        return Model(modules, schedule={"rounds": 1, "steps": [*first, block, last]}, seed=seed)


def _pca(components: int) -> dict[str, Any]:
    return {"type": "pca", "latent_dim": components}
