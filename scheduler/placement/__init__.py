"""Where servers and volumes go: inventory and a request in, a placement and a reason for every other host out. Pure."""
