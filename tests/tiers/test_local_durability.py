"""LocalTier: durable bytes before the name. Every step is seen, failed, and cut off by SIGKILL."""

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

from lfsfs.errors import NotFound
from lfsfs.oid import Oid
from lfsfs.store.staging import Staging, sweep
from lfsfs.tiers import LocalTier

from .conformance import CONTENT, OID, Sources
from .putting import put_in_child

DAMAGED = CONTENT[:4]
MAKE_DIRECTORIES = ["make-directory", "fsync-parent"] * 3  # objects, objects/aa, objects/aa/bb
AT_ONCE = 4  # children


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Sources(tmp_path / "sources").file(CONTENT)


@pytest.fixture
def source_elsewhere(other_file_system: Path) -> Path:
    return Sources(other_file_system / "sources").file(CONTENT)


def damage(root: Path) -> None:
    """The object is there, but a part of it is lost."""
    path = LocalTier(root).path(OID)
    path.parent.mkdir(parents=True)
    path.write_bytes(DAMAGED)


def steps_of(root: Path, *files: Path, durability: str = "sync") -> list[str]:
    """The steps that a child takes to put the files, without those that ended in an error."""
    log = root.with_name("steps")
    log.unlink(missing_ok=True)
    done = put_in_child(root, *files, durability=durability, LFSFS_FAULT_LOG=str(log))
    assert done.returncode == 0, done.stderr
    return [line.removesuffix(":after") for line in log.read_text().split() if line.endswith(":after")]


def content(root: Path) -> bytes | None:
    path = LocalTier(root).path(OID)
    return path.read_bytes() if path.exists() else None


# The order of steps


def test_a_linked_object_is_synced_before_it_has_a_name(root: Path, source: Path) -> None:
    expected = ["fsync-object", *MAKE_DIRECTORIES, "link-object", "fsync-directory"]
    assert steps_of(root, source) == expected
    assert os.stat(source).st_nlink == 2, "it was a link"


def test_a_copied_object_is_synced_before_it_has_a_name(root: Path, source_elsewhere: Path) -> None:
    # The first fsync is the source's, whose link then fails; the second is the copy's.
    expected = ["fsync-object", *MAKE_DIRECTORIES, "fsync-object", "link-object", "fsync-directory"]
    assert steps_of(root, source_elsewhere) == expected
    assert content(root) == CONTENT


def test_a_damaged_object_is_replaced_in_one_step(root: Path, source: Path) -> None:
    damage(root)
    expected = ["fsync-object", *["fsync-parent"] * 3, "rename-object", "fsync-directory"]
    assert steps_of(root, source) == expected
    assert content(root) == CONTENT


def test_the_second_object_of_a_directory_makes_none(root: Path, source: Path, tmp_path: Path) -> None:
    one, other = neighbours()
    files = [tmp_path / "one", tmp_path / "other"]
    files[0].write_bytes(one)
    files[1].write_bytes(other)
    first = ["fsync-object", *MAKE_DIRECTORIES, "link-object", "fsync-directory"]
    assert steps_of(root, *files) == [*first, "fsync-object", "link-object", "fsync-directory"]


def test_an_object_that_is_there_is_made_durable_again(root: Path, source: Path) -> None:
    """Whoever put it there may not have synced it: a git-lfs of the plain directory, a fast store."""
    steps_of(root, source, durability="fast")
    assert steps_of(root, source) == ["fsync-object", *["fsync-parent"] * 3, "fsync-directory"]


def test_fast_leaves_out_every_fsync_and_nothing_else(
    root: Path, source: Path, source_elsewhere: Path
) -> None:
    assert steps_of(root, source, durability="fast") == [*["make-directory"] * 3, "link-object"]
    shutil.rmtree(root / "objects")
    assert steps_of(root, source_elsewhere, durability="fast") == [*["make-directory"] * 3, "link-object"]


def neighbours() -> tuple[bytes, bytes]:
    """Two contents whose objects share a directory."""
    seen: dict[str, bytes] = {}
    for number in range(10_000):
        one = b"%d" % number
        place = Oid.of(one)[:4]
        if place in seen:
            return seen[place], one
        seen[place] = one
    raise AssertionError("10,000 objects in 65,536 directories, and none shares one")


# A step that fails


@pytest.mark.parametrize("step", ["make-directory", "fsync-parent", "fsync-object", "link-object"])
def test_a_step_that_fails_leaves_nothing(root: Path, source: Path, step: str) -> None:
    done = put_in_child(root, source, LFSFS_FAULT=f"fail:{step}")
    assert (done.returncode, done.stdout) == (1, "LfsfsError\n"), done.stderr
    assert content(root) is None
    assert not (root / "staging").exists()
    assert source.read_bytes() == CONTENT


