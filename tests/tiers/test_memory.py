"""MemoryTier: never above its limit, and fair about who leaves."""

from pathlib import Path

import pytest
import trio

from lfsfs.errors import LfsfsError, NoSpace, NotFound, TooLarge
from lfsfs.oid import Oid
from lfsfs.tiers import MemoryTier

from .conformance import CONTENT, OID, Sources, whole

KIB = 1 << 10


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


def content(number: int, size: int = 10) -> bytes:
    return b"%0*d" % (size, number)


async def test_refuse_keeps_what_is_there(sources: Sources) -> None:
    tier = MemoryTier(30, "refuse")
    oids = [await sources.put(tier, content(number)) for number in range(3)]
    with pytest.raises(NoSpace, match="10 bytes, 0 of 30 are free"):
        await sources.put(tier, content(3))
    assert await tier.scan(None, 10) == sorted(oids)
    assert await sources.put(tier, content(1)) == oids[1], "what is there already needs no room"
    await tier.delete(oids[0])
    await sources.put(tier, content(3))


async def test_evict_drops_what_was_used_longest_ago(sources: Sources) -> None:
    tier = MemoryTier(30, "evict")
    put, read, put_again = [await sources.put(tier, content(number)) for number in range(3)]
    await tier.read(read, 0, 1)
    await sources.put(tier, content(2))
    new = await sources.put(tier, content(3))
    assert await tier.scan(None, 10) == sorted([read, put_again, new])
    with pytest.raises(NotFound):
        await tier.read(put, 0, 1)
    await sources.put(tier, content(4, 20))
    assert await tier.scan(None, 10) == sorted([new, Oid.of(content(4, 20))])


async def test_to_ask_for_the_size_is_no_use(sources: Sources) -> None:
    tier = MemoryTier(20, "evict")
    old, young = await sources.put(tier, content(0)), await sources.put(tier, content(1))
    await tier.size(old)
    new = await sources.put(tier, content(2))
    assert await tier.scan(None, 10) == sorted([young, new])


@pytest.mark.parametrize("policy", ["refuse", "evict"])
async def test_an_object_above_the_limit_is_too_large_and_costs_nobody_their_place(
    sources: Sources, policy: str
) -> None:
    tier = MemoryTier(30, policy)  # type: ignore[arg-type]
    oids = [await sources.put(tier, content(number)) for number in range(3)]
    with pytest.raises(TooLarge):
        await sources.put(tier, content(3, 31))
    assert await tier.scan(None, 10) == sorted(oids)
    if policy == "evict":
        assert await whole(tier, await sources.put(tier, content(3, 30))) == content(3, 30)


async def test_a_limit_of_nothing_holds_the_empty_object(sources: Sources) -> None:
    tier = MemoryTier(0, "evict")
    assert await whole(tier, await sources.put(tier, b"")) == b""
    with pytest.raises(TooLarge):
        await sources.put(tier, b"x")


async def test_many_puts_of_one_oid_at_once_need_its_room_once(sources: Sources) -> None:
    tier = MemoryTier(10, "refuse")
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(sources.put, tier, CONTENT)
    assert tier.used == 10


async def test_room_promised_to_a_put_that_fails_is_free_again(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = MemoryTier(10, "refuse")
    source = sources.file(CONTENT)
    stat = Path.stat

    def stat_then_shrink(path: Path, *, follow_symlinks: bool = True) -> object:
        found = stat(path, follow_symlinks=follow_symlinks)
        path.write_bytes(b"short")
        return found

    with monkeypatch.context() as patch, pytest.raises(LfsfsError, match="changed while it was stored"):
        patch.setattr(Path, "stat", stat_then_shrink)
        await tier.put(OID, source)
    assert tier.used == 0
    assert await whole(tier, await sources.put(tier, CONTENT)) == CONTENT


class Watch(trio.abc.Instrument):
    """Sees the tier between any two steps of any task."""

    def __init__(self, tier: MemoryTier) -> None:
        self.tier = tier
        self.most = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self.tier.used)


@pytest.mark.parametrize("policy", ["refuse", "evict"])
async def test_the_limit_is_never_exceeded_not_even_briefly(sources: Sources, policy: str) -> None:
    limit = 100 * KIB
    tier = MemoryTier(limit, policy)  # type: ignore[arg-type]
    watch = Watch(tier)
    refused = []

    async def put(number: int) -> None:
        try:
            await sources.put(tier, content(number, 7 * KIB))
        except NoSpace as error:
            refused.append(error)

    trio.lowlevel.add_instrument(watch)
    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(put, number)
    trio.lowlevel.remove_instrument(watch)
    held = await tier.scan(None, 100)
    assert watch.most == len(held) * 7 * KIB == tier.used == 98 * KIB
    assert [len(await whole(tier, oid)) for oid in held] == [7 * KIB] * 14
    # Whichever arrive at once may together be too much even where everything else would leave.
    assert refused
