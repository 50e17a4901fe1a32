"""One device's durable store, the wire protocol to it, its server and its client."""
