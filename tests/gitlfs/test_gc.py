"""`lfsfs gc` beside a mount that real clones use: what any of them needs stays, the rest goes and can come back."""

import json
import os
import random
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lfsfs.git import reading

from .bench import Clone, oid_of
from .mounted import LFSFS, Mount, lfsfs, within

pytestmark = [pytest.mark.mount, pytest.mark.timeout(240)]


def attached(mount: Mount, path: Path, env: dict[str, str], name: str) -> Clone:
    """A clone that tracks *.bin, attached as `name`."""
    path.mkdir()
    root = mount.path / "repos" / name
    clone = Clone(path, root, env)
    clone.git("init", "-q", "-b", "main")
    lfsfs("attach", path, "--mount", mount.path, "--name", name)
    clone.track()
    clone.commit({"base.bin": f"base of {name}".encode()})
    return clone


def everywhere(clone: Clone, tree: Path) -> dict[str, bytes]:
    """Puts content where only git knows of it: a branch, a stash, the reflog, the index, a worktree; by place."""
    contents = {
        place: f"{place} of {clone.root.name}".encode() * 100
        for place in ("branch", "reflog", "stash", "index", "worktree")
    }
    clone.git("checkout", "-q", "-b", "side")
    clone.commit({"a.bin": contents["branch"]})
    clone.git("checkout", "-q", "main")
    clone.commit({"a.bin": contents["reflog"]})
    clone.git("reset", "-q", "--hard", "HEAD~1")
    clone.write("base.bin", contents["stash"])
    clone.git("stash", "-q")
    clone.git("worktree", "add", "-q", "--detach", tree)
    Clone(tree, clone.root, clone.env).commit({"w.bin": contents["worktree"]})
    clone.write("i.bin", contents["index"])
    clone.git("add", "i.bin")
    return contents


def lost_references(clone: Clone) -> None:
    """Its root refers to nothing any more, as after a prune of all that was pushed."""
    shutil.rmtree(clone.root / "objects", ignore_errors=True)


