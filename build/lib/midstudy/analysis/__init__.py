"""From the tidy table of arms to effects, correlations, ablations, claims and an answer; needs no tensors."""
