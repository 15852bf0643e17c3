"""The Ray backend: actors, placement groups, polling and metrics."""
