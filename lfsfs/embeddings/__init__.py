"""Embeddings: vectors as rows of the store, npz files where somebody looks."""
