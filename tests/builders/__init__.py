"""Helpers for the tests of several rooms: small studies, stand-ins for stages, and tools for the test run itself."""
