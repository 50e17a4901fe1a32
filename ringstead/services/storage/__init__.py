"""The service `storage`: the devices of a node."""
