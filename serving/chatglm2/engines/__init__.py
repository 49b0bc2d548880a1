"""Engines turn a prompt of token ids into new token ids. Each one is a file here behind the interface of `base`."""
