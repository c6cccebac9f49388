"""Statistics of a study: its tables, effects, correlations, verdicts on claims, and the answer. Needs no torch."""
