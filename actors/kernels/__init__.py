"""The numerics beneath the modules: plain functions on arrays."""
