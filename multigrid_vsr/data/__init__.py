"""Crops to batches of the scheduled shape."""
