"""Sections of the bridging report that no other study has."""
