"""Data sets, file readers and the sources of a model."""
