"""Numerical kernels of the modules: functions on arrays, without messages, actors or configuration."""
