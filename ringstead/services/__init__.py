"""The four services of a node, each put together from its settings, with the desk that operators speak to."""
