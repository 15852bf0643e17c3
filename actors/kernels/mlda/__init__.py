"""Numerics of multimodal latent Dirichlet allocation."""
