"""The systems that can be put to the same work: ours and its peers, each started and stopped by the harness itself."""
