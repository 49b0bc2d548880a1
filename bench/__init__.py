"""Measurements, each one command: `python -m bench COMMAND`. Figures are ratios against a peer in the same run."""
