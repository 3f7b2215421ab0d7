"""import and export: what people bring from git-lfs, GitLab, Gitea and giftless, and take there again."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
import trio
import trio.testing
from gitlfs.mounted import lfsfs

from lfsfs import Oid, connect, open_store
from lfsfs.crew import crew
from lfsfs.errors import InUse, LfsfsError
from lfsfs.exchange.exporting import WORK, open_directory
from lfsfs.exchange.finding import Problems, find, find_clones
from lfsfs.exchange.forms import Form, path

LARGE = bytes(range(256)) * 400  # more than what is kept in memory
SMALL = b"a few bytes\n"
POINTS_APART = 11
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    with connect(tmp_path / "store", create=True):
        pass
    yield tmp_path / "store"
    assert not list((tmp_path / "store" / "staging").glob("*/[0-9]*")), "nothing stays in staging"


def git(where: Path, *arguments: str | Path) -> None:
    subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always",
         "-C", where, *arguments],
        check=True, capture_output=True,
    )  # fmt: skip


def with_objects(git_directory: Path, *contents: bytes) -> None:
    for content in contents:
        put(git_directory / "lfs" / path("git-lfs", Oid.of(content)), content)


def put(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def clone(place: Path, *contents: bytes) -> Path:
    place.mkdir(parents=True)
    git(place, "init", "-q")
    git(place, "commit", "-q", "--allow-empty", "-m", "first")
    with_objects(place / ".git", *contents)
    return place


def ran(*arguments: str | Path, status: int = 0) -> tuple[dict[str, object], str]:
    """The JSON that the command prints, and what it says beside it."""
    found, out, err = forking.run("forking:command", *map(str, arguments), "--json", seconds=60)
    assert found == status, out + err
    return json.loads(out), err


def referred(store: Path, repository: str) -> set[Oid]:
    out = lfsfs("ls", "--repo", repository, "--json", "--store", store)
    return {Oid(row["oid"]) for row in json.loads(out)}


def oids(*contents: bytes) -> set[Oid]:
    return {Oid.of(content) for content in contents}


# Finding.


def test_every_clone_of_a_tree_is_found_once_whatever_else_lies_there(tmp_path: Path) -> None:
    game = clone(tmp_path / "tree" / "be" / "game", LARGE)
    git(game, "worktree", "add", "-q", tmp_path / "tree" / "worktree")
    git(game, "submodule", "add", "-q", clone(tmp_path / "library"), "library")
    clone(game / "nested", SMALL)
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "tree" / "bare.git"], check=True)
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
    os.mkfifo(tmp_path / "tree" / "pipe")
    os.makedirs(os.fsencode(tmp_path / "tree") + b"/not \xff UTF-8")
    problems = Problems()
    found = [clone.directory for clone in find_clones(tmp_path / "tree", problems)]
    assert sorted(found) == sorted(
        [game / ".git", game / ".git/modules/library", game / "nested/.git", tmp_path / "tree/bare.git"]
    )
    assert problems.found == []


@pytest.mark.parametrize("place", ["game", "game/.git", "game/.git/lfs", "game/.git/lfs/objects"])
def test_a_clone_is_itself_by_whichever_of_its_folders_it_is_named(tmp_path: Path, place: str) -> None:
    clone(tmp_path / "game", LARGE)
    (source,) = find(tmp_path / place, Problems())
    assert (source.path, source.repository) == (tmp_path / "game/.git/lfs/objects", "game")


# Importing.


@pytest.mark.slow
def test_clones_keep_what_they_refer_to_and_equal_objects_are_taken_once(tmp_path: Path, store: Path) -> None:
    clone(tmp_path / "tree" / "game", LARGE, SMALL)
    clone(tmp_path / "tree" / "copies" / "game", LARGE)
    dry, _ = ran("import", "--dry-run", tmp_path / "tree", "--store", store)
    assert dry["new"] == {"objects": 2, "bytes": len(LARGE) + len(SMALL)}
    done, _ = ran("import", tmp_path / "tree", "--store", store)
    assert done["new"] == dry["new"]
    assert done["known"] == {"objects": 1, "bytes": len(LARGE)}
    names = [source["repository"] for source in done["sources"]]  # type: ignore[attr-defined]
    assert sorted(names) == ["game", "game-2"]
    assert [referred(store, name) for name in names] == [oids(LARGE), oids(LARGE, SMALL)]
    for _ in range(2):
        lfsfs("gc", "--yes", "--grace", "0", "--budget", "100%", "--store", store)
    assert lfsfs("get", Oid.of(SMALL), "-o", "-", "--store", store).encode() == SMALL
    again, _ = ran("import", tmp_path / "tree", "--store", store)
    assert again["new"] == {"objects": 0, "bytes": 0}
    assert [source["repository"] for source in again["sources"]] == names  # type: ignore[attr-defined]


def test_what_is_damaged_is_named_and_left_and_the_rest_is_imported(tmp_path: Path, store: Path) -> None:
    game = clone(tmp_path / "game", LARGE, SMALL)
    damaged = [
        put(game / ".git/lfs" / path("git-lfs", Oid.of(b"a")), b""),
        put(game / ".git/lfs" / path("git-lfs", Oid.of(b"b")), LARGE + b"!"),
    ]
    modes = [file.stat().st_mode for file in damaged]
    link = game / ".git/lfs" / path("git-lfs", Oid.of(b"c"))
    link.parent.mkdir(parents=True)
    link.symlink_to("/etc/passwd")
    done, _ = ran("import", game, "--store", store, status=1)
    assert sorted(done["corrupt"]) == sorted(map(str, damaged))  # type: ignore[call-overload]
    assert [problem["path"] for problem in done["problems"]] == [str(link)]  # type: ignore[attr-defined]
    assert referred(store, "game") == oids(LARGE, SMALL)
    assert [file.stat().st_mode for file in damaged] == modes, "they are as they were"


def test_a_file_that_is_linked_can_be_written_to_by_nobody_any_more(tmp_path: Path, store: Path) -> None:
    game = clone(tmp_path / "game", LARGE)
    file = game / ".git/lfs" / path("git-lfs", Oid.of(LARGE))
    done, _ = ran("import", game, "--store", store)
    ours = store / path("git-lfs", Oid.of(LARGE))
    assert done["shared"] == {"objects": 1, "bytes": len(LARGE)}
    if file.stat().st_ino == ours.stat().st_ino:  # no reflinks here
        assert stat.S_IMODE(file.stat().st_mode) & 0o222 == 0
    shutil.rmtree(game)
    assert ours.read_bytes() == LARGE


def test_a_file_that_somebody_has_open_for_writing_is_copied(tmp_path: Path, store: Path) -> None:
    game = clone(tmp_path / "game", LARGE)
    file = game / ".git/lfs" / path("git-lfs", Oid.of(LARGE))
    mode = file.stat().st_mode
    with file.open("r+b") as writer:
        ran("import", game, "--store", store)
        writer.write(b"harm")
    assert file.stat().st_mode == mode
    assert (store / path("git-lfs", Oid.of(LARGE))).read_bytes() == LARGE


def test_copy_leaves_the_files_as_they_are(tmp_path: Path, store: Path) -> None:
    game = clone(tmp_path / "game", LARGE)
    file = game / ".git/lfs" / path("git-lfs", Oid.of(LARGE))
    before = file.stat()
    ran("import", "--copy", game, "--store", store)
    assert (file.stat().st_mode, file.stat().st_nlink) == (before.st_mode, 1)


def test_giftless_projects_become_repositories_of_the_server(tmp_path: Path, store: Path) -> None:
    for content in (LARGE, SMALL):
        put(tmp_path / "giftless" / path("giftless", Oid.of(content), "studio/game"), content)
    ran("import", tmp_path / "giftless", "--store", store)
    assert referred(store, "/studio/game") == oids(LARGE, SMALL)


def test_all_may_be_put_under_one_name(tmp_path: Path, store: Path) -> None:
    put(tmp_path / "lfs-objects" / path("gitlab", Oid.of(LARGE)), LARGE)
    clone(tmp_path / "game", SMALL)
    ran("import", tmp_path / "lfs-objects", tmp_path / "game", "--repo", "/studio/game", "--store", store)
    assert referred(store, "/studio/game") == oids(LARGE, SMALL)


def test_nothing_to_import_says_so(tmp_path: Path, store: Path) -> None:
    with connect(store) as client:
        client.call(lambda opened: opened.put(LARGE))
    status, _, err = forking.run(
        "forking:command", "import", str(tmp_path), "--store", str(store), seconds=30
    )
    assert (status, "nothing to import" in err) == (3, True), "there is only the store itself"
    (tmp_path / "empty").mkdir()
    status, _, err = forking.run(
        "forking:command", "import", str(tmp_path / "empty"), "--store", str(store), seconds=30
    )
    assert (status, err) == (
        3,
        f"lfsfs: nothing to import at {tmp_path}/empty: no clone, and no objects of Git LFS\n",
    )


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    game = clone(tmp_path / "game", LARGE, SMALL, LARGE + SMALL)
    point, status = 1, -9
    while status != 0:
        store = tmp_path / f"store{point}"
        with connect(store, create=True):
            pass
        command = ("import", str(game), "--store", str(store))
        status, _, _ = forking.killed_at(point, "forking:command", *command)
        ran("import", game, "--store", store)
        assert referred(store, "game") == oids(LARGE, SMALL, LARGE + SMALL)
        lfsfs("fsck", "--store", store)
        assert not list((store / "staging").glob("*/[0-9]*"))
        point += POINTS_APART
    assert point > 4 * POINTS_APART, "it was killed a few times at least"


@pytest.mark.slow
def test_on_a_file_system_with_reflinks_no_byte_is_stored_twice(tmp_path: Path) -> None:
    """In and out again, the blocks are shared; who writes to one of the files changes the others in nothing."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(320 << 20)
    system = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True, timeout=60, env=system)
    subprocess.run([*AS_ROOT, "mount", "-o", "loop", image, disk], check=True, timeout=60)
    try:
        subprocess.run([*AS_ROOT, "chown", str(os.geteuid()), disk], check=True, timeout=60)
        content = os.urandom(32 << 20)
        game = clone(disk / "game", content)
        ours = game / ".git/lfs" / path("git-lfs", Oid.of(content))
        with connect(disk / "store", create=True):
            pass
        os.sync()
        free = shutil.disk_usage(disk).free
        done, _ = ran("import", game, "--store", disk / "store")
        out, _ = ran("export", disk / "target", "--store", disk / "store")
        os.sync()
        assert done["shared"] == out["shared"] == {"objects": 1, "bytes": len(content)}
        assert free - shutil.disk_usage(disk).free < len(content) / 2
        with ours.open("r+b") as writer:
            writer.write(b"harm")
        stored = disk / "store" / path("git-lfs", Oid.of(content))
        with (disk / "target" / path("git-lfs", Oid.of(content))).open("r+b") as writer:
            writer.write(b"more harm")
        assert stored.read_bytes() == content
        assert len({file.stat().st_ino for file in (ours, stored)}) == 2
    finally:
        subprocess.run([*AS_ROOT, "umount", "-l", disk], check=True, timeout=60)


