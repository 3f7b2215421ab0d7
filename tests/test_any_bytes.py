"""Whatever lies in a file of ours, or in a row of the index: a correct answer, or an error that is one of ours.

Of what has a checksum the checksum is right here, as if somebody had made it so on purpose.
"""

import json
import shutil
import string
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from blake3 import blake3
from embeddings.test_pack import GOLDEN
from flipping import small
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from lfsfs import Oid, open_store
from lfsfs.config_file import read_file
from lfsfs.config_keys import KEYS
from lfsfs.embeddings.pack import DIRECTORY_LIMIT_BYTES, HEAD_BYTES, directory_size, read_directory
from lfsfs.errors import Corrupt, InvalidConfig, LfsfsError, StoreFormat
from lfsfs.server.access.users import parse_users
from lfsfs.store.index import TABLES, Tx
from lfsfs.tiers.encryption.frames import FRAME_BYTES, Frames, decode_head, encode_head, unwrap
from lfsfs.tiers.encryption.frames import HEAD_BYTES as SEALED_HEAD_BYTES
from lfsfs.tiers.encryption.masters import LocalKey
from lfsfs.tiers.encryption.ring import Ring, new_ring, open_ring

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """The content, some of its bytes changed, cut out or doubled."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at, size = draw(st.integers(0, len(found))), draw(st.integers(1, 9))
        match draw(st.sampled_from(["change", "cut", "add", "end"])):
            case "change":
                found[at : at + size] = draw(st.binary(min_size=size, max_size=size))
            case "cut":
                del found[at : at + size]
            case "add":
                found[at:at] = draw(st.binary(min_size=size, max_size=size))
            case _:
                del found[at:]
    return bytes(found)


# Packs.

_PACK_HEAD = struct.Struct(">16s6IQQQ")
VECTORS_BYTES = _PACK_HEAD.unpack_from(GOLDEN.read_bytes())[-1]


def pack_of(
    names: bytes, digests: bytes, hashes: bytes, unpacked: bytes, counts: tuple[int, int, int]
) -> bytes:
    """The directory of a pack that says so, its checksum right."""
    packed = zlib.compress(unpacked)
    rest = names + digests + hashes + packed
    size = -(-(HEAD_BYTES + len(rest)) // 64) * 64
    head = _PACK_HEAD.pack(
        b"lfsfs-vectors-1\n", *counts, len(names), len(hashes), len(packed), 1, size, VECTORS_BYTES
    )
    rest = rest.ljust(size - HEAD_BYTES, b"\0")
    return head + blake3(head + rest).digest() + rest


def parts_of_golden() -> tuple[bytes, bytes, bytes, bytes, tuple[int, int, int]]:
    pack = GOLDEN.read_bytes()
    _, *counts, names, hashes, packed, _, _, _ = _PACK_HEAD.unpack_from(pack)
    ends = [HEAD_BYTES, names, 16 * counts[1], hashes, packed]
    found, at = [], 0
    for before, size in pairwise(ends):
        at = at + before if not found else at
        found.append(pack[at : at + size])
        at += size
    return found[0], found[1], found[2], zlib.decompress(found[3]), (counts[0], counts[1], counts[2])


@settings(max_examples=150)
@given(data=st.data())
def test_a_pack_whatever_its_directory_says_is_read_or_corrupt(data: st.DataObject) -> None:
    names, digests, hashes, unpacked, counts = parts_of_golden()
    assert read_directory(pack_of(names, digests, hashes, unpacked, counts)).records
    which = data.draw(st.sampled_from(["names", "json", "digests", "hashes", "columns", "counts"]))
    if which == "names":
        names = data.draw(changed(names))
    elif which == "json":
        names = json.dumps(data.draw(ANY_JSON)).encode()
    elif which == "digests":
        digests = data.draw(changed(digests))
    elif which == "hashes":
        hashes = data.draw(changed(hashes))
    elif which == "columns":
        unpacked = data.draw(changed(unpacked))
    else:
        counts = data.draw(st.tuples(*[st.integers(0, 9) | st.integers(0, 2**32 - 1)] * 3))
    content = pack_of(names, digests, hashes, unpacked, counts)
    try:
        found = read_directory(content)
    except Corrupt:
        return
    assert all(isinstance(record.collection, str) for record in found.records)


def test_a_pack_whose_columns_unpack_to_gigabytes_is_corrupt_and_takes_no_memory() -> None:
    names, digests, hashes, _, counts = parts_of_golden()
    content = pack_of(names, digests, hashes, bytes(64 << 20), counts)
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            read_directory(content)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_the_head_of_a_pack_says_a_size_that_may_be_or_is_corrupt(head: bytes) -> None:
    try:
        assert HEAD_BYTES <= directory_size(head) <= DIRECTORY_LIMIT_BYTES
    except Corrupt:
        pass


# Encryption.

KEY, RING_KEY, DATA_KEY = bytes(16), bytes(range(32)), bytes(range(32, 64))
OID = Oid.of(b"sealed")
CONTENT = b"sealed" * 15_000


def sealed() -> bytes:
    frames = Frames(OID, DATA_KEY)
    pieces = [CONTENT[at : at + FRAME_BYTES] for at in range(0, len(CONTENT), FRAME_BYTES)]
    return encode_head(OID, KEY, RING_KEY, DATA_KEY, bytes(12)) + b"".join(
        frames.seal(number, piece, last=number == len(pieces) - 1) for number, piece in enumerate(pieces)
    )


def opened(content: bytes) -> bytes | None:
    """What it says; None where it is no sealed object. Corrupt."""
    head = decode_head(content[:SEALED_HEAD_BYTES])
    if head is None:
        return None
    frames, found = Frames(OID, unwrap(head, OID, RING_KEY)), b""
    rest = content[SEALED_HEAD_BYTES:]
    size = FRAME_BYTES + 16
    count = max(1, -(-len(rest) // size))
    for number in range(count):
        found += frames.open(number, rest[number * size : (number + 1) * size], last=number == count - 1)
    return found


SEALED = sealed()


@settings(max_examples=60)
@given(changed(SEALED))
@example(SEALED)
def test_a_sealed_object_that_was_changed_is_corrupt_or_what_it_was(content: bytes) -> None:
    try:
        found = opened(content)
    except Corrupt:
        return
    assert found == CONTENT or (found is None and content[:SEALED_HEAD_BYTES] != SEALED[:SEALED_HEAD_BYTES])


MASTER = LocalKey(bytes(32))
RING = new_ring().encode(MASTER)
RING_JSON = st.fixed_dictionaries(
    {},
    optional={
        "format": st.just(1) | ANY_JSON,
        "master": st.just(MASTER.name) | ANY_JSON,
        "keys": ANY_JSON
        | st.lists(
            st.fixed_dictionaries(
                {"id": ANY_JSON | st.just("00" * 16), "wrapped": ANY_JSON, "created": ANY_JSON}
            ),
            max_size=2,
        ),
    },
)


@given(changed(RING) | RING_JSON.map(lambda said: json.dumps(said).encode()) | st.binary(max_size=50))
@example(b"[" * 100_000)
@example(RING.replace(b'"created": ', b'"created": Infinity, "x": '))
def test_a_ring_of_keys_is_one_or_is_damaged(text: bytes) -> None:
    try:
        ring = open_ring(text, MASTER)
    except (InvalidConfig, StoreFormat):  # WrongKey is one of those
        return
    assert isinstance(ring, Ring)
    assert ring.newest.key


# Files that people write.

TOML_VALUE = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.integers().map(str),
    st.floats(allow_nan=True).map(repr),
    st.text(string.printable, max_size=20).map(json.dumps),
    st.sampled_from(
        [
            '"1GiB"',
            '"0"',
            '"-1"',
            '"s3://a/b"',
            '"/"',
            '"sync"',
            '"022"',
            "1979-05-27",
            "[[1], [2]]",
            "{a = 1}",
        ]
    ),
    st.lists(st.text(string.ascii_letters, max_size=5).map(json.dumps), max_size=3).map(
        lambda all: f"[{', '.join(all)}]"
    ),
)
NAMES = st.sampled_from([f"{section}.{key}" for section, keys in KEYS.items() for key in keys])


def read(reader: Callable[[Path], object], content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            reader(Path(file.name))
        except InvalidConfig as refused:
            assert file.name in str(refused), "it says which file"


@settings(max_examples=80)
@given(st.lists(st.tuples(NAMES, TOML_VALUE), max_size=4, unique_by=lambda pair: pair[0]))
def test_any_value_of_any_setting_is_taken_or_refused_by_name(given_settings: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{key} = {value}" for key, value in given_settings)
    read(read_file, text.encode())


@settings(max_examples=200)
@given(st.binary(max_size=100) | changed(small.CONFIG.encode()))
@example(b"a = " + b"[" * 20_000)
def test_any_configuration_file_is_read_or_refused(content: bytes) -> None:
    read(read_file, content)


USERS = b'[users.anna]\npassword = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2g"\nread = ["studio/*"]\n'


@settings(max_examples=200)
@given(st.binary(max_size=100) | changed(USERS))
@example(b"a = " + b"[" * 20_000)
def test_any_users_file_is_read_or_refused(content: bytes) -> None:
    read(lambda file: parse_users(file, file.read_bytes()), content)


# Rows of the index.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with a little of everything."""
    path = tmp_path_factory.mktemp("rows") / "store"
    trio.run(small.made, path)
    yield path
    shutil.rmtree(path)


