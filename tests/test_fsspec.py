"""lfsfs://, the fsspec filesystem: fsspec's own tests of one, the libraries that read by it, and beside a mount."""

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
import xarray as xr
import zarr
from fsspec.tests import abstract
from gitlfs.mounted import Mount, within

import lfsfs
from lfsfs import Oid
from lfsfs.client.filesystem import LfsfsFileSystem
from lfsfs.errors import InUse

HASH = "ab" * 32


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    store = tmp_path_factory.mktemp("fsspec") / "store"
    with lfsfs.connect(store, create=True):
        pass
    yield store
    fsspec.filesystem("lfsfs", store=str(store), durability="fast").close()


@pytest.fixture
def files(shared: Path) -> LfsfsFileSystem:
    return fsspec.filesystem("lfsfs", store=str(shared), durability="fast")


# fsspec's own.


class _Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec is not typed
    @pytest.fixture
    def fs(self, files: LfsfsFileSystem) -> LfsfsFileSystem:
        return files

    @pytest.fixture
    def fs_path(self, files: LfsfsFileSystem) -> Iterator[str]:
        files.makedirs("incoming/test")
        yield "incoming/test"
        files.rm("incoming/test", recursive=True)


class TestCopy(abstract.AbstractCopyTests, _Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, _Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, _Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, _Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, _Fixtures):  # type: ignore[misc]
    pass


# By oid, by name, by vector.


def test_an_object_is_read_by_oid_by_name_and_through_its_repository(files: LfsfsFileSystem) -> None:
    content = bytes(range(256)) * 8000
    row = files.client.put(content, repository=files.client.add_repository("game").name)
    files.pipe_file("incoming/deep/down/file.bin", content)
    places = [
        f"objects/{row.oid}", f"objects/{row.oid.path()}", f"repos/game/objects/{row.oid.path()}",
        "incoming/deep/down/file.bin",
    ]  # fmt: skip
    for place in places:
        with fsspec.open(f"lfsfs://{place}", "rb", store=str(files.client.path), durability="fast") as file:
            assert (file.seek(1_500_000), file.read(5)) == (1_500_000, content[1_500_000:1_500_005])
        info = files.info(place)
        assert (info["size"], info["oid"], info["type"]) == (len(content), row.oid, "file")
        assert files.cat_file(place, -4) == content[-4:]
    assert f"repos/game/objects/{row.oid.path()}" in files.find("repos/game")
    assert f"objects/{row.oid.path()}" in files.find("objects")
    assert files.ls("", detail=False) == ["embeddings", "incoming", "objects", "repos"]


def test_what_is_not_there_or_may_not_be_is_the_error_that_files_have(files: LfsfsFileSystem) -> None:
    files.pipe_file("incoming/errors/file", b"an error's")
    for missing in (
        "incoming/errors/none",
        f"objects/{Oid.of(b'none')}",
        "objects/zz",
        "nowhere",
        "embeddings/none/x",
    ):
        assert not files.exists(missing)
        with pytest.raises(FileNotFoundError):
            files.cat_file(missing)
    with pytest.raises(IsADirectoryError):
        files.pipe_file("incoming/errors", b"")
    with pytest.raises(NotADirectoryError):
        files.pipe_file("incoming/errors/file/below", b"")
    for mine in ("objects/a", "repos/b", "c", ""):
        with pytest.raises(PermissionError):
            files.pipe_file(mine, b"")
    with pytest.raises(OSError, match="not empty"):
        files.rmdir("incoming/errors")


def test_a_block_that_fails_leaves_nothing_and_a_transaction_all_or_nothing(files: LfsfsFileSystem) -> None:
    with pytest.raises(ZeroDivisionError), files.open("incoming/half", "wb") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not files.exists("incoming/half")
    with files.transaction:
        with files.open("incoming/whole", "wb") as file:
            file.write(b"whole")
        assert not files.exists("incoming/whole")
    assert files.cat_file("incoming/whole") == b"whole"
    with files.open("incoming/whole", "ab") as file:
        file.write(b" and more")
    with files.open("incoming/whole", "r") as text:
        assert text.read() == "whole and more"


def test_a_copy_and_a_move_name_the_same_object(files: LfsfsFileSystem) -> None:
    files.pipe_file("incoming/one/a", b"content")
    files.cp("incoming/one/a", "incoming/one/b")
    files.mv("incoming/one", "incoming/two", recursive=True)
    assert files.find("incoming/two") == ["incoming/two/a", "incoming/two/b"]
    assert files.checksum("incoming/two/a") == files.checksum("incoming/two/b")
    assert sorted(files.client.names_of(Oid.of(b"content"))) == ["two/a", "two/b"]


