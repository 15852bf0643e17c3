"""The Ray cluster of a run: connection, authentication and dry run."""