def rows_of(path: Path) -> list[tuple[str, bytes, bytes]]:
    async def look() -> list[tuple[str, bytes, bytes]]:
        async with open_store(path) as store:
            return store.index.view(
                lambda tx: [(table, key, value) for table in TABLES for key, value in tx.scan(table)]
            )

    return trio.run(look)


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 5, phases=(Phase.explicit, Phase.generate))
@given(data=st.data())
def test_any_row_of_the_index_may_be_any_bytes(store: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        shutil.copytree(store, path)
        rows = rows_of(path)
        table = data.draw(st.sampled_from(sorted({table for table, _, _ in rows})))
        key, value = data.draw(st.sampled_from([(key, value) for of, key, value in rows if of == table]))
        put_key = key if data.draw(st.booleans()) else data.draw(changed(key))
        put_value = data.draw(changed(value) | st.binary(max_size=40))

        async def harm() -> None:
            async with open_store(path) as opened:

                def write(tx: Tx) -> None:
                    tx.delete(table, key)
                    if 0 < len(put_key) < 500:
                        tx.put(table, put_key, put_value)

                await opened.index.update(write)

        trio.run(harm)
        assert_seen(path)


def assert_seen(path: Path) -> None:
    """All of it is used; what is found wrong is found as an error of ours."""
    try:
        found: dict[str, Any] = trio.run(small.used, path)
    except LfsfsError:
        return
    except BaseExceptionGroup as group:
        _, other = group.split(LfsfsError)
        if other is not None:
            raise other from None
        return
    assert found["seen"]
