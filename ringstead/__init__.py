"""The command line, the configuration, and the one-machine cluster that `make run` starts."""
