"""The work tree's side: what is added, what status and diff say, what comes back."""

import os
import shutil

import pytest

from .bench import KIB, MIB, Bench, oid_of, pointer

AROUND_GIT_LFS_BUFFERS = [1, 2, 1023, 1024, 1025, 32 * KIB, 33 * KIB + 1, 128 * KIB]
AROUND_BLOCKS = [MIB - 1, MIB, MIB + 1, 5 * MIB + 3, 30 * MIB]


def test_added_and_committed_files_leave_status_clean_and_tmp_empty(bench: Bench) -> None:
    repo = bench.init("repo")
    oids = repo.commit({"a.bin": bench.blob(), "deep/er/b.bin": bench.blob(), "c.txt": b"plain\n"})
    assert repo.status() == ""
    assert repo.lfs_files() == ["a.bin", "deep/er/b.bin"]
    assert repo.objects() == {oids["a.bin"], oids["deep/er/b.bin"]}
    assert repo.left_in("tmp") == []
    size = len(repo.read("a.bin"))
    assert repo.git("show", "HEAD:a.bin") == pointer(oids["a.bin"], size)


def test_files_from_one_byte_to_30_mib_come_back_whole(bench: Bench) -> None:
    repo = bench.init("repo")
    files = {f"{size}.bin": bench.blob(size) for size in AROUND_GIT_LFS_BUFFERS + AROUND_BLOCKS}
    oids = repo.commit(files)
    assert repo.objects() == set(oids.values())
    for name, content in files.items():
        assert repo.object(oids[name]).stat().st_size == len(content)
        assert repo.object(oids[name]).read_bytes() == content
        assert repo.checked_out_afresh(name) == content
    assert repo.status() == ""


def test_the_empty_file_is_its_own_pointer_and_is_not_stored(bench: Bench) -> None:
    repo = bench.init("repo")
    repo.commit({"empty.bin": b""})
    assert repo.objects() == set()
    assert repo.checked_out_afresh("empty.bin") == b""
    assert repo.status() == ""


