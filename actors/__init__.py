"""Modules, messages and rounds: everything that learns, on actors or in one process."""
