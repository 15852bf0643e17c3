"""Where modules live: in this process, or each in an actor on Ray."""
