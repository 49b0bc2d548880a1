"""Text to learn from and to measure on: where it comes from, its sentences, and their embeddings."""
