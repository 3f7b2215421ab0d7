"""Repositories read with git: every pointer is found wherever git keeps it, and what cannot be read is an error."""

import json
import os
import shutil
import socket
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from recording import Reliability

from lfsfs import Oid, Pointer, open_store
from lfsfs.errors import InUse, NotFound
from lfsfs.git import clones, reading
from lfsfs.git.clones import Clones, registered
from lfsfs.git.reading import Unreadable
from lfsfs.git.roots import OWNER_FILE
from lfsfs.store.layout import Layout
from lfsfs.store.roots import RootUnreadable

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A"), ("EMAIL", "a@example.org"))
}


def git(where: Path, *arguments: str | Path, said: bytes = b"") -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(where), "GIT_CONFIG_NOSYSTEM": "1", **IDENTITY}
    done = subprocess.run(
        ["git", "-C", where, *arguments], input=said, capture_output=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def text_of(word: str) -> bytes:
    return Pointer(Oid.of(word.encode()), len(word)).encode()


def commit(clone: Path, word: str) -> str:
    (clone / "a.bin").write_bytes(text_of(word))
    git(clone, "add", "a.bin")
    git(clone, "commit", "-qm", word)
    return git(clone, "rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    path = tmp_path / "game"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    commit(path, "first")
    return path


def words_in(directory: Path, *words: str) -> set[str]:
    """Which of the words the pointers in a repository name."""
    names = {Oid.of(word.encode()): word for word in words}
    return {names[found.pointer.oid] for found in reading.pointers(directory) if found.pointer.oid in names}


@pytest.mark.promise("13.8")
def test_every_place_where_git_keeps_a_pointer_is_read(clone: Path, tmp_path: Path) -> None:
    places = ["first", "second"]
    commit(clone, "second")
    git(clone, "checkout", "-q", "-b", "side")
    commit(clone, "branch")
    git(clone, "checkout", "-q", "main")
    git(clone, "tag", "-am", "it", "it", commit(clone, "tag"))
    git(clone, "reset", "-q", "--hard", "HEAD~1")
    commit(clone, "reflog")
    git(clone, "commit", "-q", "--amend", "--allow-empty", "-m", "amended")
    git(clone, "reset", "-q", "--hard", "HEAD~1")
    for word in ("older stash", "stash"):
        (clone / "a.bin").write_bytes(text_of(word))
        git(clone, "stash", "-q")
    (clone / "untracked.bin").write_bytes(text_of("untracked in a stash"))
    git(clone, "stash", "-q", "-u")
    git(clone, "worktree", "add", "-q", "--detach", tmp_path / "tree")
    commit(tmp_path / "tree", "worktree")
    (tmp_path / "tree" / "b.bin").write_bytes(text_of("index of a worktree"))
    git(tmp_path / "tree", "add", "b.bin")
    (clone / "deep").mkdir()
    (clone / "deep" / "c.bin").write_bytes(text_of("index"))
    git(clone, "add", "deep")
    detached = git(clone, "commit-tree", "-m", "x", git(clone, "write-tree", "--prefix=deep"))
    (clone / ".git" / "MERGE_HEAD").write_text(f"{detached}\n")
    blob = git(clone, "hash-object", "-w", "--stdin", said=text_of("replaced"))
    git(clone, "update-ref", "refs/odd/blob", blob)
    git(clone, "replace", blob, git(clone, "hash-object", "-w", "--stdin", said=text_of("in its place")))
    loose = text_of("not canonical").replace(b"\n", b"\r\n")
    git(clone, "update-ref", "refs/odd/crlf", git(clone, "hash-object", "-w", "--stdin", said=loose))
    git(clone, "hash-object", "-w", "--stdin", said=text_of("nothing leads to it"))
    places += ["branch", "tag", "reflog", "older stash", "stash", "untracked in a stash", "worktree"]
    places += ["index of a worktree", "index", "replaced", "in its place", "not canonical"]
    assert words_in(clone / ".git", *places, "nothing leads to it") == set(places)
    git(clone, "gc", "-q", "--prune=now")
    assert words_in(clone / ".git", *places) == set(places)
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", clone, bare)
    assert words_in(bare, *places) == {"first", "second", "branch", "tag"}


def test_an_empty_repository_has_no_pointers(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert list(reading.pointers(tmp_path / ".git")) == []


@pytest.mark.promise("13.3")
@pytest.mark.parametrize("kind", ["commit", "tree", "blob"])
def test_a_repository_that_lacks_an_object_is_no_root_to_rely_on(clone: Path, kind: str) -> None:
    commit(clone, "second")
    git(clone, "repack", "-q", "-a", "-d")  # what is lost now is the only copy
    git(clone, "unpack-objects", "-q", said=_unpacked(clone))
    gone = git(
        clone, "rev-parse", {"commit": "HEAD~1", "tree": "HEAD~1^{tree}", "blob": "HEAD~1:a.bin"}[kind]
    )
    (clone / ".git" / "objects" / gone[:2] / gone[2:]).unlink()
    with pytest.raises(Unreadable):
        list(reading.pointers(clone / ".git"))


def _unpacked(clone: Path) -> bytes:
    """Moves the pack out of the repository; its bytes."""
    packs = clone / ".git" / "objects" / "pack"
    content = next(packs.glob("*.pack")).read_bytes()
    shutil.rmtree(packs)
    return content


def test_a_partial_clone_is_read_as_far_as_it_is_here_and_fetches_nothing(
    clone: Path, tmp_path: Path
) -> None:
    commit(clone, "second")
    git(clone, "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{clone}", partial)
    before = sorted(os.listdir(partial / ".git" / "objects" / "pack"))
    assert words_in(partial / ".git", "first", "second") == {"second"}
    assert sorted(os.listdir(partial / ".git" / "objects" / "pack")) == before


def test_why_says_ref_commit_and_path_or_the_index(clone: Path) -> None:
    (clone / "films").mkdir()
    (clone / "films" / "a b.mov").write_bytes(text_of("film"))
    git(clone, "add", ".")
    layout = Layout(clone, "")
    one = clones.Registered("game", socket.gethostname(), clone / ".git")
    oid = Oid.of(b"film")
    assert clones.why([one], oid) == [f"the index of game ({clone / '.git'}), films/a b.mov"]
    git(clone, "commit", "-qm", "film")
    head = git(clone, "rev-parse", "HEAD")
    assert clones.why([one], oid) == [
        f"refs/heads/main of game ({clone / '.git'}), commit {head[:12]}, films/a b.mov"
    ]
    assert clones.why([one], Oid.of(b"nothing")) == []
    assert layout.path == clone


@pytest.mark.slow
def test_a_repository_of_many_blobs_takes_little_memory(
    tmp_path: Path, full_size: bool, reliability: Reliability
) -> None:
    count = 1_000_000 if full_size else 20_000
    git(tmp_path, "init", "-q", "-b", "main")
    with subprocess.Popen(["git", "-C", tmp_path, "fast-import", "--quiet"], stdin=subprocess.PIPE) as taking:
        assert taking.stdin is not None
        taking.stdin.write(b"commit refs/heads/main\ncommitter A <a@example.org> 1 +0000\ndata 1\nx\n")
        for number in range(count):
            text = text_of(f"{number}")
            name = b"%d/%d/%d.bin" % (number % 10, number // 10 % 100, number)
            taking.stdin.write(b"M 644 inline %s\ndata %d\n%s\n" % (name, len(text), text))
    assert taking.returncode == 0
    tracemalloc.start()
    try:
        assert sum(1 for _ in reading.pointers(tmp_path / ".git")) == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20, f"{peak} bytes for {count} blobs"
    reliability(
        "A git repository of many LFS pointers, read for what it refers to",
        f"{count:,} blobs",
        f"each found; at most {peak >> 10:,} KiB of memory",
    )


# The clones that are registered with a store.


async def registered_in(tmp_path: Path, name: str, directory: Path, host: str = "") -> Layout:
    async with open_store(tmp_path / "store", create=True) as store:
        await store.add_repository(name)
        file = store.layout.workspace(name) / OWNER_FILE
        file.parent.mkdir()
        file.write_text(json.dumps({"host": host or socket.gethostname(), "directory": str(directory)}))
        return store.layout


async def struck(layout: Layout, *words: str) -> set[str]:
    candidates = {Oid.of(word.encode()).to_bytes() for word in words}
    await Clones(registered(layout)).strike(candidates)
    return {word for word in words if Oid.of(word.encode()).to_bytes() in candidates}


@pytest.mark.promise("13.3")
async def test_a_registered_clone_is_read_and_one_that_cannot_be_is_named(
    clone: Path, tmp_path: Path
) -> None:
    layout = await registered_in(tmp_path, "game", clone / ".git")
    assert await struck(layout, "first", "other") == {"other"}
    with pytest.raises(NotFound):
        clones.forgotten(layout, "other")
    (clone / ".git" / "refs" / "heads" / "broken").write_text("f" * 40 + "\n")
    with pytest.raises(RootUnreadable, match=r"registered as game, cannot be read.*--forgotten game"):
        await struck(layout, "other")
    shutil.rmtree(clone)
    with pytest.raises(RootUnreadable, match=r"registered as game, is not there.*--forgotten game"):
        await struck(layout, "other")
    assert clones.forgotten(layout, "game").name == "game"


@pytest.mark.promise("13.3")
async def test_a_clone_on_another_host_cannot_be_read(clone: Path, tmp_path: Path) -> None:
    layout = await registered_in(tmp_path, "game", clone / ".git", host="elsewhere.example.org")
    with pytest.raises(RootUnreadable, match=r"on the host elsewhere\.example\.org"):
        await struck(layout)
    (layout.workspace("game") / OWNER_FILE).write_text("{")
    with pytest.raises(RootUnreadable, match="is damaged"):
        registered(layout)


async def test_a_clone_that_uses_its_root_is_not_forgotten(clone: Path, tmp_path: Path) -> None:
    layout = await registered_in(tmp_path, "game", clone / ".git")
    git(clone, "config", "lfs.storage", "/mnt/lfs/repos/game")
    with pytest.raises(InUse, match="lfsfs detach"):
        clones.forgotten(layout, "game")
