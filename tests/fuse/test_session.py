"""The transport: what the kernel asks reaches the handlers as it was asked, and their answers reach who asked."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from lfsfs.fuse import Changes, MountRefused, Session, TakesMore
from lfsfs.fuse.device import option_value

from .scratch import Scratch, mounted

pytestmark = [pytest.mark.mount, pytest.mark.timeout(90)]
T = TypeVar("T")


async def aside(work: Callable[..., T], *arguments: Any) -> T:
    """In a thread: the event loop of this one serves the file system."""
    return await trio.to_thread.run_sync(work, *arguments, abandon_on_cancel=True)


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not true():
            await trio.sleep(0.005)


def reading(path: Path) -> Callable[[], bytes]:
    return path.read_bytes


async def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    content = os.urandom(3_500_000)
    async with mounted(tmp_path / "m", Scratch()) as at:
        await aside((at.path / "file").write_bytes, content)
        assert at.scratch.files[b"file"] == content
        assert await aside(reading(at.path / "file")) == content
        sizes = [call[2] for call in at.scratch.calls if call[0] == "write"]
        assert max(sizes) == 1 << 20, "a request carries a MiB"  # type: ignore[type-var]
        await aside(os.truncate, at.path / "file", 5)
        assert await aside(reading(at.path / "file")) == content[:5]
        await aside(os.unlink, at.path / "file")
        with pytest.raises(FileNotFoundError):
            await aside(os.stat, at.path / "file")


async def test_attributes_are_what_the_handler_says(tmp_path: Path) -> None:
    told = {
        "st_size": 1 << 45, "st_blocks": 77, "st_blksize": 1 << 20, "st_nlink": 3, "st_uid": 12, "st_gid": 34,
        "times": (-1_500_000_000, 1_700_000_000_123_456_789, 4_000_000_000_000_000_001),
    }  # fmt: skip
    scratch = Scratch(files={b"file": bytearray()}, attributes={b"file": told})
    async with mounted(tmp_path / "m", scratch) as at:
        found = await aside(os.stat, at.path / "file")
        for name in ("st_size", "st_blocks", "st_blksize", "st_nlink", "st_uid", "st_gid"):
            assert getattr(found, name) == told[name]
        assert (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns) == told["times"]
        space = await aside(os.statvfs, at.path)
        assert (space.f_blocks, space.f_bfree, space.f_bavail) == (1 << 40, 1 << 39, 1 << 38)
        assert (space.f_files, space.f_ffree, space.f_namemax, space.f_bsize) == (10, 5, 255, 4096)


async def test_what_is_changed_arrives_and_nothing_else(tmp_path: Path) -> None:
    async with mounted(tmp_path / "m", Scratch(files={b"file": bytearray()})) as at:
        file = at.path / "file"
        await aside(os.chmod, file, 0o640)
        await aside(os.chown, file, 5, -1)
        await aside(os.chown, file, -1, 6)
        await aside(lambda: os.utime(file, ns=(-3_000_000_001, 2_000_000_003)))
        changes = [call[2] for call in at.scratch.calls if call[0] == "setattr"]
        assert changes == [
            Changes(mode=0o640), Changes(uid=5), Changes(gid=6),
            Changes(atime=-3_000_000_001, mtime=2_000_000_003),
        ]  # fmt: skip
        at.scratch.calls.clear()
        await aside(os.utime, file)
        (now,) = (call[2] for call in at.scratch.calls if call[0] == "setattr")
        assert isinstance(now, Changes) and now.atime is not None and now.atime > 1_700_000_000_000_000_000


async def test_names_and_their_operations_arrive_whole(tmp_path: Path) -> None:
    odd = b"\xff\n\\, \xe2\x82\xac" + b"n" * 200
    async with mounted(tmp_path / "m", Scratch(files={b"file": bytearray()})) as at:
        here = os.fsencode(at.path) + b"/"

        def all_of_them() -> list[int | None]:
            before = os.umask(0o027)
            answers = [
                errno_of(os.mkdir, here + odd, 0o777),
                errno_of(os.symlink, b"to/" + odd, here + odd),
                errno_of(os.link, here + b"file", here + odd),
                errno_of(os.mkfifo, here + odd),
                errno_of(os.rename, here + b"file", here + odd),
            ]
            os.umask(before)
            return answers

        expected = [errno.EROFS, errno.EPERM, errno.EMLINK, errno.EPERM, None]
        assert await aside(all_of_them) == expected
        assert at.scratch.calls[0] == ("mkdir", odd, 0o750, 0o027)
        assert at.scratch.calls[1:3] == [("symlink", odd, b"to/" + odd), ("link", b"file", odd)]
        assert at.scratch.calls[4] == ("rename", b"file", odd, 0)
        assert await aside(os.listdir, here) == [odd]
        await aside(rename_noreplace, here + odd, here + b"file")
        assert at.scratch.calls[-1] == ("rename", odd, b"file", 1)
        assert {(operation, name) for operation, name, _ in at.scratch.told} >= {
            ("mkdir", odd),
            ("link", odd),
        }


async def test_who_asks_is_told(tmp_path: Path) -> None:
    async with mounted(tmp_path / "m", Scratch()) as at:

        def write() -> None:
            before = os.umask(0o022)
            os.close(os.open(at.path / "file", os.O_CREAT | os.O_WRONLY, 0o666))
            os.umask(before)

        await aside(write)
        (_, _, mode, caller) = next(call for call in at.scratch.calls if call[0] == "create")
        assert mode & 0o777 == 0o644  # type: ignore[operator]
        assert (caller.uid, caller.gid, caller.umask) == (os.getuid(), os.getgid(), 0o022)  # type: ignore[attr-defined]
        assert caller.pid > 0  # type: ignore[attr-defined]


async def test_what_need_not_be_waited_for_is_answered_at_once_and_the_rest_as_ever(tmp_path: Path) -> None:
    scratch = Scratch(
        files={b"quick": bytearray(b"1"), b"other": bytearray(b"2")}, at_once=frozenset((b"quick",))
    )
    async with mounted(tmp_path / "m", scratch) as at:
        assert await aside(reading(at.path / "quick")) == b"1"
        assert await aside(reading(at.path / "other")) == b"2"
        await until(lambda: ("release", b"other") in scratch.calls)
        kinds = [(call[0], call[1]) for call in scratch.calls if str(call[0]).startswith(("open", "release"))]
        assert sorted(kinds) == [
            ("open", b"other"), ("open at once", b"quick"),
            ("release", b"other"), ("release at once", b"quick"),
        ]  # fmt: skip
        assert await aside(errno_of, os.open, at.path / "quick", os.O_WRONLY) == errno.EROFS
        assert [
            (operation, type(failed)) for operation, _, failed in scratch.told if operation == "open"
        ] == [("open", OSError)]


async def test_a_directory_of_many_names_is_listed_once_each(tmp_path: Path) -> None:
    names = [f"{number:05}".encode() + b"x" * (number % 250) for number in range(5_000)]
    scratch = Scratch(files={name: bytearray(b"1") for name in names})
    async with mounted(tmp_path / "m", scratch) as at:
        here = os.fsencode(at.path)
        assert sorted(await aside(os.listdir, here)) == names

        def sizes() -> list[int]:
            with os.scandir(here) as entries:
                return [entry.stat().st_size for entry in entries]

        assert await aside(sizes) == [1] * len(names)


async def test_requests_that_wait_hold_up_no_other(tmp_path: Path) -> None:
    files = {b"slow-%d" % number: bytearray(b"late") for number in range(60)}
    gate = trio.Event()
    scratch = Scratch(files={**files, b"quick": bytearray(b"now")}, waits=dict.fromkeys(files, gate))
    async with mounted(tmp_path / "m", scratch) as at:
        late: list[bytes] = []

        async def read(name: bytes) -> None:
            limiter = trio.CapacityLimiter(1)
            path = at.path / os.fsdecode(name)
            late.append(await trio.to_thread.run_sync(path.read_bytes, limiter=limiter))

        async with trio.open_nursery() as nursery:
            for name in files:
                nursery.start_soon(read, name)
            await until(lambda: scratch.waiting == len(files))
            for _ in range(20):
                assert await aside(reading(at.path / "quick")) == b"now"
            assert not late
            gate.set()
        assert late == [b"late"] * len(files)


async def test_a_session_that_is_stopped_answers_what_it_was_asked(tmp_path: Path) -> None:
    gate = trio.Event()
    scratch = Scratch(files={b"slow": bytearray(b"answer")}, waits={b"slow": gate})
    (tmp_path / "m").mkdir()
    session = Session(scratch, tmp_path / "m")
    session.mount([b"fsname=scratch"])
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            found: list[bytes] = []

            def read() -> None:
                file = os.open(tmp_path / "m" / "slow", os.O_RDONLY)
                found.append(os.read(file, 6))
                errno_of(os.close, file)  # to that nobody answers any more

            nursery.start_soon(aside, read)
            await until(lambda: scratch.waiting == 1)
            session.stop()
            session.stop()
            await trio.sleep(0.05)
            gate.set()
            await until(lambda: bool(found))
            session.close()
    finally:
        session.close()
    assert found == [b"answer"]


async def test_an_unmount_ends_the_session(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    session = Session(Scratch(), tmp_path / "m")
    session.mount([b"fsname=scratch"])
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await aside(os.listdir, tmp_path / "m")
            await trio.run_process(["fusermount3", "-u", tmp_path / "m"])
    (tmp_path / "m" / "native").write_bytes(b"")
    session.close()
    assert (tmp_path / "m" / "native").exists(), "what is there now is not ours to unmount"


async def test_a_handler_that_fails_unexpectedly_is_one_failed_call(tmp_path: Path) -> None:
    async with mounted(tmp_path / "m", Scratch(files={b"file": bytearray(b"1")})) as at:
        assert await aside(errno_of, os.stat, at.path / "surprise") == errno.EIO
        operation, name, error = at.scratch.told[-1]
        assert (operation, name, type(error)) == ("lookup", b"surprise", ZeroDivisionError)
        assert await aside(reading(at.path / "file")) == b"1"


async def test_extended_attributes_of_any_size(tmp_path: Path) -> None:
    async with mounted(tmp_path / "m", Scratch(files={b"file": bytearray()})) as at:
        file, long = at.path / "file", b"\0" + b"v" * 4_000
        await aside(os.setxattr, file, "user.long", long)
        await aside(os.setxattr, file, "user.none", b"")
        assert await aside(os.getxattr, file, "user.long") == long
        assert await aside(os.getxattr, file, "user.none") == b""
        assert await aside(os.listxattr, file) == ["user.long", "user.none"]
        await aside(os.removexattr, file, "user.none")
        assert await aside(errno_of, os.getxattr, file, "user.none") == errno.ENODATA


async def test_what_is_not_implemented_is_what_the_kernel_knows_to_do_without(tmp_path: Path) -> None:
    async with mounted(tmp_path / "m", Scratch(files={b"file": bytearray(b"12345")})) as at:

        def try_them() -> None:
            with (at.path / "file").open("r+b") as file, (at.path / "copy").open("wb") as copy:
                assert errno_of(os.posix_fallocate, file.fileno(), 0, 10) in (None, errno.EOPNOTSUPP)
                assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
                assert os.copy_file_range(file.fileno(), copy.fileno(), 5, 0, 0) == 5
                assert not os.isatty(file.fileno())
                os.fsync(copy.fileno())
                os.fdatasync(copy.fileno())

        await aside(try_them)
        assert at.scratch.files[b"copy"] == b"12345"
        assert [call for call in at.scratch.calls if call[0] == "fsync"] == [
            ("fsync", False),
            ("fsync", True),
        ]


async def test_the_kernel_keeps_what_it_may_and_forgets_what_it_is_told(tmp_path: Path) -> None:
    scratch = Scratch(files={b"file": bytearray(b"before")}, cached=True)
    async with mounted(tmp_path / "m", scratch) as at:
        file = at.path / "file"
        assert await aside(reading(file)) == b"before"
        scratch.files[b"file"][:] = b"after!"
        assert await aside(reading(file)) == b"before"
        assert not [call for call in scratch.calls if call[0] == "flush"], "nobody waits for a close"
        await aside(at.kernel.forget_pages, scratch.number(b"file"))
        assert await aside(reading(file)) == b"after!"
        del scratch.files[b"file"]
        assert await aside(file.exists)
        at.kernel.forget_name(1, b"file")
        at.kernel.forget_name(1, b"never there")
        at.kernel.forget_attributes(12345)
        await until_gone(file)


async def until_gone(file: Path) -> None:
    with trio.fail_after(20):
        while await aside(file.exists):
            await trio.sleep(0.01)


async def test_every_lookup_is_taken_back_in_the_end(tmp_path: Path) -> None:
    scratch = Scratch(files={b"%d" % number: bytearray() for number in range(50)})
    async with mounted(tmp_path / "m", scratch) as at:

        def use_and_remove() -> None:
            for _ in range(2):
                for name in os.listdir(at.path):
                    os.stat(at.path / name)
            for name in os.listdir(at.path):
                os.unlink(at.path / name)

        await aside(use_and_remove)
        await until(lambda: scratch.forgotten == scratch.looked_up)


async def test_where_nothing_can_be_mounted_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(MountRefused, match="absent"):
        Session(Scratch(), tmp_path / "absent").mount([])


@pytest.mark.parametrize("name", [b"plain", b"a,b=c\\d", b"x\\,\\\\", b"\n \t\xff"], ids=range(4))
async def test_any_path_can_be_the_source(tmp_path: Path, name: bytes) -> None:
    source = Path(os.fsdecode(b"/at/" + name))
    (tmp_path / "m").mkdir()
    session = Session(Scratch(), tmp_path / "m")
    session.mount([b"fsname=" + option_value(source)])
    try:
        (line,) = (
            line
            for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
            if os.fsencode(tmp_path / "m") in line
        )
    finally:
        session.close()
    shown = line.partition(b" - ")[2].split(b" ")[1]
    for octal, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        shown = shown.replace(octal, byte)
    assert shown == os.fsencode(source)


def errno_of(work: Callable[..., object], *arguments: Any) -> int | None:
    try:
        work(*arguments)
    except OSError as error:
        return error.errno
    return None


def rename_noreplace(old: bytes, new: bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    at = -100  # AT_FDCWD
    assert libc.renameat2(at, old, at, new, 1) == 0, os.strerror(ctypes.get_errno())


def write_and_close(path: Path) -> int:
    """The errno of the close, 0 where it succeeds."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"content")
    try:
        os.close(fd)
    except OSError as failed:
        return failed.errno or 0
    return 0


