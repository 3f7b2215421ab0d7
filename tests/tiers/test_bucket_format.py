"""What docs/FORMAT.md says of encrypted and compressed buckets, read by a program that shares no code with it."""

import hashlib
import hmac
import json
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
import trio
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from lfsfs.errors import Corrupt, InvalidConfig, StoreFormat
from lfsfs.oid import Oid
from lfsfs.tiers.bucket_settings import BucketSettings, Encryption, decode
from lfsfs.tiers.compression.frames import FRAME_BYTES, Decoding, compress, decode_head, head_bytes, size_of
from lfsfs.tiers.encryption import LocalKey, Ring, RingKey
from lfsfs.tiers.encryption.frames import FRAME_BYTES as SEALED
from lfsfs.tiers.encryption.frames import Frames
from lfsfs.tiers.encryption.names import HashedNames
from lfsfs.tiers.encryption.notes import Notes
from lfsfs.tiers.encryption.ring import UnknownKey, new_ring
from lfsfs.tiers.encryption.streams import Opening
from lfsfs.tiers.source import open_source

KEY_ID, KEY = bytes(range(16)), bytes(range(32))
RING = Ring([RingKey(KEY_ID, KEY, 1)])
FORMAT = Path(__file__).parents[2] / "docs" / "FORMAT.md"
ROWS = dict(re.findall(r"^    ([a-z ]+): +(\"?[\w/.]+\"?)$", FORMAT.read_text(), re.MULTILINE))
NOTE_NAME, NOTE = ROWS["note name"].strip('"'), ROWS["note"].strip('"').encode()


