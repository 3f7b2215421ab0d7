"""Encryption: the promises of every tier, the format byte by byte as docs/FORMAT.md says, and what no key opens."""

import hashlib
import json
import os
import re
import stat
import struct
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from lfsfs.errors import Corrupt, InvalidConfig, StoreFormat, Unavailable
from lfsfs.oid import Oid
from lfsfs.tiers import LocalTier
from lfsfs.tiers.encryption import (
    CommandKey,
    EncryptedTier,
    Keys,
    LocalKey,
    Ring,
    RingKey,
    WrongKey,
    key_from_environment,
    key_from_file,
)
from lfsfs.tiers.encryption.frames import (
    FRAME_BYTES,
    Frames,
    encode_head,
    frame_count,
    plain_size,
    sealed_size,
)
from lfsfs.tiers.encryption.ring import new_ring, open_ring

from .conformance import Sources, TierConformance, whole

RING = Ring([RingKey(bytes(range(16)), bytes(range(32)), 1)])
MASTER = LocalKey(b"m" * 32)
SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 3 * FRAME_BYTES + 17]
FORMAT = Path(__file__).parents[2] / "docs" / "FORMAT.md"


def encrypted(path: Path, ring: Ring = RING) -> EncryptedTier:
    return EncryptedTier(path, Keys(ring), temp=path / "temp", durable=False)


class TestEncrypted(TierConformance):
    make = staticmethod(lambda path: encrypted(path))


@pytest.fixture
def tier(tmp_path: Path) -> EncryptedTier:
    (tmp_path / "tier").mkdir()
    return encrypted(tmp_path / "tier")


@pytest.fixture
def plain(tmp_path: Path) -> LocalTier:
    """The same place without keys."""
    (tmp_path / "tier").mkdir(exist_ok=True)
    return LocalTier(tmp_path / "tier", durable=False)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


def file_of(tmp_path: Path, oid: Oid) -> Path:
    return tmp_path / "tier" / "objects" / oid.path()


# An independent reader, by docs/FORMAT.md: it shares no code with what it reads.


def gcm(key: bytes, nonce: bytes, sealed: bytes, bound: bytes = b"") -> bytes:
    cipher = Cipher(algorithms.AES(key), modes.GCM(nonce, sealed[-16:])).decryptor()
    cipher.authenticate_additional_data(bound)
    return cipher.update(sealed[:-16]) + cipher.finalize()


def read_sealed(sealed: bytes, oid: str, ring: dict[bytes, bytes]) -> bytes:
    assert sealed[:16] == b"lfsfs-sealed-01\n"
    key_id, frame = sealed[16:32], struct.unpack(">I", sealed[32:36])[0]
    key = gcm(ring[key_id], sealed[36:48], sealed[48:96], sealed[:36] + bytes.fromhex(oid))
    found, body, number = b"", sealed[96:], 0
    while True:
        piece, body = body[: frame + 16], body[frame + 16 :]
        found += gcm(key, number.to_bytes(11, "big") + (b"\0" if body else b"\1"), piece)
        number += 1
        if not body:
            return found


def test_the_vectors_of_the_manual_are_what_is_written_and_read() -> None:
    text = FORMAT.read_text().partition("## Sealed objects")[2]
    rows = dict(re.findall(r"^    ([a-z ]+): +([0-9a-f]+|\"\w*\")$", text, re.MULTILINE))
    content = rows["content"].strip('"').encode()
    oid, ring_key, key_id = Oid.of(content), bytes.fromhex(rows["ring key"]), bytes.fromhex(rows["key id"])
    data_key, nonce = bytes.fromhex(rows["data key"]), bytes.fromhex(rows["nonce"])
    sealed = encode_head(oid, key_id, ring_key, data_key, nonce) + Frames(oid, data_key).seal(
        0, content, last=True
    )
    assert sealed.hex() == rows["sealed"]
    assert read_sealed(bytes.fromhex(rows["sealed"]), oid, {key_id: ring_key}) == content
    long = bytes(FRAME_BYTES + 1)
    pieces = [
        Frames(oid, data_key).seal(0, long[:-1], last=False),
        Frames(oid, data_key).seal(1, long[-1:], last=True),
    ]
    assert hashlib.sha256(b"".join(pieces)).hexdigest() == rows["two frames"]


