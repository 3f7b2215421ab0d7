"""Any sequence of system calls on incoming/ does what it does on a native file system; any history of a repository root
leaves what a set would; and a kill -9 in the middle leaves, of each file, something that it once was.
"""

import errno
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gitlfs.mounted import Mount
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from test_promises import kill, listed, oid_of, path_in

pytestmark = [pytest.mark.mount, pytest.mark.slow]

RESTARTS = 1  # an example: each takes longer than all its other steps
DIRECTORY = st.sampled_from(["", "d", "e", "d/e"])
NAME = st.sampled_from(["a", "b", "c", "d", "e"])
PLACE = st.builds(os.path.join, DIRECTORY, NAME)
PIECE = st.sampled_from([b"x", b"some text\n", bytes(5000), b"ab" * 70_000, bytes(range(256)) * 6000])
OFFSET = st.sampled_from([0, 1, 5, 4096, 100_000, 1 << 20, (1 << 20) + 3])
SIZE = st.sampled_from([0, 1, 5, 4096, 50_000, (1 << 20) + 1])
OPENING = st.sampled_from(
    [os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_TRUNC, os.O_RDONLY]
)
CONTENT = st.sampled_from([b"one", b"two" * 1000, b"four" * 16_000, b"three" * 300_000])
EMPTY = oid_of(b"")
_example = itertools.count()


@dataclass
class Open:
    """One file, open on the mount and on the native file system."""

    mounted: int
    native: int
    flags: int

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


