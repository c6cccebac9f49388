"""Sections of nanochat's report: each function takes a `Report` and returns the HTML of one notebook cell."""
