"""lfsfs verify on a store of the local disk: finds whatever was damaged, and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from lfsfs import Oid, Store, open_store
from lfsfs.errors import Corrupt
from lfsfs.integrity.report import Report
from lfsfs.integrity.verification import Scope, Verification
from lfsfs.store import catalog
from lfsfs.store.index import Tx

from .damage import file_of, flip, put_many

MIB = 1 << 20
LFSFS = Path(sys.executable).with_name("lfsfs")
SIZES = [0, 1, 100, MIB, MIB + 1, 3 * MIB + 17]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store", create=True, durability="fast") as store:
        yield store


async def verified(store: Store, **scope: Any) -> Report:
    return await Verification(store, Scope(**scope)).run()


def command(store: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [LFSFS, "verify", "--store", store, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    return done


async def test_a_store_that_is_whole_is_told_to_be(store: Store) -> None:
    contents = await put_many(store, SIZES)
    report = await verified(store)
    assert report.is_sound
    assert report.complete
    assert (report.checked, report.bytes) == (len(contents), sum(SIZES))
    assert (report.healed, report.orphaned, report.unindexed) == ({}, 0, None)


@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
@pytest.mark.parametrize("at", [0, MIB, 3 * MIB + 16])
async def test_one_bit_is_found_and_only_its_object_is_named_and_is_served_no_more(
    store: Store, at: int, quick: bool, caplog: pytest.LogCaptureFixture
) -> None:
    contents = await put_many(store, SIZES)
    victim = max(contents, key=lambda oid: len(contents[oid]))
    flip(file_of(store.layout.path, victim), at)
    report = await verified(store, quick=quick)
    assert list(report.corrupt) == [victim]
    assert (report.missing, report.is_sound, report.checked) == ({}, False, len(contents))
    assert f"{victim} is corrupt" in caplog.text
    with pytest.raises(Corrupt):
        await store.open(victim)
    assert (await store.put(contents[victim])).oid == victim
    assert (await verified(store)).is_sound
    assert b"".join([piece async for piece in store.download(victim)]) == contents[victim]


@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
@pytest.mark.parametrize("change", [-1, 1], ids=["shorter", "longer"])
async def test_a_file_that_is_shorter_or_longer_is_corrupt(store: Store, change: int, quick: bool) -> None:
    (oid,) = await put_many(store, [MIB])
    file = file_of(store.layout.path, oid)
    file.chmod(0o600)
    os.truncate(file, MIB + change)
    assert list((await verified(store, quick=quick)).corrupt) == [oid]


async def test_a_file_that_is_gone_is_missing_until_it_is_written_again(store: Store) -> None:
    (oid, other), (content, _) = zip(*(await put_many(store, [1000, 2000])).items(), strict=True)
    file_of(store.layout.path, oid).unlink()
    report = await verified(store)
    assert (list(report.missing), report.corrupt, report.checked) == ([oid], {}, 2)
    assert list((await verified(store, oids=(oid,))).missing) == [oid], "it stays missing"
    assert (await verified(store, oids=(other,))).is_sound
    await store.put(content)
    assert (await verified(store)).is_sound


async def test_a_file_that_no_row_knows_is_orphaned_and_does_no_harm(store: Store) -> None:
    await put_many(store, [10, 20])
    content = b"linked, and then the power went"
    file = file_of(store.layout.path, Oid.of(content))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    report = await verified(store)
    assert (report.orphaned, report.orphans) == (1, [Oid.of(content)])
    assert (report.is_sound, report.checked) == (True, 2)


async def test_what_the_index_has_wrong_about_a_whole_object_is_put_right(store: Store) -> None:
    (oid,) = contents = await put_many(store, [2 * MIB])

    def spoil(tx: Tx) -> None:
        row = catalog.get(tx, oid)
        assert row is not None
        catalog.put(tx, replace(row, size=5), bytes(32))

    await store.index.update(spoil)
    assert list((await verified(store)).healed) == [oid]
    assert b"".join([piece async for piece in store.download(oid)]) == contents[oid]
    assert (await verified(store)).healed == {}


async def test_a_row_that_cannot_be_read_is_named_and_stops_nothing(store: Store) -> None:
    await put_many(store, [100] * 3)
    await store.index.update(lambda tx: tx.put("objects", b"\7" * 32, b"?"))
    report = await verified(store)
    assert list(report.corrupt) == ["07" * 32]
    assert report.checked == 3


async def test_what_was_found_corrupt_and_is_whole_is_served_again(store: Store) -> None:
    (oid,) = contents = await put_many(store, [5000])
    await store.report_corrupt(oid)
    assert list((await verified(store)).healed) == [oid]
    assert b"".join([piece async for piece in store.download(oid)]) == contents[oid]


async def test_runs_with_a_budget_go_through_the_store_once_and_then_begin_anew(store: Store) -> None:
    contents = await put_many(store, [1000] * 40)
    runs = [await verified(store, size=12_000, resume=True) for _ in range(4)]
    assert [report.checked for report in runs] == [12, 12, 12, 4]
    assert [report.complete for report in runs] == [False, False, False, True]
    victim = sorted(contents)[0]
    flip(file_of(store.layout.path, victim))
    assert list((await verified(store, size=1, resume=True)).corrupt) == [victim]
    assert (await verified(store, size=12_000)).checked == 12, "without --resume it begins anew"


async def test_a_budget_that_is_too_small_for_anything_comes_on_all_the_same(store: Store) -> None:
    await put_many(store, [1000] * 5)
    runs = [await verified(store, seconds=0.0, resume=True) for _ in range(6)]
    assert sum(report.checked for report in runs) >= 5
    assert any(report.complete for report in runs)


async def test_one_that_is_cancelled_goes_on_where_it_was(store: Store) -> None:
    await put_many(store, [1000] * 30)
    verification = Verification(store, Scope(), parallel=1)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(verification.run)
            while verification.progress.objects < 10:
                await trio.lowlevel.checkpoint()
            scope.cancel()
    report = await verified(store, resume=True)
    assert report.resumed
    assert report.complete
    assert 1 <= report.checked <= 20


async def test_a_sample_is_a_part(store: Store) -> None:
    await put_many(store, [10] * 300)
    report = await verified(store, share=0.2)
    assert 20 <= report.checked <= 110  # by chance outside of that: once in 10**9 runs
    assert report.complete
    assert report.orphaned is None


@pytest.mark.timeout(60)
async def test_nothing_is_wrong_while_others_put_and_delete(store: Store) -> None:
    contents = list((await put_many(store, [3000] * 40)).items())

    async def churn() -> None:
        while True:
            for oid, content in contents[::3]:
                await store.delete(oid, force=True)
                await store.put(content)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(churn)
        for _ in range(6):
            report = await verified(store)
            assert report.is_sound, report.described()
            assert report.orphaned == 0
        nursery.cancel_scope.cancel()


@pytest.mark.slow
def test_the_command_names_what_is_wrong_and_its_exit_status_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def make() -> list[Oid]:
        async with open_store(path, create=True) as store:
            return sorted(await put_many(store, [100, 200, 300]))

    oids = trio.run(make)
    whole = command(path)
    assert "3 objects, 600 B" in whole.stdout
    assert whole.stderr == "", "no bar where nobody watches"
    flip(file_of(path, oids[0]))
    file_of(path, oids[1]).unlink()
    found = json.loads(command(path, "--json", status=1).stdout)
    assert (list(found["corrupt"]), list(found["missing"])) == ([oids[0]], [oids[1]])
    assert (found["checked"], found["sound"], found["orphaned"]) == (3, False, 0)
    told = command(path, status=1).stdout
    assert f"corrupt: {oids[0]}" in told
    assert f"missing: {oids[1]}" in told
    assert " 1 objects" in command(path, oids[2][:8]).stdout
    assert " 1 objects" in command(path, "--bytes", "1", "--sample", "100%", status=1).stdout
    command(path, "f" * 64, status=3)
    command(path, oids[2], "--resume", status=2)
    command(path, "--sample", "0%", status=2)
