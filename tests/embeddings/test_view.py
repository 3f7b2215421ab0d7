"""embeddings/ as files: what numpy, cp and rsync see of the vectors, and what they may write."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gitlfs.mounted import Mount

import lfsfs

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]
RNG = np.random.default_rng(7)


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    with Mount(tmp_path_factory.mktemp("view")) as mount:
        yield mount


_numbers = iter(range(1000))


@pytest.fixture
def folder(mount: Mount) -> Path:
    """A collection of its own."""
    path = mount.path / "embeddings" / f"collection{next(_numbers)}"
    path.mkdir()
    return path


def name(number: int) -> str:
    return f"{number:064x}"


def vector(number: int, length: int = 384) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.random.default_rng(number).random(length, dtype=np.float32)


def save(folder: Path, number: int, content: object = None) -> Path:
    path = folder / f"{name(number)}.npz"
    np.savez_compressed(path, vector=vector(number) if content is None else content)
    return path


def load(path: Path) -> object:
    with np.load(path) as found:
        return found["vector"]


def test_what_numpy_saves_numpy_loads_and_the_size_is_exact(folder: Path) -> None:
    for number in range(5):
        path = save(folder, number)
        assert np.array_equal(load(path), vector(number))
        assert len(path.read_bytes()) == path.stat().st_size
    assert sorted(os.listdir(folder)) == sorted(
        [*(f"{name(number)}.npz" for number in range(5)), "_hashes.txt", "_matrix.npy"]
    )


def test_what_the_api_writes_beside_the_mount_is_seen_within_a_second_or_so(
    mount: Mount, folder: Path
) -> None:
    hashes = [name(number) for number in range(100)]
    matrix = RNG.random((100, 16), dtype=np.float32)
    with lfsfs.connect(mount.store) as client:
        client.embeddings.collection(folder.name).write_embeddings_batch((hashes, matrix))
    deadline = time.monotonic() + 1.5
    while len(os.listdir(folder)) < 102 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert np.array_equal(load(folder / f"{hashes[17]}.npz"), matrix[17])
    with lfsfs.connect(mount.store) as client:
        collection = client.embeddings.collection(folder.name)
        collection.write_embedding(hashes[17], matrix[18], replace=True)
    time.sleep(1.5)
    assert np.array_equal(load(folder / f"{hashes[17]}.npz"), matrix[18])


@pytest.mark.parametrize("how", ["cp", "rsync", "temp and rename", "dd in small blocks"])
def test_files_come_in_as_tools_bring_them(folder: Path, tmp_path: Path, how: str) -> None:
    source = tmp_path / f"{name(1)}.npz"
    np.savez(source, vector=vector(1))
    target = folder / source.name
    if how == "cp":
        subprocess.run(["cp", "-p", source, folder], check=True)
    elif how == "rsync":
        subprocess.run(["rsync", "-a", source, folder], check=True)
    elif how == "dd in small blocks":
        subprocess.run(["dd", f"if={source}", f"of={target}", "bs=100", "status=none"], check=True)
    else:
        shutil.copyfile(source, folder / ".temporary")
        assert ".temporary" in os.listdir(folder)
        (folder / ".temporary").rename(target)
    assert np.array_equal(load(target), vector(1))
    assert set(os.listdir(folder)) == {source.name, "_hashes.txt", "_matrix.npy"}


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\3\4" + bytes(100)])
def test_what_is_no_npz_fails_the_close_and_leaves_nothing(
    mount: Mount, folder: Path, content: bytes
) -> None:
    path = folder / f"{name(2)}.npz"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(fd, content)
    os.ftruncate(fd, len(content))
    with pytest.raises(OSError) as refused:
        os.close(fd)
    assert refused.value.errno == errno.EINVAL
    assert os.listdir(folder) == []
    said = [line for line in mount.log().splitlines() if f"{folder.name}/{path.name}" in line]
    assert said and all("EINVAL" in line for line in said), "the log says which file it was"


def test_a_rename_of_what_is_no_npz_fails_and_the_draft_stays(folder: Path) -> None:
    (folder / "draft").write_bytes(b"nonsense")
    with pytest.raises(OSError) as refused:
        (folder / "draft").rename(folder / f"{name(3)}.npz")
    assert refused.value.errno == errno.EINVAL
    assert os.listdir(folder) == ["draft"]
    (folder / "draft").unlink()
    assert os.listdir(folder) == []


def test_a_vector_is_written_over_and_one_that_fails_stays(folder: Path) -> None:
    path = save(folder, 4)
    before = path.stat()
    save(folder, 4, vector(5))
    assert np.array_equal(load(path), vector(5))
    assert path.stat().st_ino == before.st_ino
    with pytest.raises(OSError, match="Invalid argument"):
        path.write_bytes(b"nonsense")
    assert np.array_equal(load(path), vector(5))


def test_removing_a_file_removes_the_vector(mount: Mount, folder: Path) -> None:
    path = save(folder, 6)
    path.unlink()
    assert not path.exists()
    with lfsfs.connect(mount.store) as client:
        assert not client.embeddings.collection(folder.name).contains(name(6))
    with pytest.raises(FileNotFoundError):
        path.unlink()


def test_inode_numbers_sizes_and_times_survive_a_remount(tmp_path: Path) -> None:
    with Mount(tmp_path / "own") as mount:
        folder = mount.path / "embeddings" / "default"
        folder.mkdir()
        paths = [save(folder, number) for number in range(20)]

        def seen() -> list[tuple[int, int, int]]:
            return [
                (found.st_ino, found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)
            ]

        before = seen()
        mount.stop()
        mount.start()
        assert seen() == before


def test_the_matrix_is_every_vector_in_the_order_of_the_hashes(folder: Path) -> None:
    for number in (3, 1, 2):
        save(folder, number)
    matrix = np.load(folder / "_matrix.npy", mmap_mode="r")
    hashes = (folder / "_hashes.txt").read_text().split()
    assert hashes == [name(1), name(2), name(3)]
    assert np.array_equal(matrix, [vector(1), vector(2), vector(3)])
    assert (folder / "_matrix.npy").stat().st_size == 128 + matrix.nbytes


def test_who_opens_a_file_is_not_made_to_read_a_mebibyte_of_it(folder: Path) -> None:
    """Python takes st_blksize for its buffer: it would wait for a thousand vectors to see the header of a matrix."""
    path = save(folder, 1)
    for small in (path, folder / "_matrix.npy", folder / "_hashes.txt"):
        assert small.stat().st_blksize == 4096


def test_a_matrix_may_be_larger_than_any_vector(mount: Mount, folder: Path) -> None:
    hashes = [name(number) for number in range(40)]
    with lfsfs.connect(mount.store) as client:
        collection = client.embeddings.collection(folder.name)
        collection.write_embeddings_batch(
            dict.fromkeys(hashes, np.arange(1 << 20))
        )  # 40 times the same 8 MiB
    matrix = np.load(folder / "_matrix.npy", mmap_mode="r")
    assert matrix.shape == (40, 1 << 20) and matrix[0, 7] == 7
    assert np.array_equal(matrix[39], np.arange(1 << 20))


def test_an_open_matrix_stays_as_it_was(folder: Path) -> None:
    for number in range(10):
        save(folder, number)
    matrix = np.load(folder / "_matrix.npy", mmap_mode="r")
    inode = (folder / "_matrix.npy").stat().st_ino
    save(folder, 100)
    save(folder, 3, vector(200))
    (folder / f"{name(4)}.npz").unlink()
    now = np.load(folder / "_matrix.npy")
    assert (folder / "_matrix.npy").stat().st_ino != inode
    assert len(now) == 10 and np.array_equal(now[3], vector(200)) and np.array_equal(now[-1], vector(100))
    assert len(matrix) == 10
    for number in (0, 1, 2, 5, 9):
        assert np.array_equal(matrix[number], vector(number)), number


def test_vectors_of_several_shapes_make_no_matrix(folder: Path) -> None:
    save(folder, 1)
    save(folder, 2, np.zeros((2, 2)))
    assert "_matrix.npy" not in os.listdir(folder)
    assert not (folder / "_matrix.npy").exists()


@pytest.mark.parametrize("place", ["_matrix.npy", "_hashes.txt"])
def test_what_is_made_from_the_vectors_is_read_only(folder: Path, place: str) -> None:
    save(folder, 1)
    with pytest.raises(OSError):
        (folder / place).write_bytes(b"x")
    with pytest.raises(PermissionError):
        (folder / place).unlink()
    with pytest.raises(PermissionError):
        (folder / f"{name(1)}.npz").rename(folder / place)


def test_collections_come_and_go_as_directories(mount: Mount, folder: Path) -> None:
    assert folder.name in os.listdir(folder.parent)
    save(folder, 1)
    with pytest.raises(OSError) as refused:
        folder.rmdir()
    assert refused.value.errno == errno.ENOTEMPTY
    (folder / f"{name(1)}.npz").unlink()
    folder.rmdir()
    assert folder.name not in os.listdir(mount.path / "embeddings")
    with pytest.raises(FileExistsError):
        (mount.path / "embeddings").mkdir()
    for wrong in ("_under", ".dot"):
        with pytest.raises(OSError):
            (mount.path / "embeddings" / wrong).mkdir()


def test_a_matrix_of_a_hundred_thousand_opens_at_once(mount: Mount, folder: Path) -> None:
    hashes = [name(number) for number in range(100_000)]
    matrix = RNG.random((100_000, 32), dtype=np.float32)
    with lfsfs.connect(mount.store) as client:
        client.embeddings.collection(folder.name).write_embeddings_batch((hashes, matrix))
    begun = time.monotonic()
    opened = np.load(folder / "_matrix.npy", mmap_mode="r")
    assert np.array_equal(opened[0], matrix[0])
    assert time.monotonic() - begun < 5  # on a busy machine; scripts/bench has the figure
    assert np.array_equal(opened, matrix)