def on_disk(mount: Mount) -> set[str]:
    return {file.name for file in (mount.store / "objects").rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.promise("13.8")
def test_gc_without_grace_keeps_what_any_clone_needs_and_frees_the_rest(
    own_mount: Mount, tmp_path: Path, git_env: dict[str, str]
) -> None:
    mount, store = own_mount, ("--store", str(own_mount.store))
    clones = [attached(mount, tmp_path / name, git_env, name) for name in ("game", "film")]
    needed: dict[str, bytes] = {}
    for clone in clones:
        for content in [*everywhere(clone, tmp_path / f"{clone.root.name}-tree").values()]:
            needed[oid_of(content)] = content
        base = f"base of {clone.root.name}".encode()
        needed[oid_of(base)] = base
    dead = [
        clones[0].write("b.bin", b"added and forgotten" * 1000),
        clones[1].write("c.bin", b"and this one"),
    ]
    for clone, name in zip(clones, ("b.bin", "c.bin"), strict=True):
        clone.git("add", name)
        clone.git("rm", "-q", "--cached", name)
        lost_references(clone)
    (mount.path / "incoming" / "named").write_bytes(b"named")
    named = oid_of(b"named")
    assert on_disk(mount) == {*needed, *dead, named}

    said = lfsfs("why", *store, oid_of(b"branch of game" * 100))
    assert said.startswith("refs/heads/side of game")
    assert said.rstrip().endswith(", a.bin")
    assert "nothing refers to 2 of" in lfsfs("gc", *store)
    assert on_disk(mount) == {*needed, *dead, named}
    lfsfs("gc", *store, "--yes", "--grace", "0")
    assert on_disk(mount) == {*needed, named}
    assert "in the trash since" in lfsfs("why", *store, dead[0])

    for clone in clones:
        clone.git("lfs", "fsck")
        clone.git("commit", "-qm", "what was in the index")
        assert clone.checked_out_afresh("i.bin") == needed[oid_of(clone.read("i.bin"))]
        clone.git("checkout", "-q", "side")
        assert oid_of(clone.checked_out_afresh("a.bin")) in needed
        clone.git("checkout", "-q", "main")
        clone.git("stash", "pop", "-q")
        assert oid_of(clone.checked_out_afresh("i.bin")) in needed
    back = mount.path / "objects" / dead[0][:2] / dead[0][2:4] / dead[0]
    assert not back.exists()
    assert f"brought back {dead[0]}" in lfsfs("undelete", *store, dead[0])
    assert within(1.0, back.exists), "6.5: what another process puts into the store shows within a second"
    assert back.read_bytes()[:5] == b"added"
    assert "1 objects left the trash" in lfsfs("vacuum", *store, "--trash-time", "0")
    assert on_disk(mount) == {*needed, named, dead[0]}

    shutil.rmtree(clones[1].path)
    command = [LFSFS, "gc", "--yes", "--grace", "0", *store]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 4
    assert "registered as film, is not there" in refused.stderr
    assert on_disk(mount) == {*needed, named, dead[0]}
    lfsfs("detach", "--forgotten", "film", *store)
    lfsfs("gc", *store, "--yes", "--grace", "0")
    assert on_disk(mount) == {oid for oid in needed if b"game" in needed[oid]} | {named}
    assert "film" not in os.listdir(mount.path / "repos")


def test_a_clone_on_the_mountpoint_itself_is_read_when_it_is_registered(
    own_mount: Mount, tmp_path: Path, git_env: dict[str, str]
) -> None:
    clone = Clone(tmp_path / "shared", own_mount.path, git_env)
    clone.path.mkdir()
    clone.git("init", "-q", "-b", "main")
    clone.config("lfs.storage", own_mount.path)
    clone.track()
    oid = clone.commit({"a.bin": b"in the shared root"})["a.bin"]
    assert "registered as shared" in lfsfs("attach", clone.path, "--register", "--mount", own_mount.path)
    assert clone.git("config", "lfs.storage").strip() == str(own_mount.path)
    lfsfs("gc", "--store", own_mount.store, "--yes", "--grace", "0")
    assert on_disk(own_mount) == {oid}
    lfsfs("detach", "--forgotten", "shared", "--store", own_mount.store)
    lfsfs("gc", "--store", own_mount.store, "--yes", "--grace", "0")
    assert on_disk(own_mount) == set()


SECONDS, CLONES = 8.0, 4


def busy(clone: Clone, number: int, until: float) -> None:
    """Adds, commits, forgets, stashes, prunes and checks out at random. Contents recur, in all clones."""
    chance = random.Random(number)
    while time.monotonic() < until:
        name, content = f"{chance.randrange(3)}.bin", b"content %d" % chance.randrange(12) * 50
        parent = "HEAD~1" if clone.run("rev-parse", "-q", "--verify", "HEAD~2").status == 0 else "HEAD"
        act = chance.choice(("commit", "commit", "add", "reset", "stash", "prune", "back"))
        if act in ("commit", "add"):
            clone.write(name, content)
            clone.git("add", "-A")
        if act == "commit":
            clone.git("commit", "-q", "--allow-empty", "-m", "x")
        elif act == "reset":
            clone.git("reset", "-q", "--hard", chance.choice(("HEAD", parent)))
        elif act == "stash":
            clone.run("stash", "-q")
        elif act == "prune":
            lost_references(
                clone
            )  # more than git-lfs ever drops: what only git knows of is what gc must find
            clone.git("reflog", "expire", "--expire=now", "--all")
        elif act == "back":
            clone.git("checkout", "-q", "-f", "-B", "main", chance.choice(("HEAD", parent)))


@pytest.mark.slow
@pytest.mark.promise("13.5")
def test_gc_without_grace_runs_beside_clones_that_add_forget_and_prune_and_costs_none_of_them_anything(
    own_mount: Mount, tmp_path: Path, git_env: dict[str, str]
) -> None:
    mount, store = own_mount, ("--store", str(own_mount.store))
    clones = [attached(mount, tmp_path / f"c{number}", git_env, f"c{number}") for number in range(CLONES)]
    for clone in clones:
        clone.commit({"0.bin": b"second commit"})
    until, taken = time.monotonic() + SECONDS, 0
    with ThreadPoolExecutor(CLONES) as pool:
        working = [pool.submit(busy, clone, number, until) for number, clone in enumerate(clones)]
        while time.monotonic() < until:
            done = json.loads(gc_beside(*store))
            taken += done["deleted"]["objects"]
        for one in working:
            one.result()
    for clone in clones:
        for found in reading.pointers(clone.path / ".git"):
            oid = found.pointer.oid
            content = (clone.root / "objects" / oid[:2] / oid[2:4] / oid).read_bytes()
            assert oid_of(content) == oid
        clone.git("checkout", "-q", "-f", "-B", "main", "HEAD")
        clone.git("lfs", "fsck")
    assert taken, "gc took something meanwhile"


def gc_beside(*store: str) -> str:
    """gc; a clone that is just being written to may not be readable: then nothing is deleted."""
    command = [LFSFS, "gc", "--yes", "--grace", "0", "--json", *store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 4:
        assert "cannot be read" in done.stderr
        return '{"deleted": {"objects": 0}}'
    assert done.returncode == 0, done.stderr
    return done.stdout
