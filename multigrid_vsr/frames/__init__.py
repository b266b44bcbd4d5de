"""Frames on disk to crops: clips, the frame store, other back ends, and how a store is made."""
