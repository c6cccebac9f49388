"""Statistics of a study: its tables, effects, correlations, verdicts on claims, and the answer. Does not import torch."""
