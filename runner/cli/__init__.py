"""The command ``serket``."""
