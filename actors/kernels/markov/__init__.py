"""Numerics of hidden Markov models: inference, transition posteriors, label moves and a test of order."""
