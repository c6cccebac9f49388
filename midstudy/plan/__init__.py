"""Plan a study: which stages must run, which are finished, what they share and what they cost."""
