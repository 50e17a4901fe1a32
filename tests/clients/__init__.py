"""Other people's clients against a cluster of real processes."""