# Exporting.


@pytest.mark.parametrize("form", ["git-lfs", "gitlab", "gitea", "giftless"])
def test_a_store_comes_back_from_every_form_of_an_export(tmp_path: Path, store: Path, form: Form) -> None:
    with connect(store) as client:
        client.call(lambda opened: opened.add_repository("game"))
        for content in (LARGE, SMALL, b""):
            client.call(lambda opened, content=content: opened.put(content, repository="game"))  # type: ignore[misc]
    project = ("--repo", "game", "--project", "studio/game") if form == "giftless" else ()
    target = tmp_path / "target"
    done, _ = ran("export", target, "--layout", form, *project, "--store", store)
    assert done["written"] == {"objects": 3, "bytes": len(LARGE) + len(SMALL)}
    for content in (LARGE, SMALL, b""):
        assert (target / path(form, Oid.of(content), "studio/game")).read_bytes() == content
    assert not (target / WORK).exists()
    again, _ = ran("export", target, "--layout", form, *project, "--store", store)
    assert again["known"] == done["written"]
    with connect(tmp_path / "other", create=True):
        pass
    back, _ = ran("import", target, "--store", tmp_path / "other")
    assert back["new"] == done["written"]


def test_a_damaged_object_is_not_exported_and_the_others_are(tmp_path: Path, store: Path) -> None:
    with connect(store) as client:
        for content in (LARGE, SMALL):
            client.call(lambda opened, content=content: opened.put(content))  # type: ignore[misc]
    damaged = store / path("git-lfs", Oid.of(LARGE))
    damaged.chmod(0o644)
    damaged.write_bytes(LARGE[:-1] + b"!")
    done, _ = ran("export", tmp_path / "target", "--store", store, status=1)
    assert [failed["oid"] for failed in done["failed"]] == [Oid.of(LARGE)]  # type: ignore[attr-defined]
    assert [file.name for file in (tmp_path / "target").rglob("*") if file.is_file()] == [Oid.of(SMALL)]


@pytest.mark.parametrize("inside", ["", "objects", "deeper/down"])
def test_nothing_is_exported_into_the_store_itself(store: Path, inside: str) -> None:
    status, _, err = forking.run(
        "forking:command", "export", str(store / inside), "--store", str(store), seconds=30
    )
    assert status == 4
    assert "is in the store itself" in err


async def test_two_exports_into_one_folder_do_not_meet(tmp_path: Path, store: Path) -> None:
    async with open_store(store) as opened, open_directory(opened, tmp_path / "target"):
        with pytest.raises(InUse, match="another export"):
            async with open_directory(opened, tmp_path / "target"):
                raise AssertionError


async def test_what_ends_one_task_ends_all_and_is_raised_as_it_is() -> None:
    for error in (KeyboardInterrupt, LfsfsError):
        began: list[int] = []

        async def fail(error: type[BaseException] = error) -> None:
            raise error

        async def wait(began: list[int] = began) -> None:
            began.append(1)
            await trio.sleep_forever()

        with pytest.raises(error):
            async with crew(2) as workers:
                await workers.start(wait)
                await trio.testing.wait_all_tasks_blocked()
                await workers.start(fail)
        assert began == [1]
