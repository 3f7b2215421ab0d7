"""Objects that the kernel reads from their files: only verified ones, and never bytes that a reader was not to see."""

import errno
import json
import mmap
import os
import platform
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, lfsfs
from test_promises import blob, commit, damage, drop, kill, oid_of, path_in, read

from lfsfs.fuse import BackingFiles
from lfsfs.mount.object_file import AT_ONCE_BYTES

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
MIB = 1 << 20
LINUX = tuple(int(part) for part in platform.release().split(".")[:2])
needs_passthrough = pytest.mark.skipif(
    LINUX < (6, 9) or os.geteuid() != 0, reason="FUSE passthrough is in Linux since 6.9, and for root alone"
)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "own") as mount:
        yield mount


def asked(mount: Mount) -> int:
    """How many reads the kernel has asked the daemon for."""
    status = json.loads((mount.path / ".lfsfs" / "status").read_text())
    return int(status["traffic"]["reads"])


def mapped(path: Path) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        return view[:]


def assert_damaged(path: Path) -> None:
    """Whoever meets the damage is told EIO; whoever comes later finds no object, which git-lfs heals by an upload."""
    with pytest.raises(OSError) as refused:
        path.read_bytes()
    assert refused.value.errno in (errno.EIO, errno.ENOENT)


@needs_passthrough
@pytest.mark.parametrize("size", [1, 4096, 3 * MIB + 17, AT_ONCE_BYTES + MIB + 5])
def test_what_was_verified_is_read_without_asking(mount: Mount, size: int) -> None:
    content = blob(size)
    path = path_in(mount.path / "objects", drop(mount, "film", content))
    assert path.read_bytes() == content
    before = asked(mount)
    assert path.read_bytes() == content
    assert mapped(path) == content
    assert asked(mount) == before


@needs_passthrough
def test_a_large_file_of_which_little_was_read_is_verified_when_it_is_read(mount: Mount) -> None:
    content = blob(AT_ONCE_BYTES + 4 * MIB)
    oid = drop(mount, "film", content)
    path = path_in(mount.path / "objects", oid)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        assert file.read(100) == content[:100]
    damage(mount.store, oid, AT_ONCE_BYTES + 3 * MIB + 7)
    assert_damaged(path)


@pytest.mark.promise("9.1")
@pytest.mark.parametrize("size", [4096, AT_ONCE_BYTES + MIB])
def test_a_file_that_was_written_to_since_it_was_verified_is_verified_again(mount: Mount, size: int) -> None:
    content = blob(size)
    oid = drop(mount, "film", content)
    path = path_in(mount.path / "objects", oid)
    assert path.read_bytes() == path.read_bytes() == content
    damage(mount.store, oid, size - 1)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what the mount's own pages still have
    assert_damaged(path)


@needs_passthrough
def test_what_heals_while_it_is_open_is_served_healed_and_the_open_file_goes_on(mount: Mount) -> None:
    content = blob(2 * MIB)
    oid = drop(mount, "film", content)
    path = path_in(mount.path / "objects", oid)
    with path.open("rb", buffering=0) as before:
        assert before.read(MIB) == content[:MIB]
        damage(mount.store, oid, 5)
        with pytest.raises(AssertionError, match="exit 1"):
            lfsfs("verify", "--store", mount.store)
        assert commit(mount.path, content) == oid, "the next upload heals it"
        with path.open("rb", buffering=0) as after:
            assert after.read(4 * MIB) == content
            assert before.read(4 * MIB) == content[MIB:]
        assert path.read_bytes() == content
    assert path.read_bytes() == content == mapped(path)


def test_many_who_open_and_close_at_once_all_read_the_same(mount: Mount) -> None:
    contents = [blob(size) for size in (1, 5000, 2 * MIB, AT_ONCE_BYTES + MIB + 1)]
    oids = [drop(mount, f"film{number}", content) for number, content in enumerate(contents)]

    def look(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            which = chance.randrange(len(oids))
            path, content = path_in(mount.path / "objects", oids[which]), contents[which]
            with path.open("rb", buffering=0) as file:
                at = chance.randrange(len(content))
                assert os.pread(file.fileno(), 70_000, at) == content[at : at + 70_000]
                if chance.random() < 0.3:
                    assert mapped(path) == content
                if chance.random() < 0.1:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(look, seed) for seed in range(16)]:
            done.result()


@needs_passthrough
def test_a_daemon_that_is_killed_takes_no_reader_with_it_and_the_next_one_serves(mount: Mount) -> None:
    content = blob(3 * MIB)
    oid = drop(mount, "film", content)
    assert read(mount, oid) == content
    with path_in(mount.path / "objects", oid).open("rb", buffering=0) as file:
        kill(mount)
        assert file.read(MIB) in (content[:MIB], b""), "its file is there; never other bytes"
    os.system(f"fusermount3 -u -z {mount.path}")
    mount.start()
    assert read(mount, oid) == content == read(mount, oid)
    assert oid_of(read(mount, oid)) == oid


def test_where_the_kernel_refuses_it_nothing_is_asked_again() -> None:
    with tempfile.TemporaryFile() as file:
        files = BackingFiles(file.fileno())  # no FUSE device
        assert files.open(file.fileno()) == 0
        files.agreed = True
        assert files.open(file.fileno()) == 0
        assert not files.agreed
