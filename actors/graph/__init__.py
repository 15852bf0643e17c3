"""The model as plain data: modules, connections, routes and schedule."""
