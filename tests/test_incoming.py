"""incoming/ as an ordinary tree: what cp, rsync, tar and a shell do to it, and what programs do that write oddly."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gitlfs.mounted import Mount
from odd_writes import ODD_WRITES
from test_promises import listed, oid_of

MIB = 1 << 20
pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with Mount(tmp_path_factory.mktemp("incoming") / "own") as mount:
        yield mount


@pytest.fixture
def folder(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """A directory of incoming/ for one test."""
    made = mount.path / "incoming" / request.node.name[:100].replace("/", "_")
    made.mkdir()
    return made


def run(*command: str | Path, shell: str = "") -> None:
    arguments = ["sh", "-ec", shell] if shell else [os.fspath(part) for part in command]
    subprocess.run(arguments, check=True, timeout=60, stdin=subprocess.DEVNULL)


def tree(path: Path) -> dict[str, tuple[object, ...]]:
    """Everything below: kind, mode, modification time in whole seconds (all that tar and rsync keep), content."""
    found: dict[str, tuple[object, ...]] = {}
    for entry in sorted(path.rglob("*")):
        status = entry.lstat()
        if stat.S_ISLNK(status.st_mode):
            what: object = os.readlink(entry)
        else:
            what = entry.read_bytes() if entry.is_file() else None
        mode = stat.S_IMODE(status.st_mode)
        found[str(entry.relative_to(path))] = (stat.S_IFMT(status.st_mode), mode, int(status.st_mtime), what)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with what trees have."""
    source = tmp_path / "source"
    (source / "deep" / "deeper").mkdir(parents=True)
    (source / "empty directory").mkdir()
    (source / "empty").touch()
    (source / "film").write_bytes(os.urandom(3 * MIB + 1))
    (source / "deep" / "deeper" / "script").write_bytes(b"#!/bin/sh\n")
    (source / "deep" / "deeper" / "script").chmod(0o750)
    (source / "link").symlink_to("deep/deeper/script")
    (source / "dangling").symlink_to("nowhere")
    (source / "n\nl \udcff").write_bytes(b"odd name")
    (source / ("x" * 255)).write_bytes(b"long name")
    os.utime(source / "film", ns=(1, 1_234_567_890_123_456_789))
    os.utime(source / "deep", ns=(1, 1_000_000_000_000_000_000))
    return source


@pytest.mark.parametrize("tool", ["cp -a", "rsync -a", "rsync -a --inplace", "tar"])
def test_a_tree_copied_in_is_the_same_tree(folder: Path, source: Path, tool: str) -> None:
    target = folder / "copy"
    if tool == "tar":
        target.mkdir()
        run(shell=f'tar -C "{source}" -cf - . | tar -C "{target}" -xpf -')
    else:
        run(*tool.split(), f"{source}/.", f"{target}/")
    assert tree(target) == tree(source)


