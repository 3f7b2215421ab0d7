"""Git LFS over SSH: `authenticate.py` for the HTTP API, `session.py` for the protocol that needs nothing else."""
