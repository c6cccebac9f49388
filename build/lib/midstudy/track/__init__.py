"""MLflow, fed from the store: one experiment a study, one run per stage. Emptied, it is filled again from disk."""
