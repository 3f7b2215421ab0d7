"""What a file of the mount does when the room for files that are being written is bounded, and used up."""

import errno
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from test_promises import listed, oid_of, path_in

from lfsfs import Store, open_store
from lfsfs.config import MountOptions
from lfsfs.errors import NoSpace
from lfsfs.mount.incoming import Incoming, IncomingDirectory
from lfsfs.mount.incoming_file import IncomingFile
from lfsfs.mount.nodes import Caller, Handle, Tree
from lfsfs.mount.workspace import WorkspaceDirectory, WorkspaceFile, plain_node
from lfsfs.store import names
from lfsfs.store.space import Space

MIB = 1 << 20
LIMIT = 8 * MIB
ME = Caller(os.getuid(), os.getgid(), 0o022)


@dataclass
class Views:
    """incoming/ and tmp/ of a store without a mount around them."""

    store: Store
    space: Space
    incoming: IncomingDirectory
    tmp: WorkspaceDirectory

    async def create(self, name: str) -> tuple[IncomingFile, Handle]:
        node, opened = await self.incoming.create(name.encode(), 0o644, os.O_RDWR, ME)
        assert isinstance(node, IncomingFile)
        return node, opened.handle


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[Views]:
    async with open_store(tmp_path / "store", create=True) as store:
        space = Space(store.index, store.layout.path, cache_limit=LIMIT, pending_limit=LIMIT, deadline=10.0)
        store.staging.space = space
        await store.index.update(lambda tx: names.make_root(tx, 0, 0))
        tree = Tree(store, MountOptions(), store.layout.path)
        root = store.index.view(lambda tx: names.get(tx, names.ROOT))
        assert root is not None
        incoming = Incoming(tree).node(root)
        assert isinstance(incoming, IncomingDirectory)
        (store.layout.path / "tmp").mkdir(exist_ok=True)
        tmp = plain_node(tree, store.layout.path / "tmp")
        assert isinstance(tmp, WorkspaceDirectory)
        yield Views(store, space, incoming, tmp)
        assert space._staged == 0, "room that nobody uses was not given back"


@pytest.mark.promise("3.6")
async def test_a_file_that_found_no_room_is_not_committed_without_what_is_missing(views: Views) -> None:
    _, handle = await views.create("film")
    await handle.write(0, bytes(MIB))
    with pytest.raises(NoSpace):
        await handle.write(MIB, bytes(LIMIT))
    for ends in (handle.flush, handle.fsync, handle.release):
        with pytest.raises(OSError) as refused:
            await ends()
        assert refused.value.errno == errno.ENOSPC
    assert listed(views.store.layout.objects) == set()
    assert await views.incoming.entries() == []


@pytest.mark.promise("3.5")
async def test_a_write_that_waited_for_room_while_its_file_was_committed_does_not_change_the_object(
    views: Views,
) -> None:
    node, handle = await views.create("film")
    first = os.urandom(MIB)
    await handle.write(0, first)
    _, holder = await views.create("holder")
    await holder.write(0, bytes(5 * MIB))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle.write, MIB, bytes(3 * MIB))  # there is no room for that yet
        await trio.testing.wait_all_tasks_blocked(0.05)
        await handle.fsync()
        assert node.inode.oid == oid_of(first)
        await holder.release()
    assert (views.store.layout.objects / node.inode.oid.path()).read_bytes() == first
    await handle.release()
    assert node.inode.oid == oid_of(first + bytes(3 * MIB))


@pytest.mark.promise("3.5")
async def test_nor_does_one_to_a_file_of_tmp(views: Views) -> None:
    node, opened = await views.tmp.create(b"temp", 0o644, os.O_RDWR, ME)
    assert isinstance(node, WorkspaceFile)
    content = os.urandom(MIB)
    await opened.handle.write(0, content)
    _, holder = await views.create("holder")
    await holder.write(0, bytes(5 * MIB))

    async def write_late() -> None:
        with pytest.raises(OSError) as refused:
            await opened.handle.write(0, bytes(3 * MIB))
        assert refused.value.errno == errno.EROFS

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_late)
        await trio.testing.wait_all_tasks_blocked(0.05)
        async with node.lock:  # as ObjectsDirectory does
            await views.store.commit(await node.staged.seal())
            node.committed = True
            views.tmp.gone(b"temp", node)
        await holder.release()
    assert path_in(views.store.layout.objects, oid_of(content)).read_bytes() == content
    await opened.handle.release()


@pytest.mark.promise("3.5")
async def test_what_is_cut_while_it_becomes_an_object_is_cut_before_or_not_at_all(views: Views) -> None:
    node, opened = await views.tmp.create(b"temp", 0o644, os.O_RDWR, ME)
    assert isinstance(node, WorkspaceFile)
    content = os.urandom(MIB)
    await opened.handle.write(0, content)
    async with trio.open_nursery() as nursery:

        async def open_late() -> None:
            with pytest.raises(OSError) as refused:
                await node.open(os.O_RDWR | os.O_TRUNC)
            assert refused.value.errno == errno.EROFS

        async with node.lock:
            sealed = await node.staged.seal()
            nursery.start_soon(open_late)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await views.store.commit(sealed)
            node.committed = True
            views.tmp.gone(b"temp", node)
    assert (views.store.layout.objects / sealed.oid.path()).read_bytes() == content
    await opened.handle.release()
