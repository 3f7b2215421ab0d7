"""What every tier promises. A tier joins with one line: `class TestMine(TierConformance): make = ...`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import trio

from lfsfs.errors import NotFound
from lfsfs.oid import EMPTY_OID, Oid
from lfsfs.tiers import Tier

MIB = 1 << 20
CONTENT = b"0123456789"
OID = Oid.of(CONTENT)
LARGE = b"".join(i.to_bytes(4, "big") for i in range(3 * MIB // 4)) + b"and a little more"
EDGES = (0, 1, 5, 9, 10, 11, 2**31, 2**40, 2**63 - 1, 2**64)  # of offsets and sizes
ABSENT = Oid.of(b"nobody ever stores this")
Make = Callable[[Path], Tier]


class Sources:
    """Sealed files to put from. Each put has a file of its own, as in life."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._number = 0

    def file(self, content: bytes) -> Path:
        self._number += 1
        path = self.directory / f"{self._number}"
        path.write_bytes(content)
        return path

    async def put(self, tier: Tier, content: bytes) -> Oid:
        """Puts and removes the source, as its owner would."""
        source = self.file(content)
        oid = Oid.of(content)
        await tier.put(oid, source)
        source.unlink()
        return oid


async def whole(tier: Tier, oid: Oid) -> bytes:
    return await tier.read(oid, 0, await tier.size(oid))


async def put_many(tier: Tier, sources: Sources, count: int) -> list[Oid]:
    """So many small objects; their oids ascending."""
    oids = []

    async def put(number: int) -> None:
        oids.append(await sources.put(tier, b"object %d" % number))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(put, number)
    return sorted(oids)


async def scanned(tier: Tier, limit: int) -> list[Oid]:
    """All pages, one after the other; each is checked to be neither empty nor too long."""
    found: list[Oid] = []
    while page := await tier.scan(found[-1] if found else None, limit):
        assert len(page) <= limit
        found += page
    return found


