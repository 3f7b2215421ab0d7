"""The face for programs that know nothing of trio: scripts, threads, asyncio, notebooks; beside other processes."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import lfsfs
from lfsfs.errors import Exists, LfsfsError, NotFound, ReadOnly

from .conftest import hash_of, made


def test_all_methods_do_what_the_collection_does(tmp_path: Path) -> None:
    hashes, matrix = made(30)
    with lfsfs.connect(tmp_path / "store", create=True) as client:
        embeddings = client.embeddings
        assert embeddings.write_embedding(hashes[0], matrix[0]) == f"embeddings/default/{hashes[0]}.npz"
        embeddings.write_embeddings_batch((hashes, matrix))
        assert (embeddings.read_embedding(hashes[1]) == matrix[1]).all()
        assert list(embeddings) == sorted(hashes)
        assert len(embeddings) == 30
        assert hashes[0] in embeddings
        assert embeddings.contains(hash_of("absent")) is False
        assert embeddings.matrix(hashes)[1].tobytes() == matrix.tobytes()
        assert embeddings.stats().count == 30
        with pytest.raises(Exists):
            embeddings.write_embedding(hashes[0], matrix[1])
        assert embeddings.pack().vectors == 30
        assert embeddings.vacuum().removed == 0
        assert embeddings.read_embeddings_batch([hash_of("absent")]).missing == [hash_of("absent")]
        other = embeddings.create("other", "zstd")
        other.write_embeddings_batch({hashes[0]: matrix[0]})
        assert embeddings.collections() == ["default", "other"]
        assert embeddings.collection("other").cleanup_orphans([], dry_run=False) == hashes[:1]
        assert embeddings.remove("other") == 0
        assert embeddings.delete(hashes) == 30
        assert client.call(lambda store: store.usage()) is not None
    with pytest.raises(LfsfsError, match="closed"):
        client.embeddings.read_embedding(hashes[0])
    client.close()


def test_an_error_at_the_opening_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        lfsfs.connect(tmp_path / "absent")
    with lfsfs.connect(tmp_path / "store", create=True) as client:
        client.embeddings.write_embedding(hash_of(1), np.ones(3))
    with lfsfs.connect(tmp_path / "store", read_only=True) as client:
        assert client.embeddings.read_embedding(hash_of(1)).sum() == 3
        with pytest.raises(ReadOnly):
            client.embeddings.write_embedding(hash_of(2), np.ones(3))


def test_many_threads_use_one_client(tmp_path: Path) -> None:
    hashes, matrix = made(200)
    with lfsfs.connect(tmp_path, create=True, durability="fast") as client, ThreadPoolExecutor(8) as threads:
        list(threads.map(client.embeddings.write_embedding, hashes, matrix))
        found = list(threads.map(client.embeddings.read_embedding, hashes))
    assert [vector.tobytes() for vector in found] == [row.tobytes() for row in matrix]


def test_it_works_where_an_event_loop_runs_already_as_in_a_notebook(tmp_path: Path) -> None:
    async def cell() -> float:
        with lfsfs.connect(tmp_path, create=True) as client:
            client.embeddings.write_embedding(hash_of(1), np.ones(3))
            in_a_thread = await asyncio.to_thread(client.embeddings.read_embedding, hash_of(1))
            return float(client.embeddings.read_embedding(hash_of(1)).sum() + in_a_thread.sum())

    assert asyncio.run(cell()) == 6


def test_what_another_process_writes_is_seen_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, lfsfs, numpy as np\n"
        "with lfsfs.connect(sys.argv[1]) as client: client.embeddings.write_embedding(sys.argv[2], np.arange(3))"
    )
    with lfsfs.connect(tmp_path, create=True) as client:
        before = client.call(_generation)
        subprocess.run([sys.executable, "-c", program, tmp_path, hash_of(1)], check=True, timeout=60)
        assert client.embeddings.read_embedding(hash_of(1)).tolist() == [0, 1, 2]
        assert client.call(_generation) > before


async def _generation(store: lfsfs.Store) -> int:
    return store.embeddings.generation()
