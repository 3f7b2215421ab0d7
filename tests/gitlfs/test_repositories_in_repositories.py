"""Alternates, --reference, --shared, worktrees, submodules."""

import os

import pytest

from .bench import MIB, Bench, Clone, Native, flip_a_byte


def test_a_clone_with_reference_downloads_nothing(bench: Bench) -> None:
    remote, contents = bench.remote(), {"a.bin": bench.blob(2 * MIB), "b.bin": bench.blob()}
    colleague, oids = bench.upstream(contents, remote)
    clone = bench.clone(remote, "clone", "--reference", colleague.path)
    assert {name: clone.read(name) for name in contents} == contents
    assert clone.objects() == set(oids.values())
    assert [bench.server.downloads(oid) for oid in oids.values()] == [0, 0]
    assert clone.left_in("tmp") == []
    clone.git("lfs", "fsck")


def test_a_reference_on_the_same_storage_saves_the_download_too(bench: Bench) -> None:
    remote, content = bench.remote(), bench.blob(MIB)
    first = bench.init("first", remote=remote)
    oid = first.commit({"a.bin": content})["a.bin"]
    first.git("push", "-q", "origin", "main")
    second = bench.clone(remote, "second", "--reference", first.path)
    assert second.read("a.bin") == content
    assert bench.server.downloads(oid) == 0


def test_a_clone_with_shared_takes_its_objects_from_the_lender(bench: Bench) -> None:
    lender, content = bench.init("lender", storage=Native()), bench.blob(MIB)
    oid = lender.commit({"a.bin": content})["a.bin"]
    borrower = bench.clone(str(lender.path), "borrower", "--shared")
    assert borrower.read("a.bin") == content
    assert borrower.objects() == {oid}


def test_an_alternate_named_by_the_environment_is_used(bench: Bench) -> None:
    remote, content = bench.remote(), bench.blob()
    colleague, oids = bench.upstream({"a.bin": content}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    clone.env["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = str(colleague.path / ".git" / "objects")
    clone.git("lfs", "pull")
    assert clone.read("a.bin") == content
    assert bench.server.downloads(oids["a.bin"]) == 0


def test_losing_the_reference_afterwards_loses_no_object(bench: Bench) -> None:
    remote, content = bench.remote(), bench.blob(MIB)
    colleague, oids = bench.upstream({"a.bin": content}, remote)
    clone = bench.clone(remote, "clone", "--reference", colleague.path)
    colleague.object(oids["a.bin"]).unlink()
    assert clone.checked_out_afresh("a.bin") == content


def test_worktrees_share_the_storage_of_their_repository(bench: Bench) -> None:
    repo, base, side = bench.init("repo"), bench.blob(), bench.blob(MIB)
    repo.commit({"a.bin": base})
    repo.git("worktree", "add", "-q", "-b", "side", bench.folder / "wt")
    tree = Clone(bench.folder / "wt", repo.root, repo.env)
    assert tree.read("a.bin") == base
    oid = tree.commit({"a.bin": side})["a.bin"]
    assert oid in repo.objects()
    assert tree.status() == ""
    assert tree.checked_out_afresh("a.bin") == side
    assert f"LfsStorageDir={repo.root}" in tree.git("lfs", "env").splitlines()
    repo.git("merge", "-q", "side")
    assert repo.read("a.bin") == side
    tree.git("lfs", "fsck")


def test_a_worktree_reached_by_a_relative_storage_is_the_same(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob()
    repo.config("lfs.storage", os.path.relpath(repo.root, repo.path / ".git"))
    repo.commit({"a.bin": content})
    repo.git("worktree", "add", "-q", "-b", "side", bench.folder / "wt")
    tree = Clone(bench.folder / "wt", repo.root, repo.env)
    assert tree.read("a.bin") == content
    assert tree.checked_out_afresh("a.bin") == content


def test_a_submodule_has_its_files_and_a_storage_of_its_own(bench: Bench) -> None:
    inner_remote, outer_remote = bench.remote(name="inner"), bench.remote(name="outer")
    inner, outer = bench.blob(MIB), bench.blob()
    _, oids = bench.upstream({"i.bin": inner}, inner_remote)
    author = bench.init("author", remote=outer_remote)
    author.git("submodule", "add", "-q", inner_remote.url, "sub")
    author.commit({"o.bin": outer})
    assert author.read("sub/i.bin") == inner
    author.git("push", "-q", "origin", "main")

    clone = bench.clone(outer_remote, "clone")
    root = bench.storage.root(f"{bench.label}-sub")
    here = ["-c", f"lfs.storage={root}"] if root else []
    clone.git(*here, "submodule", "update", "-q", "--init")
    assert clone.read("sub/i.bin") == inner
    sub = Clone(clone.path / "sub", root or clone.path / ".git/modules/sub/lfs", clone.env)
    if root is not None:
        sub.config("lfs.storage", root)
    assert sub.objects() == {oids["i.bin"]}
    assert sub.checked_out_afresh("i.bin") == inner
    new = sub.commit({"i.bin": bench.blob()})["i.bin"]
    assert new in sub.objects()
    assert new not in clone.objects()


@pytest.mark.mount
def test_a_corrupt_alternate_is_not_taken_for_the_object(mounted_bench: Bench) -> None:
    bench, content = mounted_bench, mounted_bench.blob(MIB)
    remote = bench.remote()
    colleague, oids = bench.upstream({"a.bin": content}, remote)
    oid = oids["a.bin"]
    flip_a_byte(colleague.object(oid), 1234)
    clone = bench.clone(remote, "clone", "--reference", colleague.path)
    assert bench.server.downloads(oid) == 1
    assert clone.read("a.bin") == content
    assert clone.object(oid).read_bytes() == content
