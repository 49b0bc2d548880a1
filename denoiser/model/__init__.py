"""The model: noisy embeddings in, cleaner ones out; how it is trained, fitted to a store, and kept in files."""

from typing import Literal

Mode = Literal["neighbours", "reconstruct"]
"""For vectors that are searched, or for the smallest squared error."""

TRAINING_STEPS, FINE_TUNING_STEPS = 3600, 2500
"""Of a new network, and the most of one that goes on from another."""
TRAINING_BATCH = 256
HIDDEN, BLOCKS = 1024, 2
"""The size of a new network."""
