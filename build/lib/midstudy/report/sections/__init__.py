"""The sections of the report: each function takes a `Report` and returns what one notebook cell shows."""
