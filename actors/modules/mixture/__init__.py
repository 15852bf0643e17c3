"""Gaussian mixtures with a fixed (``gmm``) or an inferred (``dp_gmm``) number of classes."""
