"""What only a mount has: the shared root, isolated repositories, a read-only mount."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .bench import MIB, Bench, OnMount, SharedRoot, Storage, oids_in, pointer
from .mounted import Mount

pytestmark = pytest.mark.mount

NewBench = Callable[[Storage], Bench]


@pytest.fixture
def shared(new_bench: NewBench, mount: Mount) -> Bench:
    """Every clone's lfs.storage is the mountpoint itself."""
    return new_bench(SharedRoot(mount))


def pushed_twice(bench: Bench, name: str) -> tuple[str, bytes]:
    repo, content = bench.init(name, remote=bench.remote()), bench.blob(MIB)
    old = repo.commit({"a.bin": content})["a.bin"]
    repo.commit({"a.bin": bench.blob()})
    repo.git("push", "-q", "-u", "origin", "main")
    return old, content


def test_two_unrelated_repositories_share_the_root_and_each_finds_its_files(shared: Bench) -> None:
    one, two, common = shared.init("one"), shared.init("two"), shared.blob(MIB)
    first, second = shared.blob(), shared.blob()
    oids = one.commit({"a.bin": common, "b.bin": first}) | two.commit({"a.bin": common, "c.bin": second})
    assert set(oids.values()) <= one.objects()
    assert one.objects() == two.objects()
    assert one.checked_out_afresh("a.bin") == two.checked_out_afresh("a.bin") == common
    assert two.checked_out_afresh("c.bin") == second
    assert (one.status(), two.status()) == ("", "")


@pytest.mark.promise("4.4")
def test_prune_in_the_shared_root_is_refused_and_nothing_is_lost(shared: Bench) -> None:
    old, content = pushed_twice(shared, "one")
    two = shared.init("two")
    unpushed = two.commit({"u.bin": shared.blob()})["u.bin"]
    before = two.objects()
    one = shared.init("one")
    said = one.fails("lfs", "prune")
    assert "operation not permitted" in said
    assert one.objects() == before
    assert {old, unpushed} <= before
    one.git("checkout", "-q", "HEAD~1")
    assert one.read("a.bin") == content


def test_a_pointer_with_a_wrong_size_deletes_nothing_from_the_shared_root(shared: Bench) -> None:
    one, two, content = shared.init("one"), shared.init("two"), shared.blob(MIB)
    oid = one.commit({"a.bin": content})["a.bin"]
    two.commit({"a.bin": pointer(oid, 7).encode()})
    (two.path / "a.bin").unlink()
    two.run("checkout", "--", "a.bin")
    assert oid in one.objects()
    assert one.checked_out_afresh("a.bin") == content


@pytest.mark.promise("4.4")
def test_delete_allow_lets_prune_delete_from_the_shared_root(new_bench: NewBench, own_mount: Mount) -> None:
    own_mount.stop()
    own_mount.start("--delete", "allow")
    bench = new_bench(SharedRoot(own_mount))
    old, _ = pushed_twice(bench, "one")
    one = bench.init("one")
    one.git("lfs", "prune")
    assert old not in one.objects()


@pytest.mark.promise("4.7")
def test_isolated_repositories_see_only_what_they_refer_to(new_bench: NewBench, own_mount: Mount) -> None:
    own_mount.stop()
    own_mount.start("--sharing", "isolated")
    bench = new_bench(OnMount(own_mount))
    remote, content = bench.remote(), bench.blob(2 * MIB)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid = oids["a.bin"]
    first = bench.clone(remote, "first")
    stranger = bench.init("stranger")
    assert not stranger.object(oid).exists()
    second = bench.clone(remote, "second")
    assert bench.server.downloads(oid) == 2
    assert first.read("a.bin") == second.read("a.bin") == content
    assert oids_in(own_mount.store / "objects") == {oid}

    second.object(oid).unlink()
    assert not second.object(oid).exists()
    assert oid not in second.objects()
    assert first.checked_out_afresh("a.bin") == content
    assert second.checked_out_afresh("a.bin") == content
    assert bench.server.downloads(oid) == 3


@pytest.mark.promise("4.8")
def test_a_walk_of_a_root_refers_to_nothing(new_bench: NewBench, mount: Mount) -> None:
    bench = new_bench(OnMount(mount))
    bench.init("one").commit({"a.bin": bench.blob()})
    stranger = bench.init("stranger")
    for _ in os.walk(mount.path / "repos"):
        pass
    for _ in os.walk(stranger.root):
        pass
    assert stranger.objects() == set()


def test_on_a_read_only_mount_status_and_checkout_work_and_new_content_is_refused(
    new_bench: NewBench, own_mount: Mount
) -> None:
    bench = new_bench(OnMount(own_mount))
    remote = bench.remote()
    repo, content = bench.init("repo", remote=remote), bench.blob(MIB)
    oid = repo.commit({"a.bin": content})["a.bin"]
    repo.git("push", "-q", "-u", "origin", "main")
    own_mount.stop()
    own_mount.start("--read-only")
    os.utime(repo.path / "a.bin", (1, 1))
    assert repo.status() == ""
    assert repo.left_in("tmp") == []
    assert repo.checked_out_afresh("a.bin") == content
    repo.git("lfs", "fsck")
    repo.write("b.bin", bench.blob())
    repo.fails("add", "b.bin")
    with pytest.raises(OSError) as refusal:
        repo.object(oid).unlink()
    assert refusal.value.errno == errno.EROFS
    assert repo.objects() == {oid}


def test_every_object_is_there_with_the_same_inode_size_and_times_after_a_remount(
    new_bench: NewBench, own_mount: Mount
) -> None:
    bench = new_bench(OnMount(own_mount))
    repo = bench.init("repo")
    oids = repo.commit({"a.bin": bench.blob(), "b.bin": bench.blob(3 * MIB)})

    def stats() -> dict[str, tuple[int, int, int, int]]:
        paths = {oid: repo.object(oid) for oid in oids.values()}
        return {oid: seen(path) for oid, path in paths.items()}

    def seen(path: Path) -> tuple[int, int, int, int]:
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode

    before = stats()
    own_mount.stop()
    own_mount.start()
    assert stats() == before
    assert repo.status() == ""
