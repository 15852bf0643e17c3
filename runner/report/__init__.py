"""Pictures, progress, metrics and timelines, made from arrays and events."""
