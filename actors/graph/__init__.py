"""The model graph as plain data: module specifications, connections, routes and the schedule."""
