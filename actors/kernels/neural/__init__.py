"""Neural networks, their training, and the device that holds their rows."""
