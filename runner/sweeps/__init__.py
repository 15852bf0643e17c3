"""Sweeps: a model trained with every combination of some values of its config, and several seeds for each."""
