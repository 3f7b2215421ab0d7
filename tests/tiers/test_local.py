"""LocalTier: what holds of a directory on a disk, beyond what every tier promises."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from lfsfs.errors import LfsfsError, NoSpace, NotFound, ReadOnly
from lfsfs.oid import Oid
from lfsfs.tiers import LocalTier

from .conformance import CONTENT, LARGE, MIB, OID, Sources, put_many, scanned, whole
from .conftest import as_root
from .putting import put_in_child


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def tier(root: Path) -> LocalTier:
    return LocalTier(root)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


@pytest.fixture
def sources_elsewhere(other_file_system: Path) -> Sources:
    return Sources(other_file_system / "sources")


# What lies on the disk


async def test_the_store_is_a_plain_git_lfs_directory(tier: LocalTier, root: Path, sources: Sources) -> None:
    await sources.put(tier, CONTENT)
    path = root / "objects" / OID[:2] / OID[2:4] / OID
    assert tier.path(OID) == path
    assert path.read_bytes() == CONTENT
    assert os.listdir(root) == ["objects"]


async def test_a_put_on_the_same_file_system_copies_nothing(tier: LocalTier, sources: Sources) -> None:
    source = sources.file(LARGE)
    oid = Oid.of(LARGE)
    await tier.put(oid, source)
    assert tier.path(oid).samefile(source)


async def test_a_copy_has_the_modes_of_its_source(tier: LocalTier, sources_elsewhere: Sources) -> None:
    source = sources_elsewhere.file(CONTENT)
    source.chmod(0o4640)
    await tier.put(OID, source)
    assert tier.path(OID).stat().st_mode & 0o7777 == 0o640


async def test_a_symlinked_source_is_copied(tier: LocalTier, sources: Sources) -> None:
    link = sources.directory / "link"
    link.symlink_to(sources.file(CONTENT))
    await tier.put(OID, link)
    assert not tier.path(OID).is_symlink()
    assert await whole(tier, OID) == CONTENT


async def test_a_repeated_put_keeps_the_file(
    tier: LocalTier, sources: Sources, sources_elsewhere: Sources
) -> None:
    """A new inode under the same name would be ESTALE to a reader over NFS (git-lfs #5676)."""
    await sources.put(tier, CONTENT)
    inode = tier.path(OID).stat().st_ino
    await sources.put(tier, CONTENT)
    await sources_elsewhere.put(tier, CONTENT)
    assert tier.path(OID).stat().st_ino == inode


async def test_temporary_files_lie_where_they_are_told_to(
    root: Path, tmp_path: Path, sources_elsewhere: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = tmp_path / "deep" / "temp"
    used: list[list[Path]] = []
    chmod = os.fchmod

    def look_first(fd: int, mode: int) -> None:
        used.append(list(temp.rglob("object")))
        chmod(fd, mode)

    monkeypatch.setattr(os, "fchmod", look_first)
    await sources_elsewhere.put(LocalTier(root, temp=temp), CONTENT)
    assert len(used[0]) == 1
    assert os.listdir(temp) == []
    assert os.listdir(root) == ["objects"]


async def test_a_temp_that_no_rename_can_leave_is_not_used(
    root: Path, other_file_system: Path, sources_elsewhere: Sources
) -> None:
    tier = LocalTier(root, temp=other_file_system / "temp")
    await sources_elsewhere.put(tier, LARGE)
    assert await whole(tier, Oid.of(LARGE)) == LARGE
    assert os.listdir(other_file_system / "temp") == []
    assert os.listdir(root / "staging") == []


# Damage


@pytest.mark.parametrize("length", [0, 5, 100], ids=["empty", "shorter", "longer"])
async def test_a_put_heals_an_object_of_the_wrong_size(
    tier: LocalTier, sources: Sources, sources_elsewhere: Sources, length: int
) -> None:
    for origin in (sources, sources_elsewhere):
        await origin.put(tier, CONTENT)
        os.truncate(tier.path(OID), length)
        await origin.put(tier, CONTENT)
        assert await whole(tier, OID) == CONTENT
        await tier.delete(OID)
    assert os.listdir(tier.root / "staging") == []


async def test_healing_does_not_disturb_who_reads_the_damaged_file(tier: LocalTier, sources: Sources) -> None:
    await sources.put(tier, CONTENT)
    os.truncate(tier.path(OID), 4)
    with tier.path(OID).open("rb") as reader:
        await sources.put(tier, CONTENT)
        assert reader.read() == CONTENT[:4]
    assert await whole(tier, OID) == CONTENT


def _symlink(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    path.symlink_to(other)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # the whole path is too long for a socket
        listener.bind(path.name)


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "symlink": _symlink,
    "dangling symlink": lambda path: path.symlink_to("nowhere"),
    "symlink to itself": lambda path: path.symlink_to(path.name),
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "socket": _socket,
}


@pytest.fixture(params=NOT_FILES.values(), ids=NOT_FILES.keys())
def no_file(request: pytest.FixtureRequest, tier: LocalTier, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Something at the name of an object that is no object."""
    monkeypatch.chdir(tier.root)
    path = tier.path(OID)
    path.parent.mkdir(parents=True)
    request.param(path)
    return path


async def test_what_is_no_regular_file_is_no_object(tier: LocalTier, no_file: Path) -> None:
    with trio.fail_after(5):
        with pytest.raises(NotFound):
            await tier.size(OID)
        with pytest.raises(NotFound):
            await tier.read(OID, 0, 1)
        assert await tier.scan(None, 10) == []
        await tier.delete(OID)
    assert os.path.lexists(no_file), "what is no object is not ours to delete"


async def test_a_put_replaces_what_is_no_object(tier: LocalTier, no_file: Path, sources: Sources) -> None:
    if no_file.is_dir():
        with pytest.raises(LfsfsError, match=f"cannot store {OID}: Is a directory"):
            await sources.put(tier, CONTENT)
        return
    await sources.put(tier, CONTENT)
    assert await whole(tier, OID) == CONTENT
    assert not no_file.is_symlink()
    if (other := no_file.with_name("other")).exists():
        assert other.read_bytes() == CONTENT


async def test_a_file_in_place_of_a_directory(tier: LocalTier, root: Path, sources: Sources) -> None:
    (root / "objects").mkdir()
    (root / "objects" / OID[:2]).write_bytes(b"")
    with pytest.raises(NotFound):
        await tier.size(OID)
    with pytest.raises(NotFound):
        await tier.read(OID, 0, 1)
    await tier.delete(OID)
    assert await tier.scan(None, 10) == []
    with pytest.raises(LfsfsError, match=f"cannot store {OID}: Not a directory"):
        await sources.put(tier, CONTENT)


async def test_scan_does_not_see_foreign_names(tier: LocalTier, root: Path, sources: Sources) -> None:
    oids = await put_many(tier, sources, 5)
    objects = root / "objects"
    place = tier.path(oids[0]).parent
    other = Oid.of(b"of another directory")
    for path in (
        objects / "README",
        objects / "zz" / "00" / "file",
        objects / "00" / "README",
        objects / "00" / "000" / "file",
        objects / "AA" / "BB" / ("AABB" + "0" * 60),
        place / "README",
        place / f"{oids[0]}.tmp",
        place / oids[0].upper(),
        place / oids[0][:-1],
        place / other,
        place / os.fsdecode(b"\xff\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert await scanned(tier, 2) == oids


# Limits of the disk


async def test_a_full_disk_is_no_space_and_the_tier_goes_on(small_disk: Path, sources: Sources) -> None:
    tier = LocalTier(small_disk)
    await sources.put(tier, CONTENT)
    too_much = os.urandom(MIB) * 30
    for _ in range(2):
        with pytest.raises(NoSpace, match="No space left on device") as caught:
            await sources.put(tier, too_much)
        assert isinstance(caught.value.__cause__, OSError)
    assert await tier.scan(None, 10) == [OID]
    assert os.listdir(small_disk / "staging") == []
    oid = await sources.put(tier, LARGE)
    assert await whole(tier, oid) == LARGE


async def test_many_puts_of_one_oid_need_the_room_of_one(small_disk: Path, sources: Sources) -> None:
    """Each made a copy of its own, and together they filled the disk."""
    tier = LocalTier(small_disk)
    content = os.urandom(MIB) * 18
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(sources.put, tier, content)
    assert await whole(tier, Oid.of(content)) == content


async def test_a_read_only_disk_is_read_only_and_still_reads(small_disk: Path, sources: Sources) -> None:
    await sources.put(LocalTier(small_disk), CONTENT)
    as_root("mount", "-o", "remount,ro", str(small_disk))
    tier = LocalTier(small_disk)
    with pytest.raises(ReadOnly):
        await sources.put(tier, b"another")
    with pytest.raises(ReadOnly):
        await tier.delete(OID)
    assert await tier.scan(None, 10) == [OID]
    assert await whole(tier, OID) == CONTENT


def test_a_limit_on_the_size_of_files_is_too_large(root: Path, sources_elsewhere: Sources) -> None:
    done = put_in_child(root, sources_elsewhere.file(LARGE), under=("prlimit", f"--fsize={MIB}"))
    assert (done.returncode, done.stdout) == (1, "TooLarge\n"), done.stderr
    assert not [path for path in root.rglob("*") if path.is_file()]


async def test_a_root_that_is_not_there_is_not_made(tmp_path: Path, sources: Sources) -> None:
    """The disk is not mounted: to fill the directory under it would help nobody."""
    tier = LocalTier(tmp_path / "absent")
    with pytest.raises(LfsfsError, match="No such file or directory") as caught:
        await sources.put(tier, CONTENT)
    assert not isinstance(caught.value, NotFound)
    assert not (tmp_path / "absent").exists()
    assert await tier.scan(None, 10) == []


async def test_an_error_of_the_disk_is_not_taken_for_absence(
    tier: LocalTier, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sources.put(tier, CONTENT)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "lstat", broken)
    monkeypatch.setattr(os, "pread", broken)
    for attempt in (tier.size(OID), tier.read(OID, 0, 1)):
        with pytest.raises(LfsfsError, match=f"cannot read {OID}: Input/output error") as caught:
            await attempt
        assert not isinstance(caught.value, NotFound)


async def test_short_reads_are_put_together(
    tier: LocalTier, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reads at most 2 GiB at once, and a network file system less where it likes."""
    await sources.put(tier, CONTENT)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 3), offset))
    assert await tier.read(OID, 0, 100) == CONTENT
    assert await tier.read(OID, 1, 7) == CONTENT[1:8]
    assert await tier.read(OID, 8, 1) == CONTENT[8:9]


