"""The command line interface ``serket``."""
