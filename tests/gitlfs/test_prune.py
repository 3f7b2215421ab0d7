"""`git lfs prune` in one clone, and what it must never cost another."""

import pytest

from .bench import KIB, MIB, Bench, Clone, pointer


def pushed_twice(bench: Bench, clone: Clone) -> tuple[str, str, bytes]:
    """Pushes two versions of a.bin: the old oid, which prune may take, the new one, and the old content."""
    old_content = bench.blob(MIB)
    old = clone.commit({"a.bin": old_content})["a.bin"]
    new = clone.commit({"a.bin": bench.blob()})["a.bin"]
    clone.git("push", "-q", "-u", "origin", "main")
    return old, new, old_content


def test_prune_removes_what_is_pushed_and_old_and_keeps_the_rest(bench: Bench) -> None:
    repo = bench.init("repo", remote=bench.remote())
    old, new, _ = pushed_twice(bench, repo)
    unpushed = repo.commit({"u.bin": bench.blob()})["u.bin"]
    newer = repo.commit({"u.bin": bench.blob()})["u.bin"]
    assert old in repo.git("lfs", "prune", "--dry-run", "--verbose")
    assert repo.objects() == {old, new, unpushed, newer}
    repo.git("lfs", "prune")
    assert repo.objects() == {new, unpushed, newer}
    assert not (repo.root / "bad" / old).exists()
    repo.git("lfs", "prune")
    assert repo.objects() == {new, unpushed, newer}


@pytest.mark.parametrize("flags", [["--verify-remote"], ["--force"], ["--recent"]])
def test_prune_takes_its_flags(bench: Bench, flags: list[str]) -> None:
    repo = bench.init("repo", remote=bench.remote())
    old, new, _ = pushed_twice(bench, repo)
    repo.git("lfs", "prune", *flags)
    assert old not in repo.objects()
    assert (new in repo.objects()) is (flags != ["--force"])


def test_verify_remote_halts_a_prune_of_what_the_server_has_lost(bench: Bench) -> None:
    remote = bench.remote()
    repo = bench.init("repo", remote=remote)
    old, new, _ = pushed_twice(bench, repo)
    del bench.server.repository(remote.name).objects[old]
    assert old in repo.fails("lfs", "prune", "--verify-remote")
    assert repo.objects() == {old, new}


def test_a_pruned_object_comes_back_when_its_commit_is_checked_out(bench: Bench) -> None:
    repo = bench.init("repo", remote=bench.remote())
    old, _, content = pushed_twice(bench, repo)
    repo.git("lfs", "prune")
    repo.git("checkout", "-q", "HEAD~1")
    assert repo.read("a.bin") == content
    assert old in repo.objects()
    assert bench.server.downloads(old) == (0 if bench.shares else 1)


@pytest.mark.promise("4.2")
def test_prune_in_one_clone_costs_the_others_nothing_unpushed_objects_included(bench: Bench) -> None:
    remote = bench.remote()
    first = bench.init("first", remote=remote)
    old, _, content = pushed_twice(bench, first)
    second = bench.clone(remote, "second")
    second.git("lfs", "fetch", "--all")
    only_here = bench.blob(2 * MIB)
    unpushed = second.commit({"only-here.bin": only_here})["only-here.bin"]
    staged_only = bench.blob(33 * KIB)
    second.write("staged.bin", staged_only)
    second.git("add", "staged.bin")
    before = second.objects()

    first.git("lfs", "prune")
    first.git("lfs", "prune", "--force")

    assert old not in first.objects()
    assert second.objects() == before
    assert {old, unpushed} <= before
    assert second.checked_out_afresh("only-here.bin") == only_here
    assert second.checked_out_afresh("staged.bin") == staged_only
    second.git("lfs", "fsck")
    downloads = bench.server.downloads(old)
    second.git("checkout", "-q", "origin/main~1")
    assert second.read("a.bin") == content
    assert bench.server.downloads(old) == downloads
    second.git("checkout", "-q", "main")
    second.git("push", "-q")
    assert unpushed in bench.on_server(remote)


@pytest.mark.promise("4.2")
def test_prune_in_every_clone_but_the_author_keeps_what_only_the_author_needs(bench: Bench) -> None:
    remote, content = bench.remote(), bench.blob(MIB)
    author = bench.init("author", remote=remote)
    author.commit({"base.bin": bench.blob()})
    author.git("push", "-q", "-u", "origin", "main")
    others = [bench.clone(remote, f"other-{n}") for n in range(3)]
    mine = author.commit({"mine.bin": content})["mine.bin"]
    for other in others:
        _ = [other.commit({"same.bin": content}), other.git("reset", "-q", "--hard", "origin/main")]
        assert mine in other.objects()
        other.git("reflog", "expire", "--expire=now", "--all")
        other.git("lfs", "prune")
        assert mine not in other.objects()
    assert author.objects() >= {mine}
    assert author.checked_out_afresh("mine.bin") == content


def test_prune_keeps_the_stash_and_the_other_worktree(bench: Bench) -> None:
    repo, stashed, on_branch = bench.init("repo", remote=bench.remote()), bench.blob(), bench.blob()
    old, _, _ = pushed_twice(bench, repo)
    repo.git("worktree", "add", "-q", bench.folder / "wt", "-b", "side")
    tree = Clone(bench.folder / "wt", repo.root, repo.env)
    in_tree = tree.commit({"w.bin": on_branch})["w.bin"]
    stash = repo.write("a.bin", stashed)
    repo.git("stash")
    repo.git("lfs", "prune")
    assert {stash, in_tree} <= repo.objects()
    assert old not in repo.objects()
    repo.git("stash", "pop")
    assert repo.read("a.bin") == stashed
    assert tree.checked_out_afresh("w.bin") == on_branch


@pytest.mark.promise("4.5")
def test_a_pointer_with_a_wrong_size_costs_the_other_clones_nothing(bench: Bench) -> None:
    remote, content = bench.remote(), bench.blob(MIB)
    first = bench.init("first", remote=remote)
    oid = first.commit({"a.bin": content})["a.bin"]
    first.git("push", "-q", "-u", "origin", "main")
    second = bench.clone(remote, "second")
    wrong = bench.clone(remote, "wrong")
    wrong.commit({"a.bin": pointer(oid, len(content) + 1).encode()})
    (wrong.path / "a.bin").unlink()
    wrong.fails("checkout", "--", "a.bin")  # git-lfs has deleted the object by now, to fetch it afresh
    for clone in (first, second):
        assert oid in clone.objects()
        assert clone.object(oid).stat().st_size == len(content)
        assert clone.checked_out_afresh("a.bin") == content
        clone.git("lfs", "fsck")
    wrong.git("reset", "-q", "--hard", "origin/main")
    assert wrong.read("a.bin") == content
