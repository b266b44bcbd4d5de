"""``multigrid-vsr demo``: stock BasicSR and multigrid side by side, on real video, on a CPU."""