def test_vectors_are_read_and_written_as_files(files: LfsfsFileSystem) -> None:
    vector = np.arange(8, dtype=np.float32)
    files.client.embeddings.collection("faces").write_embedding(HASH, vector)
    with files.open(f"embeddings/faces/{HASH}.npz") as file, np.load(file) as npz:
        assert (npz["vector"] == vector).all()
    with files.open("embeddings/faces/_matrix.npy") as file:
        assert (np.load(file) == vector).all()
    assert files.cat_file("embeddings/faces/_hashes.txt") == f"{HASH}\n".encode()
    content = io.BytesIO()
    np.savez(content, vector=vector * 2)
    files.pipe_file(f"embeddings/faces/{'cd' * 32}.npz", content.getvalue())
    assert (files.client.embeddings.collection("faces").read_embedding("cd" * 32) == vector * 2).all()
    assert [name.rpartition("/")[2] for name in files.ls("embeddings/faces", detail=False)] == [
        "_matrix.npy", "_hashes.txt", f"{HASH}.npz", f"{'cd' * 32}.npz",
    ]  # fmt: skip


# The libraries.


def test_pandas_pyarrow_xarray_and_zarr_read_and_write(files: LfsfsFileSystem) -> None:
    options = {"store": str(files.client.path), "durability": "fast"}
    frame = pd.DataFrame({"name": ["a", "b"], "size": [1, 2]})
    frame.to_parquet("lfsfs://incoming/data/frame.parquet", storage_options=options)
    frame.to_csv("lfsfs://incoming/data/frame.csv", index=False, storage_options=options)
    oid = files.info("incoming/data/frame.parquet")["oid"]
    for read in (
        pd.read_parquet("lfsfs://incoming/data/frame.parquet", storage_options=options),
        pd.read_parquet(f"lfsfs://objects/{oid}", storage_options=options),
        pd.read_csv("lfsfs://incoming/data/frame.csv", storage_options=options),
        pyarrow.dataset.dataset("incoming/data/frame.parquet", filesystem=files).to_table().to_pandas(),
    ):
        pd.testing.assert_frame_equal(read, frame, check_dtype=False)

    array = zarr.create_array(
        "lfsfs://incoming/data/array.zarr",
        shape=(100, 10),
        chunks=(10, 10),
        dtype="f4",
        storage_options=options,
    )
    array[:] = np.arange(1000, dtype="f4").reshape(100, 10)
    again = zarr.open_array("lfsfs://incoming/data/array.zarr", mode="r", storage_options=options)
    assert float(again[42, 7]) == 427.0

    dataset = xr.Dataset({"height": (("x", "y"), np.ones((4, 5)))})
    dataset.to_zarr("lfsfs://incoming/data/set.zarr", storage_options=options, consolidated=False)
    with xr.open_zarr(
        "lfsfs://incoming/data/set.zarr", storage_options=options, consolidated=False
    ) as read_set:
        assert float(read_set["height"].sum()) == 20.0


# Processes.


def test_all_of_a_process_share_one_open_store(tmp_path: Path) -> None:
    with lfsfs.connect(tmp_path / "store", create=True) as one, lfsfs.connect(tmp_path / "store") as two:
        row = one.put(b"shared")
        assert (
            fsspec.filesystem("lfsfs", store=str(tmp_path / "store")).cat_file(f"objects/{row.oid}")
            == b"shared"
        )
        one.close()
        assert two.read(row.oid) == b"shared"
        with pytest.raises(InUse, match="with other options"):
            lfsfs.connect(tmp_path / "store", durability="fast")
    fsspec.filesystem("lfsfs", store=str(tmp_path / "store")).close()
    lfsfs.connect(tmp_path / "store", durability="fast").close()


def test_a_fork_is_told_to_open_the_store_itself(files: LfsfsFileSystem) -> None:
    client = files.client
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            client.usage()
        except InUse as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as said:
        assert b"before this process was forked" in said.read()
    os.waitpid(pid, 0)


def test_it_is_pickled_as_what_it_was_asked_for(files: LfsfsFileSystem) -> None:
    assert pickle.loads(pickle.dumps(files)) is files


@pytest.mark.mount
@pytest.mark.slow
def test_beside_a_mount_each_sees_what_the_other_wrote(tmp_path: Path) -> None:
    with Mount(tmp_path) as mount:
        files = LfsfsFileSystem(store=str(mount.path), skip_instance_cache=True)
        try:
            (mount.path / "incoming" / "by-mount").write_bytes(b"from the mount")
            assert files.cat_file("incoming/by-mount") == b"from the mount"
            files.pipe_file("incoming/folder/by-fsspec", b"one")
            seen = mount.path / "incoming" / "folder" / "by-fsspec"
            assert seen.read_bytes() == b"one"
            with seen.open("rb") as opened:
                files.pipe_file("incoming/folder/by-fsspec", b"two, and longer")
                assert within(5, lambda: seen.read_bytes() == b"two, and longer")
                assert opened.read() == b"one", "who has it open keeps it"
            files.mv("incoming/folder/by-fsspec", "incoming/moved")
            assert within(5, lambda: not seen.exists())
            assert (mount.path / "incoming" / "moved").read_bytes() == b"two, and longer"
            files.rm("incoming/moved")
            assert within(5, lambda: not (mount.path / "incoming" / "moved").exists())
            assert (mount.path / "incoming" / "folder").is_dir()
        finally:
            files.close()
