"""Steps: how far a long piece of work is. Whoever does it says so; whoever waits for it may watch.

Nothing is passed through the layers between the two: they belong to the same context (contextvars), which tasks and
threads inherit. Where nobody watches, what is said costs nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Unit = Literal["bytes", "objects", "vectors", "rows", "clones", "machines"]


@dataclass
class Steps:
    """`done` of `of` in this `unit`; `of` None: nobody knows. `what`: which part of the work, of several."""

    what: str = ""
    unit: Unit = "objects"
    done: int = 0
    of: int | None = None

    def begin(self, what: str, of: int | None, unit: Unit) -> None:
        """The next part."""
        self.what, self.unit, self.done, self.of = what, unit, 0, of


_watched: ContextVar[Steps | None] = ContextVar("steps", default=None)


@contextmanager
def watched(steps: Steps | None = None) -> Iterator[Steps]:
    """What is done inside, and in tasks that begin inside, is told to these steps."""
    steps = steps or Steps()
    token = _watched.set(steps)
    try:
        yield steps
    finally:
        _watched.reset(token)


@contextmanager
def told(tell: Callable[[Steps], None], seconds: float) -> Iterator[None]:
    """As `watched`; a thread tells every so often how far it is, but not after the block has ended."""
    ended = threading.Event()
    with watched() as steps:

        def run() -> None:
            while not ended.wait(seconds):
                tell(steps)

        teller = threading.Thread(target=run, name="steps", daemon=True)
        teller.start()
        try:
            yield
        finally:
            ended.set()
            teller.join()


def is_watched() -> bool:
    """Whether it is worth the while to find out how much there is to do."""
    return _watched.get() is not None


def begin(what: str = "", of: int | None = None, unit: Unit = "objects") -> None:
    """So much is next."""
    steps = _watched.get()
    if steps is not None:
        steps.begin(what, of, unit)


def add(number: int = 1) -> None:
    """So much more is done."""
    steps = _watched.get()
    if steps is not None:
        steps.done += number
