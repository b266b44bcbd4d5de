"""One page that compares runs: what their logs, event files, checkpoints and pictures say."""
