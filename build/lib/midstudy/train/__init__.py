"""One training engine for every phase: precision, optimizer, exact checkpoints, and the loop over a curriculum's steps."""
