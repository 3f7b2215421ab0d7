"""What was compared with its digest need not be compared again soon, unless the file has changed."""

import os
from pathlib import Path

import pytest

from lfsfs.embeddings import verified
from lfsfs.embeddings.verified import Verified


def blocks(memory: Verified, path: Path) -> bytearray:
    fd = os.open(path, os.O_RDONLY)
    try:
        return memory.blocks(fd, 1024)
    finally:
        os.close(fd)


def test_what_is_noted_of_a_file_is_known_until_somebody_writes_to_it(tmp_path: Path) -> None:
    memory, path = Verified(), tmp_path / "pack"
    path.write_bytes(bytes(5_000))
    os.utime(path, ns=(1, 1))
    assert blocks(memory, path) == bytes(5)
    blocks(memory, path)[3] = 1
    assert blocks(memory, path) == b"\0\0\0\1\0"
    path.write_bytes(bytes(5_000))
    assert blocks(memory, path) == bytes(5)


def test_it_is_forgotten_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, path, now = Verified(), tmp_path / "pack", [0.0]
    monkeypatch.setattr(verified.time, "monotonic", lambda: now[0])
    path.write_bytes(bytes(1_000))
    blocks(memory, path)[0] = 1
    now[0] = verified.VERIFIED_SECONDS
    assert blocks(memory, path) == b"\1"
    now[0] += 1
    assert blocks(memory, path) == b"\0"


def test_of_many_files_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "FILES", 3)
    memory = Verified()
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.write_bytes(bytes(1_000))
        blocks(memory, path)[0] = 1
    assert blocks(memory, paths[1]) == b"\1"
    assert blocks(memory, paths[0]) == b"\0"
