"""A package for each source: its decisions, its claims, its numbers, and its own report."""
