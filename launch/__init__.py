"""Starts both services on this machine, as `make serve` and `make serve-djl` do. Knows only their command lines."""
