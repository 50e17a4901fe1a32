"""What makes replicas agree over time: replicator, auditor, updater, expirer."""
