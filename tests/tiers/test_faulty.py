"""FaultyTier: the faults that were planned happen when they were planned, and no others."""

import math
import os
from pathlib import Path

import pytest
import trio
import trio.testing

from lfsfs.errors import InvalidConfig, NoSpace, NotFound, Unavailable
from lfsfs.tiers import FaultyTier, MemoryTier
from lfsfs.tiers.faulty import ALWAYS, Delay, Fail, FlipBit, Truncate

from .conformance import CONTENT, OID, Sources, whole


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


@pytest.fixture
def inner() -> MemoryTier:
    return MemoryTier(1000)


async def test_the_nth_call_fails_and_no_other(inner: MemoryTier, sources: Sources) -> None:
    tier = FaultyTier(inner, [Fail(method="read", call=2, times=2, error=NoSpace)])
    await sources.put(tier, CONTENT)
    assert await tier.read(OID, 0, 10) == CONTENT
    for _ in range(2):
        with pytest.raises(NoSpace, match="fault injected into read"):
            await tier.read(OID, 0, 10)
    assert await tier.read(OID, 0, 10) == CONTENT
    assert tier.calls == {"put": 1, "read": 4}


async def test_every_method_can_fail_for_ever(inner: MemoryTier, sources: Sources) -> None:
    await sources.put(inner, CONTENT)
    methods = ("put", "read", "size", "delete", "scan")
    tier = FaultyTier(inner, [Fail(method=method, times=ALWAYS) for method in methods])
    for _ in range(3):
        for attempt in (
            tier.put(OID, sources.file(CONTENT)),
            tier.read(OID, 0, 1),
            tier.size(OID),
            tier.delete(OID),
            tier.scan(None, 1),
        ):
            with pytest.raises(Unavailable):
                await attempt
    assert await inner.scan(None, 10) == [OID]


async def test_a_call_can_take_effect_and_its_answer_be_lost(inner: MemoryTier, sources: Sources) -> None:
    tier = FaultyTier(inner, [Fail(method="put", after=True), Fail(method="delete", after=True)])
    with pytest.raises(Unavailable, match="after put"):
        await sources.put(tier, CONTENT)
    assert await whole(inner, OID) == CONTENT
    with pytest.raises(Unavailable, match="after delete"):
        await tier.delete(OID)
    with pytest.raises(NotFound):
        await inner.size(OID)


async def test_a_call_can_be_late(inner: MemoryTier, sources: Sources, autojump_clock: object) -> None:
    tier = FaultyTier(inner, [Delay(method="size", seconds=30)])
    await sources.put(tier, CONTENT)
    started = trio.current_time()
    assert await tier.size(OID) == 10
    assert trio.current_time() - started == 30
    assert await tier.size(OID) == 10
    assert trio.current_time() - started == 30


async def test_a_call_can_hang_until_it_is_cancelled(
    inner: MemoryTier, sources: Sources, autojump_clock: object
) -> None:
    tier = FaultyTier(inner, [Delay(method="put", seconds=math.inf)])
    with trio.move_on_after(10**6) as scope:
        await sources.put(tier, CONTENT)
    assert scope.cancelled_caught
    assert await inner.scan(None, 1) == []


async def test_a_read_can_be_cut_short_or_damaged(inner: MemoryTier, sources: Sources) -> None:
    await sources.put(inner, CONTENT)
    tier = FaultyTier(
        inner,
        [
            Truncate(method="read", call=1, keep=4),
            FlipBit(method="read", call=2),
            FlipBit(method="read", call=3, bit=8 * 9 + 1),
            FlipBit(method="read", call=4, bit=8 * 10),
        ],
    )
    answers = [await tier.read(OID, 0, 10) for _ in range(5)]
    assert answers == [b"0123", b"1123456789", b"012345678;", b"1123456789", CONTENT]


async def test_a_put_can_be_cut_short_or_damaged_on_its_way(inner: MemoryTier, sources: Sources) -> None:
    tier = FaultyTier(inner, [Truncate(method="put", keep=3), FlipBit(method="put", call=2, bit=7)])
    source = sources.file(CONTENT)
    for stored in (b"012", b"\xb0123456789", CONTENT):
        await tier.put(OID, source)
        assert await whole(inner, OID) == stored
        await inner.delete(OID)
    assert source.read_bytes() == CONTENT
    assert os.listdir(sources.directory) == [source.name]


async def test_faults_of_one_call_add_up(inner: MemoryTier, sources: Sources, autojump_clock: object) -> None:
    await sources.put(inner, CONTENT)
    tier = FaultyTier(
        inner,
        [FlipBit(method="read"), Truncate(method="read", keep=2), Delay(method="read", seconds=5)],
    )
    started = trio.current_time()
    assert await tier.read(OID, 0, 10) == b"11"
    assert trio.current_time() - started == 5


def test_damage_to_what_has_no_bytes_is_refused(inner: MemoryTier) -> None:
    for fault in (Truncate(method="size", keep=1), FlipBit(method="scan")):
        with pytest.raises(InvalidConfig, match="no bytes to damage"):
            FaultyTier(inner, [fault])
