"""Commits on disk or in an object store: files, manifest, states and status files."""
