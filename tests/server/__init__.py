"""The Git LFS server."""
