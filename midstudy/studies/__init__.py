"""One package per source: its experimental choices, claims, published numbers and report."""