@pytest.mark.parametrize("size", SIZES)
async def test_an_independent_reader_reads_what_is_written(
    tier: EncryptedTier, sources: Sources, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    oid = await sources.put(tier, content)
    sealed = file_of(tmp_path, oid).read_bytes()
    assert len(sealed) == sealed_size(size)
    assert plain_size(len(sealed)) == size
    assert read_sealed(sealed, oid, {key.id: key.key for key in RING.keys}) == content
    assert content[:16] not in sealed or size < 16
    assert await whole(tier, oid) == content


async def test_one_bit_anywhere_is_found_and_never_returned(
    tier: EncryptedTier, sources: Sources, tmp_path: Path
) -> None:
    content = os.urandom(FRAME_BYTES + 100)
    oid = await sources.put(tier, content)
    file = file_of(tmp_path, oid)
    sealed = file.read_bytes()
    file.chmod(0o600)
    places = [*range(96), 96, 5000, 96 + FRAME_BYTES, 96 + FRAME_BYTES + 16, len(sealed) - 1]
    for at in places:
        file.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        fresh = encrypted(tmp_path / "tier")
        if 16 <= at < 96 and not 32 <= at < 36:
            with pytest.raises(Corrupt):
                await fresh.size(oid)
        elif at >= 96:
            with pytest.raises(Corrupt):
                await whole(fresh, oid)
        else:  # it does not look sealed any more: it is no object, and is told by its SHA-256 above
            assert await fresh.read(oid, 0, 10) != content[:10]


async def test_frames_that_change_places_and_ends_that_are_cut_off_are_found(
    tier: EncryptedTier, sources: Sources, tmp_path: Path
) -> None:
    content = os.urandom(3 * FRAME_BYTES)
    oid = await sources.put(tier, content)
    file = file_of(tmp_path, oid)
    sealed = file.read_bytes()
    file.chmod(0o600)
    step = FRAME_BYTES + 16
    parts = [sealed[96 + at * step :][:step] for at in range(3)]
    for wrong in ([1, 0, 2], [0, 1], [0], [0, 1, 2, 2], [0, 0, 2]):
        file.write_bytes(sealed[:96] + b"".join(parts[at] for at in wrong))
        with pytest.raises(Corrupt):
            await whole(encrypted(tmp_path / "tier"), oid)
    for length in (95, 96, 100, 96 + 15, 96 + step + 5):
        file.write_bytes(sealed[:length])
        if length >= 96:
            with pytest.raises(Corrupt):
                await encrypted(tmp_path / "tier").size(oid)


async def test_a_sealed_object_under_another_name_does_not_open(
    tier: EncryptedTier, sources: Sources, tmp_path: Path
) -> None:
    first, second = await sources.put(tier, b"the first"), await sources.put(tier, b"the other")
    file_of(tmp_path, second).unlink()
    file_of(tmp_path, first).rename(file_of(tmp_path, second))
    with pytest.raises(Corrupt):
        await encrypted(tmp_path / "tier").size(second)


async def test_a_range_reads_only_the_frames_that_it_touches(
    tier: EncryptedTier, sources: Sources, tmp_path: Path
) -> None:
    content = os.urandom(5 * FRAME_BYTES)
    oid = await sources.put(tier, content)
    file = file_of(tmp_path, oid)
    file.chmod(0o600)
    sealed = bytearray(file.read_bytes())
    sealed[96] ^= 1
    file.write_bytes(sealed)
    tier = encrypted(tmp_path / "tier")
    assert await tier.read(oid, FRAME_BYTES, 4 * FRAME_BYTES) == content[FRAME_BYTES:]
    with pytest.raises(Corrupt):
        await tier.read(oid, FRAME_BYTES - 1, 2)


# What is plain.


async def test_plain_and_sealed_objects_lie_side_by_side_and_plain_ones_are_sealed_in_place(
    tier: EncryptedTier, plain: LocalTier, sources: Sources, tmp_path: Path
) -> None:
    contents = [os.urandom(size) for size in SIZES]
    oids = [
        await sources.put(plain if number % 2 else tier, content) for number, content in enumerate(contents)
    ]
    for _ in range(2):
        for oid, content in zip(oids, contents, strict=True):
            assert await tier.size(oid) == len(content)
            assert await whole(tier, oid) == content
            assert await tier.read(oid, 1, 5) == content[1:6]
        assert [await tier.seal(oid) for oid in oids].count(True) in (0, 3)
    assert all([await tier.is_sealed(oid) for oid in oids])
    assert await tier.scan(None, 100) == sorted(oids)
    assert not list((tmp_path / "tier" / "temp").iterdir())


async def test_a_put_seals_what_lies_there_plain(
    tier: EncryptedTier, plain: LocalTier, sources: Sources, tmp_path: Path
) -> None:
    oid = await sources.put(plain, b"known in the clear")
    before = stat.S_IMODE(file_of(tmp_path, oid).stat().st_mode)
    await sources.put(tier, b"known in the clear")
    assert await tier.is_sealed(oid)
    assert b"clear" not in file_of(tmp_path, oid).read_bytes()
    assert stat.S_IMODE(file_of(tmp_path, oid).stat().st_mode) == before


async def test_what_is_damaged_is_not_sealed(
    tier: EncryptedTier, plain: LocalTier, sources: Sources, tmp_path: Path
) -> None:
    oid = await sources.put(plain, b"whole at first")
    file_of(tmp_path, oid).chmod(0o600)
    file_of(tmp_path, oid).write_bytes(b"rotten by now.")
    with pytest.raises(Corrupt):
        await tier.seal(oid)
    assert file_of(tmp_path, oid).read_bytes() == b"rotten by now."


async def test_a_sealed_object_of_another_store_is_an_object_like_any_other(
    tier: EncryptedTier, plain: LocalTier, sources: Sources, tmp_path: Path
) -> None:
    inner = await sources.put(tier, b"sealed")
    content = file_of(tmp_path, inner).read_bytes()
    oid = await sources.put(plain, content)
    assert await whole(tier, oid) == content
    assert await tier.seal(oid)
    assert await whole(tier, oid) == content


async def test_one_tier_reads_what_another_seals_or_puts_anew(
    tier: EncryptedTier, plain: LocalTier, sources: Sources, tmp_path: Path
) -> None:
    other, content = encrypted(tmp_path / "tier"), os.urandom(1000)
    oid = await sources.put(plain, content)
    assert await tier.read(oid, 0, 10) == content[:10]
    await other.seal(oid)
    assert await whole(tier, oid) == content
    await other.delete(oid)
    await sources.put(other, content)
    assert await tier.read(oid, 500, 500) == content[500:], "with another data key"


# Keys.


def test_a_ring_opens_with_its_master_key_and_with_no_other() -> None:
    ring = new_ring().with_new_key()
    text = ring.encode(MASTER)
    assert open_ring(text, MASTER).keys == ring.keys
    with pytest.raises(WrongKey, match="is encrypted with the master key key:"):
        open_ring(text, LocalKey(b"n" * 32))
    assert all(key.key.hex() not in text.decode() for key in ring.keys)
    said = json.loads(text)
    said["keys"][0]["wrapped"], said["keys"][1]["wrapped"] = said["keys"][1]["wrapped"], "AAAA"
    with pytest.raises(WrongKey):
        open_ring(json.dumps(said).encode(), MASTER)
    for damaged in (b"", b"{}", text[:50], b'{"format": 2, "master": "x", "keys": []}'):
        with pytest.raises((StoreFormat, InvalidConfig)):
            open_ring(damaged, MASTER)


async def test_another_master_key_and_a_new_ring_key_touch_no_object(
    tier: EncryptedTier, sources: Sources, tmp_path: Path
) -> None:
    old = await sources.put(tier, b"of the first key")
    sealed = file_of(tmp_path, old).read_bytes()
    rewrapped = open_ring(RING.encode(MASTER), MASTER).with_new_key().encode(LocalKey(b"n" * 32))
    ring = open_ring(rewrapped, LocalKey(b"n" * 32))
    rotated = encrypted(tmp_path / "tier", ring)
    new = await sources.put(rotated, b"of the second")
    assert (await whole(rotated, old), await whole(rotated, new)) == (b"of the first key", b"of the second")
    assert file_of(tmp_path, old).read_bytes() == sealed
    assert file_of(tmp_path, new).read_bytes()[16:32] == ring.newest.id
    with pytest.raises(Corrupt, match="not on the ring"):
        await encrypted(tmp_path / "tier").size(new)


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, key = tmp_path / "key", os.urandom(32)
    file.write_bytes(key)
    monkeypatch.setenv("LFSFS_TEST_KEY", key.hex() + "\n")
    assert key_from_file(file).name == key_from_environment("LFSFS_TEST_KEY").name == LocalKey(key).name
    file.write_text(key.hex())
    assert key_from_file(file).unwrap(LocalKey(key).wrap(b"k" * 32)) == b"k" * 32
    file.write_bytes(b"short")
    with pytest.raises(InvalidConfig, match="32 bytes"):
        key_from_file(file)
    for wrong in (lambda: key_from_file(tmp_path / "none"), lambda: key_from_environment("LFSFS_NONE")):
        with pytest.raises(InvalidConfig):
            wrong()


KMS = """
import sys
given, what = sys.stdin.buffer.read(), sys.argv[-1]
if what == "unwrap" and not given.startswith(b"kms:"):
    sys.exit("not one of mine")
sys.stdout.buffer.write(b"kms:" + given[::-1] if what == "wrap" else given[4:][::-1])
"""


def test_a_command_may_keep_the_key_for_itself(tmp_path: Path) -> None:
    program = tmp_path / "kms.py"
    program.write_text(KMS)
    master = CommandKey("kms", [sys.executable, str(program)])
    ring = new_ring()
    text = ring.encode(master)
    assert open_ring(text, master).keys == ring.keys
    said = json.loads(text)
    said["keys"][0]["wrapped"] = "AAAA"
    with pytest.raises(WrongKey, match="not one of mine"):
        open_ring(json.dumps(said).encode(), master)
    with pytest.raises(Unavailable, match="cannot be asked"):
        open_ring(text, CommandKey("kms", [str(tmp_path / "nothing")]))


def test_the_independent_reader_refuses_what_is_damaged_too() -> None:
    with pytest.raises(InvalidTag):
        gcm(bytes(32), bytes(12), bytes(20))


def test_every_length_has_one_sealed_length() -> None:
    lengths = [sealed_size(size) for size in range(0, 3 * FRAME_BYTES, 97)]
    assert lengths == sorted(set(lengths))
    assert [plain_size(length) for length in lengths] == list(range(0, 3 * FRAME_BYTES, 97))
    assert frame_count(0) == 1
