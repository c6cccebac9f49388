"""Similarity of token distributions, and how much closer a mix lies to a task than its reference corpus does."""
