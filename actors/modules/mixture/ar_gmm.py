"""The autoregressive mixture: classes that are linear-Gaussian autoregressions, as in a switching dynamic model."""

from __future__ import annotations

from typing import Any, ClassVar

from actors.module import Port
from actors.modules.class_posteriors import LABELS
from actors.modules.mixture.ar_base import ARGMMParameters
from actors.modules.mixture.ar_shared import SharedARMixture
from actors.modules.mixture.class_module import ClassModule


class ARGMM(SharedARMixture):
    """Classify the rows of sequences by how they move: each class is a linear-Gaussian autoregression.

    A row of class k follows from the L rows before it, x_t = A_k (x_{t-1}, …, x_{t-L}, 1) + noise of covariance Σ_k,
    with a matrix-normal inverse-Wishart prior (:mod:`actors.kernels.mixture.autoregression`). With a Markov model above
    it is an autoregressive hidden Markov model, with a VAE or PCA below one over learnt features. In a model it takes
    the place of :class:`actors.modules.mixture.gmm.GMM` with ``rule: extrinsic``, whose messages it sends and receives;
    a module below that accepts ``latent_means`` is sent what the classes expect of each row in place of class means.

    A row without L rows before it in its sequence, or with a missing one among them, has the density of a Gaussian of
    its class, with the GMM's prior. Rows that come without an order are such rows throughout.

    Values that are missing in part of a row are latent variables (:mod:`actors.kernels.mixture.incomplete_series`).

    Parameters
    ----------
    parameters : ARGMMParameters
        classes : int
            K.
        order : int
            L, how many rows before a row it follows from.
        iterations : int
            Sweeps per update (with ``vb``: the maximum number of iterations). With 0 nothing is learnt, as in the GMM.
        alpha : float
            Pseudo-count of each class.
        prior_count : float
            How many rows the prior mean counts for, of coefficients and of the Gaussians.
        degrees : float, optional
            ν0, more than D - 1; D + 2 by default.
        prior_scale : float or "data"
            S0 is this multiple of the identity, at most the variance of what the prior mean leaves unexplained;
            ``data`` takes this variance times K^(-2/D), so that the classes do not depend on the units of the columns.
        prior_mean : {"persistence", "zero"}
            A row is expected to be where the row before it was, or at the mean of all rows.
        burn_in : int
            Additional sweeps in the first update.
        start : {"kmeans", "segments", "random"}
            Initial labels: by k-means of means and sizes of movements in a window around each row; by short segments,
            which are merged by the evidence into K classes, for several lengths whose consensus is taken
            (:mod:`actors.kernels.mixture.segment_start`); or uniformly random. Each of several chains has another
            window, or other lengths of segments.
        calibrate : bool
            As in the GMM.
        engine : {"vb", "blocked-gibbs"}
            Responsibilities by variational Bayes, with the metric ``bound``, or labels that are drawn given drawn
            parameters.

    Notes
    -----
    Workers can share the rows (:mod:`actors.modules.mixture.ar_shared`), unless these lack some of their values. Their
    number does not change any bit. What holds for the GMM by workers holds here: a first update by ``vb`` on a sample
    of all rows is that of one process up to rounding, classes are carried over instead of the assignment of rows, and
    with 0 iterations the classes stay as they are.
    """

    Parameters: ClassVar[type[Any]] = ARGMMParameters
    ports = (
        *ClassModule.ports,
        Port(LABELS, "in", "forward", "transition_prior", optional=True, several=True, beside=True),
        Port("latent_means", "out", "backward", "latent_means"),
    )
    learning_parameters = ("iterations", "burn_in", "start")
    fixed_parameters = ("classes", "order")
    uses_order = True
    missing_values = True
    display_name = "AR-GMM"
