"""What a person asks for: train, resume, attach, stop, recognize, predict, generate."""
