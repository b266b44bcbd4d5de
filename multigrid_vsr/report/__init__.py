"""One page that compares runs: what their logs, checkpoints and pictures say."""
