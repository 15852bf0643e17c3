"""Plots, progress displays, clustering metrics and timelines, computed from arrays and events."""
