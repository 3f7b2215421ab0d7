"""File locks, and the caches of them that git-lfs keeps in its storage."""

import base64
import stat

from .bench import Bench, Clone, Remote


def bobs(bench: Bench, remote: Remote) -> Clone:
    """A clone of another person, for whom a lock of Ann's is in the way."""
    clone = bench.clone(remote, "bobs")
    token = base64.b64encode(b"bob:secret").decode()
    clone.config("http.extraHeader", f"Authorization: Basic {token}")
    clone.config(f"lfs.{remote.url}/info/lfs.locksverify", "true")
    return clone


def pushed(bench: Bench, remote: Remote) -> Clone:
    repo = bench.init("anns", remote=remote)
    repo.commit({"a.bin": bench.blob(), "b.bin": bench.blob()})
    repo.git("push", "-q", "-u", "origin", "main")
    return repo


def test_a_lock_is_listed_cached_and_released(bench: Bench) -> None:
    repo = pushed(bench, bench.remote())
    assert "Locked a.bin" in repo.git("lfs", "lock", "a.bin")
    assert repo.git("lfs", "locks").startswith("a.bin\tann\tID:")
    assert repo.git("lfs", "locks", "--local").startswith("a.bin\tann\tID:")
    assert repo.git("lfs", "locks", "--verify").startswith("O a.bin\tann\tID:")
    assert repo.git("lfs", "locks", "--cached").startswith("a.bin\tann\tID:")
    assert (repo.root / "lockcache.db").stat().st_size > 0
    assert "Unlocked a.bin" in repo.git("lfs", "unlock", "a.bin")
    assert repo.git("lfs", "locks") == ""
    assert repo.git("lfs", "locks", "--local") == ""


def test_the_lock_caches_outlive_a_rest_of_the_storage(bench: Bench) -> None:
    repo = pushed(bench, bench.remote())
    repo.git("lfs", "lock", "a.bin")
    repo.git("lfs", "lock", "b.bin")
    repo.git("lfs", "locks")
    repo.git("lfs", "locks", "--verify")
    cache = {name: (repo.root / name).read_bytes() for name in ("lockcache.db",)}
    left = repo.left_in("cache")
    assert left == ["remote", "verifiable"]
    with bench.storage.at_rest():
        pass
    assert {name: (repo.root / name).read_bytes() for name in cache} == cache
    assert repo.left_in("cache") == left
    local = repo.git("lfs", "locks", "--local")
    assert local.startswith("a.bin")
    assert "b.bin" in local
    assert repo.git("lfs", "locks", "--cached").count("ann") == 2
    repo.git("lfs", "unlock", "a.bin")
    assert repo.git("lfs", "locks", "--local").startswith("b.bin")


def test_the_cache_of_one_clone_is_not_the_cache_of_another(bench: Bench) -> None:
    remote = bench.remote()
    repo = pushed(bench, remote)
    repo.git("lfs", "lock", "a.bin")
    other = bobs(bench, remote)
    other.git("lfs", "lock", "b.bin")
    assert repo.git("lfs", "locks", "--local").startswith("a.bin\tann")
    assert other.git("lfs", "locks", "--local").startswith("b.bin\tbob")


def test_a_push_over_anothers_lock_is_refused_until_it_is_forced_open(bench: Bench) -> None:
    remote = bench.remote()
    repo = pushed(bench, remote)
    repo.git("lfs", "lock", "a.bin")
    bob = bobs(bench, remote)
    bob.commit({"a.bin": bench.blob()})
    said = bob.fails("push", "-q", "origin", "main")
    assert "a.bin - ann" in said
    assert "verifiable" in bob.left_in("cache")
    bob.fails("lfs", "unlock", "a.bin")
    bob.git("lfs", "unlock", "--force", "a.bin")
    bob.git("push", "-q", "origin", "main")


def test_a_lockable_file_is_read_only_until_it_is_locked(bench: Bench) -> None:
    repo = bench.init("repo", remote=bench.remote())
    repo.git("lfs", "track", "--lockable", "*.bin")
    repo.commit({"a.bin": bench.blob()})
    repo.git("push", "-q", "-u", "origin", "main")

    def writable() -> bool:
        return bool((repo.path / "a.bin").stat().st_mode & stat.S_IWUSR)

    repo.checked_out_afresh("a.bin")
    assert not writable()
    repo.git("lfs", "lock", "a.bin")
    assert writable()
    repo.git("lfs", "unlock", "a.bin")
    assert not writable()