# Races


async def test_directories_that_vanish_are_made_again(tier: LocalTier, root: Path, sources: Sources) -> None:
    for gone in (tier.path(OID).parent, tier.path(OID).parent.parent, root / "objects"):
        await sources.put(tier, CONTENT)
        shutil.rmtree(gone)
        with pytest.raises(NotFound):
            await tier.size(OID)
        await tier.delete(OID)
    await sources.put(tier, CONTENT)
    assert await whole(tier, OID) == CONTENT


async def test_puts_survive_a_process_that_removes_empty_directories(
    root: Path, sources: Sources, sources_elsewhere: Sources
) -> None:
    tier = LocalTier(root, durable=False)
    stopped = False

    def remove() -> None:
        while not stopped:
            for directory, _, _ in os.walk(root / "objects", topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass  # not empty, or gone
            time.sleep(0.0005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, remove)
        try:
            for number in range(100):
                origin = sources_elsewhere if number % 2 else sources
                oid = await origin.put(tier, b"%d" % number)
                assert await whole(tier, oid) == b"%d" % number
                await tier.delete(oid)
        finally:
            stopped = True


async def test_several_processes_put_the_same_objects_at_once(root: Path, sources: Sources) -> None:
    files = [sources.file(b"object %d" % number) for number in range(30)]
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(_put_in_child, root, files)
    oids = sorted(Oid.of(file.read_bytes()) for file in files)
    assert await scanned(LocalTier(root), 7) == oids


async def _put_in_child(root: Path, files: list[Path]) -> None:
    done = await trio.to_thread.run_sync(lambda: put_in_child(root, *files))
    assert done.returncode == 0, done.stderr


async def test_a_cancelled_copy_stops_at_once_and_leaves_nothing(
    tier: LocalTier, root: Path, sources_elsewhere: Sources
) -> None:
    source = sources_elsewhere.directory / "sparse"
    with source.open("wb") as file:
        file.truncate(4 << 30)
    started = time.monotonic()
    with trio.move_on_after(0.1) as scope:
        await tier.put(OID, source)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 5
    assert await tier.scan(None, 1) == []
    assert os.listdir(root / "staging") == []


async def test_a_source_that_grows_while_it_is_copied_is_refused(
    tier: LocalTier, sources_elsewhere: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENT * 200_000  # little is copied at once
    source = sources_elsewhere.file(content)
    check = trio.from_thread.check_cancelled

    def grow_first() -> None:
        with source.open("ab") as file:
            file.write(b"!" if source.stat().st_size == len(content) else b"")
        check()

    monkeypatch.setattr(trio.from_thread, "check_cancelled", grow_first)
    with pytest.raises(LfsfsError, match="changed while it was stored"):
        await tier.put(Oid.of(content), source)
    assert await tier.scan(None, 1) == []


# Cost


async def test_a_page_costs_no_look_at_the_rest_of_the_store(
    tier: LocalTier, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    oids = await put_many(LocalTier(tier.root, durable=False), sources, 300)
    opened = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(path) or scandir(path))
    assert await tier.scan(oids[200], 5) == oids[201:206]
    assert len(opened) <= 6
