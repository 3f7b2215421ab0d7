"""Files with a whole collection in them: written and read piece by piece, however large the collection is."""

import json
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from lfsfs import Store
from lfsfs.embeddings import files
from lfsfs.embeddings.archive import Archive
from lfsfs.embeddings.files import export_all, import_all
from lfsfs.embeddings.forms import Array
from lfsfs.errors import InvalidEmbedding, LfsfsError

from .conftest import hash_of, made

MIB = 1 << 20


@pytest.mark.parametrize("name", ["all.npz", "all.safetensors", "dir"])
async def test_no_export_or_import_holds_the_collection_in_memory(
    store: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BLOCK_BYTES", 2 * MIB)
    monkeypatch.setattr(files, "BATCH_BYTES", 2 * MIB)
    vectors = np.random.default_rng(0).random((64, MIB // 8))  # 64 MiB
    hashes = sorted(hash_of(number) for number in range(len(vectors)))
    for number in range(0, len(vectors), 16):
        await store.embeddings.write_embeddings_batch(
            (hashes[number : number + 16], vectors[number : number + 16])
        )
    copy = store.embeddings.collection("copy")
    tracemalloc.start()
    try:
        assert await export_all(store.embeddings, tmp_path / name, files.kind_of(tmp_path / name)) == 64
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        assert await import_all(copy, tmp_path / name) == (64, [])
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()
    assert np.array_equal((await copy.matrix(hashes))[1], vectors)


async def test_a_safetensors_file_is_what_its_own_library_reads(store: Store, tmp_path: Path) -> None:
    """Of every dtype that it has, of no dimension and of none, in either byte order."""
    kinds = ["?", "u1", "i1", "<u2", ">i2", "<f2", ">u4", "<i4", ">f4", "<u8", "<i8", ">f8"]
    arrays: dict[str, Array] = {hash_of(kind): np.array([[1, 0], [3, 4]]).astype(kind) for kind in kinds}
    arrays |= {hash_of("0-d"): np.array(7, ">i4"), hash_of("empty"): np.empty((0, 3), "<f4")}
    await store.embeddings.write_embeddings_batch(arrays)
    await export_all(store.embeddings, tmp_path / "all.safetensors", "safetensors")
    with safe_open(tmp_path / "all.safetensors", "numpy") as found:
        assert sorted(found.keys()) == sorted(arrays)
        for text, array in arrays.items():
            tensor = found.get_tensor(text)
            assert tensor.dtype == array.dtype.newbyteorder("=") and tensor.shape == array.shape
            assert np.array_equal(tensor, array)


async def test_what_safetensors_has_not_is_refused_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    await store.embeddings.write_embedding(hash_of("complex"), np.ones(2, "c8"))
    with pytest.raises(InvalidEmbedding, match="complex64"):
        await export_all(store.embeddings, tmp_path / "all.safetensors", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


ANOTHER = """
import sys, lfsfs, numpy
with lfsfs.connect(sys.argv[1]) as client:
    client.embeddings.write_embedding("f" * 64, numpy.ones(4, "f4"))
"""


async def test_an_export_while_somebody_writes_fails_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    await store.embeddings.write_embeddings_batch(made(3_000, dimensions=4))

    def told(done: int, total: int | None) -> None:
        subprocess.run([sys.executable, "-c", ANOTHER, tmp_path / "store"], check=True, timeout=60)

    with pytest.raises(LfsfsError, match="written to while it was exported"):
        await export_all(store.embeddings, tmp_path / "all.safetensors", "safetensors", told=told)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_archive_of_very_many_members_is_read_by_zipfile(tmp_path: Path) -> None:
    with (tmp_path / "many.zip").open("wb") as file, Archive(file) as archive:
        for number in range(70_000):
            archive.add(f"{number}.npy", b"%d" % number)
    with zipfile.ZipFile(tmp_path / "many.zip") as found:
        assert len(found.infolist()) == 70_000
        assert found.read("69999.npy") == b"69999" and found.read("0.npy") == b"0"


def test_an_archive_of_more_than_4_gib_is_read_by_zipfile(tmp_path: Path) -> None:
    with (tmp_path / "large.zip").open("wb") as file, Archive(file) as archive:
        archive.add("first.npy", b"one", b"two")
        archive._size = file.seek(5 << 30)  # a hole instead of what would be there
        archive.add("last.npy", b"three")
    with zipfile.ZipFile(tmp_path / "large.zip") as found:
        assert found.read("first.npy") == b"onetwo" and found.read("last.npy") == b"three"


def test_the_same_members_make_the_same_file(tmp_path: Path) -> None:
    made = []
    for name in ("one", "other"):
        with (tmp_path / name).open("wb") as file, Archive(file) as archive:
            archive.add("a.npy", json.dumps([1]).encode())
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]
