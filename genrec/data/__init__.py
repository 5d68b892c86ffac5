"""From raw files to prepared arrays, and from arrays to batches."""
