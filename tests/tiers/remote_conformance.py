"""What every tier behind a network promises beyond TierConformance."""

import time
from dataclasses import replace
from typing import Any

import pytest
import trio

from lfsfs.errors import InvalidName, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.remote import PIECE_BYTES, RemoteTier
from lfsfs.tiers.remote_wrapper import unchecked
from lfsfs.tiers.source import open_source
from lfsfs.units import SECOND_NS

from .conformance import ABSENT, CONTENT, LARGE, MIB, OID, Sources, TierConformance, put_many, scanned

RACERS = 12


async def fetched(tier: RemoteTier, oid: Oid, offset: int, size: int) -> bytes:
    pieces: list[bytes] = []
    await tier.fetch(oid, offset, size, pieces.append)
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


async def all_notes(tier: RemoteTier, prefix: str, limit: int) -> list[str]:
    found: list[str] = []
    while page := await tier.notes(prefix, found[-1] if found else None, limit):
        assert len(page) <= limit
        found += page
    return found


class RemoteConformance(TierConformance):
    # put

    async def test_what_was_found_damaged_is_put_over_and_is_there_at_any_moment(
        self, tier: Any, sources: Sources
    ) -> None:
        rotten = CONTENT[:-1] + b"!"
        with open_source(OID, sources.file(rotten)) as source:
            await tier.put_source(OID, replace(source, sha256=None), unchecked)
        assert await fetched(tier, OID, 0, 99) == rotten
        await sources.put(tier, CONTENT)
        assert await fetched(tier, OID, 0, 99) == rotten, "what has its size is taken for whole"

        async def whole_or_rotten() -> None:
            assert await fetched(tier, OID, 0, 99) == rotten

        with open_source(OID, sources.file(CONTENT), over=True) as source:
            await tier.put_source(OID, source, whole_or_rotten)
        assert await fetched(tier, OID, 0, 99) == CONTENT

    # fetch

    async def test_a_fetch_brings_what_a_read_brings(self, tier: Any, sources: Sources) -> None:
        oid = await sources.put(tier, LARGE)
        for offset, size in [(0, len(LARGE)), (0, 1), (5, MIB), (MIB - 1, 2 * MIB), (len(LARGE) - 3, 99)]:
            assert await fetched(tier, oid, offset, size) == LARGE[offset : offset + size], (offset, size)
        for offset, size in [(0, 0), (len(LARGE), 1), (2**40, 2**40), (2**64, 1)]:
            assert await fetched(tier, oid, offset, size) == b"", (offset, size)

    async def test_a_fetch_of_an_empty_object_brings_nothing(self, tier: Any, sources: Sources) -> None:
        assert await fetched(tier, await sources.put(tier, b""), 0, 10) == b""

    async def test_a_fetch_of_what_is_absent_is_not_found(self, tier: Any) -> None:
        for size in (0, 10):
            with pytest.raises(NotFound, match=ABSENT):
                await fetched(tier, ABSENT, 0, size)

    async def test_what_the_sink_raises_ends_the_fetch(self, tier: Any, sources: Sources) -> None:
        oid = await sources.put(tier, LARGE)
        calls = []

        def sink(piece: bytes) -> None:
            calls.append(piece)
            raise KeyError("enough")

        with pytest.raises(KeyError, match="enough"):
            await tier.fetch(oid, 0, len(LARGE), sink)
        assert len(calls) == 1
        assert await fetched(tier, oid, 0, 10) == LARGE[:10]

    async def test_a_cancelled_fetch_is_over_at_once_and_its_sink_is_never_called_again(
        self, tier: Any, sources: Sources
    ) -> None:
        oid = await sources.put(tier, LARGE)
        scope = trio.CancelScope()
        calls = 0

        def sink(piece: bytes) -> None:
            nonlocal calls
            calls += 1
            trio.from_thread.run_sync(scope.cancel)

        with scope:
            await tier.fetch(oid, 0, len(LARGE), sink)
        assert scope.cancelled_caught
        before = calls
        await trio.sleep(0.2)
        assert calls == before

    # survey

    async def test_a_survey_tells_sizes_and_times(self, tier: Any, sources: Sources) -> None:
        before = time.time_ns()
        oids = {await sources.put(tier, content): len(content) for content in (b"", CONTENT, LARGE)}
        after = time.time_ns()
        found = await tier.survey(None, 10)
        assert {stored.oid: stored.size for stored in found} == oids
        assert [stored.oid for stored in found] == sorted(oids)
        assert await tier.survey(found[0].oid, 1) == found[1:2]
        for stored in found:  # servers may tell whole seconds
            assert before - SECOND_NS <= stored.modified <= after + SECOND_NS

    # notes

    async def test_a_note_is_what_was_written_last(self, tier: Any) -> None:
        for content in (b"one", b"", bytes(range(256)) * 999, b"two"):
            assert await tier.put_note("machines/one/machine.json", content)
            assert await tier.note("machines/one/machine.json") == content

    async def test_a_note_that_is_absent_is_not_found_and_may_be_deleted(self, tier: Any) -> None:
        await tier.put_note("machines/one", b"1")
        for _ in range(2):
            await tier.delete_note("machines/one")
            with pytest.raises(NotFound, match="machines/one"):
                await tier.note("machines/one")

    async def test_a_new_note_replaces_none(self, tier: Any) -> None:
        assert await tier.put_note("lock", b"first", only_new=True)
        assert not await tier.put_note("lock", b"second", only_new=True)
        assert not await tier.put_note("lock", b"first", only_new=True), "not even by the same"
        assert await tier.note("lock") == b"first"
        await tier.delete_note("lock")
        assert await tier.put_note("lock", b"second", only_new=True)

    async def test_of_many_that_write_a_new_note_one_wins(self, tier: Any) -> None:
        for lock in ("locks/one", "locks/two", "locks/three"):
            won = []

            async def race(number: int, lock: str = lock, won: list[int] = won) -> None:
                if await tier.put_note(lock, b"%d" % number, only_new=True):
                    won.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(RACERS):
                    nursery.start_soon(race, number)
            assert [await tier.note(lock)] == [b"%d" % number for number in won]

    async def test_notes_are_listed_in_order_by_pages_and_by_prefix(self, tier: Any) -> None:
        names = [f"machines/{number:03}/machine.json" for number in range(20)]
        names += ["machines-1", "machines.txt", "digests/aa/bb/cc", "digests/aa b+ü%/c"]
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(tier.put_note, name, name.encode())
        below = sorted(name for name in names if name.startswith("machines/"))
        for limit in (1, 7, 20, 21, 5000):
            assert await all_notes(tier, "machines/", limit) == below, limit
        assert await all_notes(tier, "", 5) == sorted(names)
        assert await all_notes(tier, "machines/01", 5) == below[10:]
        assert await tier.notes("machines/", below[4], 3) == below[5:8]
        assert await tier.notes("machines/", "machines/004/n", 1) == below[5:6]
        assert await tier.notes("nothing", None, 5) == []
        with pytest.raises(ValueError, match="must be 1 or more"):
            await tier.notes("", None, 0)

    async def test_objects_and_notes_do_not_mix(self, tier: Any, sources: Sources) -> None:
        oids = await put_many(tier, sources, 20)
        digests = [f"digests/{oid.path()}" for oid in oids]
        others = ["0", "dd/ee/short", "f/00", "fff", "zz/last", f"{'g' * 64}", "objects/ab/cd/foreign"]
        for name in digests + others:
            await tier.put_note(name, b"note")
        for limit in (1, 3, 20, 1000):
            assert await scanned(tier, limit) == oids, limit
        assert await all_notes(tier, "", 6) == sorted(digests + others)

    @pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb", "a" * 1100])
    async def test_what_cannot_be_the_name_of_a_note_is_refused(self, tier: Any, name: str) -> None:
        with pytest.raises(InvalidName):
            await tier.put_note(name, b"")
        with pytest.raises(InvalidName):
            await tier.note(name)

    # the whole

    async def test_a_tier_that_works_passes_its_check(self, tier: Any, sources: Sources) -> None:
        await tier.check()
        await sources.put(tier, CONTENT)
        await tier.check()

    async def test_where_no_upload_was_abandoned_none_is_aborted(self, tier: Any, sources: Sources) -> None:
        await sources.put(tier, CONTENT)
        assert await tier.abort_uploads(0) == 0
        assert await tier.scan(None, 10) == [OID]
