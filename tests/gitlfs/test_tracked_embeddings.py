"""A collection in a work tree: git-lfs tracks its npz files, and not one of them is stored a second time.

LFSFS_VECTORS=20000 makes the long test as long as the promise says (scripts/torture vectors).
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

import lfsfs
from lfsfs.store.views import load

from . import bench as benches
from .bench import Bench, Clone, Native, OnMount, Storage
from .mounted import LFSFS, Mount, is_mounted, within
from .mounted import lfsfs as command

pytestmark = [pytest.mark.mount, pytest.mark.timeout(1800)]
T = TypeVar("T")
VECTORS = int(os.environ.get("LFSFS_VECTORS", "150"))
SECONDS_A_VECTOR = 0.15  # of git add, on a machine that is busy with other tests
DIMENSIONS = 384
Vectors = tuple[list[str], "np.ndarray[tuple[int, int], np.dtype[np.float32]]"]


def made(count: int, seed: int = 0) -> Vectors:
    hashes = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(count)]
    return hashes, np.random.default_rng(seed).standard_normal((count, DIMENSIONS), np.float32)


def told(what: str, seconds: float) -> None:
    """For who runs it at full length (scripts/torture vectors)."""
    print(f"{what}: {seconds:.1f} s")


def timed(what: str, run: Callable[[], T]) -> T:
    begun = time.monotonic()
    done = run()
    told(what, time.monotonic() - begun)
    return done


def write(mount: Mount, vectors: Vectors, collection: str = "default", *, replace: bool = False) -> None:
    with lfsfs.connect(mount.store) as client:
        client.embeddings.collection(collection).write_embeddings_batch(vectors, replace=replace)


def load_npz(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    with np.load(path) as found:
        vector: np.ndarray[tuple[int], np.dtype[np.float32]] = found["vector"]
        return vector


def reads(clone: Clone) -> int:
    """How often npz files were opened or read since the view was mounted."""
    counts = json.loads((clone.path / "embeddings" / ".lfsfs").read_text())["requests"]
    return int(counts["open"] + counts["read"])


def bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def clone(own_mount: Mount, new_bench: Callable[[Storage], Bench]) -> Iterator[Clone]:
    bench = new_bench(OnMount(own_mount))
    clone = bench.init("work", remote=bench.remote())
    clone.commit({"code.txt": b"code"})
    yield clone


@pytest.mark.promise("12.5")
@pytest.mark.slow
def test_a_collection_goes_through_add_commit_push_and_a_clone_elsewhere_to_the_last_bit(
    own_mount: Mount, clone: Clone, new_bench: Callable[[Storage], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.seconds = 120 + VECTORS * SECONDS_A_VECTOR
    monkeypatch.setattr(benches, "GIT_SECONDS", clone.seconds)  # of the clones that follow
    bench = new_bench(OnMount(own_mount))
    hashes, matrix = made(VECTORS)
    write(own_mount, (hashes, matrix))
    command("embed", "track", clone.path)
    stored, indexed = (bytes_in(own_mount.store / name) for name in ("objects", "index"))
    begun = time.monotonic()
    clone.git("add", ".")
    took = time.monotonic() - begun
    told(f"git add of {VECTORS} vectors", took)
    assert took < VECTORS * SECONDS_A_VECTOR + 20
    clone.git("commit", "-q", "-m", "vectors")
    assert bytes_in(own_mount.store / "objects") <= 1.01 * stored
    assert len(clone.objects()) == VECTORS

    # A second status reads nothing, nor does one after the view was mounted anew.
    print(f"objects/ grew from {stored} to {bytes_in(own_mount.store / 'objects')} bytes, "
          f"the index from {indexed} to {bytes_in(own_mount.store / 'index')}")  # fmt: skip
    timed("git status after the commit", clone.status)
    before = reads(clone)
    assert before >= 2 * VECTORS, "git add has read them all"
    assert timed("a second git status", clone.status) == ""
    assert reads(clone) == before
    own_mount.stop()
    assert not is_mounted(clone.path / "embeddings")
    own_mount.start()
    assert is_mounted(clone.path / "embeddings"), (
        "who works on after `lfsfs mount` finds the files as they were"
    )
    assert timed("git status after a remount", clone.status) == ""
    assert reads(clone) == 0

    timed("git push", lambda: clone.git("push", "-q", "origin", "main"))
    url = clone.git("remote", "get-url", "origin").strip()
    elsewhere = timed("git clone elsewhere", lambda: bench.clone(url, "elsewhere", storage=Native()))
    names = sorted(os.listdir(elsewhere.path / "embeddings"))
    assert names == sorted(f"{content_hash}.npz" for content_hash in hashes)
    for content_hash, row in zip(hashes, matrix, strict=True):
        name = f"embeddings/{content_hash}.npz"
        assert load_npz(elsewhere.path / name).tobytes() == row.tobytes()
    fetched = len(bench.server.requests)
    other = timed("git clone on the same store", lambda: bench.clone(url, "other"))
    assert other.read(f"embeddings/{hashes[0]}.npz") == clone.read(f"embeddings/{hashes[0]}.npz")
    assert len(bench.server.requests) == fetched, "a clone on the same store has fetched objects"
    assert bytes_in(own_mount.store / "objects") <= 1.01 * stored


@pytest.mark.promise("12.6")
def test_what_was_committed_stays_when_the_collection_changes(own_mount: Mount, clone: Clone) -> None:
    hashes, matrix = made(6)
    write(own_mount, (hashes, matrix))
    command("embed", "track", clone.path)
    clone.commit()
    before = {text: clone.read(f"embeddings/{text}.npz") for text in hashes}
    write(own_mount, (hashes[:2], matrix[:2] + 1), replace=True)
    command("embed", "rm", "--store", own_mount.store, *hashes[2:4])
    command("embed", "vacuum", "--store", own_mount.store)
    changes = f" M embeddings/{min(hashes[:2])}.npz"
    assert within(5, lambda: changes in clone.status()), clone.status()
    assert clone.status().count(" D ") == 2
    for text, content in before.items():
        assert clone.run("cat-file", "--filters", f"HEAD:embeddings/{text}.npz").output == content
    clone.git("checkout", "--", ".")
    for text, row in zip(hashes, matrix, strict=True):
        assert load_npz(clone.path / "embeddings" / f"{text}.npz").tobytes() == row.tobytes()
    assert clone.status() == ""


def test_branches_take_vectors_away_and_bring_them_back(own_mount: Mount, clone: Clone) -> None:
    hashes, matrix = made(5)
    write(own_mount, (hashes, matrix))
    command("embed", "track", clone.path)
    clone.git("checkout", "-q", "-b", "with")
    clone.commit()
    clone.git("checkout", "-q", "main")
    assert os.listdir(clone.path / "embeddings") == []
    clone.git("checkout", "-q", "with")
    with lfsfs.connect(own_mount.store) as client:
        assert client.embeddings.matrix(hashes)[1].tobytes() == matrix.tobytes()
    assert clone.status() == ""


def test_what_is_written_in_the_work_tree_is_a_vector_and_what_the_api_writes_is_a_new_file(
    own_mount: Mount, clone: Clone
) -> None:
    command("embed", "track", clone.path)
    hashes, matrix = made(3)
    np.savez_compressed(clone.path / "embeddings" / f"{hashes[0]}.npz", vector=matrix[0])
    write(own_mount, (hashes[1:], matrix[1:]))
    clone.commit()
    assert sorted(clone.lfs_files()) == sorted(f"embeddings/{text}.npz" for text in hashes)
    assert clone.status() == ""
    first = np.load(clone.path / "embeddings" / "_matrix.npy", mmap_mode="r")
    assert first.shape == (3, DIMENSIONS), "the matrix opens, although no listing shows it"
    with pytest.raises(OSError, match="Invalid argument"):
        (clone.path / "embeddings" / f"{hashes[2]}.npz").write_bytes(b"no npz")
    assert load_npz(clone.path / "embeddings" / f"{hashes[2]}.npz").tobytes() == matrix[2].tobytes()


def test_another_collection_elsewhere_in_the_tree_read_only(own_mount: Mount, clone: Clone) -> None:
    hashes, matrix = made(2)
    write(own_mount, (hashes, matrix), "titles")
    (clone.path / "my data").mkdir()
    command("embed", "track", clone.path, "--collection", "titles", "--path", "my data/titles", "--read-only")
    clone.commit()
    assert clone.lfs_files() == sorted(f"my data/titles/{text}.npz" for text in hashes)
    with pytest.raises(OSError, match="Read-only"):
        (clone.path / "my data" / "titles" / f"{hashes[0]}.npz").unlink()


def test_track_twice_untrack_and_what_is_remembered(own_mount: Mount, clone: Clone) -> None:
    folder, attributes = clone.path / "embeddings", clone.path / ".gitattributes"
    before = attributes.read_text()
    command("embed", "track", clone.path)
    command("embed", "track", clone.path)
    assert attributes.read_text() == before + "embeddings/*.npz filter=lfs diff=lfs merge=lfs -text\n"
    assert [view.mountpoint for view in load(own_mount.store)] == [folder]
    pid = json.loads((folder / ".lfsfs").read_text())["pid"]
    os.kill(pid, 9)
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(folder)
    command("embed", "track", "--all", "--store", own_mount.store)
    assert os.listdir(folder) == []
    command("embed", "untrack", clone.path)
    assert not is_mounted(folder)
    assert not folder.exists()
    assert attributes.read_text() == before
    assert load(own_mount.store) == []
    assert "nothing to do" in command("embed", "untrack", clone.path, "--store", own_mount.store)


def test_a_mount_that_ends_at_once_leaves_no_view_behind(own_mount: Mount, clone: Clone) -> None:
    command("embed", "track", clone.path)
    own_mount.stop()
    own_mount.start()
    own_mount.stop()  # as soon as the view is back
    assert not within(4, lambda: is_mounted(clone.path / "embeddings"))


def test_a_directory_with_files_is_refused_and_the_error_says_what_to_do(
    own_mount: Mount, clone: Clone
) -> None:
    hashes, matrix = made(2)
    (clone.path / "embeddings").mkdir()
    np.savez(clone.path / "embeddings" / f"{hashes[0]}.npz", vector=matrix[0])
    done = subprocess.run([LFSFS, "embed", "track", clone.path], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "lfsfs embed import" in done.stderr
    assert load(own_mount.store) == []
    command("embed", "import", clone.path / "embeddings", "--store", own_mount.store)
    shutil.rmtree(clone.path / "embeddings")
    command("embed", "track", clone.path)
    assert load_npz(clone.path / "embeddings" / f"{hashes[0]}.npz").tobytes() == matrix[0].tobytes()
    outside = subprocess.run(
        [LFSFS, "embed", "track", clone.path, "--path", "../x"], capture_output=True, text=True, check=False
    )
    assert outside.returncode == 2
