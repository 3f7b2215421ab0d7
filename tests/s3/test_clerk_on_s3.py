"""A crowd of small files, committed by a process of its own, reaches the bucket, and another machine has all of it."""

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .machines import Machine, Place

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(120)]
FILES = 200


def test_what_a_clerk_commits_is_uploaded_and_read_by_another_machine(tmp_path: Path, place: Place) -> None:
    contents: list[bytes] = []
    with Machine(tmp_path / "a", place) as one:

        def write(content: bytes) -> None:
            (one.path / "incoming" / hashlib.sha256(content).hexdigest()).write_bytes(content)

        with ThreadPoolExecutor(16) as pool:
            while not re.search(r"process \d+ commits small files", one.log()):
                wave = [os.urandom(40) for _ in range(FILES)]
                list(pool.map(write, wave))
                contents += wave
                assert len(contents) < 100 * FILES, "no clerk came"
            wave = [os.urandom(4096) for _ in range(FILES)]
            list(pool.map(write, wave))
        one.sync()
    with Machine(tmp_path / "b", place) as other:
        for content in wave + contents[:20]:
            assert other.read(hashlib.sha256(content).hexdigest()) == content
