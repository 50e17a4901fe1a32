"""Settings: what services are told, as files and as values, and the key that they share."""
