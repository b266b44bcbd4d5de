"""The schedule and everything computed from it: pure functions that need only the standard library."""
