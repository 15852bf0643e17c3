"""Modules whose rows are divided among the workers of a group, with the same bits for any number of them."""
