"""Kernels for Gaussian mixtures with a normal-inverse-Wishart prior."""
