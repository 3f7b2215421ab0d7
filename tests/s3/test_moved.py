"""What is counted of the way between a store and its bucket."""

import os

from .stores import MIB, Machine, content_of, uploaded


async def test_uploads_fetches_hits_and_misses_are_counted(machine: Machine) -> None:
    content = os.urandom(3 * MIB + 5)
    async with machine("a") as a:
        oid = (await a.put(content)).oid
        await uploaded(a)
        assert await content_of(a, oid) == content
        assert a.remote is not None
        moved = a.remote.status().moved
        assert (moved.uploaded_objects, moved.uploaded_bytes) == (1, len(content))
        assert (moved.hits, moved.misses, moved.fetched_bytes) == (1, 0, 0)
    async with machine("b") as b:
        assert await content_of(b, oid) == content
        assert b.remote is not None
        moved = b.remote.status().moved
        assert (moved.hits, moved.misses, moved.fetched_bytes) == (0, 1, len(content))