@pytest.mark.parametrize(
    ("failed", "number"), [(None, 0), (OSError(errno.ENOSPC, "full"), errno.ENOSPC)], ids=["done", "failed"]
)
async def test_a_close_that_is_answered_later_waits_for_its_answer_and_holds_up_nobody(
    tmp_path: Path, failed: Exception | None, number: int
) -> None:
    scratch = Scratch(files={b"other": bytearray(b"there")}, later=[])
    closed: list[int] = []
    async with mounted(tmp_path / "m", scratch) as at, trio.open_nursery() as nursery:

        async def close() -> None:
            closed.append(await aside(write_and_close, at.path / "file"))

        nursery.start_soon(close)
        await until(lambda: scratch.later != [])
        assert (await aside(os.stat, at.path / "other")).st_size == 5
        assert closed == [] and not at.session.settled
        assert scratch.later is not None
        scratch.later[0](failed)
        await until(lambda: closed != [])
    assert closed == [number]


async def test_a_close_that_takes_more_than_was_thought_is_handled_as_any_other(tmp_path: Path) -> None:
    scratch = Scratch(later=[])
    async with mounted(tmp_path / "m", scratch) as at, trio.open_nursery() as nursery:
        nursery.start_soon(aside, write_and_close, at.path / "file")
        await until(lambda: scratch.later != [])
        assert scratch.later is not None
        scratch.later[0](TakesMore())
        await until(lambda: ("flush", b"file") in scratch.calls)


async def test_who_waits_for_an_answer_when_the_session_is_cut_off_gets_an_error(tmp_path: Path) -> None:
    scratch, scope, closed = Scratch(later=[]), trio.CancelScope(), list[int]()
    (tmp_path / "m").mkdir()
    session = Session(scratch, tmp_path / "m")
    session.mount([b"fsname=scratch"])

    async def run() -> None:
        with scope:
            await session.run()

    async def close() -> None:
        closed.append(await aside(write_and_close, tmp_path / "m" / "file"))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            nursery.start_soon(close)
            await until(lambda: scratch.later != [])
            scope.cancel()
            await until(lambda: closed != [])
    finally:
        session.close()
    assert closed == [errno.EIO]
