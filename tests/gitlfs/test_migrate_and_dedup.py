"""The two commands that cannot work across file systems, and the way round the first."""

import shutil
from pathlib import Path

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

    def test_a_detached_clone_migrates_and_brings_its_objects_along_when_it_is_attached_again(
        self, bench: Bench
    ) -> None:
        repo, contents = plain_history(bench)
        repo.git("config", "--unset", "lfs.storage")
        attached = self.attach(bench, repo)
        lfsfs("detach", repo.path)
        repo.git(*IMPORT)
        oids = {oid_of(content) for content in contents}
        assert oids_in(repo.path / ".git/lfs/objects") == oids
        attached = self.attach(bench, repo)
        shutil.rmtree(repo.path / ".git/lfs/objects")
        assert attached.objects() == oids
        assert attached.checked_out_afresh("a.bin") == contents[1]
        attached.git("checkout", "-q", "HEAD~1")
        assert attached.read("a.bin") == contents[0]
        attached.git("lfs", "fsck")

    def attach(self, bench: Bench, repo: Clone) -> Clone:
        """`lfsfs attach`; the clone with the root that it has now."""
        assert isinstance(bench.storage, OnMount)
        lfsfs("attach", repo.path, "--mount", bench.storage.mount.path)
        return Clone(repo.path, Path(repo.git("config", "lfs.storage").strip()), repo.env)
