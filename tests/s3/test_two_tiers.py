"""A store with S3 behind the local disk: when a commit returns, what waits for its upload, and what is refused."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from lfsfs import LfsfsError, Oid, open_store
from lfsfs.config import CacheOptions
from lfsfs.errors import Corrupt, Unavailable
from lfsfs.store import journal

from .proxy import Proxy
from .stores import (
    DEADLINE,
    MIB,
    PATIENCE,
    Bucket,
    Machine,
    content_of,
    damage,
    local_files,
    object_name,
    uploaded,
)

SIZES = (0, 1, 4096, MIB - 1, MIB, MIB + 1, 5 * MIB + 7)


# Write-back.


@pytest.mark.promise("6.3")
async def test_what_one_machine_commits_another_reads(machine: Machine, bucket: Bucket) -> None:
    contents = [os.urandom(size) for size in SIZES]
    async with machine("a") as a, machine("b") as b:
        rows = [await a.put(content) for content in contents]
        await uploaded(a)
        assert bucket.names() == {row.oid for row in rows}
        for row, content in zip(rows, contents, strict=True):
            found = await b.stat(row.oid)
            assert (found.size, found.state) == (row.size, "whole")
            assert await content_of(b, row.oid) == content
            assert await content_of(b, row.oid) == content


@pytest.mark.promise("7.2")
async def test_a_commit_waits_for_the_local_disk_only(machine: Machine, bucket: Bucket, proxy: Proxy) -> None:
    async with machine("a") as a:
        proxy.down()
        content = os.urandom(3 * MIB)
        with trio.fail_after(PATIENCE):  # one that waited for S3 would wait for as long as that is away
            row = await a.put(content)
        assert await content_of(a, row.oid) == content
        assert a.index.view(journal.backlog).objects == 1
        proxy.up()
        await uploaded(a)
    assert bucket.get(object_name(row.oid)) == content


@pytest.mark.promise("7.2")
async def test_the_journal_survives_the_process(machine: Machine, bucket: Bucket) -> None:
    async with machine("a", uploads=False) as a:
        oids = {(await a.put(os.urandom(1000 + number))).oid for number in range(20)}
    assert bucket.names() == set()
    async with machine("a") as a:
        await uploaded(a)
    assert bucket.names() == oids


async def test_the_journal_has_an_object_once_however_often_it_is_committed(machine: Machine) -> None:
    async with machine("a", uploads=False) as a:
        for _ in range(3):
            await a.put(b"the same")
        assert a.index.view(journal.backlog).objects == 1


async def test_a_store_that_was_local_only_brings_its_objects_along(
    machine: Machine, bucket: Bucket, tmp_path: Path
) -> None:
    async with open_store(tmp_path / "a", create=True) as local:
        oids = {(await local.put(os.urandom(100 + number))).oid for number in range(5)}
    async with machine("a") as a:
        await uploaded(a)
    assert bucket.names() == oids


@pytest.mark.promise("9.6")
async def test_what_is_damaged_locally_before_its_upload_never_reaches_the_bucket(
    machine: Machine, bucket: Bucket
) -> None:
    content = os.urandom(2 * MIB)
    async with machine("a", uploads=False) as a:
        row = await a.put(content)
        damage(a, row.oid, MIB + 5)
    async with machine("a") as a:
        with trio.fail_after(10):
            while a.remote is None or a.remote.uploads is None or not a.remote.uploads.failures:
                await trio.sleep(0.02)
        assert "damaged" in a.remote.status().error
        with pytest.raises(Corrupt):
            await content_of(a, row.oid)
        assert bucket.names() == set()


# Write-through and s3-only.


@pytest.mark.promise("7.4")
@pytest.mark.parametrize("mode", ["write-through", "s3-only"])
async def test_a_commit_returns_when_the_bucket_has_it(machine: Machine, bucket: Bucket, mode: str) -> None:
    async with machine("a", mode=mode) as a:
        for size in SIZES:
            content = os.urandom(size)
            row = await a.put(content)
            assert bucket.get(object_name(row.oid)) == content
            assert await content_of(a, row.oid) == content
        assert bool(local_files(a)) == (mode == "write-through")


@pytest.mark.promise("7.4")
@pytest.mark.parametrize("mode", ["write-through", "s3-only"])
async def test_a_commit_fails_by_the_deadline_while_the_bucket_is_away(
    machine: Machine, proxy: Proxy, mode: str
) -> None:
    async with machine("a", mode=mode) as a:
        proxy.down()
        content = os.urandom(1000)
        with trio.fail_after(3 * DEADLINE), pytest.raises(Unavailable):
            await a.put(content)
        assert not local_files(a)
        assert a.lookup(Oid.of(content)) is None
        proxy.up()
        await a.put(content)


# Errors that a person has to mend are said, and tried again.


async def test_uploads_that_are_refused_are_told_and_go_on_when_they_are_allowed(
    machine: Machine, bucket: Bucket, proxy: Proxy
) -> None:
    async with machine("a") as a:
        proxy.fault(method="PUT", times=3, status=403)
        await a.put(b"refused at first")
        assert a.remote is not None
        with trio.fail_after(20):
            while not a.remote.status().error:
                await trio.sleep(0.01)
        assert a.remote.status().pending_objects == 1
        await a.index.update(journal.ask_for_retry)
        await uploaded(a)
    assert len(bucket.names()) == 1


async def test_wrong_credentials_are_an_error_at_the_first_use(
    machine: Machine, bucket: Bucket, tmp_path: Path
) -> None:
    wrong = replace(bucket.options, secret_access_key="wrong")
    async with open_store(
        tmp_path / "a", create=True, remote=(wrong, CacheOptions(deadline=4 * PATIENCE))
    ) as store:
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(LfsfsError, match=r"403|secret|signature|credentials") as failure,
        ):
            await store.stat(Oid.of(b"any"))
        assert not isinstance(failure.value, Unavailable)
