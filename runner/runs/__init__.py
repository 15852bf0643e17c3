"""Run directories, and the connection to the coordinator of a run."""
