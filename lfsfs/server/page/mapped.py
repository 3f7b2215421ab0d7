"""Mapped: the maps of embedding collections: laid out in the background, and kept until the index has changed."""

import logging
from collections import OrderedDict
from dataclasses import dataclass

import trio

from lfsfs.embeddings.collection import Collection
from lfsfs.embeddings.projection import Projection, project
from lfsfs.errors import LfsfsError
from lfsfs.store.index import Index

log = logging.getLogger("lfsfs.server")

PATIENCE_SECONDS = 3.0
"""What a request waits for a map before it shows the last one."""
SHARE = 20
"""A collection that changes is laid out anew after so many times as long as that took."""
REMEMBERED = 16
SIDE, EDGE = 600, 18
"""Of the drawing, and what it leaves free at each side."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A vector in the drawing."""

    content_hash: str
    x: float
    y: float


class _Layout:
    def __init__(self) -> None:
        self.value: Projection | None = None
        self.problem: LfsfsError | None = None
        self.seen = -1
        self.rests_until = -1.0
        self.working: trio.Event | None = None


class Maps:
    """Of one store. `threads`: one layout at a time, however many are asked for."""

    def __init__(self, index: Index, threads: trio.CapacityLimiter) -> None:
        self._index = index
        self._threads = threads
        self._layouts: OrderedDict[str, _Layout] = OrderedDict()

    async def current(
        self, collection: Collection, nursery: trio.Nursery, patience: float = PATIENCE_SECONDS
    ) -> Projection | None:
        """The map, not older than the last layout; None as long as the first one takes. What it failed with."""
        found = self._layouts.pop(collection.name, None) or _Layout()
        self._layouts[collection.name] = found
        if len(self._layouts) > REMEMBERED:
            self._layouts.popitem(last=False)
        due = found.seen != self._index.last_transaction() and trio.current_time() >= found.rests_until
        if due and found.working is None:
            found.working = trio.Event()
            nursery.start_soon(self._lay_out, collection, found, found.working)
        if found.working is not None:
            with trio.move_on_after(patience):
                await found.working.wait()
        if found.problem is not None and found.value is None:
            raise found.problem
        return found.value

    async def _lay_out(self, collection: Collection, found: _Layout, ended: trio.Event) -> None:
        seen, begun = self._index.last_transaction(), trio.current_time()
        try:
            found.value = await project(collection, self._threads)
            found.seen, found.problem = seen, None
        except LfsfsError as error:
            found.seen, found.problem = seen, error
        except Exception as unexpected:  # whatever it is, the server goes on
            log.exception("the map of %s: unexpected failure", collection.name)
            found.problem = LfsfsError(f"it cannot be laid out: {type(unexpected).__name__}")
        finally:
            found.rests_until = trio.current_time() + SHARE * (trio.current_time() - begun)
            found.working = None
            ended.set()


def spots(projection: Projection) -> list[Spot]:
    """Where each is drawn: both axes to one scale, the middle in the middle."""
    points = projection.points
    if not len(points):
        return []
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (SIDE - 2 * EDGE) / (float((high - low).max()) or 1.0)
    middle = (low + high) / 2
    return [
        Spot(text, round(SIDE / 2 + float(x - middle[0]) * scale, 1), round(SIDE / 2 - float(y - middle[1]) * scale, 1))
        for text, (x, y) in zip(projection.hashes, points, strict=True)
    ]  # fmt: skip