def outcome(call: Callable[[], Any]) -> Any:
    """What the call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def tree(root: Path) -> dict[str, Any]:
    """Everything below: None for a directory, else content, size and number of links."""
    found: dict[str, Any] = {}
    for directory, _, files in os.walk(root):
        found[os.path.relpath(directory, root)] = None
        for name in files:
            path = Path(directory, name)
            stat = path.stat()
            found[os.path.relpath(path, root)] = (path.read_bytes(), stat.st_size, stat.st_nlink)
    return found


class MountModel(RuleBasedStateMachine):
    """Makes each call on a mounted store and on a native directory. Examples share the store, and no folder in it."""

    def __init__(self, mount: Mount, native: Path) -> None:
        super().__init__()
        self.mount = mount
        number = next(_example)
        self.mounted, self.native = mount.path / "incoming" / f"{number}", native / f"{number}"
        self.root = mount.path / "repos" / f"r{number}"
        self.open: list[Open] = []
        self.survives: dict[int, set[bytes | None]] = {}  # native inode: what a kill may leave; None: no name
        self.referred: set[str] = set()
        self.unsettled: set[str] = set()  # references whose last change a kill may undo
        self.committed: set[str] = set()  # oids that nothing but a deletion may take away
        self.restarts = 0
        self.own = b"%d " % number  # makes an object this example's own

    @initialize()
    def begin(self) -> None:
        for directory in (self.mounted, self.native, self.root):
            directory.mkdir()

    def teardown(self) -> None:
        self._close_all()
        shutil.rmtree(self.mounted, ignore_errors=True)
        shutil.rmtree(self.native, ignore_errors=True)

    def both(self, call: Callable[[Path], Any]) -> Any:
        """Makes the call in both places, and compares what comes of it."""
        expected, found = outcome(lambda: call(self.native)), outcome(lambda: call(self.mounted))
        assert found == expected
        return found

    # Names.

    @rule(place=PLACE)
    def mkdir(self, place: str) -> None:
        self.both(lambda root: os.mkdir(root / place))

    @rule(place=PLACE)
    def rmdir(self, place: str) -> None:
        self.both(lambda root: os.rmdir(root / place))

    @rule(place=PLACE)
    def unlink(self, place: str) -> None:
        self.both(lambda root: os.unlink(root / place))

    @rule(old=PLACE, new=PLACE)
    def rename(self, old: str, new: str) -> None:
        if self.both(lambda root: os.rename(root / old, root / new)) is None:
            self._born(self.native / new)

    @rule(old=PLACE, new=PLACE)
    def link(self, old: str, new: str) -> None:
        if (self.native / old).is_dir():
            return
        if self.both(lambda root: os.link(root / old, root / new)) is None:
            self._born(self.native / new)

    def _born(self, native: Path) -> None:
        """A name that is renamed or linked is written down, with what the file holds."""
        if native.is_file():
            possible = self._survivors(native.stat().st_ino)
            if None in possible:
                self.survives[native.stat().st_ino] = {native.read_bytes()}

    # Content.

    @rule(place=PLACE, piece=PIECE)
    def write_a_file(self, place: str, piece: bytes) -> None:
        if (self.native / place).exists() and self._is_open(self.native / place):
            return
        if self.both(lambda root: (root / place).write_bytes(piece)) == len(piece):
            self._closed(os.stat(self.native / place).st_ino, piece, last=True)

    @precondition(lambda self: len(self.open) < 6)
    @rule(place=PLACE, exclusive=st.booleans())
    def create(self, place: str, exclusive: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if exclusive else 0)
        self._open(place, flags)

    @precondition(lambda self: len(self.open) < 6)
    @rule(place=PLACE, flags=OPENING)
    def open_file(self, place: str, flags: int) -> None:
        if not (self.native / place).is_dir():
            self._open(place, flags)

    def _open(self, place: str, flags: int) -> None:
        before = (self.native / place).exists()
        native = outcome(lambda: os.open(self.native / place, flags, 0o644))
        mounted = outcome(lambda: os.open(self.mounted / place, flags, 0o644))
        if isinstance(native, str) or isinstance(mounted, str):
            assert mounted == native
            return
        self.open.append(Open(mounted, native, flags))
        inode = os.fstat(native).st_ino
        if not before:
            self.survives[inode] = {None, b""}
        elif flags & os.O_TRUNC:
            self._survivors(inode).add(b"")

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 5), piece=PIECE, offset=OFFSET)
    def write(self, choice: int, piece: bytes, offset: int) -> None:
        self._change(choice, lambda fd: os.pwrite(fd, piece, offset))

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 5), size=SIZE)
    def truncate_open(self, choice: int, size: int) -> None:
        self._change(choice, lambda fd: os.ftruncate(fd, size))

    def _change(self, choice: int, call: Callable[[int], Any]) -> None:
        file = self.open[choice % len(self.open)]
        assert outcome(lambda: call(file.mounted)) == outcome(lambda: call(file.native))
        self._survivors(os.fstat(file.native).st_ino).add(self._content(file))

    @rule(place=PLACE, size=SIZE)
    def truncate(self, place: str, size: int) -> None:
        native = self.native / place
        if self.both(lambda root: os.truncate(root / place, size)) is None:
            content = native.read_bytes()
            if self._is_open(native):
                self._survivors(native.stat().st_ino).add(content)
            else:
                self._closed(native.stat().st_ino, content, last=True)

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 5), offset=OFFSET, size=SIZE)
    def read(self, choice: int, offset: int, size: int) -> None:
        file = self.open[choice % len(self.open)]
        found = outcome(lambda: os.pread(file.mounted, size, offset))
        assert found == outcome(lambda: os.pread(file.native, size, offset))

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 5))
    def fsync(self, choice: int) -> None:
        file = self.open[choice % len(self.open)]
        os.fsync(file.mounted)
        if file.writes:
            self.survives[os.fstat(file.native).st_ino] = {self._content(file)}

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 5))
    def close_a_copy(self, choice: int) -> None:
        """As a shell does it between two commands that write to one file."""
        file = self.open[choice % len(self.open)]
        os.close(os.dup(file.mounted))
        if file.writes:
            self._closed(os.fstat(file.native).st_ino, self._content(file), last=False)

    @precondition(lambda self: self.open)
    @rule(choice=st.integers(0, 5))
    def close(self, choice: int) -> None:
        file = self.open.pop(choice % len(self.open))
        content, found = self._content(file), os.fstat(file.native)
        os.close(file.mounted)
        os.close(file.native)
        if file.writes and found.st_nlink:
            others = any(os.fstat(other.native).st_ino == found.st_ino for other in self.open)
            self._closed(found.st_ino, content, last=not others)

    def _closed(self, inode: int, content: bytes, *, last: bool) -> None:
        """What was closed survives. An empty file that was never written may be written down a moment later."""
        if content:
            self.survives[inode] = {content}
            self.committed |= {oid_of(content)} if last else set()
        else:
            self._survivors(inode).add(content)

    def _survivors(self, inode: int) -> set[bytes | None]:
        return self.survives.setdefault(inode, set())

    def _content(self, file: Open) -> bytes:
        return Path(f"/proc/self/fd/{file.native}").read_bytes()

    def _is_open(self, native: Path) -> bool:
        inode = native.stat().st_ino
        return any(os.fstat(file.native).st_ino == inode for file in self.open)

    # A repository root.

    @rule(content=CONTENT, by_link=st.booleans())
    def commit(self, content: bytes, by_link: bool) -> None:
        content = self.own + content
        oid = oid_of(content)
        temp, target = self.root / "tmp" / "1234", path_in(self.root / "objects", oid)
        temp.write_bytes(content)
        if by_link and oid not in self.referred:
            if target.exists():  # a lookup: another root has it, and now this one too
                self.unsettled.add(oid)
            else:
                os.link(temp, target)
            temp.unlink()
        else:
            temp.rename(target)
            self.unsettled.discard(oid)
        self.referred.add(oid)
        self.committed.add(oid)
        assert target.read_bytes() == content
        assert list((self.root / "tmp").iterdir()) == []

    @rule(content=CONTENT)
    def commit_what_does_not_match(self, content: bytes) -> None:
        temp = self.root / "tmp" / "5678"
        temp.write_bytes(self.own + content + b"!")
        with pytest.raises(OSError) as refused:
            temp.rename(path_in(self.root / "objects", oid_of(content)))
        assert refused.value.errno == errno.EBADMSG
        temp.unlink()

    @precondition(lambda self: self.referred)
    @rule(choice=st.integers(0, 9))
    def prune(self, choice: int) -> None:
        oid = sorted(self.referred)[choice % len(self.referred)]
        path_in(self.root / "objects", oid).unlink()
        self.referred.discard(oid)
        self.unsettled.add(oid)

    @rule(content=CONTENT)
    def look_up(self, content: bytes) -> None:
        oid = oid_of(self.own + content)
        found = path_in(self.root / "objects", oid).exists()
        assert found or oid not in self.committed
        if found and oid not in self.referred:
            self.referred.add(oid)
            self.unsettled.add(oid)

    # The daemon comes and goes.

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule()
    def remount(self) -> None:
        self.restarts += 1
        for _ in list(self.open):
            self.close(0)
        self.mount.stop()
        self.mount.start()
        self.unsettled.clear()

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule()
    def kill(self) -> None:
        self.restarts += 1
        kill(self.mount)
        self._close_all()
        self.mount.start()
        self._compare_with_what_may_survive()
        found = listed(self.root / "objects")
        assert found ^ self.referred <= self.unsettled
        self.referred = found
        self.unsettled.clear()

    def _compare_with_what_may_survive(self) -> None:
        """Each file is something that it once was; the native one becomes the same."""
        for path in sorted(self.native.rglob("*")):
            mounted = self.mounted / path.relative_to(self.native)
            if path.is_dir():
                assert mounted.is_dir()
                continue
            found = mounted.read_bytes() if mounted.exists() else None
            assert found in self._survivors(path.stat().st_ino), f"{mounted} after kill -9"
            if found is None:
                path.unlink()
            else:
                path.write_bytes(found)
                self.survives[path.stat().st_ino] = {found}

    def _close_all(self) -> None:
        for file in self.open:
            outcome(lambda fd=file.mounted: os.close(fd))  # type: ignore[misc]
            os.close(file.native)
        self.open.clear()

    # What holds at any time.

    @invariant()
    def the_trees_are_alike(self) -> None:
        if self.native.exists():
            assert tree(self.mounted) == tree(self.native)

    @invariant()
    def the_repository_lists_what_it_refers_to(self) -> None:
        if self.native.exists():
            assert listed(self.root / "objects") == self.referred

    @rule()
    def every_object_is_whole_and_none_is_lost(self) -> None:
        found = listed(self.mount.path / "objects")
        assert self.committed <= found | {EMPTY}
        for oid in self.committed:
            assert oid_of(path_in(self.mount.path / "objects", oid).read_bytes()) == oid


@pytest.mark.timeout(3600)
def test_the_mount_is_a_file_system_whatever_is_done_to_it(tmp_path: Path) -> None:
    native = tmp_path / "native"
    native.mkdir()
    mount = Mount(tmp_path / "own")
    with mount:
        run_state_machine_as_test(
            lambda: MountModel(mount, native),
            settings=settings(
                max_examples=settings().max_examples // 10,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
                phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink takes minutes
            ),
        )
