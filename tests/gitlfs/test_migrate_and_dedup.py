"""The two commands that cannot work across file systems, and the way round the first."""

import os
import shutil

import pytest

from .bench import MIB, Bench, Clone, OnMount, oid_of, oids_in
from .mounted import lfsfs

IMPORT = ["lfs", "migrate", "import", "--everything", "--include=*.bin", "--yes"]


def plain_history(bench: Bench) -> tuple[Clone, list[bytes]]:
    """A repository that never tracked anything, with two versions of a.bin."""
    repo = bench.init("repo")
    repo.git("rm", "-q", "--cached", ".gitattributes")
    (repo.path / ".gitattributes").unlink()
    contents = [bench.blob(MIB), bench.blob()]
    for content in contents:
        repo.commit({"a.bin": content})
    return repo, contents


def test_migrate_import_works_on_a_native_storage_that_is_moved_over_afterwards(bench: Bench) -> None:
    repo, contents = plain_history(bench)
    oids = {oid_of(content) for content in contents}
    repo.git("-c", "lfs.storage=lfs", *IMPORT)
    native = repo.path / ".git" / "lfs" / "objects"
    assert oids_in(native) == oids
    if bench.shares:
        for oid in oids:
            moved(repo, native, oid)
        shutil.rmtree(native)
    assert repo.objects() == oids
    assert repo.checked_out_afresh("a.bin") == contents[1]
    repo.git("checkout", "-q", "HEAD~1")
    assert repo.read("a.bin") == contents[0]
    repo.git("lfs", "fsck")


def moved(repo: Clone, native: os.PathLike[str], oid: str) -> None:
    """Copies one object into the storage the way git-lfs does: through tmp/, then a rename."""
    temp = repo.root / "tmp" / f"{oid}-moved"
    shutil.copyfile(os.path.join(native, oid[:2], oid[2:4], oid), temp)
    os.rename(temp, repo.object(oid))


def test_migrate_info_and_export_of_nothing_change_nothing(bench: Bench) -> None:
    repo, _ = plain_history(bench)
    head = repo.git("rev-parse", "HEAD")
    assert "*.bin" in repo.git("lfs", "migrate", "info", "--everything")
    assert repo.git("rev-parse", "HEAD") == head


@pytest.mark.mount
class TestOnAMount:
    """Where they fail, and what they leave as it was."""

    @pytest.fixture
    def bench(self, mounted_bench: Bench) -> Bench:
        return mounted_bench

    def test_migrate_import_fails_across_devices_and_changes_nothing(self, bench: Bench) -> None:
        repo, contents = plain_history(bench)
        head = repo.git("rev-parse", "HEAD")
        assert "invalid cross-device link" in repo.fails(*IMPORT)
        assert repo.git("rev-parse", "HEAD") == head
        assert repo.status() == ""
        assert repo.read("a.bin") == contents[1]
        repo.git("fsck", "--strict")

    def test_dedup_refuses_and_leaves_the_work_tree_alone(self, bench: Bench) -> None:
        repo, content = bench.init("repo"), bench.blob(MIB)
        repo.commit({"a.bin": content})
        repo.fails("lfs", "dedup", "--test")
        repo.run("lfs", "dedup")
        repo.git("checkout", "--", ".")  # what the README says to do after a dedup
        assert repo.read("a.bin") == content
        assert repo.status() == ""

    def test_attach_takes_over_a_repository_that_was_native(self, bench: Bench) -> None:
        assert isinstance(bench.storage, OnMount)
        repo, contents = plain_history(bench)
        repo.run("config", "--unset", "lfs.storage")
        repo.git(*IMPORT)
        lfsfs("attach", repo.path, "--name", f"{bench.label}-attached", "--mount", bench.storage.mount.path)
        attached = Clone(repo.path, bench.storage.mount.path / "repos" / f"{bench.label}-attached", repo.env)
        assert repo.git("config", "lfs.storage").strip() == str(attached.root)
        assert attached.objects() == {oid_of(content) for content in contents}
        assert attached.checked_out_afresh("a.bin") == contents[1]
        attached.git("lfs", "fsck")
