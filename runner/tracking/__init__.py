"""Callbacks that follow a run: the protocol, and the trackers TensorBoard and MLflow that implement it.

Callbacks live in the process that drives a run, and are told what its monitor receives. What they do has no effect on
the run.
"""
