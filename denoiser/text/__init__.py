"""Text to learn from and to measure on: where it comes from, its sentences, and their embeddings."""

PER_SOURCE = 100
"""Sentences to train on from each source, times its weight."""
