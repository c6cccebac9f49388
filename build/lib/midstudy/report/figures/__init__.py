"""One module a figure; each function takes tables of the analysis and returns a matplotlib Figure, for one model size."""
