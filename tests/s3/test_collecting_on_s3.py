"""gc, trash and vacuum where several machines share a bucket: nobody loses what somebody else deletes."""

import os
from collections.abc import Callable

import pytest
import trio

from lfsfs import Oid, Store
from lfsfs.errors import Denied, NotFound, Unavailable
from lfsfs.store import references, withdrawals
from lfsfs.store.fetches import ABSENCE_SECONDS
from lfsfs.store.gc import OtherMachines, collect
from lfsfs.store.roots import RootUnreadable
from lfsfs.store.vacuum import Vacuumed, vacuum

from .proxy import Proxy
from .stores import Bucket, Machine, content_of, local_files, uploaded

pytestmark = pytest.mark.timeout(120)
CHANGES = ("put_note", "delete", "delete_note")
HELD = {"look": (*CHANGES, "note", "notes"), "put": CHANGES, "through": CHANGES}
"""At which requests of a deletion it is held, by what the other machine does."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdrawals, "LOOK_SECONDS", 0.1)


async def gone_through(store: Store) -> Vacuumed:
    """gc and vacuum without any grace, until nobody has to answer any more."""
    assert store.remote is not None
    await collect(store, [OtherMachines(store.remote.records)], grace=0, act=True)
    with trio.fail_after(30):
        while (done := await vacuum(store, [], keep=0)).waiting:
            await trio.sleep(0.05)
    return done


async def until(true: Callable[[], bool], seconds: float = 15) -> None:
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.05)


async def refer(store: Store, name: str, oid: Oid) -> None:
    """As a lookup through repos/NAME, which is in the index."""
    root = await store.add_repository(name)
    await store.stat(oid)
    await store.index.update(lambda tx: references.add(tx, root.id, oid))


@pytest.mark.promise("13.10")
async def test_what_nobody_needs_leaves_the_bucket_and_can_come_back_until_then(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(2_000_000)
    async with machine("a") as a, machine("b") as b:
        kept, dead = await a.put(b"kept", repository=None), await a.put(content)
        await refer(a, "game", kept.oid)
        await uploaded(a)
        assert await content_of(b, dead.oid) == content, "b knows it, and refers to nothing"
        assert a.remote is not None
        done = await collect(a, [OtherMachines(a.remote.records)], grace=0, act=True)
        assert done.deleted.objects == 1
        assert local_files(a) == {kept.oid}, "the bucket has it: it is not kept twice"
        assert bucket.names() == {kept.oid, dead.oid}
        with pytest.raises(NotFound):
            await a.stat(dead.oid)
        await a.trash.restore(dead.oid)
        assert await content_of(a, dead.oid) == content
        done = await gone_through(a)
        assert (done.remote, done.wanted) == (1, 0)
        assert bucket.names() == {kept.oid}
        assert bucket.names("digests") == set()
        for store in (a, b):
            with pytest.raises(NotFound):
                await store.stat(dead.oid)
        await until(lambda: not bucket.names("withdrawals"))
        await b.put(content)
        await uploaded(b)
        await until(lambda: dead.oid in bucket.names())
        await trio.sleep(ABSENCE_SECONDS)
        assert await content_of(a, dead.oid) == content


@pytest.mark.promise("13.10")
async def test_what_another_machine_refers_to_without_having_recorded_it_stays(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are not written, its daemon is away: the deletion waits until it has answered itself."""
    async with machine("a") as a, machine("b", uploads=False) as b:
        oid = (await a.put(b"wanted by b" * 1000)).oid
        await uploaded(a)
        await refer(b, "film", oid)
        assert a.remote is not None
        assert b.remote is not None
        await collect(a, [OtherMachines(a.remote.records)], grace=0, act=True)
        done = await vacuum(a, [], keep=0)
        assert (done.waiting, done.remote) == (1, 0)
        assert len(done.silent) == 1
        assert bucket.names() == {oid}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(b.remote.run)
            done = await gone_through(a)
            nursery.cancel_scope.cancel()
        assert (done.remote, done.wanted) == (0, 1)
        assert bucket.names() == {oid}
        assert await content_of(b, oid) == b"wanted by b" * 1000
        assert await content_of(a, oid) == b"wanted by b" * 1000, "found again"


