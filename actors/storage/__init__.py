"""Checkpoint storage on disk or in an object store: files, manifests, states and status files."""
