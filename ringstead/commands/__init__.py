"""Commands: what each takes, asks of a running cluster, and prints. Those of one subject are in a package of their own."""
