"""Who may do what: `access.py` says what the server asks; the other modules answer."""
