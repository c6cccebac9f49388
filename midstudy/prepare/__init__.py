"""What the steps of a preparation do to documents: a file for each idea; `pipeline.py` runs them in order."""