def hkdf(key: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, without salt."""
    secret, found, block = hmac.digest(bytes(32), key, "sha256"), b"", b""
    while len(found) < size:
        block = hmac.digest(secret, block + info + bytes([len(found) // 32 + 1]), "sha256")
        found += block
    return found[:size]


def read_note(sealed: bytes, name: str) -> bytes:
    assert sealed[:32] == b"lfsfs-note-0001\n" + KEY_ID
    key = hkdf(KEY, b"lfsfs notes", 32)
    cipher = Cipher(algorithms.AES(key), modes.GCM(sealed[32:44], sealed[-16:])).decryptor()
    cipher.authenticate_additional_data(sealed[:32] + name.encode())
    return cipher.update(sealed[44:-16]) + cipher.finalize()


def xts(key: bytes, plain: bytes) -> bytes:
    """IEEE 1619, of whole blocks, in unit 0, by AES of single blocks alone."""

    def aes(key: bytes, block: bytes) -> bytes:
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)

    tweak, found = int.from_bytes(aes(key[32:], bytes(16)), "little"), b""
    for at in range(0, len(plain), 16):
        mask = tweak.to_bytes(16, "little")
        block = bytes(a ^ b for a, b in zip(plain[at : at + 16], mask, strict=True))
        found += bytes(a ^ b for a, b in zip(aes(key[:32], block), mask, strict=True))
        tweak = (tweak << 1 & (1 << 128) - 1) ^ (0x87 if tweak >> 127 else 0)
    return found


def read_compressed(stored: bytes, oid: str, folder: Path) -> bytes:
    skippable, follows = struct.unpack_from("<II", stored)
    assert (skippable, stored[8:24], stored[24:56].hex()) == (0x184D2A5D, b"lfsfs-zstd-0001\n", oid)
    size, frame = struct.unpack_from(">QI", stored, 56)
    count = -(-size // frame)
    sizes = struct.unpack_from(f">{count}I", stored, 68)
    head = 68 + 4 * count + 32
    assert follows == head - 8
    assert stored[head - 32 : head] == blake3(stored[: head - 32]).digest()
    assert head + sum(sizes) == len(stored)
    (folder / "one.zst").write_bytes(stored)
    return subprocess.run(["zstd", "-dcq", folder / "one.zst"], check=True, capture_output=True).stdout


async def compressed(folder: Path, content: bytes) -> bytes | None:
    """None where it is not worth it."""
    (folder / "plain").write_bytes(content)
    target = folder / "compressed"
    target.unlink(missing_ok=True)
    oid = Oid.of(content)
    with open_source(oid, folder / "plain") as source:
        shrinks = await trio.to_thread.run_sync(compress, oid, source, target)
    return target.read_bytes() if shrinks else None


def decoded(stored: bytes, oid: Oid, offset: int, size: int) -> bytes:
    table = decode_head(stored[: head_bytes(size_of(stored, oid) or 0)], oid)
    first, beyond = table.frames_of(offset, offset + size)
    pieces: list[bytes] = []
    decoding = Decoding(oid, table, first, offset % FRAME_BYTES, size, pieces.append)
    frames = stored[table.starts[first] : table.starts[beyond]]
    for at in range(0, len(frames), 1000):
        decoding(frames[at : at + 1000])
    decoding.end()
    return b"".join(pieces)


def test_the_vectors_of_the_manual_are_what_is_written_and_read(tmp_path: Path) -> None:
    sealed = bytes.fromhex(ROWS["sealed note"])
    assert read_note(sealed, NOTE_NAME) == NOTE
    assert Notes(RING).open(NOTE_NAME, sealed) == NOTE
    assert xts(hkdf(KEY, b"lfsfs names", 64), bytes.fromhex(ROWS["oid"])).hex() == ROWS["hashed oid"]
    assert HashedNames(KEY).oid(Oid(ROWS["oid"])) == ROWS["hashed oid"]
    stored, content = bytes.fromhex(ROWS["compressed"]), b"a" * 600
    assert read_compressed(stored, Oid.of(content), tmp_path) == content
    assert decoded(stored, Oid.of(content), 0, 600) == content


def test_an_independent_reader_reads_notes_and_proofs_as_they_are_written() -> None:
    for content in (b"", b"a note", os.urandom(100_000)):
        sealed = Notes(RING).seal("records/one", content)
        assert read_note(sealed, "records/one") == content
        assert content not in sealed or not content
    master = LocalKey(b"m" * 32)
    settings = BucketSettings("one", True, Encryption(True, False, RING.wrapped(master))).signed(RING)
    said = json.loads(settings.encode())
    mac = said.pop("mac")
    text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    assert hmac.new(hkdf(KEY, b"lfsfs bucket", 32), text, hashlib.sha256).hexdigest() == mac
    assert decode(settings.encode()) == settings
    said["encryption"]["mixed"] = True
    with pytest.raises(StoreFormat, match="does not have its keys"):
        decode(json.dumps({**said, "mac": mac}).encode()).open_ring(master)


def test_a_note_opens_under_its_own_name_only_and_no_bit_of_it_may_change() -> None:
    sealed = Notes(RING).seal("records/one", b"content")
    for name, wrong in [("records/two", sealed), ("records/one", sealed[:-1]), ("records/one", b"content")]:
        with pytest.raises(Corrupt):
            Notes(RING).open(name, wrong)
    for at in range(len(sealed)):
        with pytest.raises(Corrupt):
            Notes(RING).open("records/one", sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
    with pytest.raises(UnknownKey):
        Notes(new_ring()).open("records/one", sealed)


def test_hashed_names_lead_back_and_hide_every_digest() -> None:
    names = HashedNames(KEY)
    oid, repository = Oid.of(b"one"), hashlib.blake2b(b"/a/b", digest_size=16).hexdigest()
    for key in [
        f"digests/{oid.path()}",
        f"damaged/{oid}",
        f"locks/{repository}/{oid}/0000000001",
        "machines/x.json",
    ]:
        name = names.note(key)
        assert names.note_of(name) == key
        assert oid not in name
        assert oid[:8] not in name
        assert repository not in name
    hidden = names.note(f"digests/{oid.path()}").split("/")
    assert hidden[1:3] == [hidden[3][:2], hidden[3][2:4]], "in the folder of its own name"
    assert names.folder("digests/ab/cd") == "digests/"
    assert names.folder("records/x/names/") == "records/x/names/"


@pytest.mark.parametrize("size", [512, FRAME_BYTES, FRAME_BYTES + 1, 5 * FRAME_BYTES - 7])
async def test_an_independent_reader_and_ranges_of_what_is_compressed(tmp_path: Path, size: int) -> None:
    content = (os.urandom(200) + b"lfsfs " * 500) * (size // 3200 + 1)
    content = content[:200] * 2 + content[: size - 400]
    stored, oid = await compressed(tmp_path, content), Oid.of(content)
    assert stored is not None
    assert read_compressed(stored, oid, tmp_path) == content
    for offset, length in [
        (0, size),
        (size - 1, 1),
        (size // 2, size // 3),
        (min(FRAME_BYTES, size - 2) - 1, 2),
    ]:
        assert decoded(stored, oid, offset, length) == content[offset : offset + length]


async def test_what_does_not_shrink_is_not_compressed(tmp_path: Path) -> None:
    for content in (b"", b"a" * 511, os.urandom(100_000), os.urandom(9 << 20) + bytes(100 << 10)):
        assert await compressed(tmp_path, content) is None, len(content)


async def test_another_objects_head_is_none_and_a_damaged_one_is_found(tmp_path: Path) -> None:
    content = b"a" * FRAME_BYTES * 2
    stored, oid = await compressed(tmp_path, content), Oid.of(content)
    assert stored is not None
    assert size_of(stored, Oid.of(stored)) is None, "of an object whose bytes are these"
    for at in range(68, head_bytes(len(content))):
        with pytest.raises(Corrupt):
            decode_head(
                stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 : head_bytes(len(content))], oid
            )
    with pytest.raises(Corrupt):
        decoded(stored[:-1], oid, 0, len(content))


@given(st.binary(max_size=400), st.integers(0, 1 << 20), st.integers(1, 1 << 20))
def test_whatever_lies_in_a_bucket_is_damage_or_nothing(junk: bytes, at: int, cut: int) -> None:
    """Junk, and what was sealed or compressed with a part of it replaced, never comes out as content."""
    content, oid = b"content " * 20_000, Oid.of(b"content " * 20_000)
    opener = Frames(oid, KEY)
    sealed = b"".join(
        opener.seal(number, content[number * SEALED : (number + 1) * SEALED], last=number == 2)
        for number in range(3)
    )
    for text in (junk, sealed[: at % len(sealed)] + junk, sealed[: at % len(sealed)]):
        if sealed.startswith(text) and len(text) == len(sealed):
            continue
        pieces: list[bytes] = []
        opening = Opening(oid, opener, 0, 0, len(content), pieces.append)
        with pytest.raises(Corrupt):
            for start in range(0, len(text), cut):
                opening(text[start : start + cut])
            opening.end(ended=True)
        assert content.startswith(b"".join(pieces))
        with pytest.raises(Corrupt):
            Notes(RING).open("records/one", text)
        assert size_of(text, oid) is None
        with pytest.raises(Corrupt):
            decode_head(text, oid)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["format", "id", "compressed", "encryption", "mac"]), _JSON)
def test_settings_of_a_bucket_that_make_no_sense_are_refused(name: str, value: object) -> None:
    master = LocalKey(b"m" * 32)
    settings = BucketSettings("one", True, Encryption(True, False, RING.wrapped(master))).signed(RING)
    said = json.loads(settings.encode())
    try:
        found = decode(json.dumps({**said, name: value}).encode())
    except StoreFormat:
        return
    if found != settings and found.encryption is not None:
        with pytest.raises((StoreFormat, InvalidConfig)):
            found.open_ring(master)
