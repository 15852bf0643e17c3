"""The backends: run modules in this process, or each in a Ray actor."""
