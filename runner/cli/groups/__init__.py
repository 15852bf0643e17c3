"""The commands of ``serket``, one file for each group of them; what they do is imported when they are called."""
