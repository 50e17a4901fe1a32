"""The service `daemons`: the background work of a node."""
