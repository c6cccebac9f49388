"""MLflow as a view of the store: one experiment per study, one run per stage. Can be rebuilt from disk at any time."""
