"""Neural networks, their training, and the placement of their data on a device."""