def test_status_after_a_touch_hashes_again_and_leaves_tmp_clean(bench: Bench) -> None:
    repo = bench.init("repo")
    oids = repo.commit({"a.bin": bench.blob(3 * MIB)})
    before = repo.object(oids["a.bin"]).stat()
    os.utime(repo.path / "a.bin", (1, 1))
    assert repo.status() == ""
    assert repo.left_in("tmp") == []
    after = repo.object(oids["a.bin"]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_same_content_under_two_names_is_one_object(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob()
    repo.commit({"a.bin": content})
    repo.commit({"b.bin": content, "c/d.bin": content})
    assert repo.objects() == {oid_of(content)}
    assert repo.left_in("tmp") == []


def test_diff_shows_the_pointers_old_and_new(bench: Bench) -> None:
    repo = bench.init("repo")
    old = repo.commit({"a.bin": bench.blob()})["a.bin"]
    new = repo.write("a.bin", bench.blob())
    assert repo.status() == " M a.bin\n"
    unstaged = repo.git("diff")
    assert f"-oid sha256:{old}" in unstaged
    assert f"+oid sha256:{new}" in unstaged
    repo.git("add", "a.bin")
    assert f"+oid sha256:{new}" in repo.git("diff", "--cached")
    said = repo.git("lfs", "status")
    assert f"a.bin (LFS: {old[:7]} -> LFS: {new[:7]})" in said


def test_a_modified_file_is_restored_by_checkout(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob()
    repo.commit({"a.bin": content})
    repo.write("a.bin", bench.blob())
    repo.git("checkout", "--", "a.bin")
    assert repo.read("a.bin") == content
    assert repo.status() == ""


def test_checkout_of_branches_and_old_commits_brings_their_content(bench: Bench) -> None:
    repo, first, second, third = bench.init("repo"), bench.blob(), bench.blob(2 * MIB), bench.blob()
    repo.commit({"a.bin": first})
    repo.git("checkout", "-q", "-b", "feature")
    repo.commit({"a.bin": second, "new.bin": third})
    repo.git("checkout", "-q", "main")
    assert repo.read("a.bin") == first
    assert not (repo.path / "new.bin").exists()
    repo.git("checkout", "-q", "feature")
    assert (repo.read("a.bin"), repo.read("new.bin")) == (second, third)
    repo.git("checkout", "-q", "feature~1")
    assert repo.read("a.bin") == first
    assert repo.status() == ""


def test_stash_reset_and_rebase_keep_every_content(bench: Bench) -> None:
    repo, base, stashed, main, topic = (bench.init("repo"), *(bench.blob() for _ in range(4)))
    repo.commit({"a.bin": base})
    repo.write("a.bin", stashed)
    repo.git("stash")
    assert repo.read("a.bin") == base
    repo.git("checkout", "-q", "-b", "topic")
    repo.commit({"t.bin": topic})
    repo.git("checkout", "-q", "main")
    repo.commit({"m.bin": main})
    repo.git("checkout", "-q", "topic")
    repo.git("rebase", "-q", "main")
    assert (repo.read("m.bin"), repo.read("t.bin")) == (main, topic)
    repo.git("stash", "pop")
    assert repo.read("a.bin") == stashed
    repo.git("reset", "-q", "--hard")
    assert repo.read("a.bin") == base
    assert repo.status() == ""


def test_a_merge_takes_both_sides_and_a_conflict_offers_each(bench: Bench) -> None:
    repo, base, ours, theirs = (bench.init("repo"), *(bench.blob() for _ in range(3)))
    repo.commit({"a.bin": base})
    repo.git("checkout", "-q", "-b", "theirs")
    repo.commit({"a.bin": theirs, "t.bin": theirs})
    repo.git("checkout", "-q", "main")
    repo.commit({"a.bin": ours, "o.bin": ours})
    repo.fails("merge", "-q", "theirs")
    assert (repo.read("t.bin"), repo.read("o.bin")) == (theirs, ours)
    for stage, content in {"base": base, "ours": ours, "theirs": theirs}.items():
        repo.git("lfs", "checkout", f"--{stage}", "--to", f"{stage}.out", "a.bin")
        assert repo.read(f"{stage}.out") == content


def test_the_merge_driver_merges_lines_of_text(bench: Bench) -> None:
    repo = bench.init("repo")
    driver = "git lfs merge-driver --ancestor %O --current %A --other %B --marker-size %L --output %A"
    repo.config("merge.lfs-text.driver", driver)
    repo.write(".gitattributes", b"*.csv filter=lfs diff=lfs merge=lfs-text -text\n")
    lines = [f"{bench.label}-{n}\n" for n in range(9)]
    repo.commit({"t.csv": "".join(lines).encode()})
    repo.git("checkout", "-q", "-b", "theirs")
    repo.commit({"t.csv": "".join(["first\n", *lines[1:]]).encode()})
    repo.git("checkout", "-q", "main")
    repo.commit({"t.csv": "".join([*lines[:-1], "last\n"]).encode()})
    repo.git("merge", "-q", "-m", "both", "theirs")
    merged = "".join(["first\n", *lines[1:-1], "last\n"]).encode()
    assert repo.read("t.csv") == merged
    assert repo.checked_out_afresh("t.csv") == merged
    assert repo.left_in("tmp") == []


def test_an_extension_cleans_and_smudges(bench: Bench) -> None:
    repo = bench.init("repo")
    repo.config("lfs.extension.turn.clean", "tr a-z b-za")
    repo.config("lfs.extension.turn.smudge", "tr b-za a-z")
    repo.config("lfs.extension.turn.priority", "0")
    plain = f"{bench.label.lower()} abcxyz\n".encode()
    turned = plain.translate(bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz", b"bcdefghijklmnopqrstuvwxyza"))
    repo.commit({"a.bin": plain})
    assert repo.objects() == {oid_of(turned)}
    assert f"ext-0-turn sha256:{oid_of(plain)}\n" in repo.git("show", "HEAD:a.bin")
    assert repo.checked_out_afresh("a.bin") == plain


def test_a_pointer_that_is_added_stays_that_pointer(bench: Bench) -> None:
    repo = bench.init("repo")
    content = bench.blob()
    text = pointer(repo.commit({"a.bin": content})["a.bin"], len(content))
    repo.commit({"b.bin": text.encode()})
    assert repo.git("show", "HEAD:b.bin") == text
    assert repo.checked_out_afresh("b.bin") == content


def test_the_filters_alone_clean_and_smudge(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob(MIB)
    cleaned = repo.run("lfs", "clean", "a.bin", stdin=content)
    assert cleaned.stdout == pointer(oid_of(content), MIB)
    assert repo.object(oid_of(content)).read_bytes() == content
    assert repo.run("lfs", "smudge", "a.bin", stdin=cleaned.stdout.encode()).output == content


def test_filters_without_the_long_running_process_work_too(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob(MIB + 7)
    without = bench.folder / "gitconfig"
    shutil.copy(repo.env["GIT_CONFIG_GLOBAL"], without)
    repo.env["GIT_CONFIG_GLOBAL"] = str(without)
    repo.git("config", "--global", "--unset", "filter.lfs.process")
    repo.commit({"a.bin": content})
    assert repo.checked_out_afresh("a.bin") == content


def test_untrack_takes_the_file_out_of_lfs_and_track_puts_it_back(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob()
    repo.commit({"a.bin": content})
    repo.git("lfs", "untrack", "*.bin")
    repo.git("add", "--renormalize", ".")
    repo.commit()
    assert repo.lfs_files() == []
    repo.track()
    repo.git("add", "--renormalize", ".")
    repo.commit()
    assert repo.lfs_files() == ["a.bin"]
    assert repo.checked_out_afresh("a.bin") == content


def test_lfs_env_names_the_storage(bench: Bench) -> None:
    repo = bench.init("repo")
    said = repo.git("lfs", "env").splitlines()
    assert f"LocalMediaDir={repo.root / 'objects'}" in said
    assert f"LfsStorageDir={repo.root}" in said
    assert f"TempDir={repo.root / 'tmp'}" in said


def test_an_exception_is_logged_and_the_logs_are_shown_and_cleared(bench: Bench) -> None:
    repo = bench.init("repo")
    repo.fails("lfs", "logs", "boomtown")
    names = repo.git("lfs", "logs").split()
    assert names == repo.left_in("logs")
    assert len(names) == 1
    assert "Sample panic message" in repo.git("lfs", "logs", "last")
    assert "Sample panic message" in repo.git("lfs", "logs", "show", names[0])
    repo.git("lfs", "logs", "clear")
    assert repo.left_in("logs") == []
    assert repo.git("lfs", "logs") == ""


@pytest.mark.parametrize("where", ["relative", "symlink"])
def test_a_storage_reached_by_a_relative_path_or_a_symlink_is_the_same(bench: Bench, where: str) -> None:
    repo, content = bench.init("repo"), bench.blob()
    target = bench.storage.root(f"{bench.label}-other") or bench.folder / "other"
    target.mkdir(exist_ok=True)
    repo.run("config", "--unset", "lfs.storage")
    if where == "relative":
        repo.config("lfs.storage", os.path.relpath(target, repo.path / ".git"))
    else:
        link = repo.path / ".git" / "lfs"
        shutil.rmtree(link, ignore_errors=True)
        link.symlink_to(target)
    repo.root = target
    oid = repo.commit({"a.bin": content})["a.bin"]
    assert repo.objects() == {oid}
    assert repo.checked_out_afresh("a.bin") == content
