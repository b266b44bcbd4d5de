"""From frames on disk to batches of the scheduled shape."""
