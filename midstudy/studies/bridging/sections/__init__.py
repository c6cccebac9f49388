"""Sections that only the bridging report has."""
