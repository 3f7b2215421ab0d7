"""What makes no sense on a storage root of git-lfs, and the errno that each gets; incoming/ is in test_incoming.py."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gitlfs.mounted import Mount
from odd_writes import ODD_WRITES
from test_promises import listed, oid_of, path_in

MIB = 1 << 20
CONTENT = b"an object of the store"
OTHER = oid_of(b"no object of the store")
LONGEST = "x" * 255
TOO_LONG = "x" * 256
ODD_NAMES = ["a\nb", "\udcff\udcfe", "\N{SNOWMAN}", " ", "-rf", "a\\b", LONGEST]
OWN_FILES = ["tmp", "incomplete", "bad", "logs", "cache"]
pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with Mount(tmp_path_factory.mktemp("bad-input") / "own") as mount:
        (mount.path / "incoming" / "file").write_bytes(CONTENT)
        (mount.path / "repos" / "r").mkdir()
        yield mount
        assert listed(mount.path / "objects") >= {oid_of(CONTENT)}


@pytest.fixture(params=["the mountpoint", "repos/r"])
def root(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """Both kinds of storage roots."""
    return mount.path if request.param == "the mountpoint" else mount.path / "repos" / "r"


@pytest.fixture
def temp(root: Path) -> Iterator[Path]:
    """A file in tmp/, as git-lfs would make an object of."""
    temp = root / "tmp" / "temp"
    temp.write_bytes(CONTENT)
    yield temp
    temp.unlink(missing_ok=True)


def refused(what: Callable[[], object], *numbers: int) -> None:
    with pytest.raises(OSError) as failed:
        what()
    assert failed.value.errno in numbers, failed.value


# Links and special files.


@pytest.mark.parametrize("place", [*OWN_FILES, ".", "objects", "objects/00", "objects/00/00"])
def test_symbolic_links_devices_pipes_and_sockets_have_no_place(root: Path, place: str) -> None:
    name = root / place / "00"
    refused(lambda: name.symlink_to("anywhere"), errno.EPERM, errno.EEXIST)
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        refused(lambda kind=kind: os.mknod(name, kind | 0o600, os.makedev(1, 3)), errno.EPERM, errno.EEXIST)  # type: ignore[misc]


@pytest.mark.parametrize("place", ["repos", "pointers", ".lfsfs", ".lfsfs/why"])
def test_nothing_is_put_where_lfsfs_alone_writes(mount: Mount, place: str) -> None:
    name = mount.path / place / "new"
    refused(lambda: name.symlink_to("anywhere"), errno.EPERM)
    refused(lambda: os.mkfifo(name), errno.EPERM)
    refused(lambda: os.link(mount.path / "incoming" / "file", name), errno.EXDEV)
    refused(lambda: name.write_bytes(b""), errno.EPERM, errno.EROFS)
    refused(lambda: (mount.path / "incoming" / "file").rename(name), errno.EXDEV, errno.EPERM)
    if place != "repos":
        refused(name.mkdir, errno.EROFS)


@pytest.mark.parametrize("place", [*OWN_FILES, "."])
def test_hard_links_are_refused_as_if_across_file_systems_so_that_programs_copy(
    mount: Mount, root: Path, temp: Path, place: str
) -> None:
    for source in (temp, mount.path / "incoming" / "file", path_in(mount.path / "objects", oid_of(CONTENT))):
        refused(lambda source=source: os.link(source, root / place / "link"), errno.EXDEV)  # type: ignore[misc]


def test_objects_neither_leave_objects_nor_come_from_incoming(mount: Mount, root: Path) -> None:
    file, present = mount.path / "incoming" / "file", path_in(mount.path / "objects", oid_of(CONTENT))
    refused(lambda: file.rename(path_in(root / "objects", oid_of(CONTENT))), errno.EXDEV)
    refused(lambda: os.link(file, path_in(root / "objects", oid_of(CONTENT))), errno.EXDEV, errno.EEXIST)
    refused(lambda: present.rename(root / "incoming" / "new"), errno.EXDEV, errno.ENOENT)
    refused(lambda: os.link(present, mount.path / "incoming" / "new"), errno.EXDEV)
    refused(lambda: present.rename(root / "tmp" / "new"), errno.EPERM)
    refused(lambda: present.rename(path_in(root / "objects", OTHER)), errno.EPERM)
    refused(lambda: os.link(present, path_in(root / "objects", OTHER)), errno.EBADMSG)
    assert present.read_bytes() == CONTENT


def test_an_object_is_not_written_cut_or_changed_in_any_way(mount: Mount) -> None:
    present = path_in(mount.path / "objects", oid_of(CONTENT))
    before = present.stat()
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_TRUNC):
        refused(lambda flags=flags: os.open(present, flags), errno.EROFS, errno.EACCES, errno.EPERM)  # type: ignore[misc]
    refused(lambda: os.truncate(present, 0), errno.EPERM, errno.EACCES)
    refused(lambda: present.chmod(0o777), errno.EPERM)
    refused(lambda: os.utime(present), errno.EPERM)
    refused(lambda: os.chown(present, 1, 1), errno.EPERM)
    assert present.stat() == before


# Directories in objects/.


def test_the_directories_of_objects_are_always_there_and_there_are_no_others(root: Path) -> None:
    for there in ("ab", "ab/cd"):
        assert (root / "objects" / there).is_dir()
        refused(lambda there=there: (root / "objects" / there).mkdir(), errno.EEXIST)  # type: ignore[misc]
    for wrong in ("xy", "AB", "abc", "ab/xy", "ab/cd/ef", f"ab/cd/{OTHER}", "ab/cd/\N{SNOWMAN}", "a\nb"):
        refused(lambda wrong=wrong: (root / "objects" / wrong).mkdir(), errno.EINVAL)  # type: ignore[misc]
        assert not (root / "objects" / wrong).exists()
    refused(path_in(root / "objects", OTHER).mkdir, errno.EROFS)


def test_a_directory_is_no_object(root: Path) -> None:
    directory = root / "tmp" / "directory"
    directory.mkdir()
    refused(lambda: directory.rename(path_in(root / "objects", OTHER)), errno.EISDIR)
    refused(lambda: directory.rename(root / "objects" / "ab"), errno.EPERM)
    refused(lambda: directory.rename(root / "objects" / "xy"), errno.EINVAL)
    directory.rmdir()


def test_a_file_takes_no_place_of_a_directory(root: Path, temp: Path) -> None:
    for there in ("objects/ab", "objects/ab/cd"):
        refused(lambda there=there: temp.rename(root / there), errno.EISDIR)  # type: ignore[misc]
    assert temp.read_bytes() == CONTENT


# Names.


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("place", OWN_FILES)
def test_git_lfs_may_use_any_name_for_its_own_files(root: Path, place: str, name: str) -> None:
    (root / place / name).write_bytes(b"by any name")
    assert name in os.listdir(root / place)
    (root / place / name).rename(root / place / "plain")
    assert (root / place / "plain").read_bytes() == b"by any name"
    (root / place / "plain").unlink()
    (root / place / name).mkdir()
    (root / place / name).rmdir()


@pytest.mark.parametrize("name", ["a\nb", "\udcff\udcfe", "\N{SNOWMAN}", LONGEST, OTHER[:63], OTHER.upper()])
def test_what_is_no_oid_is_neither_found_in_objects_nor_put_there(root: Path, temp: Path, name: str) -> None:
    leaf = root / "objects" / OTHER[:2] / OTHER[2:4]
    assert not (leaf / name).exists()
    refused(lambda: temp.rename(leaf / name), errno.EINVAL)
    refused(lambda: os.link(temp, leaf / name), errno.EINVAL)
    refused(lambda: (leaf / name).write_bytes(b""), errno.EINVAL)
    refused((leaf / name).unlink, errno.ENOENT)
    assert temp.read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["a\nb", "\udcff\udcfe", ".hidden", "tab\t"])
def test_a_repository_has_a_name_that_can_be_printed(mount: Mount, name: str) -> None:
    refused((mount.path / "repos" / name).mkdir, errno.EINVAL)
    assert not (mount.path / "repos" / name).exists()
    assert os.listdir(mount.path / "repos") == ["r"]


@pytest.mark.parametrize("name", ["with space", "\N{SNOWMAN}", LONGEST])
def test_a_repository_of_any_printable_name_up_to_255_bytes(mount: Mount, name: str) -> None:
    made = mount.path / "repos" / name
    made.mkdir()
    (made / "tmp" / "temp").write_bytes(CONTENT)
    (made / "tmp" / "temp").rename(path_in(made / "objects", oid_of(CONTENT)))
    assert listed(made / "objects") == {oid_of(CONTENT)}
    path_in(made / "objects", oid_of(CONTENT)).unlink()
    made.rmdir()


@pytest.mark.parametrize(
    "place",
    [".", "incoming", "pointers", "repos", ".lfsfs", ".lfsfs/why", "objects", "objects/00/00", *OWN_FILES],
)
def test_no_name_is_longer_than_255_bytes_anywhere(mount: Mount, place: str) -> None:
    name = mount.path / place / TOO_LONG
    refused(name.stat, errno.ENAMETOOLONG)
    refused(name.mkdir, errno.ENAMETOOLONG)
    refused(lambda: name.write_bytes(b""), errno.ENAMETOOLONG)
    refused(lambda: (mount.path / "incoming" / "file").rename(name), errno.ENAMETOOLONG)


# Ways to write a file of tmp/ or incomplete/, which is renamed into objects/ next.


@pytest.mark.parametrize("place", ["tmp", "incomplete"])
@pytest.mark.parametrize("write", ODD_WRITES)
def test_any_order_of_writes_is_committed_as_what_it_made(
    root: Path, place: str, write: Callable[[int], bytes]
) -> None:
    temp = root / place / "temp"
    fd = os.open(temp, os.O_RDWR | os.O_CREAT)
    content = write(fd)
    os.close(fd)
    temp.rename(path_in(root / "objects", oid_of(content)))
    assert path_in(root / "objects", oid_of(content)).read_bytes() == content


def test_appends_of_several_openers_are_one_file(root: Path) -> None:
    temp = root / "incomplete" / "resumed"
    pieces = [os.urandom(100_001) for _ in range(5)]
    for piece in pieces:
        with temp.open("ab") as file:
            file.write(piece)
    content = b"".join(pieces)
    temp.rename(path_in(root / "objects", oid_of(content)))
    assert path_in(root / "objects", oid_of(content)).read_bytes() == content


def test_two_writers_append_each_at_the_end_that_the_other_made(mount: Mount) -> None:
    for file in (mount.path / "tmp" / "log", mount.path / "incoming" / "log"):
        first, second = (os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2))
        for fd, text in ((first, b"one "), (second, b"two "), (first, b"three "), (second, b"four")):
            os.write(fd, text)
        os.close(first)
        os.close(second)
        assert file.read_bytes() == b"one two three four"
        file.unlink()


def test_a_file_that_somebody_still_writes_becomes_an_object_which_no_late_write_reaches(root: Path) -> None:
    content = os.urandom(MIB)
    fd = os.open(root / "tmp" / "temp", os.O_RDWR | os.O_CREAT)
    os.write(fd, content)
    (root / "tmp" / "temp").rename(path_in(root / "objects", oid_of(content)))
    for late in (lambda: os.pwrite(fd, b"late", 0), lambda: os.ftruncate(fd, 7)):
        try:  # the file may be a file of its own from now on, or nothing that can be written to
            late()
        except OSError as error:
            assert error.errno == errno.EROFS
        assert path_in(root / "objects", oid_of(content)).read_bytes() == content
    os.close(fd)
    assert path_in(root / "objects", oid_of(content)).read_bytes() == content


@pytest.mark.parametrize("place", ["tmp", "incomplete", "incoming"])
def test_what_is_written_has_the_time_of_now(mount: Mount, place: str) -> None:
    file = mount.path / place / "now"
    for write in (lambda: file.write_bytes(b"made"), lambda: os.truncate(file, 2), file.touch):
        if file.exists():
            os.utime(file, (1, 1))
        before = time.time_ns()
        write()
        # The file system below may stamp with the tick of the kernel's clock, which lags.
        assert before - 20_000_000 <= file.stat().st_mtime_ns <= time.time_ns()
    file.unlink()


def test_a_file_that_went_behind_the_mounts_back_leaves_nothing_to_the_next(mount: Mount) -> None:
    """The disk below gives its inode number to the next file that is made."""
    for number in range(20):
        gone = mount.path / "logs" / f"{number}"
        gone.write_bytes(b"x" * (number + 1))
        (mount.store / "logs" / f"{number}").unlink()
        temp = mount.path / "tmp" / f"{number}"
        with temp.open("wb") as file:
            file.seek(number + 1)
            file.write(b"y")
        content = bytes(number + 1) + b"y"
        temp.rename(path_in(mount.path / "objects", oid_of(content)))


# What others put into the store's own directories, behind the mount's back.


def test_what_lies_in_the_stores_directories_and_is_no_file_is_not_shown(mount: Mount) -> None:
    below = mount.store / "logs"
    (mount.path / "logs" / "plain").write_bytes(b"plain")
    (below / "link").symlink_to("/etc/passwd")
    os.mkfifo(below / "pipe")
    try:
        assert os.listdir(mount.path / "logs") == ["plain"]
        for name in ("link", "pipe"):
            refused((mount.path / "logs" / name).lstat, errno.ENOENT)
            refused((mount.path / "logs" / name).read_bytes, errno.ENOENT)
            refused(
                lambda name=name: (mount.path / "logs" / name).write_bytes(b""), errno.ENOENT, errno.ELOOP
            )  # type: ignore[misc]
    finally:
        for name in ("link", "pipe", "plain"):
            (below / name).unlink()


def test_the_lock_cache_is_a_file_like_any_other(root: Path) -> None:
    cache = root / "lockcache.db"
    for text in ("first", "second"):
        (root / "tmp" / "new").write_text(text)
        (root / "tmp" / "new").rename(cache)
        assert cache.read_text() == text
        with cache.open("a") as file:
            file.write(" and more")
        assert cache.read_text() == f"{text} and more"
    cache.unlink()
    refused(cache.stat, errno.ENOENT)
    cache.write_text("third")
    assert cache.read_text() == "third"
    cache.unlink()
