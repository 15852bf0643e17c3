"""The commands on runs: train, resume, attach, stop, recognize, predict, generate."""
