"""Gaussian mixtures with a given (``gmm``) or an inferred (``dp_gmm``) number of classes."""
