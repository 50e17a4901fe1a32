"""The service `controller`: servers and volumes looked after."""
