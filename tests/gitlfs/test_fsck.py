"""`git lfs fsck`, corruption at rest, and what cannot be done to an object that is whole."""

import errno
import os
import subprocess

import pytest

from .bench import MIB, Bench, Clone, flip_a_byte, pointer
from .mounted import LFSFS, Mount, within


def damaged(bench: Bench, clone: Clone, oid: str, at: int = 0) -> None:
    """Flips a byte of an object on the disk."""
    with bench.storage.at_rest():
        flip_a_byte(bench.storage.bytes_of(clone, oid), at)


def test_fsck_of_whole_objects_is_ok_and_changes_nothing(bench: Bench) -> None:
    repo = bench.init("repo")
    repo.commit({"a.bin": bench.blob(3 * MIB), "b.bin": bench.blob()})
    before = repo.objects()
    for flags in ([], ["--objects"], ["--pointers"], ["--dry-run"], ["HEAD"]):
        assert "OK" in repo.git("lfs", "fsck", *flags)
    assert repo.objects() == before
    assert repo.left_in("bad") == []


def test_fsck_names_the_object_that_is_missing(bench: Bench) -> None:
    remote = bench.remote()
    _, oids = bench.upstream({"a.bin": bench.blob()}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    said = clone.fails("lfs", "fsck")
    assert oids["a.bin"] in said
    assert "a.bin" in said


def test_fsck_names_a_pointer_that_is_not_canonical(bench: Bench) -> None:
    repo = bench.init("repo")
    oid = repo.commit({"a.bin": bench.blob()})["a.bin"]
    text = pointer(oid, len(repo.read("a.bin"))).replace("\n", "\r\n").encode()
    repo.write("a.bin", text)
    blob = repo.git("hash-object", "-w", "--no-filters", "a.bin").strip()
    repo.git("update-index", "--cacheinfo", f"100644,{blob},a.bin")
    repo.git("commit", "-q", "-m", "not canonical")
    assert "nonCanonicalPointer" in repo.fails("lfs", "fsck", "--pointers")


@pytest.mark.promise("9.3")
@pytest.mark.parametrize("at", [0, MIB + 17, 3 * MIB - 1])
def test_fsck_finds_a_corrupt_object_moves_it_to_bad_and_a_pull_heals(bench: Bench, at: int) -> None:
    remote, content = bench.remote(), bench.blob(3 * MIB)
    _, oids = bench.upstream({"a.bin": content, "b.bin": bench.blob()}, remote)
    oid = oids["a.bin"]
    clone = bench.clone(remote, "clone")
    damaged(bench, clone, oid, at)
    (clone.path / "a.bin").unlink()  # git, told that the object cannot be read, may bring it from there
    if bench.shares:
        # A read error is where git-lfs stops. What it has shown to be corrupt cannot be opened again.
        clone.fails("lfs", "fsck")
    said = clone.fails("lfs", "fsck")
    assert "a.bin" in said or oid in said
    assert clone.left_in("bad") == [oid]
    assert clone.objects() == {oids["b.bin"]}
    clone.git("lfs", "fetch")
    clone.git("checkout", "--", "a.bin")
    assert clone.read("a.bin") == content
    assert "OK" in clone.git("lfs", "fsck")


@pytest.mark.promise("4.5")
def test_a_fsck_in_a_third_clone_costs_the_others_nothing(bench: Bench) -> None:
    remote = bench.remote()
    contents = {"a.bin": bench.blob(MIB), "b.bin": bench.blob()}
    bench.upstream(contents, remote)
    first, second, third = (bench.clone(remote, name) for name in ("first", "second", "third"))
    unpushed = bench.blob(2 * MIB)
    first.commit({"mine.bin": unpushed})
    third.commit({"gone.bin": pointer("ab" * 32, 5).encode()})
    third.fails("lfs", "fsck")
    third.git("reset", "-q", "--hard", "HEAD~1")
    third.git("lfs", "fsck")
    for clone in (first, second):
        clone.git("lfs", "fsck")
        assert {name: clone.checked_out_afresh(name) for name in contents} == contents
    assert first.checked_out_afresh("mine.bin") == unpushed


@pytest.mark.mount
class TestOnAMount:
    """What a mount does that a plain directory cannot."""

    @pytest.fixture
    def bench(self, mounted_bench: Bench) -> Bench:
        return mounted_bench

    @pytest.mark.promise("4.5")
    def test_a_whole_object_cannot_be_moved_to_bad(self, bench: Bench) -> None:
        repo, content = bench.init("repo"), bench.blob(MIB)
        oid = repo.commit({"a.bin": content})["a.bin"]
        with pytest.raises(OSError) as refusal:
            os.rename(repo.object(oid), repo.root / "bad" / oid)
        assert refusal.value.errno == errno.EPERM
        assert repo.objects() == {oid}
        assert repo.checked_out_afresh("a.bin") == content

    def test_a_whole_object_cannot_be_changed_in_place(self, bench: Bench) -> None:
        repo, content = bench.init("repo"), bench.blob(MIB)
        oid = repo.commit({"a.bin": content})["a.bin"]
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            with pytest.raises(OSError) as refusal:
                os.close(os.open(repo.object(oid), flags))
            assert refusal.value.errno in (errno.EPERM, errno.EACCES, errno.EROFS)
        with pytest.raises(OSError):
            os.truncate(repo.object(oid), 5)
        assert repo.object(oid).read_bytes() == content

    @pytest.mark.promise("9.3")
    def test_a_corrupt_object_is_never_checked_out(self, bench: Bench) -> None:
        repo, content = bench.init("repo"), bench.blob(3 * MIB)
        oid = repo.commit({"a.bin": content})["a.bin"]
        damaged(bench, repo, oid, 2 * MIB + 5)
        (repo.path / "a.bin").unlink()
        repo.run("checkout", "--", "a.bin")
        assert not (repo.path / "a.bin").exists() or content.startswith(repo.read("a.bin"))
        with pytest.raises(OSError) as failure:
            repo.object(oid).read_bytes()
        assert failure.value.errno in (errno.EIO, errno.ENOENT)  # ENOENT once it is known: git-lfs fetches it

    def test_adding_the_content_again_heals_a_corrupt_object(self, bench: Bench) -> None:
        repo, content = bench.init("repo"), bench.blob(MIB)
        oid = repo.commit({"a.bin": content})["a.bin"]
        damaged(bench, repo, oid)
        repo.fails("lfs", "fsck")
        repo.write("a.bin", content)
        repo.git("add", "--renormalize", "a.bin")
        assert repo.object(oid).read_bytes() == content
        assert "OK" in repo.git("lfs", "fsck")

    def test_one_clone_that_heals_an_object_heals_it_for_all(self, bench: Bench, mount: Mount) -> None:
        remote, content = bench.remote(), bench.blob(MIB)
        _, oids = bench.upstream({"a.bin": content}, remote)
        first, second = bench.clone(remote, "first"), bench.clone(remote, "second")
        damaged(bench, first, oids["a.bin"])
        (first.path / "a.bin").unlink()
        first.fails("lfs", "fsck")
        first.git("lfs", "fetch")
        assert second.checked_out_afresh("a.bin") == content
        assert "OK" in second.git("lfs", "fsck")
        assert bench.storage.bytes_of(second, oids["a.bin"]).read_bytes() == content

    @pytest.mark.promise("9.8")
    def test_what_verify_found_beside_the_mount_heals_by_adding_it_again(
        self, bench: Bench, mount: Mount
    ) -> None:
        repo, content = bench.init("repo"), bench.blob(MIB)
        oid = repo.commit({"a.bin": content})["a.bin"]
        assert repo.object(oid).read_bytes() == content, "the kernel knows it, and has its pages"
        flip_a_byte(bench.storage.bytes_of(repo, oid))
        found = subprocess.run([LFSFS, "verify", oid, "--store", mount.store], check=False, timeout=60)
        assert found.returncode == 1
        assert within(5, lambda: not repo.object(oid).exists()), "the kernel has not learnt of it"
        repo.write("a.bin", content)
        repo.git("add", "--renormalize", "a.bin")
        assert repo.object(oid).read_bytes() == content
        assert "OK" in repo.git("lfs", "fsck")
