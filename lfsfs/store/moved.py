"""Moved: what went between a store and its remote tier since it was opened. Counted, and kept nowhere."""

from dataclasses import dataclass


@dataclass(slots=True)
class Moved:
    """`hits`: times that an object was opened and lay on the local disk; `misses`: that it had to come."""

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    uploaded_objects: int = 0
    uploaded_bytes: int = 0
