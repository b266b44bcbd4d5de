"""Measurements against BasicSR, for benchmarks/README.md."""
