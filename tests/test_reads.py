"""Reads of one open file that run at once, while what it is made of changes."""

import contextlib
import os
from pathlib import Path

import trio
import trio.testing
from test_promises import path_in
from test_room import Views, views

__all__ = ["views"]
MIB = 1 << 20


async def test_a_read_that_waits_for_the_disk_reads_its_own_file_whatever_is_closed_meanwhile(
    views: Views, tmp_path: Path
) -> None:
    old, new, other = (os.urandom(MIB) for _ in range(3))
    (tmp_path / "other").write_bytes(other)
    node, writer = await views.create("film")
    await writer.write(0, old)
    await writer.fsync()
    reader = (await node.open(os.O_RDONLY)).handle
    assert await reader.read(0, MIB) == old
    drop_from_the_page_cache(path_in(views.store.layout.objects, node.inode.oid))
    limiter = trio.to_thread.current_default_thread_limiter()
    found: list[bytes] = []

    async def read() -> None:
        found.append(await reader.read(0, MIB))

    twin, twin_writer = await views.create("twin")
    await twin_writer.write(0, new)
    await twin_writer.release()
    limiter.total_tokens, tokens = 1, limiter.total_tokens
    descriptors: list[int] = []
    try:
        async with trio.open_nursery() as nursery, limiter:  # no thread is left for the read
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert found == [], "the read did not wait for the disk: this test shows nothing"
            node.inode = node.inode._replace(oid=twin.inode.oid)  # as after a commit of other content
            assert await reader.read(0, MIB) == new
            descriptors += [os.open(tmp_path / "other", os.O_RDONLY) for _ in range(64)]
        assert found == [old]
    finally:
        limiter.total_tokens = tokens
        for descriptor in descriptors:
            os.close(descriptor)
        await reader.release()
        await writer.release()


async def test_reads_that_begin_at_once_open_the_object_once(views: Views) -> None:
    node, writer = await views.create("film")
    await writer.write(0, os.urandom(3 * MIB))
    await writer.release()
    before = open_files(views.store.layout.path)
    reader = (await node.open(os.O_RDONLY)).handle
    async with trio.open_nursery() as nursery:
        for offset in range(0, 3 * MIB, MIB // 4):
            nursery.start_soon(reader.read, offset, MIB // 4)
    await reader.release()
    assert open_files(views.store.layout.path) == before


def open_files(folder: Path) -> list[str]:
    """What this process has open below a folder."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return sorted(path for path in found if path.startswith(f"{folder}/"))


def drop_from_the_page_cache(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
