"""The scrub of a daemon: finds corruption while nobody uses the store, and stands aside when somebody does."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from gitlfs.mounted import Mount, lfsfs, within

from lfsfs import Oid, Store, open_store
from lfsfs.config import ScrubOptions
from lfsfs.integrity import idleness, position, scrub, scrub_record
from lfsfs.integrity.scrub import Scrub
from lfsfs.integrity.scrub_record import ScrubRecord

from .damage import file_of, flip, put_many

MIB = 1 << 20
SOON = ScrubOptions(rate=1 << 40, interval=3600.0, idle=0.05)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the store is used is looked at ten times as often."""
    monkeypatch.setattr(idleness, "SAMPLE_SECONDS", 0.1)


def recorded(store: Store) -> ScrubRecord:
    return store.index.view(scrub_record.load)


async def until_ended(store: Store, seconds: float = 20.0) -> None:
    with trio.fail_after(seconds):
        while recorded(store).last is None:
            await trio.sleep(0.02)


@pytest.mark.mount
@pytest.mark.slow
class TestInADaemon:
    @pytest.fixture
    def mount(self, tmp_path: Path) -> Iterator[Mount]:
        config = tmp_path / "lfsfs.toml"
        config.write_text('[scrub]\nrate = "1GiB"\nidle = "1s"\ninterval = "1s"\n')
        with Mount(tmp_path / "own", "--config", str(config)) as mount:
            yield mount

    @pytest.mark.promise("9.9")
    @pytest.mark.timeout(120)
    def test_a_daemon_finds_by_itself_what_is_damaged_and_says_so(self, mount: Mount) -> None:
        content = os.urandom(2 * MIB)
        (mount.path / "incoming" / "film").write_bytes(content)
        oid = Oid.of(content)

        def said() -> dict[str, object]:
            found = json.loads(lfsfs("status", "--json", "--store", mount.store))["scrub"]
            return dict(found["last"] or {})

        assert within(30, lambda: bool(said())), mount.log()
        assert (said()["objects"], said()["corrupt"]) == (1, 0)
        flip(file_of(mount.store, oid), MIB)
        assert within(30, lambda: said()["corrupt"] == 1), mount.log()
        assert f"{oid} is corrupt" in mount.log()
        assert not file_of(mount.path, oid).exists(), "the kernel was told"
        assert json.loads((mount.path / ".lfsfs" / "status").read_text())["scrub"]["last"]["corrupt"] == 1
        assert "lfsfs_scrub_corrupt 1" in (mount.path / ".lfsfs" / "metrics").read_text()
        assert "1 corrupt" in lfsfs("status", "--store", mount.store)


async def test_a_pass_goes_through_all_and_the_next_one_waits(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store, trio.open_nursery() as nursery:
        oid, *_ = await put_many(store, [1000] * 20)
        flip(file_of(store.layout.path, oid))
        nursery.start_soon(Scrub(store, SOON).run)
        await until_ended(store)
        last = recorded(store).last
        assert last is not None
        assert (last.objects, last.bytes, last.corrupt) == (20, 20_000, 1)
        await trio.sleep(1.0)
        assert recorded(store) == ScrubRecord(None, last), "the interval has not passed"
        nursery.cancel_scope.cancel()


async def test_one_that_is_off_reads_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        await Scrub(store, ScrubOptions(rate=0)).run()
        assert recorded(store) == ScrubRecord()


@pytest.mark.promise("9.9")
async def test_it_stands_aside_while_the_store_is_used(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store, trio.open_nursery() as nursery:
        await put_many(store, [MIB] * 5)
        busy = trio.Event()

        async def work() -> None:
            while not busy.is_set():
                await store.put(os.urandom(100))
                await trio.sleep(0.03)

        nursery.start_soon(work)
        await trio.sleep(0.2)
        nursery.start_soon(Scrub(store, ScrubOptions(1 << 40, 3600.0, idle=0.5)).run)
        await trio.sleep(2.0)
        assert recorded(store) == ScrubRecord(), "it has not begun"
        busy.set()
        await until_ended(store)
        nursery.cancel_scope.cancel()


@pytest.mark.promise("9.9")
async def test_it_goes_on_where_it_was_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "RECORD_SECONDS", 0.05)
    slow = ScrubOptions(rate=4 * MIB, interval=3600.0, idle=0.05)
    async with open_store(tmp_path / "store", create=True) as store:
        first, *_ = sorted(await put_many(store, [MIB] * 12))
        flip(file_of(store.layout.path, first))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Scrub(store, slow).run)
            with trio.fail_after(20):
                while (present := recorded(store).present) is None or present.objects < 3:
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
    async with open_store(tmp_path / "store") as store, trio.open_nursery() as nursery:
        where = store.index.view(lambda tx: position.load(tx, "scrub"))
        assert where is not None
        assert where.objects >= 3
        nursery.start_soon(Scrub(store, SOON).run)
        await until_ended(store)
        last = recorded(store).last
        assert last is not None
        assert (last.objects, last.bytes, last.corrupt) == (12, 12 * MIB, 1), "what was found before counts"
        nursery.cancel_scope.cancel()


@pytest.mark.promise("9.9")
async def test_it_reads_no_faster_than_it_is_told_to(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store, trio.open_nursery() as nursery:
        await put_many(store, [MIB] * 8)
        begun = time.monotonic()
        nursery.start_soon(Scrub(store, ScrubOptions(4 * MIB, 3600.0, idle=0.05)).run)
        await until_ended(store)
        assert time.monotonic() - begun >= 7 / 4
        nursery.cancel_scope.cancel()
