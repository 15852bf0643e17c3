"""Numerics of Gaussian mixtures with a normal-inverse-Wishart prior."""
