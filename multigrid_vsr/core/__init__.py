"""The schedule and everything computed from it: pure functions on the standard library alone."""
