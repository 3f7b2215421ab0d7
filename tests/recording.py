"""How the tests that scripts/torture runs at length say what they have tried, for docs/RELIABILITY.md."""

from collections.abc import Callable

Reliability = Callable[[str, str, str], None]
"""`reliability(what, tried, result)`: called at the end of a test, when all of it has held."""
