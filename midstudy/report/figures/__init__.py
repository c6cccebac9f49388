"""One module per figure; each function takes analysis tables and returns a matplotlib Figure, for one model size."""
