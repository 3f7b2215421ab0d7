"""The promises of docs/SEMANTICS.md that no other test runs, each on a real mount with real system calls."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from gitlfs.mounted import LFSFS, Mount, is_mounted, is_running, lfsfs, within

from lfsfs import Oid, open_store
from lfsfs.store.events import KEPT, Event, record
from lfsfs.store.index import Index

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]

MIB = 1 << 20


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "own") as mount:
        yield mount


@pytest.fixture
def put_up(tmp_path: Path) -> Iterator[Mount]:
    """A mount that the test starts itself, in the environment that it wants."""
    mount = Mount(tmp_path / "own")
    yield mount
    mount.stop()


def blob(size: int = 3 * MIB + 17) -> bytes:
    return os.urandom(size)


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def path_in(objects: Path, oid: str) -> Path:
    return objects / oid[:2] / oid[2:4] / oid


def drop(mount: Mount, name: str, content: bytes) -> str:
    """Drops a file into incoming/; its oid."""
    (mount.path / "incoming" / name).write_bytes(content)
    return oid_of(content)


def commit(root: Path, content: bytes) -> str:
    """Commits an object as git-lfs does: a temp, then a rename; its oid."""
    oid = oid_of(content)
    temp = root / "tmp" / f"{oid[:8]}"
    temp.write_bytes(content)
    temp.rename(path_in(root / "objects", oid))
    return oid


def read(mount: Mount, oid: str) -> bytes:
    return path_in(mount.path / "objects", oid).read_bytes()


def listed(objects: Path) -> set[str]:
    return {name for _, _, names in os.walk(objects) for name in names}


def kill(mount: Mount) -> None:
    """kill -9 of the daemon, and the mountpoint left as that leaves it."""
    pid = mount.pid
    os.kill(pid, signal.SIGKILL)
    assert within(10, lambda: not is_running(pid))


def damage(store: Path, oid: str, offset: int) -> None:
    """Flips one bit of an object on the disk, and lets no cache remember the old one."""
    file = path_in(store / "objects", oid)
    mode = file.stat().st_mode
    file.chmod(0o644)
    with file.open("r+b") as target:
        target.seek(offset)
        byte = target.read(1)
        target.seek(offset)
        target.write(bytes([byte[0] ^ 1]))
    file.chmod(mode)


# 1. Complete and right, or not at all.


@pytest.mark.promise("1.1")
def test_a_file_in_incoming_is_an_object_when_it_is_closed_and_not_before(mount: Mount) -> None:
    content = blob()
    with (mount.path / "incoming" / "film").open("wb", buffering=0) as file:
        file.write(content[:MIB])
        assert listed(mount.path / "objects") == set()
        assert not path_in(mount.path / "objects", oid_of(content[:MIB])).exists()
        file.write(content[MIB:])
        assert not path_in(mount.path / "objects", oid_of(content)).exists()
    assert listed(mount.path / "objects") == {oid_of(content)}
    assert read(mount, oid_of(content)) == content


@pytest.mark.promise("1.2", "3.1")
def test_bytes_that_are_not_what_their_name_says_are_refused_and_nothing_else_is_lost(mount: Mount) -> None:
    right = drop(mount, "right", b"right")
    wrong = oid_of(b"something else")
    temp = mount.path / "tmp" / "download"
    temp.write_bytes(b"not something else")
    with pytest.raises(OSError) as refused:
        temp.rename(path_in(mount.path / "objects", wrong))
    assert refused.value.errno == errno.EBADMSG
    assert not path_in(mount.path / "objects", wrong).exists()
    assert listed(mount.path / "objects") == {right}
    assert temp.read_bytes() == b"not something else", "the source is as it was"
    assert read(mount, right) == b"right"


@pytest.mark.promise("1.5")
def test_get_writes_a_whole_file_or_none(mount: Mount, tmp_path: Path) -> None:
    content = blob()
    oid = drop(mount, "film", content)
    mount.stop()
    target = tmp_path / "target" / "film"
    target.parent.mkdir()
    lfsfs("get", oid, "-o", target, "--store", mount.store)
    assert target.read_bytes() == content
    target.unlink()
    damage(mount.store, oid, 2 * MIB)
    done = subprocess.run(
        [LFSFS, "get", oid, "-o", target, "--store", mount.store], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.promise("1.6")
async def test_an_upload_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        with trio.move_on_after(0.05):
            async with store.create_upload() as upload:
                while True:
                    await upload.write(bytes(100_000))
                    await trio.lowlevel.checkpoint()
        assert (await store.usage()).objects == 0
        left = [file.name for file in (tmp_path / "store" / "staging").rglob("*") if file.is_file()]
        assert left in ([], ["lock"])


# 2. What was acknowledged survives.


@pytest.mark.promise("2.1")
def test_what_a_close_acknowledged_survives_kill_9_and_what_was_open_is_gone(mount: Mount) -> None:
    content = blob()
    oid = drop(mount, "closed", content)
    with (mount.path / "incoming" / "open").open("wb", buffering=0) as file:
        file.write(content)
        kill(mount)
        with pytest.raises(OSError):
            file.write(b"more")
        with pytest.raises(OSError):
            file.close()
    mount.start()
    assert os.listdir(mount.path / "incoming") == ["closed"]
    assert (mount.path / "incoming" / "closed").read_bytes() == content == read(mount, oid)


@pytest.mark.promise("2.2")
def test_what_a_rename_acknowledged_survives_kill_9(mount: Mount) -> None:
    root = mount.path / "repos" / "one"
    root.mkdir()
    content = blob()
    oid = commit(root, content)
    kill(mount)
    mount.start()
    assert listed(root / "objects") == {oid}
    assert path_in(root / "objects", oid).read_bytes() == content


@pytest.mark.promise("2.4")
def test_bytes_their_name_and_the_index_are_synced_in_this_order_before_close_returns(
    put_up: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "steps"
    monkeypatch.setenv("LFSFS_FAULT_LOG", str(log))
    put_up.start()
    drop(put_up, "first", blob())
    wait_until_idle(put_up)  # the first one's content type is told behind its commit
    log.write_text("")
    drop(put_up, "second", blob())
    steps = log.read_text().split()
    wanted = ["fsync-object:after", "link-object:before", "fsync-directory:after", "commit-index:after"]
    assert [step for step in steps if step in wanted] == wanted


@pytest.mark.promise("2.5")
def test_fast_survives_kill_9_without_a_single_fsync(
    put_up: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "steps"
    monkeypatch.setenv("LFSFS_FAULT_LOG", str(log))
    put_up.start("--durability", "fast")
    log.write_text("")
    content = blob()
    oid = drop(put_up, "film", content)
    assert "commit-index:after" in log.read_text()
    assert "fsync" not in log.read_text()
    kill(put_up)
    put_up.start()
    assert read(put_up, oid) == content


# 3. A failure fails the call that commits, and nothing else.


@pytest.mark.promise("3.3")
@pytest.mark.parametrize("step", ["fsync-object", "link-object", "fsync-directory", "commit-index"])
def test_a_disk_that_fails_fails_the_close_and_the_rename_and_shows_no_object(
    put_up: Mount, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    put_up.start()
    before = drop(put_up, "before", b"before")
    put_up.stop()
    with monkeypatch.context() as patched:
        patched.setenv("LFSFS_FAULT", f"fail:{step}")
        put_up.start()
    content = blob()
    with pytest.raises(OSError) as failed:
        drop(put_up, "film", content)
    assert failed.value.errno == errno.EIO
    with pytest.raises(OSError) as failed:
        commit(put_up.path, content)
    assert failed.value.errno == errno.EIO
    assert listed(put_up.path / "objects") == {before}
    assert read(put_up, before) == b"before"


def test_a_daemon_whose_index_takes_nothing_serves_on(put_up: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    put_up.start()
    oids = [drop(put_up, f"{number}", blob()) for number in range(40)]
    kill(put_up)  # before the types of all of them were told
    with monkeypatch.context() as patched:
        patched.setenv("LFSFS_FAULT", "fail:commit-index")
        put_up.start()
    time.sleep(1.5)
    assert listed(put_up.path / "objects") == set(oids)


@pytest.mark.promise("3.4")
def test_what_is_no_oid_has_no_place_in_objects(mount: Mount) -> None:
    temp = mount.path / "tmp" / "temp"
    temp.write_bytes(b"content")
    for name in ("objects/readme.txt", "objects/ab/cd/readme.txt", f"objects/00/00/{oid_of(b'content')}"):
        with pytest.raises(OSError) as refused:
            temp.rename(mount.path / name)
        assert refused.value.errno in (errno.EINVAL, errno.EPERM, errno.ENOENT), name
    assert listed(mount.path / "objects") == set()
    assert temp.read_bytes() == b"content"


# 4. Deleting.


@pytest.mark.promise("4.1")
def test_an_unlink_in_one_repository_takes_only_its_reference(mount: Mount) -> None:
    one, two = mount.path / "repos" / "one", mount.path / "repos" / "two"
    one.mkdir()
    two.mkdir()
    content = blob()
    oid = commit(one, content)
    assert path_in(two / "objects", oid).read_bytes() == content, "a lookup refers to it too"
    path_in(one / "objects", oid).unlink()
    assert listed(one / "objects") == set()
    assert listed(two / "objects") == {oid}
    assert read(mount, oid) == content


@pytest.mark.promise("4.3")
def test_bytes_stay_when_the_last_reference_goes(mount: Mount) -> None:
    root = mount.path / "repos" / "one"
    root.mkdir()
    content = blob()
    oid = commit(root, content)
    path_in(root / "objects", oid).unlink()
    assert read(mount, oid) == content
    mount.stop()
    mount.start()
    assert read(mount, oid) == content


@pytest.mark.promise("4.6")
def test_rm_refuses_what_is_referred_to_and_force_removes_it_everywhere(mount: Mount) -> None:
    oid = drop(mount, "film", b"film")
    refused = subprocess.run(
        [LFSFS, "rm", oid, "--store", mount.store], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 4
    assert read(mount, oid) == b"film"
    lfsfs("rm", oid, "--force", "--store", mount.store)
    assert within(2, lambda: not path_in(mount.path / "objects", oid).exists())
    assert not path_in(mount.store / "objects", oid).exists()


# 5. A rename onto what exists.


@pytest.mark.promise("5.1")
def test_a_rename_onto_an_object_that_exists_succeeds_and_leaves_its_readers_alone(mount: Mount) -> None:
    content = blob()
    oid = commit(mount.path, content)
    target = path_in(mount.path / "objects", oid)
    with target.open("rb", buffering=0) as reader:
        inode = os.fstat(reader.fileno()).st_ino
        assert reader.read(1000) == content[:1000]
        temp = mount.path / "tmp" / "again"
        temp.write_bytes(content)
        temp.rename(target)
        assert not temp.exists()
        rest = b""
        while piece := reader.read(MIB):
            rest += piece
        assert rest == content[1000:]
    assert target.stat().st_ino == inode
    assert target.read_bytes() == content


# 6. Many at once.


@pytest.mark.promise("6.1")
def test_processes_and_the_mount_that_write_the_same_object_at_once_make_one(
    mount: Mount, tmp_path: Path
) -> None:
    content = blob()
    source = tmp_path / "source"
    source.write_bytes(content)

    def write(number: int) -> str:
        if number % 2:
            return drop(mount, f"copy-{number}", content)
        return str(json.loads(lfsfs("put", source, "--store", mount.store, "--json"))[0]["oid"])

    with ThreadPoolExecutor(8) as pool:
        oids = set(pool.map(write, range(16)))
    assert oids == {oid_of(content)}
    assert listed(mount.path / "objects") == listed(mount.store / "objects") == oids
    assert read(mount, oid_of(content)) == content


# 7. It always comes down.


@pytest.mark.promise("7.1")
def test_unmount_works_on_a_mount_that_is_busy_or_dead(mount: Mount) -> None:
    drop(mount, "film", b"film")
    kill(mount)
    lfsfs("unmount", mount.path)
    assert not is_mounted(mount.path)
    mount.start()
    held = os.open(mount.path / "incoming" / "film", os.O_RDONLY)
    try:
        lfsfs("unmount", "--force", mount.path)
    finally:
        with pytest.raises(OSError, match="not connected"):
            os.close(held)
    assert not is_mounted(mount.path)
    mount.start()
    assert read(mount, oid_of(b"film")) == b"film"


# 9. Corruption.


@pytest.mark.promise("9.1")
def test_a_block_that_rotted_is_never_served_and_the_others_are(mount: Mount) -> None:
    content = blob()
    oid = drop(mount, "film", content)
    mount.stop()
    damage(mount.store, oid, 2 * MIB + 5)
    mount.start()
    with path_in(mount.path / "objects", oid).open("rb", buffering=0) as reader:
        assert os.pread(reader.fileno(), 4096, 0) == content[:4096]
        with pytest.raises(OSError) as refused:
            os.pread(reader.fileno(), 4096, 2 * MIB)
        assert refused.value.errno == errno.EIO
    with pytest.raises(OSError):
        (mount.path / "incoming" / "film").read_bytes()


@pytest.mark.promise("9.2")
def test_the_same_content_written_again_heals_it(mount: Mount) -> None:
    content = blob()
    oid = drop(mount, "film", content)
    mount.stop()
    damage(mount.store, oid, 5)
    mount.start()
    with pytest.raises(OSError):
        read(mount, oid)
    drop(mount, "again", content)
    assert read(mount, oid) == content
    assert (mount.path / "incoming" / "film").read_bytes() == content


# 10. A plain git-lfs directory.


@pytest.mark.promise("10.1")
def test_every_object_is_a_plain_file_where_git_lfs_looks_for_it(mount: Mount) -> None:
    contents = [blob(size) for size in (1, 1000, MIB, 2 * MIB + 1)]
    for number, content in enumerate(contents):
        drop(mount, f"{number}", content)
    mount.stop()
    for content in contents:
        assert path_in(mount.store / "objects", oid_of(content)).read_bytes() == content


@pytest.mark.promise("10.2")
def test_a_directory_that_git_lfs_made_becomes_a_store_by_mounting_it(put_up: Mount) -> None:
    contents = [blob(size) for size in (1, 1000, 2 * MIB + 1)]
    for content in contents:
        file = path_in(put_up.store / "objects", oid_of(content))
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    (put_up.store / "tmp").mkdir()
    put_up.start()
    assert {oid: read(put_up, oid) for oid in map(oid_of, contents)} == {oid_of(c): c for c in contents}
    assert listed(put_up.path / "objects") == set(map(oid_of, contents))


# 11. Losing the index.


@pytest.mark.promise("11.1")
async def test_a_lost_index_is_rebuilt_with_every_object_and_without_the_corrupt_ones(tmp_path: Path) -> None:
    contents = [blob(size) for size in (0, 1, 1000, 2 * MIB + 1)]
    async with open_store(tmp_path / "store", create=True) as store:
        for content in contents:
            await store.put(content)
    (tmp_path / "store" / "index").rename(tmp_path / "lost")
    damage(tmp_path / "store", oid_of(contents[3]), 0)
    async with open_store(tmp_path / "store") as store:
        for content in contents[:3]:
            assert (await store.stat(Oid(oid_of(content)))).size == len(content)
            target = tmp_path / "target"
            await store.get(Oid(oid_of(content)), target)
            assert target.read_bytes() == content
        assert not await store.check(Oid(oid_of(contents[3])))


def test_a_mount_that_falls_behind_forgets_all_that_others_took_away(mount: Mount) -> None:
    oid, kept = drop(mount, "gone", b"taken away"), drop(mount, "kept", b"stays")
    (mount.path / "repos" / "r").mkdir()
    assert read(mount, oid) == b"taken away"

    async def take_away() -> None:
        async with open_store(mount.store) as store:
            await store.delete(Oid(oid), force=True)
            await store.remove_repository("r")
            event = Event("name-changed", b"nothing")
            await store.index.update(lambda tx: [record(tx, event) for _ in range(KEPT + 1)])

    wait_until_idle(mount)  # or it is stopped in the middle of a transaction, with the lock that we need
    os.kill(mount.pid, signal.SIGSTOP)  # so that it sees all of it at once
    try:
        trio.run(take_away)
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    assert within(5, lambda: not path_in(mount.path / "objects", oid).exists())
    assert within(5, lambda: not (mount.path / "repos" / "r").exists())
    assert read(mount, kept) == b"stays"


def wait_until_idle(mount: Mount) -> None:
    """Returns when the daemon has written nothing to the index for a while."""
    index = Index(mount.store / "index", read_only=True)
    try:
        last, since = index.last_transaction(), time.monotonic()
        while time.monotonic() - since < 1.5:
            time.sleep(0.05)
            if index.last_transaction() != last:
                last, since = index.last_transaction(), time.monotonic()
    finally:
        index.close()
