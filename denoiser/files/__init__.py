"""Vectors in files: reading, writing, and denoising whole files of them."""