def test_a_second_rsync_sends_nothing_also_after_a_remount(mount: Mount, folder: Path, source: Path) -> None:
    run("rsync", "-a", f"{source}/", folder)
    numbers = {path: path.lstat().st_ino for path in folder.rglob("*")}
    mount.stop()
    mount.start()
    done = subprocess.run(
        ["rsync", "-ai", f"{source}/", folder], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == ""
    assert {path: path.lstat().st_ino for path in folder.rglob("*")} == numbers


def test_hard_links_and_renames_are_those_of_any_file_system(folder: Path) -> None:
    (folder / "a").write_bytes(b"one")
    os.link(folder / "a", folder / "b")
    assert os.path.samefile(folder / "a", folder / "b")
    assert (folder / "a").stat().st_nlink == 2
    (folder / "b").write_bytes(b"two")
    assert (folder / "a").read_bytes() == b"two"
    (folder / "d").mkdir()
    (folder / "a").rename(folder / "d" / "a")
    (folder / "c").write_bytes(b"three")
    (folder / "c").rename(folder / "b")
    assert sorted(os.listdir(folder)) == ["b", "d"]
    assert ((folder / "b").read_bytes(), (folder / "d" / "a").read_bytes()) == (b"three", b"two")
    with pytest.raises(OSError) as refused:
        (folder / "d").rename(folder / "d" / "below")
    assert refused.value.errno == errno.EINVAL
    with pytest.raises(OSError) as refused:
        (folder / "d").rmdir()
    assert refused.value.errno == errno.ENOTEMPTY


def test_a_shell_writes_appends_and_makes_one_object_of_it(mount: Mount, folder: Path) -> None:
    before = listed(mount.path / "objects")
    run(shell=f'cd "{folder}"; (echo one; /bin/echo two; cat /dev/null; /bin/echo three) > out')
    assert (folder / "out").read_bytes() == b"one\ntwo\nthree\n"
    assert listed(mount.path / "objects") - before == {oid_of(b"one\ntwo\nthree\n")}
    run(shell=f'cd "{folder}"; echo four >> out; : > new; touch touched')
    assert (folder / "out").read_bytes() == b"one\ntwo\nthree\nfour\n"
    assert ((folder / "new").read_bytes(), (folder / "touched").read_bytes()) == (b"", b"")


@pytest.mark.parametrize("write", ODD_WRITES)
def test_any_order_of_writes_gives_the_right_object(mount: Mount, folder: Path, write: object) -> None:
    assert callable(write)
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    expected = write(fd)
    os.close(fd)
    assert (folder / "file").read_bytes() == expected
    pointer = (mount.path / "pointers" / folder.name / "file").read_text()
    assert f"oid sha256:{oid_of(expected)}\nsize {len(expected)}\n" in pointer


def test_a_committed_file_is_appended_to_and_cut_without_changing_its_object(
    mount: Mount, folder: Path
) -> None:
    content = os.urandom(MIB)
    (folder / "file").write_bytes(content)
    with (folder / "file").open("ab") as file:
        file.write(b"more")
    assert (folder / "file").read_bytes() == content + b"more"
    os.truncate(folder / "file", 10)
    assert (folder / "file").read_bytes() == content[:10]
    oids = [oid_of(part) for part in (content, content + b"more", content[:10])]
    assert set(oids) <= listed(mount.path / "objects")


def test_two_writers_of_one_name_write_one_file(folder: Path) -> None:
    first = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    second = os.open(folder / "file", os.O_RDWR)
    os.pwrite(first, b"first ", 0)
    os.pwrite(second, b"second", 6)
    os.close(first)
    os.pwrite(second, b"!", 12)
    os.close(second)
    assert (folder / "file").read_bytes() == b"first second!"


def test_a_file_unlinked_while_open_reads_and_writes_on_and_leaves_nothing(
    mount: Mount, folder: Path
) -> None:
    before = listed(mount.path / "objects")
    with (folder / "file").open("w+b", buffering=0) as file:
        file.write(b"never seen")
        (folder / "file").unlink()
        file.write(b" by anybody")
        assert os.pread(file.fileno(), 100, 0) == b"never seen by anybody"
    assert os.listdir(folder) == []
    assert listed(mount.path / "objects") == before


def test_two_files_that_begin_alike_leave_no_object_of_what_they_had_in_common(
    mount: Mount, folder: Path
) -> None:
    """A fork closes its copies of both in the middle: each is committed as far as it is, and both are taken back."""
    common, ends = os.urandom(100_000), (b"one end", b"another end")
    files = [os.open(folder / f"{number}", os.O_CREAT | os.O_WRONLY) for number in range(2)]
    try:
        for fd in files:
            os.write(fd, common)
            os.close(os.dup(fd))
        for fd, end in zip(files, ends, strict=True):
            os.write(fd, end)
    finally:
        for fd in files:
            os.close(fd)
    objects = listed(mount.path / "objects")
    assert oid_of(common) not in objects
    assert {oid_of(common + end) for end in ends} <= objects


@pytest.mark.parametrize("settle", [os.fsync, lambda fd: os.close(os.dup(fd))])
def test_a_file_without_a_name_keeps_its_content_while_anybody_has_it_open(
    folder: Path, settle: Callable[[int], None]
) -> None:
    with (folder / "file").open("w+b", buffering=0) as file, (folder / "file").open("rb") as reader:
        (folder / "file").unlink()
        file.write(b"for a friend")
        settle(file.fileno())
        assert os.pread(file.fileno(), 100, 0) == b"for a friend"
        file.close()
        assert reader.read() == b"for a friend"


def test_a_directory_with_a_file_that_is_being_written_is_not_replaced(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "new").mkdir()
    with (folder / "old" / "file").open("wb") as file:
        with pytest.raises(OSError) as refused:
            (folder / "new").rename(folder / "old")
        assert refused.value.errno == errno.ENOTEMPTY
        file.write(b"kept")
    assert (folder / "old" / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
def test_devices_pipes_and_sockets_are_refused(folder: Path, kind: int) -> None:
    with pytest.raises(OSError) as refused:
        os.mknod(folder / "special", kind | 0o600, os.makedev(1, 3))
    assert refused.value.errno == errno.EPERM


def test_names_that_no_file_system_takes(folder: Path) -> None:
    with pytest.raises(OSError) as refused:
        (folder / ("x" * 256)).write_bytes(b"")
    assert refused.value.errno == errno.ENAMETOOLONG


def test_what_is_made_of_incoming_cannot_be_written(mount: Mount, folder: Path) -> None:
    (folder / "file").write_bytes(b"content")
    pointer = mount.path / "pointers" / folder.name / "file"
    for write in (lambda: pointer.write_bytes(b""), lambda: (pointer.parent / "new").write_bytes(b"")):
        with pytest.raises(OSError) as refused:
            write()
        assert refused.value.errno in (errno.EROFS, errno.EACCES)
    with pytest.raises(OSError) as refused:
        pointer.unlink()
    assert refused.value.errno == errno.EPERM


def test_the_mount_tells_the_truth_about_its_disk(mount: Mount) -> None:
    here, there = os.statvfs(mount.path), os.statvfs(mount.store)
    assert (here.f_blocks, here.f_frsize, here.f_namemax) == (there.f_blocks, there.f_frsize, 255)
    assert abs(here.f_bavail - there.f_bavail) * here.f_frsize < 512 * MIB


def test_du_counts_each_object_once(mount: Mount, folder: Path) -> None:
    size = 4 * MIB
    (mount.path / "repos" / "du").mkdir()
    root = mount.path / "repos" / "du"
    content = os.urandom(size)
    (root / "tmp" / "1").write_bytes(content)
    oid = oid_of(content)
    (root / "tmp" / "1").rename(root / "objects" / oid[:2] / oid[2:4] / oid)
    done = subprocess.run(
        ["du", "-sb", root / "objects", mount.path / "objects" / oid[:2] / oid[2:4]],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert sum(int(line.split()[0]) for line in done.stdout.splitlines()) < 2 * size


def test_a_mode_set_just_after_a_file_was_made_is_kept(mount: Mount, folder: Path) -> None:
    """An empty file is committed when it is released, which nobody waits for: a chmod may come in between."""
    names = [folder / f"{number}" for number in range(100)]
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600))
        name.chmod(0o640)
    mount.stop()
    mount.start()
    assert {name.name: oct(stat.S_IMODE(name.stat().st_mode)) for name in names} == dict.fromkeys(
        (name.name for name in names), "0o640"
    )


def test_a_directory_that_was_removed_is_not_taken_for_the_one_that_gets_its_inode_number(
    mount: Mount,
) -> None:
    """ext4 gives a freed number away at once; whoever still has the old directory open keeps its node alive."""
    held = []
    try:
        for number in range(3):
            root = mount.path / "repos" / f"gone{number}"
            root.mkdir()
            held += [os.open(root / name, os.O_RDONLY) for name in ("tmp", "incomplete", "logs")]
            root.rmdir()
            fresh = mount.path / "repos" / f"fresh{number}"
            fresh.mkdir()
            for name in ("tmp", "incomplete", "logs"):
                (fresh / name / "file").write_bytes(name.encode())
                assert (fresh / name / "file").read_bytes() == name.encode()
                assert (mount.store / "repos" / fresh.name / name / "file").read_bytes() == name.encode()
    finally:
        for fd in held:
            os.close(fd)
