"""attach and detach, with real git and git-lfs on a real mount."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
from gitlfs.mounted import LFSFS, Mount, lfsfs

from lfsfs import mounts
from lfsfs.errors import Exists, InvalidName, NotFound, Refused, Unavailable
from lfsfs.git.attach import attach, detach, find_mount
from lfsfs.oid import Oid

pytestmark = pytest.mark.mount

IDENTITY = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("attach")
    with Mount(folder) as mount:
        yield mount
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def only_this_mount(
    mount: Mount, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of mounts without those of others on this machine."""
    lines = mounts.MOUNTINFO.read_bytes().splitlines(keepends=True)
    ours = [line for line in lines if b"fuse.lfsfs" not in line or os.fsencode(mount.path) in line]
    listed = tmp_path_factory.mktemp("mountinfo") / "mountinfo"
    listed.write_bytes(b"".join(ours))
    monkeypatch.setattr(mounts, "MOUNTINFO", listed)


@pytest.fixture(autouse=True)
def git_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    git(home, "config", "--global", "init.defaultBranch", "main")
    git(home, "config", "--global", "protocol.file.allow", "always")
    git(home, "lfs", "install", "--skip-repo")


def git(where: Path, *arguments: str | Path) -> str:
    done = subprocess.run(["git", "-C", where, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def new_clone(path: Path) -> Path:
    """A repository that tracks *.bin."""
    path.mkdir(parents=True)
    git(path, "init", "-q")
    (path / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    return path


def commit(clone: Path, **files: bytes) -> dict[str, Oid]:
    for name, content in files.items():
        (clone / f"{name}.bin").write_bytes(content)
    git(clone, "add", ".")
    git(clone, "commit", "-qm", "files")
    return {name: Oid.of(content) for name, content in files.items()}


def fresh_checkout(clone: Path, name: str) -> bytes:
    (clone / f"{name}.bin").unlink()
    git(clone, "checkout", "--", f"{name}.bin")
    return (clone / f"{name}.bin").read_bytes()


def listed(root: Path) -> set[str]:
    return {file for _, _, files in os.walk(root / "objects") for file in files}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return new_clone(tmp_path / "game")


def storage(clone: Path) -> Path:
    return Path(git(clone, "config", "--local", "lfs.storage"))


def test_a_clone_gets_a_root_of_its_own_name_and_works_on_it(mount: Mount, clone: Path) -> None:
    done = attach(clone)
    assert (done.already, done.imported, done.corrupt) == (False, 0, ())
    assert done.root.parent == mount.path / "repos"
    assert done.root.name.startswith("game")
    assert storage(clone) == done.root
    oids = commit(clone, a=os.urandom(100_000))
    assert listed(done.root) == set(oids.values())
    assert not (clone / ".git/lfs/objects").exists()
    assert git(clone, "lfs", "fsck") == "Git LFS fsck OK"


def test_attaching_twice_changes_nothing_and_says_so(mount: Mount, clone: Path) -> None:
    first = attach(clone)
    config = (clone / ".git/config").read_bytes()
    roots = sorted(os.listdir(mount.path / "repos"))
    assert attach(clone).already
    assert attach(clone, name=first.root.name).root == first.root
    assert (clone / ".git/config").read_bytes() == config
    assert sorted(os.listdir(mount.path / "repos")) == roots
    with pytest.raises(Refused, match=f"attached as {first.root.name} already"):
        attach(clone, name="other")


def test_the_objects_that_a_clone_had_come_along_and_stay_where_they_were(clone: Path) -> None:
    contents = {"a": os.urandom(3_000_000), "b": b"small"}
    oids = commit(clone, **contents)
    seen: list[tuple[int, int]] = []
    done = attach(clone, progress=lambda at, total: seen.append((at, total)))
    assert (done.imported, done.reclaimable) == (2, 3_000_005)
    assert listed(done.root) == set(oids.values())
    assert seen == [(1, 2), (2, 2)]
    assert os.listdir(done.root / "tmp") == []
    assert all((done.own_storage / "objects" / oid.path()).exists() for oid in oids.values())
    shutil.rmtree(done.own_storage / "objects")
    assert fresh_checkout(clone, "a") == contents["a"]
    assert git(clone, "lfs", "fsck") == "Git LFS fsck OK"


def test_what_the_store_has_already_is_referred_to_without_a_copy(mount: Mount, tmp_path: Path) -> None:
    content = os.urandom(500_000)
    first, second = new_clone(tmp_path / "first"), new_clone(tmp_path / "second")
    attach(first)
    oid = commit(first, a=content)["a"]
    commit(second, a=content)
    before = (mount.store / "objects" / oid.path()).stat()
    done = attach(second)
    after = (mount.store / "objects" / oid.path()).stat()
    assert listed(done.root) == {oid}
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_on_isolated_roots_objects_come_along_too(
    tmp_path: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", Path("/proc/self/mountinfo"))
    other = new_clone(tmp_path / "other")
    oid = commit(clone, a=b"the same")["a"]
    commit(other, a=b"the same")
    with Mount(tmp_path / "own", "--sharing", "isolated") as own:
        roots = [attach(each, mountpoint=own.path).root for each in (clone, other)]
        assert [listed(root) for root in roots] == [{oid}, {oid}]
        detach(other)
        assert fresh_checkout(other, "a") == b"the same"
        assert listed(roots[0]) == {oid}


def test_a_corrupt_object_stays_behind_and_is_named(clone: Path) -> None:
    good, bad = commit(clone, good=b"good", bad=os.urandom(5000)).values()
    file = clone / ".git/lfs/objects" / bad.path()
    file.chmod(0o644)
    file.write_bytes(b"x" * 5000)
    (clone / ".git/lfs/objects" / good.path()).with_name("not-an-oid").write_bytes(b"")
    done = attach(clone)
    assert (done.imported, done.corrupt) == (1, (file,))
    assert listed(done.root) == {good}
    assert os.listdir(done.root / "tmp") == []


def test_clones_of_the_same_name_get_roots_of_their_own(mount: Mount, tmp_path: Path) -> None:
    roots = [attach(new_clone(tmp_path / place / "same")).root.name for place in ("x", "y", "z")]
    assert roots == ["same", "same-2", "same-3"]


def test_a_clone_that_was_removed_and_made_anew_gets_its_root_back(tmp_path: Path) -> None:
    first = attach(new_clone(tmp_path / "again"))
    shutil.rmtree(tmp_path / "again")
    assert attach(new_clone(tmp_path / "again")).root == first.root


def test_a_copy_of_an_attached_clone_gets_a_root_and_references_of_its_own(tmp_path: Path) -> None:
    original = new_clone(tmp_path / "original")
    first = attach(original)
    oid = commit(original, unpushed=b"not pushed")["unpushed"]
    shutil.copytree(original, tmp_path / "copy", symlinks=True)
    second = attach(tmp_path / "copy")
    assert not second.already
    assert second.root.name == "copy"
    assert listed(second.root) == listed(first.root) == {oid}
    detach(original)
    assert fresh_checkout(tmp_path / "copy", "unpushed") == b"not pushed"


def test_detaching_a_copy_leaves_the_root_to_the_original(tmp_path: Path) -> None:
    original = new_clone(tmp_path / "owner")
    root = attach(original).root
    oid = commit(original, a=b"content")["a"]
    shutil.copytree(original, tmp_path / "duplicate", symlinks=True)
    assert detach(tmp_path / "duplicate").copied == 1
    assert listed(root) == {oid}
    assert fresh_checkout(tmp_path / "duplicate", "a") == b"content"


def test_a_clone_that_was_moved_keeps_its_root(tmp_path: Path) -> None:
    first = attach(new_clone(tmp_path / "before"))
    (tmp_path / "before").rename(tmp_path / "after")
    assert (attach(tmp_path / "after").root, attach(tmp_path / "after").already) == (first.root, True)


def test_a_name_may_be_given_but_not_one_that_another_clone_has(mount: Mount, tmp_path: Path) -> None:
    one, two = new_clone(tmp_path / "one"), new_clone(tmp_path / "two")
    assert attach(one, name="chosen").root == mount.path / "repos" / "chosen"
    with pytest.raises(Exists, match=f"chosen belongs to the clone {one}/.git"):
        attach(two, name="chosen")
    shutil.rmtree(one)
    assert attach(two, name="chosen").root.name == "chosen"


def test_a_root_that_somebody_made_by_hand_may_be_named(mount: Mount, clone: Path) -> None:
    (mount.path / "repos" / "by-hand").mkdir()
    assert attach(clone, name="by-hand").root.name == "by-hand"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "x\ny", "n" * 256])
def test_a_name_that_repos_cannot_hold_is_refused_and_changes_nothing(clone: Path, name: str) -> None:
    with pytest.raises(InvalidName, match="not a repository name"):
        attach(clone, name=name)
    assert "lfs.storage" not in git(clone, "config", "--local", "--list")


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("..odd", "odd"),
        ("with space", "with-space"),
        ("née", "née"),
        ("---", "repository"),
        ("x" * 200, "x" * 100),
    ],
)
def test_the_name_of_any_directory_becomes_one_that_repos_can_hold(
    tmp_path: Path, directory: str, name: str
) -> None:
    assert attach(new_clone(tmp_path / directory)).root.name == name


