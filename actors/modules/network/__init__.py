"""Supervised mapping from messages to observations by a neural network."""
