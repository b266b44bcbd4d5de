"""``python -m benchmarks.train``: variants of a run, trained with several seeds, their time and PSNR compared."""
