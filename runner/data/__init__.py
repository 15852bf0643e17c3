"""Data sets, file readers and the data of a model's sources."""
