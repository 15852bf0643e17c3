"""Numerics of Markov chains over classes."""
