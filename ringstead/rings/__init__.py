"""The rings of a node: in force in its services, handed from node to node, changed while data is served."""
