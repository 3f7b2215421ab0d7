"""Killed at every fsync, link, rename, unlink and index commit, one after another: the daemon, a command, a program.

What was acknowledged is there afterwards, nothing is half done, and the next open needs nobody's help.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from crash_victim import FIRST, SECOND
from forking import killed_at
from gitlfs.mounted import Mount, is_running, within
from test_promises import commit, drop, listed, oid_of, path_in, read

from lfsfs import ListQuery, Oid, open_store
from lfsfs.oid import OID_HEX_DIGITS
from lfsfs.store import catalog

CONTENTS = {"first": b"first" * 1000, "second": b"second" * 300_000}
BOUND = 200


def write_all(mount: Mount) -> list[str]:
    """Writes through incoming/ and through a repository root; the oids of what was acknowledged."""
    done = []
    try:
        (mount.path / "repos" / "r").mkdir(exist_ok=True)
        done.append(commit(mount.path / "repos" / "r", CONTENTS["first"]))
        done.append(drop(mount, "second", CONTENTS["second"]))
    except OSError:
        pass  # the daemon was killed: what matters is what it had said before
    return done


def left_staged(store: Path) -> list[Path]:
    return [path for path in (store / "staging").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.promise("2.3")
def test_killed_at_every_step_of_a_write_nothing_acknowledged_is_lost_and_nothing_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {oid_of(content): content for content in CONTENTS.values()}
    killed = 0
    with Mount(tmp_path / "made") as made:
        pass  # no step of making a store is counted below
    for point in range(1, BOUND):
        mount = Mount(tmp_path / str(point))
        shutil.copytree(made.store, mount.store)
        with monkeypatch.context() as patched:
            patched.setenv("LFSFS_FAULT", f"kill:{point}")
            mount.start()
        pid = mount.pid
        acknowledged = write_all(mount)
        survived = len(acknowledged) == len(CONTENTS) and not within(0.3, lambda pid=pid: not is_running(pid))
        if survived:
            mount.stop()
        else:
            killed += 1
            assert within(10, lambda pid=pid: not is_running(pid))
        with mount:
            found = listed(mount.path / "objects")
            assert set(acknowledged) <= found <= set(expected)
            assert {oid: read(mount, oid) for oid in found} == {oid: expected[oid] for oid in found}
            if expected.keys() == set(acknowledged):
                assert (mount.path / "incoming" / "second").read_bytes() == CONTENTS["second"]
            assert left_staged(mount.store) == []
            assert write_all(mount) == list(expected)
        if survived:
            break
    else:
        pytest.fail(f"the write has more than {BOUND} steps")
    assert killed > 10, "the kills did not reach the write"
    assert os.listdir(tmp_path)


# The public Store and the commands, each in a process of its own.


def killed(scenario: str, store: Path, point: int) -> tuple[list[str], bool]:
    """Runs a scenario of crash_victim.py, killed at this point; what it said, and whether it came to its end."""
    status, said, _ = killed_at(point, "crash_victim:run", scenario, store)
    return said.split(), status == 0


async def made_with_an_object(path: Path, repository: str | None = None) -> None:
    async with open_store(path, create=True) as store:
        if repository is not None:
            await store.add_repository(repository)
        await store.put(FIRST, repository=repository)


async def opened_clean(path: Path, deleting: bool = False) -> set[str]:
    """Opens the store as anybody would next; the objects that it then has, whole. Nothing lies about.

    Bytes whose row a killed commit did not come to write may be there; bytes of a deleted object may not.
    """
    async with open_store(path, create=True) as store:
        found = {row.oid for row in (await store.list(ListQuery())).objects}
        on_disk = {file.name for file in (path / "objects").rglob("*") if file.is_file()}
        assert found <= on_disk
        assert on_disk - found <= {Oid.of(FIRST), Oid.of(SECOND)}, (
            "bytes without a row are an object's at least"
        )
        for oid in found:
            assert await store.check(Oid(oid))
        assert store.index.view(lambda tx: catalog.counter(tx, b"deletions")) % 2 == 0
        assert (await store.usage()).objects == len(found)
        assert left_staged(path) == []
        assert [entry.name for entry in path.iterdir() if ".new" in entry.name] == []
        for content in (FIRST, SECOND):  # it takes objects as ever, those that it has and others
            row = await store.put(content)
            assert b"".join([piece async for piece in store.download(row.oid)]) == content
        return set(found)


def until_it_survives(limit: int = BOUND) -> Iterator[int]:
    """The points to kill at; whoever takes them stops when one was not reached."""
    yield from range(1, limit)
    pytest.fail(f"more than {limit} steps")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["create", "grow"])
def test_killed_while_a_store_is_made_or_its_index_grows_the_next_open_is_clean(
    tmp_path: Path, scenario: str
) -> None:
    for point in until_it_survives():
        path = tmp_path / str(point)
        said, survived = killed(scenario, path, point)
        found = trio.run(opened_clean, path)
        assert {word for word in said if len(word) == OID_HEX_DIGITS} <= found
        assert found <= {Oid.of(FIRST), Oid.of(SECOND)}
        if survived:
            break
    assert point > 10, "the kills did not reach the work"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", ["delete", "delete_by_force"])
def test_killed_while_an_object_is_deleted_it_is_there_whole_or_gone_without_trace(
    tmp_path: Path, scenario: str
) -> None:
    for point in until_it_survives():
        path = tmp_path / str(point)
        trio.run(made_with_an_object, path, "r" if scenario == "delete_by_force" else None)
        said, survived = killed(scenario, path, point)
        found = trio.run(opened_clean, path, True)
        assert found in ([set()] if said else [set(), {Oid.of(FIRST)}])
        if survived:
            break
    assert point > 6, "the kills did not reach the deletion"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rm_killed_at_every_step_leaves_the_object_whole_or_gone(tmp_path: Path) -> None:
    for point in until_it_survives():
        path = tmp_path / str(point)
        trio.run(made_with_an_object, path)
        status, _, _ = killed_at(point, "forking:command", "rm", "--store", path, Oid.of(FIRST))
        found = trio.run(opened_clean, path, True)
        assert found in ([set()] if status == 0 else [set(), {Oid.of(FIRST)}])
        if status == 0:
            break
    assert point > 6, "the kills did not reach the deletion"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_a_repository_is_removed_it_is_there_with_all_or_gone(tmp_path: Path) -> None:
    async def look(path: Path) -> tuple[set[str], list[str]]:
        async with open_store(path) as store:
            return {found.name for found in await store.repositories()}, await store.why(Oid.of(FIRST))

    for point in until_it_survives():
        path = tmp_path / str(point)
        trio.run(made_with_an_object, path, "r")
        said, survived = killed("remove_repository", path, point)
        assert trio.run(opened_clean, path) == {Oid.of(FIRST)}
        there, gone = ({"r"}, ["repos/r refers to it"]), (set[str](), list[str]())
        assert trio.run(look, path) in ([gone] if said else [there, gone])
        if survived:
            break
    assert point > 2


# Names and repository roots, through the mount.


class NameHistory:
    """One change of names: `prepare` makes what there is before, `act` changes it, `check` finds it done or not done."""

    def prepare(self, mount: Mount, number: int) -> None:
        raise NotImplementedError

    def act(self, mount: Mount, number: int) -> None:
        raise NotImplementedError

    def is_done(self, mount: Mount, number: int) -> bool:
        """Whether it was done; neither half done nor half undone."""
        raise NotImplementedError


class Unlink(NameHistory):
    def prepare(self, mount: Mount, number: int) -> None:
        drop(mount, f"{number}", FIRST)

    def act(self, mount: Mount, number: int) -> None:
        (mount.path / "incoming" / f"{number}").unlink()

    def is_done(self, mount: Mount, number: int) -> bool:
        path = mount.path / "incoming" / f"{number}"
        assert path.name in os.listdir(path.parent) or not path.exists()
        assert not path.exists() or path.read_bytes() == FIRST
        assert read(mount, oid_of(FIRST)) == FIRST
        return not path.exists()


class RenameOver(NameHistory):
    def prepare(self, mount: Mount, number: int) -> None:
        drop(mount, f"{number}.old", FIRST)
        drop(mount, f"{number}.new", SECOND)

    def act(self, mount: Mount, number: int) -> None:
        (mount.path / "incoming" / f"{number}.old").rename(mount.path / "incoming" / f"{number}.new")

    def is_done(self, mount: Mount, number: int) -> bool:
        old, new = (mount.path / "incoming" / f"{number}{end}" for end in (".old", ".new"))
        assert (old.exists(), new.read_bytes()) in [(True, SECOND), (False, FIRST)]
        assert not old.exists() or old.read_bytes() == FIRST
        assert {read(mount, oid_of(content)) for content in (FIRST, SECOND)} == {FIRST, SECOND}
        return not old.exists()


class RemoveRepository(NameHistory):
    def prepare(self, mount: Mount, number: int) -> None:
        root = mount.path / "repos" / f"r{number}"
        root.mkdir()
        commit(root, FIRST)

    def act(self, mount: Mount, number: int) -> None:
        shutil.rmtree(mount.path / "repos" / f"r{number}")

    def is_done(self, mount: Mount, number: int) -> bool:
        root = mount.path / "repos" / f"r{number}"
        there = root.name in os.listdir(root.parent)
        assert root.exists() == there
        assert not there or listed(root / "objects") <= {oid_of(FIRST)}
        assert read(mount, oid_of(FIRST)) == FIRST
        return not there


class LinkCommit(NameHistory):
    def prepare(self, mount: Mount, number: int) -> None:
        (mount.path / "repos" / "l").mkdir(exist_ok=True)

    def act(self, mount: Mount, number: int) -> None:
        root = mount.path / "repos" / "l"
        (root / "tmp" / "1").write_bytes(b"linked %d" % number)
        os.link(root / "tmp" / "1", path_in(root / "objects", oid_of(b"linked %d" % number)))

    def is_done(self, mount: Mount, number: int) -> bool:
        root, content = mount.path / "repos" / "l", b"linked %d" % number
        (root / "tmp" / "1").unlink(missing_ok=True)
        there = oid_of(content) in listed(root / "objects")
        assert there == (oid_of(content) in listed(mount.path / "objects"))
        assert not there or read(mount, oid_of(content)) == content
        return there


def begins(mount: Mount) -> bool:
    """Starts it. False: it was killed before it served, at what the last one left to do, such as types to tell."""
    try:
        mount.start()
    except AssertionError as failed:
        assert "ended without a word" in str(failed)
        return False
    return True


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("history", [Unlink(), RenameOver(), RemoveRepository(), LinkCommit()])
def test_killed_at_every_step_of_a_change_of_names_it_is_done_or_not_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: NameHistory
) -> None:
    mount = Mount(tmp_path / "own")
    for point in until_it_survives():
        with mount:
            history.prepare(mount, point)
        with monkeypatch.context() as patched:
            patched.setenv("LFSFS_FAULT", f"kill:{point}")
            if not begins(mount):
                continue
        pid = mount.pid
        try:
            history.act(mount, point)
            acknowledged = True
        except OSError:
            acknowledged = False
        survived = acknowledged and not within(1, lambda pid=pid: not is_running(pid))  # type: ignore[misc]
        if survived:
            mount.stop()
        else:
            assert within(10, lambda pid=pid: not is_running(pid))  # type: ignore[misc]
        with mount:
            done = history.is_done(mount, point)
            assert done or not acknowledged
            assert left_staged(mount.store) == []
        if survived:
            break
    assert point > 2, "the kills did not reach the change"