def test_a_directory_that_cannot_be_synced_fails_the_put_and_harms_no_other(root: Path, source: Path) -> None:
    done = put_in_child(root, source, LFSFS_FAULT="fail:fsync-directory")
    assert (done.returncode, done.stdout) == (1, "LfsfsError\n"), done.stderr
    assert content(root) == CONTENT, "whole: it may be another put's by now"


def test_a_replacement_that_fails_leaves_no_temporary_file(root: Path, source: Path) -> None:
    damage(root)
    done = put_in_child(root, source, LFSFS_FAULT="fail:rename-object")
    assert (done.returncode, done.stdout) == (1, "LfsfsError\n"), done.stderr
    assert content(root) == DAMAGED
    assert os.listdir(root / "staging") == []


# kill -9 at every point


def killed_at_every_point(root: Path, source: Path, prepare: Callable[[Path], None]) -> list[bytes | None]:
    """What lies at the object's name after a kill at each point; each has a store of its own."""
    log = root.with_name("points")
    prepare(root)
    assert put_in_child(root, source, LFSFS_FAULT_LOG=str(log)).returncode == 0
    points = len(log.read_text().split())

    def kill(point: int) -> bytes | None:
        store = root.with_name(f"store-{point}")
        store.mkdir()
        prepare(store)
        done = put_in_child(store, source, LFSFS_FAULT=f"kill:{point}")
        assert done.returncode == -signal.SIGKILL, done.stderr
        found = content(store)
        put_again(store, source)
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(kill, range(1, points + 1)))


def put_again(store: Path, source: Path) -> None:
    """After the kill: the same put succeeds, and sweeping leaves nothing of the dead."""
    trio.run(LocalTier(store, durable=False).put, OID, source)
    assert content(store) == CONTENT
    staging = store / "staging"
    if staging.exists():
        sweeper = Staging(staging)
        sweeper.clean()
        sweeper.close()
        assert os.listdir(staging) == []


def test_killed_while_linking_the_object_is_whole_or_absent(root: Path, source: Path) -> None:
    found = killed_at_every_point(root, source, lambda store: None)
    assert set(found) == {None, CONTENT}
    assert found == sorted(found, key=lambda content: content is not None), "first absent, then there to stay"


def test_killed_while_copying_the_object_is_whole_or_absent(root: Path, source_elsewhere: Path) -> None:
    found = killed_at_every_point(root, source_elsewhere, lambda store: None)
    assert set(found) == {None, CONTENT}
    assert found == sorted(found, key=lambda content: content is not None)


def test_killed_while_healing_the_object_is_healed_or_as_it_was(root: Path, source: Path) -> None:
    found = killed_at_every_point(root, source, damage)
    assert set(found) == {DAMAGED, CONTENT}
    assert found == sorted(found, key=lambda content: content != DAMAGED)


async def test_a_temporary_file_in_use_is_not_swept(
    root: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process opens the store, and cleans, in the middle of a copy."""
    source = Sources(other_file_system / "sources").file(CONTENT)
    chmod = os.fchmod

    def sweep_first(fd: int, mode: int) -> None:
        sweeper = Staging(root / "staging")
        assert len(os.listdir(root / "staging")) == 1, "the copy is under way"
        assert sweeper.clean() == 0
        sweeper.close()
        chmod(fd, mode)

    monkeypatch.setattr(os, "fchmod", sweep_first)
    tier = LocalTier(root)
    with pytest.raises(NotFound):
        await tier.size(OID)
    await tier.put(OID, source)
    assert await tier.read(OID, 0, 100) == CONTENT
    assert os.listdir(root / "staging") == []


@pytest.mark.parametrize("maker", ["process", "put"])
async def test_a_directory_that_is_just_being_made_is_not_swept(
    root: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch, maker: str
) -> None:
    """Another process opens the store, and cleans, when the lock file is there and its lock is not held yet."""
    staging = root / "staging"
    take, swept = fcntl.flock, []

    def sweep_first(lock: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", take)
        assert list(staging.glob("*/lock")), "the directory is under way"
        swept.append(sweep(staging))
        take(lock, operation)

    source = Sources(other_file_system / "sources").file(CONTENT)
    tier, process = LocalTier(root), Staging(staging)
    monkeypatch.setattr(fcntl, "flock", sweep_first)
    if maker == "put":
        await tier.put(OID, source)
        assert await tier.read(OID, 0, 100) == CONTENT
    else:
        process.new_path().write_bytes(CONTENT)
    assert swept == [0]
    process.close()
    assert os.listdir(staging) == []


def test_a_directory_that_a_kill_has_left_half_made_is_swept(root: Path) -> None:
    left = root / "staging" / "1-abcdefgh.new"
    left.mkdir(parents=True)
    (left / "lock").touch()
    assert sweep(left.parent) == 0, "somebody may be making it"
    os.utime(left, (0, 0))
    assert sweep(left.parent) == 1
    assert not left.exists()