class TierConformance:
    make: ClassVar[Make]

    @pytest.fixture
    def tier(self, tmp_path: Path) -> Tier:
        directory = tmp_path / "tier"
        directory.mkdir()
        return type(self).make(directory)

    @pytest.fixture
    def sources(self, tmp_path: Path) -> Sources:
        return Sources(tmp_path / "sources")

    # put and read

    @pytest.mark.parametrize(
        "content", [b"", b"x", CONTENT, LARGE], ids=["empty", "1 byte", "small", "3 MiB"]
    )
    async def test_what_was_put_is_read(self, tier: Tier, sources: Sources, content: bytes) -> None:
        oid = await sources.put(tier, content)
        assert await tier.size(oid) == len(content)
        assert await tier.read(oid, 0, len(content) + 1) == content

    async def test_objects_do_not_mix(self, tier: Tier, sources: Sources) -> None:
        contents = [b"object %d" % number for number in range(30)]
        oids = [await sources.put(tier, content) for content in contents]
        assert [await whole(tier, oid) for oid in oids] == contents

    async def test_a_range_is_short_only_at_the_end(self, tier: Tier, sources: Sources) -> None:
        await sources.put(tier, CONTENT)
        for offset in EDGES:
            for size in EDGES:
                assert await tier.read(OID, offset, size) == CONTENT[offset : offset + size], (offset, size)

    async def test_ranges_around_mebibytes(self, tier: Tier, sources: Sources) -> None:
        oid = await sources.put(tier, LARGE)
        for edge in (0, MIB, 2 * MIB, 3 * MIB, len(LARGE)):
            for offset in range(max(0, edge - 2), edge + 3):
                for size in (1, 3, MIB, 2 * MIB + 1):
                    assert await tier.read(oid, offset, size) == LARGE[offset : offset + size], (offset, size)

    @pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, -1), (-5, -5), (5, -1)])
    async def test_a_negative_range_is_an_error(
        self, tier: Tier, sources: Sources, offset: int, size: int
    ) -> None:
        await sources.put(tier, CONTENT)
        with pytest.raises(ValueError, match="must be 0 or more"):
            await tier.read(OID, offset, size)

    # absent

    async def test_what_is_absent_is_not_found(self, tier: Tier, sources: Sources) -> None:
        await sources.put(tier, CONTENT)
        with pytest.raises(NotFound, match=ABSENT):
            await tier.size(ABSENT)
        with pytest.raises(NotFound, match=ABSENT):
            await tier.read(ABSENT, 0, 1)
        with pytest.raises(NotFound, match=ABSENT):
            await tier.read(ABSENT, 0, 0)

    async def test_a_tier_without_objects(self, tier: Tier) -> None:
        assert await tier.scan(None, 10) == []
        assert await tier.scan(OID, 10) == []
        await tier.delete(OID)
        with pytest.raises(NotFound):
            await tier.size(OID)
        with pytest.raises(NotFound):
            await tier.read(EMPTY_OID, 0, 1)

    # repeats

    async def test_a_repeated_put_is_harmless(self, tier: Tier, sources: Sources) -> None:
        for _ in range(3):
            await sources.put(tier, CONTENT)
        assert await whole(tier, OID) == CONTENT
        assert await tier.scan(None, 10) == [OID]

    async def test_a_reader_is_undisturbed_by_a_repeated_put(self, tier: Tier, sources: Sources) -> None:
        oid = await sources.put(tier, LARGE)
        failed = []

        async def read() -> None:
            for _ in range(3):
                pieces = [await tier.read(oid, offset, 64 << 10) for offset in range(0, len(LARGE), 64 << 10)]
                if b"".join(pieces) != LARGE:
                    failed.append(pieces)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(read)
            for _ in range(5):
                await sources.put(tier, LARGE)
        assert not failed

    async def test_many_puts_of_one_oid_at_once_make_one_object(self, tier: Tier, sources: Sources) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(sources.put, tier, LARGE)
        oid = Oid.of(LARGE)
        assert await whole(tier, oid) == LARGE
        assert await tier.scan(None, 10) == [oid]

    async def test_what_was_deleted_is_gone_and_may_be_deleted_again(
        self, tier: Tier, sources: Sources
    ) -> None:
        kept = await sources.put(tier, b"kept")
        await sources.put(tier, CONTENT)
        for _ in range(3):
            await tier.delete(OID)
            with pytest.raises(NotFound):
                await tier.size(OID)
            with pytest.raises(NotFound):
                await tier.read(OID, 0, 1)
            assert await tier.scan(None, 10) == [kept]
        assert await whole(tier, kept) == b"kept"

    async def test_what_was_deleted_can_be_put_again(self, tier: Tier, sources: Sources) -> None:
        for _ in range(3):
            await sources.put(tier, CONTENT)
            assert await whole(tier, OID) == CONTENT
            await tier.delete(OID)

    # scan

    async def test_pages_of_every_size_give_every_object_once(self, tier: Tier, sources: Sources) -> None:
        oids = await put_many(tier, sources, 24)
        for limit in range(1, 26):
            assert await scanned(tier, limit) == oids, limit

    async def test_pages_over_hundreds_of_objects(self, tier: Tier, sources: Sources) -> None:
        oids = await put_many(tier, sources, 300)
        for limit in (7, 100, 299, 300, 301, 10**9):
            assert await scanned(tier, limit) == oids, limit

    async def test_a_page_begins_after_any_oid_absent_ones_too(self, tier: Tier, sources: Sources) -> None:
        oids = await put_many(tier, sources, 50)
        first, last = Oid("0" * 64), Oid("f" * 64)
        for after in [*oids, *(Oid.of(b"absent %d" % number) for number in range(50)), first, last]:
            assert await tier.scan(after, 5) == [oid for oid in oids if oid > after][:5], after

    async def test_a_page_of_nothing_is_an_error(self, tier: Tier) -> None:
        for limit in (0, -1):
            with pytest.raises(ValueError, match="must be 1 or more"):
                await tier.scan(None, limit)

    async def test_scan_goes_on_while_objects_come_and_go(self, tier: Tier, sources: Sources) -> None:
        staying = await put_many(tier, sources, 40)
        stopped = False

        async def come_and_go() -> None:
            number = 0
            while not stopped:
                number += 1
                await tier.delete(await sources.put(tier, b"guest %d" % number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_and_go)
            for _ in range(5):
                found = await scanned(tier, 3)
                assert set(staying) <= set(found)
                assert found == sorted(set(found))
            stopped = True

    # the source

    async def test_the_source_stays_as_it_is(self, tier: Tier, sources: Sources) -> None:
        source = sources.file(LARGE)
        source.chmod(0o640)
        os.utime(source, ns=(10**18, 10**18))
        before = source.stat()
        await tier.put(Oid.of(LARGE), source)
        after = source.stat()
        assert source.read_bytes() == LARGE
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
            before.st_ino,
            before.st_mode,
            before.st_mtime_ns,
        )
        assert os.listdir(sources.directory) == [source.name]

    async def test_a_put_of_no_file_stores_nothing(self, tier: Tier, sources: Sources) -> None:
        with pytest.raises(Exception, match=OID) as caught:
            await tier.put(OID, sources.directory / "absent")
        assert not isinstance(caught.value, NotFound | OSError), "it is the source that is missing"
        assert await tier.scan(None, 10) == []

    # cancellation

    @pytest.mark.parametrize("seconds", [0, 0.0002, 0.0005, 0.001, 0.002, 0.005])
    async def test_a_cancelled_put_leaves_a_whole_object_or_none(
        self, tier: Tier, sources: Sources, tmp_path: Path, seconds: float
    ) -> None:
        source = sources.file(LARGE)
        oid = Oid.of(LARGE)
        with trio.move_on_after(seconds):
            await tier.put(oid, source)
        if await tier.scan(None, 10):
            assert await whole(tier, oid) == LARGE
        else:
            with pytest.raises(NotFound):
                await tier.size(oid)
        assert os.listdir(sources.directory) == [source.name]
        assert [path for path in tmp_path.rglob("*") if "-put-" in path.name] == []
        await tier.put(oid, source)
        assert await whole(tier, oid) == LARGE

    async def test_a_put_that_is_cancelled_before_it_begins_does_nothing(
        self, tier: Tier, sources: Sources
    ) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await tier.put(OID, sources.file(CONTENT))
        assert scope.cancelled_caught
        assert await tier.scan(None, 10) == []

    async def test_a_cancelled_put_does_not_hold_up_another_of_the_same_oid(
        self, tier: Tier, sources: Sources
    ) -> None:
        oid = Oid.of(LARGE)

        async def put_briefly() -> None:
            with trio.move_on_after(0.0005):
                await tier.put(oid, sources.file(LARGE))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(put_briefly)
            nursery.start_soon(sources.put, tier, LARGE)
        assert await whole(tier, oid) == LARGE