@pytest.mark.slow
@pytest.mark.promise("13.10")
@pytest.mark.parametrize("act", ["look", "put", "through"])
async def test_whatever_another_machine_does_at_any_step_of_a_deletion_it_has_the_object_or_is_told_so(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The deletion is held before each of its requests, one after another, while the other machine acts and answers."""
    mode = "write-through" if act == "through" else "write-back"
    async with (
        machine("a", uploads=False, deadline=30.0) as a,
        machine("b", uploads=False, mode=mode, deadline=0.5) as b,
    ):
        assert a.remote is not None
        assert b.remote is not None
        remote, tier = b.remote, await a.remote.tier()
        await b.add_repository("film")
        root = b.repository("film")
        outcomes: list[bool] = []
        for held_at in range(1, 40):
            content = b"%s at %d" % (act.encode(), held_at) * 100
            oid = (await a.put(content)).oid
            await a.remote.drain()
            await collect(a, [OtherMachines(a.remote.records)], grace=0, act=True)
            requests = 0
            had: list[bool] = []

            async def acts(oid: Oid = oid, content: bytes = content, had: list[bool] = had) -> None:
                await remote.withdrawals.follow()
                try:
                    if act == "look":
                        await b.stat(oid)
                        await b.index.update(lambda tx: references.add(tx, root.id, oid))
                    else:
                        await b.put(content, repository="film")
                    had.append(True)
                except (NotFound, Unavailable):
                    had.append(False)
                await remote.withdrawals.follow()

            def held(name: str, held_at: int = held_at) -> Callable[..., object]:
                original = getattr(tier, name)

                async def request(*arguments: object, **named: object) -> object:
                    nonlocal requests
                    requests += 1
                    if requests == held_at:
                        await acts()
                    return await original(*arguments, **named)

                return request

            with monkeypatch.context() as patched:
                for name in HELD[act]:
                    patched.setattr(tier, name, held(name))
                for _ in range(20):
                    if not (await vacuum(a, [], keep=0)).waiting:
                        break
                    await remote.withdrawals.follow()
            if not had:
                break
            outcomes += had
            await remote.withdrawals.follow()
            await remote.drain()
            if had[0]:
                assert oid in bucket.names(), f"held at {held_at}: lost"
                assert await content_of(b, oid) == content
            else:
                assert b.lookup(oid) is None
        assert len(outcomes) > (4 if act == "look" else 1)
        assert True in outcomes


@pytest.mark.slow
@pytest.mark.promise("13.9")
async def test_a_vacuum_that_fails_at_any_request_is_finished_by_the_next(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine("a", uploads=False) as a, machine("b") as b:
        assert a.remote is not None
        tier = await a.remote.tier()
        await refer(b, "film", (await b.put(b"kept")).oid)
        await uploaded(b)
        failed = 0
        for failing in range(1, 40):
            oid = (await a.put(b"dead %d" % failing)).oid
            await a.remote.drain()
            await collect(a, [OtherMachines(a.remote.records)], grace=0, act=True)
            requests = 0

            def broken(name: str, failing: int = failing) -> Callable[..., object]:
                original = getattr(tier, name)

                async def request(*arguments: object, **named: object) -> object:
                    nonlocal requests
                    requests += 1
                    if requests == failing:
                        raise Denied("not now")
                    return await original(*arguments, **named)

                return request

            with monkeypatch.context() as patched:
                for name in ("put_note", "delete", "delete_note"):
                    patched.setattr(tier, name, broken(name))
                try:
                    while (await vacuum(a, [], keep=0)).waiting:
                        await trio.sleep(0.05)
                except Denied:
                    failed += 1
            done = requests < failing
            await gone_through(a)
            assert bucket.names() == {Oid.of(b"kept")}
            assert bucket.names("withdrawals") == set()
            assert a.lookup(oid) is None
            assert [row.oid for row in a.trash.since(0)] == []
            if done:
                break
        assert failed > 2


@pytest.mark.promise("13.3")
async def test_without_the_bucket_or_with_a_damaged_record_nothing_is_deleted(
    machine: Machine, bucket: Bucket, proxy: Proxy
) -> None:
    async with machine("a") as a, machine("b") as b:
        oid = (await a.put(b"dead")).oid
        await refer(b, "film", (await b.put(b"other")).oid)
        await uploaded(a)
        await uploaded(b)
        assert a.remote is not None
        assert b.remote is not None
        await b.remote.records.publish()
        roots = [OtherMachines(a.remote.records)]
        record = next(name for name in await _keys(b) if f"records/{b.layout.id}/references/" in name)
        await (await b.remote.tier()).put_note(f"records/{b.layout.id}/references/{oid[:2]}", b"damaged")
        assert record
        with pytest.raises(RootUnreadable, match=r"b .*damaged"):
            await collect(a, roots, grace=0, act=True)
        proxy.down()
        with pytest.raises(RootUnreadable, match="nothing was deleted"):
            await collect(a, roots, grace=0, act=True)
        proxy.up()
        assert a.lookup(oid) is not None


async def _keys(store: Store) -> list[str]:
    assert store.remote is not None
    return await (await store.remote.tier()).notes("records/", None, 1000)


async def test_a_machine_that_is_gone_for_good_is_forgotten(machine: Machine, bucket: Bucket) -> None:
    async with machine("a") as a:
        dead, theirs = (await a.put(b"dead")).oid, (await a.put(b"theirs")).oid
        await uploaded(a)
        async with machine("b") as b:
            await refer(b, "film", theirs)
            assert b.remote is not None
            await b.remote.records.publish()
        assert a.remote is not None
        await collect(a, [OtherMachines(a.remote.records)], grace=0, act=True)
        assert (await vacuum(a, [], keep=0)).waiting == 1
        assert await a.remote.withdrawals.forget_machine(b.layout.id) > 0
        assert bucket.names() == {dead, theirs}
        assert (await gone_through(a)).remote == 2
        assert bucket.names() == set()
        record = f"records/{b.layout.id}/references/{theirs[:2]}"
        assert record not in await _keys(a)
        async with machine("b"):
            with trio.fail_after(15):  # one that comes back all the same records everything anew
                while record not in await _keys(a):
                    await trio.sleep(0.1)
