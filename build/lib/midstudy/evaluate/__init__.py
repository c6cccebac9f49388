"""What is measured of a trained state."""
