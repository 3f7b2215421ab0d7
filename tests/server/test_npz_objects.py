"""The server and objects that are the npz files of vectors: taken without a copy, sent as any other."""

from collections.abc import Callable

import numpy as np
import pytest
from gitlfs.bench import file_in

import lfsfs
from lfsfs.embeddings import codec

from .clones import Team
from .served import Served

Teams = Callable[[str], Team]


@pytest.mark.promise("12.9")
def test_the_npz_file_of_a_vector_is_pushed_and_pulled_and_stored_no_second_time(
    team: Teams, served: Served
) -> None:
    matrix = np.random.default_rng(5).standard_normal((4, 384), np.float32)
    hashes = [f"{number:064x}" for number in range(len(matrix))]
    with lfsfs.connect(served.store) as client:
        client.embeddings.write_embeddings_batch((hashes, matrix))
        client.embeddings.pack()
    files = {f"{text}.bin": codec.render(row) for text, row in zip(hashes, matrix, strict=True)}
    people = team(f"{served.url}/git/npz.git/info/lfs")
    _, oids = people.pushed("ann", files)
    assert not [oid for oid in oids.values() if file_in(served.store / "objects", oid).exists()]
    bob = people.clone("bob")
    bob.git("checkout", "-q", "main")
    assert {name: bob.read(name) for name in files} == files
