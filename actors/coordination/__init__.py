"""The coordinator of a run: routing, schedule, chains, recovery and commits. Imports no Ray."""
