"""lfsfs embed: each command on a store, as a person and as a program use it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lfsfs
from lfsfs.embeddings.codec import render

from .conftest import hash_of, made

LFSFS = Path(sys.executable).with_name("lfsfs")


def embed(store: Path, *arguments: object, status: int = 0, given: str = "") -> str:
    done = subprocess.run(
        [LFSFS, "embed", *map(str, arguments), "--store", store],
        capture_output=True,
        text=True,
        input=given,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def embed_json(store: Path, *arguments: object) -> Any:
    return json.loads(embed(store, *arguments, "--json"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with lfsfs.connect(tmp_path / "store", create=True):
        return tmp_path / "store"


def test_vectors_go_in_and_come_out_by_command(store: Path, tmp_path: Path) -> None:
    hashes, matrix = made(20)
    (tmp_path / "many").mkdir()
    for text, row in zip(hashes[:10], matrix, strict=False):
        np.savez_compressed(
            tmp_path / "many" / f"{text}.npz", vector=row, dtype=str(row.dtype), shape=row.shape
        )
    (tmp_path / "many" / f"{hash_of('bad')}.npz").write_bytes(b"not an npz")
    assert "bad" not in (wrong := embed(store, "put", tmp_path / "many", status=1))
    assert hash_of("bad") in wrong
    np.save(tmp_path / "one.npy", matrix[10])
    embed(store, "put", "--hash", hashes[10], tmp_path / "one.npy")
    np.save(tmp_path / "_matrix.npy", matrix[11:])
    (tmp_path / "_hashes.txt").write_text("\n".join(hashes[11:]))
    assert "9 vectors" in embed(store, "import", tmp_path / "_matrix.npy")
    listed = embed_json(store, "ls")
    assert [entry["hash"] for entry in listed] == sorted(hashes)
    assert {(entry["dtype"], *entry["shape"], entry["size"]) for entry in listed} == {("float32", 16, 64)}
    assert [
        entry["hash"] for entry in embed_json(store, "ls", "--limit", 3, "--after", sorted(hashes)[4])
    ] == sorted(hashes)[5:8]
    embed(store, "get", hashes[3], "-o", tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == render(matrix[3])
    assert embed_json(store, "get", hashes[3])["vector"] == matrix[3].tolist()
    assert "float32 (16,)" in embed(store, "get", hashes[3])
    stats = embed_json(store, "stats")
    assert (stats["count"], stats["raw_bytes"], stats["loose"]) == (20, matrix.nbytes, 20)
    assert embed_json(store, "vacuum")["vectors"] == 20
    assert "20 of float32 (16,)" in embed(store, "stats")
    assert embed_json(store, "ls", "--collections") == [{"collection": "default", "count": 20}]


def test_the_most_similar_are_found_exactly(store: Path, tmp_path: Path) -> None:
    hashes, matrix = made(200)
    matrix[5] = 0
    matrix[6, 0] = np.nan
    with lfsfs.connect(store) as client:
        client.embeddings.write_embeddings_batch((hashes, matrix))
    usable = [at for at in range(200) if at not in (5, 6)]
    unit = {at: matrix[at] / np.linalg.norm(matrix[at]) for at in usable}
    cosine = sorted(usable, key=lambda at: -float(unit[at] @ unit[3]))[:7]
    found = embed_json(store, "search", "--like", hashes[3], "-k", 7)
    assert [entry["hash"] for entry in found] == [hashes[at] for at in cosine]
    assert found[0]["score"] == pytest.approx(1, abs=1e-5)
    np.save(tmp_path / "like.npy", matrix[3])
    dot = max(usable, key=lambda at: float(matrix[at] @ matrix[3]))
    assert (
        embed_json(store, "search", "--like", tmp_path / "like.npy", "-k", 1, "--dot")[0]["hash"]
        == hashes[dot]
    )


@pytest.mark.parametrize("target", ["dir", "all.npz", "all.safetensors"])
def test_what_is_exported_is_imported_again_to_the_last_bit(store: Path, tmp_path: Path, target: str) -> None:
    hashes, matrix = made(50)
    with lfsfs.connect(store) as client:
        client.embeddings.write_embeddings_batch((hashes, matrix))
        client.embeddings.write_embedding(hash_of("0-d"), np.array(3, ">i2"))
        assert embed_json(store, "export", tmp_path / target)["exported"] == 51
        embed(store, "import", tmp_path / target, "--collection", "copy")
        copy = client.embeddings.collection("copy")
        found = copy.read_embeddings_batch(hashes)
        assert [found[text].tobytes() for text in hashes] == [row.tobytes() for row in matrix]
        assert copy.read_embedding(hash_of("0-d")) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    if target == "all.npz":
        with np.load(tmp_path / target) as loaded:
            assert (loaded[hashes[0]] == matrix[0]).all()


def test_orphans_are_listed_and_removed_only_when_asked(store: Path) -> None:
    hashes, matrix = made(5)
    with lfsfs.connect(store) as client:
        client.embeddings.write_embeddings_batch((hashes, matrix))
    keep = "\n".join(hashes[:3])
    for _ in range(2):
        assert sorted(embed(store, "orphans", "--referenced", "-", given=keep).split()) == sorted(hashes[3:])
    embed(store, "orphans", "--referenced", "-", "--delete", given=keep)
    assert len(embed(store, "ls").splitlines()) == 3
    assert "removed 1 of 2" in embed(store, "rm", hashes[0], hashes[4])


def test_what_goes_wrong_is_told_with_its_status(store: Path, tmp_path: Path) -> None:
    assert "no collection" in embed(store, "ls", "--collection", "none", status=3)
    assert "no embedding" in embed(store, "get", hash_of(1), status=3)
    assert "not a content hash" in embed(store, "get", "XYZ", status=2)
    assert "no such file" in embed(store, "put", tmp_path / "absent", status=3)
    np.save(tmp_path / "v.npy", np.zeros(3))
    embed(store, "put", "--hash", hash_of(1), tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.ones(3))
    assert "replace" in embed(store, "put", "--hash", hash_of(1), tmp_path / "v.npy", status=4)
    embed(store, "put", "--hash", hash_of(1), tmp_path / "v.npy", "--replace")
    with lfsfs.connect(store) as client:
        client.embeddings.write_embedding(hash_of(2), np.zeros(2, "c8"))
    assert "safetensors has no complex64" in embed(store, "export", tmp_path / "x.safetensors", status=1)
    assert not (tmp_path / "x.safetensors").exists()


def test_a_collection_is_packed_as_the_command_says(store: Path, tmp_path: Path) -> None:
    hashes = [hash_of(number) for number in range(3_000)]
    np.save(tmp_path / "zeros.npy", np.zeros((3_000, 1_024), np.float32) + np.arange(3_000)[:, None])
    (tmp_path / "zeros.txt").write_text("\n".join(hashes))
    embed(store, "put", tmp_path / "zeros.npy", "--codec", "zstd")
    with lfsfs.connect(store) as client:
        assert client.embeddings.stats(mean=False).stored < 3_000 * 4_096 / 10
        assert (client.embeddings.read_embedding(hashes[7]) == 7).all()
