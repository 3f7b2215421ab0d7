"""Files that the kernel writes to by itself: whatever is done to them, the object is what is there in the end."""

import errno
import json
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, lfsfs
from test_passthrough import needs_passthrough
from test_promises import blob, oid_of, path_in, read

from lfsfs.mount.workspace import written_by_nobody

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
MIB = 1 << 20


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "own", "--durability", "fast") as mount:
        yield mount


def status(mount: Mount) -> dict[str, object]:
    found: dict[str, dict[str, object]] = json.loads((mount.path / ".lfsfs" / "status").read_text())
    return found["traffic"]


def create(mount: Mount) -> int:
    return os.open(mount.path / "tmp" / "download", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)


def place(mount: Mount, content: bytes) -> None:
    """The rename by which git-lfs commits."""
    os.rename(mount.path / "tmp" / "download", path_in(mount.path / "objects", oid_of(content)))


@needs_passthrough
@pytest.mark.parametrize("size", [0, 1, 70_000, 9 * MIB + 3])
def test_what_git_lfs_writes_becomes_an_object_without_a_request_for_a_write(mount: Mount, size: int) -> None:
    content = blob(size)
    fd = create(mount)
    for at in range(0, size, 32768):
        os.write(fd, content[at : at + 32768])
    os.close(fd)
    place(mount, content)
    assert read(mount, oid_of(content)) == content
    assert status(mount)["writes"] == 0
    file = path_in(mount.store / "objects", oid_of(content))
    assert size == 0 or file.stat().st_nlink == 1
    assert not (mount.path / "tmp" / "download").exists()


def overwritten(fd: int, content: bytearray) -> None:
    os.pwrite(fd, b"later", MIB)
    content[MIB : MIB + 5] = b"later"


def cut_and_regrown(fd: int, content: bytearray) -> None:
    os.ftruncate(fd, MIB // 2)
    os.pwrite(fd, b"end", 5 * MIB)
    content[MIB // 2 :] = bytes(5 * MIB - MIB // 2) + b"end"


def mapped_and_changed(fd: int, content: bytearray) -> None:
    with mmap.mmap(fd, 0) as view:
        view[3 * MIB + 1 : 3 * MIB + 4] = b"map"
    content[3 * MIB + 1 : 3 * MIB + 4] = b"map"


def appended(fd: int, content: bytearray) -> None:
    again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND)
    os.write(again, b"tail")
    os.close(again)
    content += b"tail"


@pytest.mark.promise("1.8")
@pytest.mark.parametrize("change", [overwritten, cut_and_regrown, mapped_and_changed, appended])
def test_what_is_changed_after_it_was_hashed_is_hashed_again(
    mount: Mount, change: Callable[[int, bytearray], None]
) -> None:
    content = bytearray(blob(6 * MIB))
    fd = create(mount)
    os.write(fd, content)
    time.sleep(0.2)  # the hash follows
    change(fd, content)
    os.close(fd)
    place(mount, bytes(content))
    assert read(mount, oid_of(bytes(content))) == content
    lfsfs("verify", "--store", mount.store)


@pytest.mark.promise("1.7")
@pytest.mark.parametrize("way", ["descriptor", "mapping"])
def test_who_can_still_write_to_a_file_cannot_change_the_object_that_it_became(
    mount: Mount, way: str
) -> None:
    content = blob(2 * MIB)
    fd = create(mount)
    os.write(fd, content)
    view = mmap.mmap(fd, 0) if way == "mapping" else None
    if view is not None:
        os.close(fd)
    place(mount, content)
    if view is not None:
        view[5:9] = b"evil"
        view.flush()
        view.close()
    else:
        try:
            os.pwrite(fd, b"evil", 5)
        except OSError as refused:
            assert refused.errno == errno.EROFS
        os.close(fd)
    assert read(mount, oid_of(content)) == content
    lfsfs("verify", "--store", mount.store)


def test_bytes_that_are_not_those_of_the_name_are_refused_and_stay(mount: Mount) -> None:
    fd = create(mount)
    os.write(fd, b"something else")
    with pytest.raises(OSError) as refused:  # also while it is open
        place(mount, b"content")
    assert refused.value.errno == errno.EBADMSG
    os.close(fd)
    with pytest.raises(OSError) as refused:
        place(mount, b"content")
    assert refused.value.errno == errno.EBADMSG
    assert (mount.path / "tmp" / "download").read_bytes() == b"something else"


def test_readers_see_what_is_written_while_it_is(mount: Mount) -> None:
    fd = create(mount)
    with (mount.path / "tmp" / "download").open("rb", buffering=0) as reader:
        for number in range(200):
            os.write(fd, bytes([number]) * 1000)
            assert reader.read(2000) == bytes([number]) * 1000
            assert os.fstat(fd).st_size == (number + 1) * 1000
            assert (mount.path / "tmp" / "download").stat().st_size == (number + 1) * 1000
    os.close(fd)


def test_a_file_that_was_opened_for_reading_first_is_written_to_as_well(mount: Mount) -> None:
    content = blob(3 * MIB)
    path = mount.path / "tmp" / "download"
    path.touch()
    with path.open("rb", buffering=0) as reader, path.open("wb", buffering=0) as writer:
        writer.write(content)
        assert reader.read(4 * MIB) == content
    place(mount, content)
    assert read(mount, oid_of(content)) == content


@needs_passthrough
def test_a_store_with_limits_is_asked_before_a_file_grows(tmp_path: Path) -> None:
    settings = tmp_path / "limits.toml"
    settings.write_text('[limits]\nobject_size = "1MiB"\n')
    with Mount(tmp_path / "own", "--config", str(settings)) as mount:
        fd = create(mount)
        try:
            os.write(fd, bytes(MIB))
            with pytest.raises(OSError) as refused:
                os.write(fd, b"more")
            assert refused.value.errno == errno.EFBIG
        finally:
            os.close(fd)


def test_a_file_that_somebody_has_open_for_writing_is_known_to_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert written_by_nobody(path)
    with path.open("rb"):
        assert written_by_nobody(path)
    with path.open("r+b"):
        assert not written_by_nobody(path)
    fd = os.open(path, os.O_RDWR)
    view = mmap.mmap(fd, 0)
    os.close(fd)
    view[0:1] = b"C"
    assert not written_by_nobody(path)
    view.close()
    assert written_by_nobody(path)