def test_a_bare_repository_can_be_attached(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    done = attach(tmp_path / "origin.git")
    assert (done.root.name, storage(tmp_path / "origin.git")) == ("origin", done.root)
    assert done.own_storage == tmp_path / "origin.git" / "lfs"


def test_all_worktrees_of_a_repository_share_its_root(clone: Path, tmp_path: Path) -> None:
    content = os.urandom(1000)
    commit(clone, a=content)
    git(clone, "worktree", "add", "-q", "-b", "side", tmp_path / "side")
    done = attach(tmp_path / "side")
    assert done.root.name.startswith("game")
    assert done.imported == 1
    assert attach(clone).already
    assert fresh_checkout(tmp_path / "side", "a") == content


def test_a_submodule_is_a_repository_of_its_own(clone: Path, tmp_path: Path) -> None:
    inner = new_clone(tmp_path / "inner")
    commit(inner, i=b"inner")
    git(clone, "submodule", "add", "-q", inner, "sub")
    done = attach(clone / "sub")
    assert done.own_storage == clone / ".git/modules/sub/lfs"
    assert "lfs.storage" not in git(clone, "config", "--local", "--list")
    assert fresh_checkout(clone / "sub", "i") == b"inner"


def test_a_directory_below_the_work_tree_means_its_repository(clone: Path) -> None:
    (clone / "deep/er").mkdir(parents=True)
    assert attach(clone / "deep/er").root.name.startswith("game")


def test_from_a_hook_another_repository_can_be_attached(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new_clone(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(clone / ".git"))
    done = attach(other)
    monkeypatch.delenv("GIT_DIR")
    assert storage(other) == done.root
    assert "lfs.storage" not in git(clone, "config", "--local", "--list")


def test_storage_that_was_set_to_something_else_is_left_alone(clone: Path, tmp_path: Path) -> None:
    git(clone, "config", "lfs.storage", tmp_path / "elsewhere")
    for change in (attach, detach):
        with pytest.raises(Refused, match=str(tmp_path / "elsewhere")):
            change(clone)
    assert storage(clone) == tmp_path / "elsewhere"


def test_what_is_no_repository_is_said_in_the_words_of_git(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not a git repository"):
        attach(tmp_path)
    with pytest.raises(NotFound, match="is not a directory"):
        attach(tmp_path / "absent")


# Which mount.


def test_the_only_mount_is_found_and_one_can_be_named(mount: Mount, tmp_path: Path) -> None:
    assert find_mount(None).mountpoint == mount.path
    assert find_mount(mount.path).store == mount.store
    with pytest.raises(NotFound, match="no lfsfs mount at"):
        find_mount(tmp_path)


def test_of_several_mounts_one_must_be_named_and_of_none_one_be_made(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = mounts.MOUNTINFO.read_bytes()
    listed = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "MOUNTINFO", listed)
    listed.write_bytes(lines + b"999 1 0:99 / /mnt/other rw - fuse.lfsfs /srv/other rw\n")
    with pytest.raises(Refused, match=f"There are .*{mount.path}.*/mnt/other|/mnt/other.*{mount.path}"):
        find_mount(None)
    assert find_mount(mount.path).mountpoint == mount.path
    listed.write_bytes(b"22 27 0:21 / /proc rw,relatime - proc proc rw\n")
    with pytest.raises(NotFound, match="`lfsfs mount STORE MNT` first"):
        find_mount(None)


# detach.


def test_a_detached_clone_has_its_objects_again_and_its_root_is_gone(clone: Path) -> None:
    contents = {"a": os.urandom(2_500_000), "b": b"small"}
    root = attach(clone).root
    oids = commit(clone, **contents)
    done = detach(clone)
    assert (done.root, done.copied, done.copied_bytes) == (root, 2, 2_500_005)
    assert not root.exists()
    for name, oid in oids.items():
        assert (clone / ".git/lfs/objects" / oid.path()).read_bytes() == contents[name]
    config = git(clone, "config", "--local", "--list")
    assert "lfs.storage" not in config
    assert "lfsfs.name" not in config
    assert fresh_checkout(clone, "a") == contents["a"]
    assert git(clone, "lfs", "fsck") == "Git LFS fsck OK"
    assert detach(clone).root is None


def test_detaching_copies_only_what_is_missing(clone: Path) -> None:
    commit(clone, had=b"had before")
    attach(clone)
    commit(clone, new=b"since then")
    assert detach(clone).copied == 1


def test_a_detached_clone_can_be_attached_again(clone: Path) -> None:
    first = attach(clone).root
    oid = commit(clone, a=b"content")["a"]
    detach(clone)
    again = attach(clone)
    assert (again.root, again.imported) == (first, 1)
    assert listed(again.root) == {oid}


def test_detach_keep_changes_only_the_configuration(clone: Path) -> None:
    root = attach(clone).root
    oid = commit(clone, a=b"kept in the root")["a"]
    assert detach(clone, keep=True).copied == 0
    assert not (clone / ".git/lfs/objects").exists()
    assert listed(root) == {oid}


def test_detaching_costs_other_clones_nothing(mount: Mount, tmp_path: Path) -> None:
    one, two, content = new_clone(tmp_path / "leaves"), new_clone(tmp_path / "stays"), os.urandom(5000)
    for each in (one, two):
        attach(each)
        commit(each, a=content)
    detach(one)
    assert fresh_checkout(two, "a") == content


def test_without_the_mount_detach_brings_nothing_back_and_says_so(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = attach(clone).root
    empty = tmp_path / "mountinfo"
    empty.write_bytes(b"22 27 0:21 / /proc rw,relatime - proc proc rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", empty)
    with pytest.raises(Unavailable, match=r"is not mounted.*detach --keep"):
        detach(clone)
    assert storage(clone) == root
    detach(clone, keep=True)
    assert "lfs.storage" not in git(clone, "config", "--local", "--list")


# The command.


def test_the_commands_say_what_they_did(mount: Mount, clone: Path) -> None:
    def run(*arguments: str | Path) -> str:
        return subprocess.check_output([LFSFS, *arguments], cwd=clone, text=True)

    commit(clone, a=b"12345")
    said = run("attach", "--mount", mount.path, "--name", "told")
    assert said.splitlines() == [
        f"attached: lfs.storage is {mount.path}/repos/told",
        f"1 objects came along; to free 5 B, remove {clone}/.git/lfs/objects",
    ]
    assert run("attach", "--mount", mount.path).startswith("attached already: ")
    assert run("detach") == f"detached from {mount.path}/repos/told; 0 objects (0 B) copied\n"
    assert run("detach") == "not attached: nothing to do\n"


def test_the_name_is_kept_when_the_store_is_mounted_elsewhere(
    tmp_path: Path, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "MOUNTINFO", Path("/proc/self/mountinfo"))
    with Mount(tmp_path / "own") as own:
        attach(clone, name="wanders", mountpoint=own.path)
        oid = commit(clone, a=b"content")["a"]
        own.stop()
        moved = tmp_path / "own" / "moved"
        own.path.rename(moved)
        own.path = moved
        own.start()
        done = attach(clone, mountpoint=moved)
        assert (done.root, done.already) == (moved / "repos" / "wanders", False)
        assert listed(done.root) == {oid}
        assert fresh_checkout(clone, "a") == b"content"


# A tree of clones.


def test_all_clones_of_a_tree_are_attached_and_one_that_cannot_be_is_told(
    mount: Mount, tmp_path: Path
) -> None:
    one, two, odd = (new_clone(tmp_path / "tree" / name) for name in ("one", "deep/two", "odd"))
    for clone in (one, two, odd):
        commit(clone, a=os.urandom(1000))
    git(odd, "config", "lfs.storage", tmp_path / "elsewhere")
    plain = tmp_path / "tree" / "plain"
    plain.mkdir()
    git(plain, "init", "-q")
    status, out, err = forking.run(
        "forking:command", "attach", "--all", str(tmp_path / "tree"), "--mount", str(mount.path), seconds=60
    )
    assert status == 4, out + err
    assert str(odd) in err
    assert (storage(one).parent, storage(two).parent) == (mount.path / "repos", mount.path / "repos")
    assert storage(odd) == tmp_path / "elsewhere"
    assert "lfs.storage" not in git(plain, "config", "--local", "--list"), "it does not use Git LFS"
    again, _, _ = forking.run(
        "forking:command", "attach", "--all", str(one.parent / "deep"), "--mount", str(mount.path), seconds=60
    )
    assert again == 0


def test_a_clone_that_was_imported_is_attached_to_what_was_imported(mount: Mount, tmp_path: Path) -> None:
    clone = new_clone(tmp_path / "imported")
    oid = commit(clone, a=b"imported" * 20_000)["a"]
    lfsfs("import", clone, "--store", mount.store)
    root = mount.path / "repos" / clone.name
    assert listed(root) == {oid}
    assert attach(clone).root == root
    commit(other := new_clone(tmp_path / "other" / "imported"), b=b"imported too")
    lfsfs("import", other, "--store", mount.store)
    lfsfs("detach", "--forgotten", f"{clone.name}-2", "--store", mount.store)
    assert not (mount.path / "repos" / f"{clone.name}-2").exists()
