"""The benchmark harness: what a system does, on this machine, in figures that can be repeated."""
