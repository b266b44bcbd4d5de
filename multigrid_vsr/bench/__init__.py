"""Measurements against BasicSR, for docs/benchmarks.md."""
