"""Whatever somebody has put into the bucket in place of a record: an error that names it, never another exception."""

import json
import struct
import zlib

import pytest

from lfsfs.errors import Corrupt
from lfsfs.store import records, shards
from lfsfs.store.hashing import block_digest


def sealed(magic: bytes, text: bytes) -> bytes:
    return magic + text + block_digest(magic + text)


def machine(**changed: object) -> bytes:
    said = {"format": 1, "id": "a", "host": "b", "store": "/c", "seen": 1, "repositories": {"1": "web"}}
    return json.dumps(said | changed).encode()


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 200_000,
        machine(repositories=[]),
        machine(repositories={"x": "web"}),
        machine(repositories={"1": "../../etc"}),
        machine(seen=None),
        machine(seen=float("inf")),
    ],
    ids=lambda note: note[:40].decode("latin-1"),
)
def test_a_machine_note_that_is_none_is_corrupt(note: bytes) -> None:
    assert records._machine(machine()).repositories == {1: "web"}
    with pytest.raises(Corrupt):
        records._machine(note)


def test_references_of_half_an_entry_are_corrupt() -> None:
    with pytest.raises(Corrupt):
        shards.read_references(sealed(b"lfsfs-references-1\n", bytes(35)))


@pytest.mark.parametrize(
    "text",
    [
        b"no zlib",
        zlib.compress(b"half"),
        zlib.compress(struct.pack(">QIH", 1, 2**32 - 1, 65535)),
        zlib.compress(struct.pack(">QIH", 1, 200, 0) + b"\xff" * 200),
        zlib.compress(struct.pack(">QIH", 2**64 - 1, 200, 0) + bytes(200)),
        zlib.compress(b"cut off")[:-3],
    ],
)
def test_names_that_are_none_are_corrupt(text: bytes) -> None:
    with pytest.raises(Corrupt):
        list(shards.read_inodes(sealed(b"lfsfs-names-1\n", text)))


def test_names_that_unpack_to_more_than_any_machine_has_are_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_MOST_TEXT_BYTES", 1 << 20)
    with pytest.raises(Corrupt):
        list(shards.read_inodes(sealed(b"lfsfs-names-1\n", zlib.compress(bytes(8 << 20)))))
