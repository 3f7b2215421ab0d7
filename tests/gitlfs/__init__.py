"""Real git and real git-lfs, on a native .git/lfs and on a mounted store, side by side."""
