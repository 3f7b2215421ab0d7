"""A store whose objects on the local disk are encrypted: what the disk tells, who reads it, how it comes and goes."""

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import forking
import numpy as np
import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from gitlfs.mounted import Mount, lfsfs
from recording import Reliability
from tiers.test_encryption import read_sealed

from lfsfs import open_store
from lfsfs.errors import Corrupt, InUse, StoreFormat
from lfsfs.oid import Oid
from lfsfs.store import keys
from lfsfs.tiers.encryption import WrongKey

VECTOR = hashlib.sha256(b"what it was computed from").hexdigest()
SECRET = b"the secret recipe of the house. "
MIB = 1 << 20
FORMAT = Path(__file__).parent.parent / "docs" / "FORMAT.md"


def secrets(size: int, salt: str = "") -> bytes:
    return (salt.encode() + SECRET * (size // len(SECRET) + 1))[:size]


CONTENTS = {"small": secrets(900), "of a block": secrets(MIB), "large": secrets(2 * MIB + 77), "empty": b""}


def key(folder: Path, name: str = "master") -> str:
    """Where a master key is: in a file, which is made if it is not there."""
    file = folder / f"{name}.key"
    if not file.exists():
        file.write_text(hashlib.sha256(name.encode()).hexdigest())
    return f"file:{file}"


def filled(path: Path) -> dict[Oid, bytes]:
    """A store with objects of all kinds, plain or encrypted as it is."""

    async def fill() -> dict[Oid, bytes]:
        async with open_store(path, create=True) as store:
            return {(await store.put(content)).oid: content for content in CONTENTS.values()}

    return trio.run(fill)


def read_all(path: Path, oids: dict[Oid, bytes]) -> None:
    """Every object is what it was."""

    async def read() -> None:
        async with open_store(path) as store:
            for oid, content in oids.items():
                assert b"".join([piece async for piece in store.download(oid)]) == content

    trio.run(read)


def telling(path: Path) -> set[str]:
    """The files of the store in which some of the secret is legible."""
    return {
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and SECRET[:-1] in file.read_bytes()
    }


def refusal(status: int, *arguments: str | Path) -> str:
    found, out, err = forking.run("forking:command", *map(str, arguments), seconds=60)
    assert found == status, f"exit {found}\n{out}{err}"
    return out + err


def said(*arguments: str | Path) -> dict[str, Any]:
    """What the command says in JSON."""
    found = json.loads(lfsfs(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


def objects(path: Path) -> list[Path]:
    return [file for file in (path / "objects").rglob("*") if file.is_file()]


def is_sealed(file: Path) -> bool:
    return file.read_bytes().startswith(b"lfsfs-sealed-01\n")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An encrypted one, with nothing in it."""
    filled_by = tmp_path / "store"
    trio.run(_made, filled_by)
    keys.create(filled_by, key(tmp_path))
    return filled_by


async def _made(path: Path) -> None:
    async with open_store(path, create=True):
        pass


# What is on the disk, and who reads it.


@pytest.mark.mount
@pytest.mark.promise("19.1")
def test_nothing_of_an_object_is_legible_on_the_disk_and_everything_reads_it(tmp_path: Path) -> None:
    content, vector = secrets(MIB + 5, "mounted"), np.frombuffer(SECRET * 20, dtype="u1")
    with Mount(tmp_path, f"--store-key={key(tmp_path)}") as mount:
        (mount.path / "incoming" / "one").write_bytes(content)
        oid = Oid.of(content)
        assert (mount.path / "objects" / oid.path()).read_bytes() == content
        with (mount.path / "incoming" / "one").open("rb") as file:
            file.seek(MIB - 3)
            assert file.read(8) == content[MIB - 3 :]
        (mount.path / "embeddings" / "default").mkdir(exist_ok=True)
        np.savez(mount.path / "embeddings" / "default" / f"{VECTOR}.npz", vector=vector)
        lfsfs("put", "--store", mount.store, tmp_path / "master.key")
        lfsfs("get", "--store", mount.store, oid, "-o", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == content
        lfsfs("embed", "vacuum", "--store", mount.store)
        read = np.load(mount.path / "embeddings" / "default" / f"{VECTOR}.npz")["vector"]
        assert bytes(read) == bytes(vector)
        assert said("verify", "--store", mount.store)["corrupt"] == {}
    assert not {name for name in telling(mount.store) if not name.startswith("index/")}
    assert all(map(is_sealed, objects(mount.store)))
    with mount:  # by what the store has written down, without the option
        assert (mount.path / "objects" / oid.path()).read_bytes() == content
        read = np.load(mount.path / "embeddings" / "default" / f"{VECTOR}.npz")["vector"]
        assert bytes(read) == bytes(vector)


def test_the_commands_of_a_store_work_on_an_encrypted_one(store: Path, tmp_path: Path) -> None:
    oids = filled(store)
    assert said("fsck", "--store", store)["faults"] == []
    [large] = [oid for oid, content in oids.items() if content == CONTENTS["large"]]
    lfsfs("rm", "--store", store, "--force", large)
    assert not telling(store), "nor in the trash"
    lfsfs("undelete", "--store", store, large)
    shutil.rmtree(store / "index")
    read_all(store, oids)
    lfsfs("export", "--store", store, tmp_path / "out")
    exported = {file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert exported >= set(oids.values())
    lfsfs("mount", store, tmp_path / "mnt")
    lfsfs("unmount", tmp_path / "mnt")
    assert not telling(store)
    assert all(map(is_sealed, objects(store)))


async def test_what_the_disk_lost_of_a_small_object_is_written_again_and_the_index_kept_it_sealed(
    store: Path,
) -> None:
    async with open_store(store) as opened:
        assert opened.write_ahead is not None
        opened.write_ahead.is_open = True
        oid = (await opened.put(CONTENTS["small"])).oid
        opened.write_ahead.is_open = False
        assert not telling(store)
        value = opened.index.view(lambda tx: tx.get("write_ahead", oid.to_bytes()))
        assert value is not None
        old = b"another run of the machine".ljust(36)
        await opened.index.update(lambda tx: tx.put("write_ahead", oid.to_bytes(), old + value[36:]))
        opened.tier.path(oid).write_bytes(b"")  # type: ignore[attr-defined]
    async with open_store(store) as opened:
        assert b"".join([piece async for piece in opened.download(oid)]) == CONTENTS["small"]
        opened.tier.path(oid).unlink()  # type: ignore[attr-defined]


# Keys.


@pytest.mark.mount
@pytest.mark.promise("19.2")
def test_with_another_key_or_none_a_store_is_refused_and_says_why(store: Path, tmp_path: Path) -> None:
    oids = filled(store)
    before = {file: file.read_bytes() for file in objects(store)}
    (tmp_path / "master.key").rename(tmp_path / "elsewhere.key")
    why = refusal(2, "verify", "--store", store)
    assert "master.key" in why and "--store-key" in why
    key(tmp_path, "other")
    wrong = f"--store-key=file:{tmp_path}/other.key"
    assert "is encrypted with the master key" in refusal(2, "mount", store, tmp_path / "mnt", wrong)
    assert {file: file.read_bytes() for file in objects(store)} == before
    lfsfs("mount", store, tmp_path / "mnt", f"--store-key=file:{tmp_path}/elsewhere.key")
    lfsfs("unmount", tmp_path / "mnt")
    read_all(store, oids)  # the new place of the key was written down


@pytest.mark.promise("19.3")
def test_the_master_key_is_changed_and_no_object_is_written_anew(store: Path, tmp_path: Path) -> None:
    oids = filled(store)
    before = {file: file.read_bytes() for file in objects(store)}
    lfsfs("key", "rotate", "--store", store, "--to", key(tmp_path, "second"), "--add")
    shown = said("key", "show", "--store", store)["local"]
    assert shown["key"] == key(tmp_path, "second") and len(shown["keys"]) == 2
    assert {file: file.read_bytes() for file in objects(store)} == before
    (tmp_path / "master.key").unlink()
    read_all(store, oids)
    new = trio.run(_put, store, b"of the new key")
    assert (store / "objects" / new.path()).read_bytes()[16:32].hex() == shown["keys"][1]["id"]
    with pytest.raises(WrongKey):
        keys.load(store, key(tmp_path))


async def _put(path: Path, content: bytes) -> Oid:
    async with open_store(path) as store:
        return (await store.put(content)).oid


async def test_who_has_the_store_open_reads_what_is_sealed_with_a_key_that_came_later(
    store: Path, tmp_path: Path
) -> None:
    async with open_store(store) as opened:
        await trio.to_thread.run_sync(lambda: lfsfs("key", "rotate", "--store", store, "--add"))
        (tmp_path / "file").write_bytes(CONTENTS["large"])
        await trio.to_thread.run_sync(lambda: lfsfs("put", "--store", store, tmp_path / "file"))
        oid = Oid.of(CONTENTS["large"])
        assert b"".join([piece async for piece in opened.download(oid)]) == CONTENTS["large"]


async def test_a_store_that_somebody_has_open_does_not_begin_to_be_encrypted(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store", create=True) as opened:
        with pytest.raises(InUse, match="unmount it first"):
            keys.create(opened.layout.path, key(tmp_path))
    assert not (tmp_path / "store" / "keys.json").exists()


@pytest.mark.promise("19.4")
def test_a_bit_that_flips_in_the_keys_is_mended_from_their_copy(store: Path, tmp_path: Path) -> None:
    oids = filled(store)
    file = store / "keys.json"
    whole = file.read_bytes()
    for at in range(0, len(whole), 23):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert keys.load(store, key(tmp_path)).ring.oldest.key
    file.unlink()
    read_all(store, oids)
    assert json.loads(file.read_bytes())["ring"]["master"] == json.loads(whole)["ring"]["master"]
    for name in ("keys.json", "keys.copy.json"):
        (store / name).write_bytes(whole.replace(b'"leaving": false', b'"leaving": true'))
    with pytest.raises(StoreFormat, match="changed by somebody who does not have its keys"):
        trio.run(_made, store)


def open_keys(text: bytes, master: bytes) -> tuple[dict[bytes, bytes], bool]:
    """The ring of a keys.json, and whether its HMAC is right: by docs/FORMAT.md, with no code of lfsfs."""
    said = json.loads(text)
    mac = said.pop("mac")
    ring = {}
    for each in sorted(said["ring"]["keys"], key=lambda each: each["created"]):
        wrapped = base64.b64decode(each["wrapped"])
        name = said["ring"]["master"].encode()
        ring[bytes.fromhex(each["id"])] = AESGCM(master).decrypt(wrapped[:12], wrapped[12:], name)
    secret = HKDF(hashes.SHA256(), 32, None, b"lfsfs local").derive(next(iter(ring.values())))
    told = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    return ring, hmac.new(secret, told, "sha256").hexdigest() == mac


def test_an_independent_reader_reads_the_keys_and_the_objects(store: Path, tmp_path: Path) -> None:
    oids = filled(store)
    master = bytes.fromhex((tmp_path / "master.key").read_text())
    ring, right = open_keys((store / "keys.json").read_bytes(), master)
    assert right and (store / "keys.copy.json").read_bytes() == (store / "keys.json").read_bytes()
    for oid, content in oids.items():
        assert read_sealed((store / "objects" / oid.path()).read_bytes(), oid, ring) == content


def test_the_keys_of_the_manual_are_what_is_read(store: Path, tmp_path: Path) -> None:
    section = FORMAT.read_text().partition("## The keys of a store")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^    ([a-z ]+): +(.+)$", section, re.MULTILINE))
    master = bytes.fromhex(rows["master key"])
    ring, right = open_keys(rows["keys file"].encode(), master)
    assert right and ring == {bytes.fromhex(rows["key id"]): bytes.fromhex(rows["ring key"])}
    (tmp_path / "manual.key").write_bytes(master)
    (store / "keys.json").write_text(rows["keys file"])
    found = keys.load(store, f"file:{tmp_path}/manual.key")
    assert {each.id: each.key for each in found.ring.keys} == ring


# What is damaged.


@pytest.mark.promise("19.5")
async def test_one_bit_anywhere_in_an_encrypted_object_is_found_and_never_served(store: Path) -> None:
    content = os.urandom(70_000)
    async with open_store(store) as opened:
        oid = (await opened.put(content)).oid
        file = opened.tier.path(oid)  # type: ignore[attr-defined]
        whole = file.read_bytes()
        file.chmod(0o600)
        for at in (*range(96), 96, 40_000, 96 + 65_536, 96 + 65_552, len(whole) - 1):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(Corrupt):
                async with await opened.open(oid) as reader:
                    await reader.read(0, 10)
                    await reader.read(65_530, 10)
                    await reader.read(69_990, 10)
        file.write_bytes(whole[:-100])
        with pytest.raises(Corrupt):
            async with await opened.open(oid) as reader:
                await reader.read(0, 10)
    assert json.JSONDecoder().raw_decode(refusal(1, "verify", "--store", store, "--json"))[0][
        "corrupt"
    ].keys() == {oid}
    async with open_store(store) as opened:
        await opened.put(content)
        assert b"".join([piece async for piece in opened.download(oid)]) == content, "it heals as any"


@pytest.mark.mount
def test_git_lfs_fsck_may_move_an_encrypted_object_to_bad_that_is_damaged(tmp_path: Path) -> None:
    content = os.urandom(2 * MIB)
    with Mount(tmp_path, f"--store-key={key(tmp_path)}") as mount:
        (mount.path / "incoming" / "one").write_bytes(content)
        oid = Oid.of(content)
        (mount.path / "incoming" / "one").unlink()
        file = mount.store / "objects" / oid.path()
        with pytest.raises(PermissionError):
            (mount.path / "objects" / oid.path()).rename(mount.path / "bad" / oid)
        file.chmod(0o600)
        sealed = file.read_bytes()
        file.write_bytes(sealed[:-9] + bytes([sealed[-9] ^ 1]) + sealed[-8:])
        (mount.path / "objects" / oid.path()).rename(mount.path / "bad" / oid)
        assert not (mount.path / "objects" / oid.path()).exists()
        (mount.path / "incoming" / "again").write_bytes(content)
        assert (mount.path / "objects" / oid.path()).read_bytes() == content


# Converted in its place.


@pytest.mark.mount
@pytest.mark.promise("19.6")
def test_a_plain_store_is_encrypted_in_its_place_beside_its_mount_and_decrypted_again(tmp_path: Path) -> None:
    oids = filled(tmp_path / "store")
    trashed = trio.run(_put, tmp_path / "store", secrets(5000, "to the trash"))
    lfsfs("rm", "--store", tmp_path / "store", "--force", trashed)
    assert telling(tmp_path / "store")
    with Mount(tmp_path, f"--store-key={key(tmp_path)}") as mount:
        new = secrets(MIB, "came meanwhile")
        (mount.path / "incoming" / "new").write_bytes(new)
        assert is_sealed(mount.store / "objects" / Oid.of(new).path())
        with (mount.path / "objects" / next(iter(oids)).path()).open("rb") as held:
            done = said("encrypt", "--store", mount.store)
            assert (done["objects"], done["damaged"]) == (len(oids) + 1, []), "the one in the trash too"
            assert held.read() == next(iter(oids.values()))
        for oid, content in oids.items():
            assert (mount.path / "objects" / oid.path()).read_bytes() == content
        assert not telling(mount.store)
        assert "unmount it first" in refusal(4, "decrypt", "--store", mount.store)
    oids[Oid.of(new)] = new
    assert said("decrypt", "--store", mount.store)["objects"] == len(oids) + 1
    (tmp_path / "master.key").unlink()
    read_all(mount.store, oids)
    assert not (mount.store / "keys.json").exists()
    assert {file.read_bytes() for file in objects(mount.store)} == set(oids.values())
    lfsfs("undelete", "--store", mount.store, trashed)


def test_what_is_damaged_stays_as_it_is_and_is_named(tmp_path: Path) -> None:
    oids = filled(tmp_path / "store")
    [large] = [oid for oid, content in oids.items() if content == CONTENTS["large"]]
    file = tmp_path / "store" / "objects" / large.path()
    file.chmod(0o600)
    file.write_bytes(b"rotten")
    option = f"--store-key={key(tmp_path)}"
    told = json.loads(refusal(1, "encrypt", "--store", tmp_path / "store", option, "--json"))
    assert (told["objects"], told["damaged"]) == (len(oids) - 1, [large])
    assert file.read_bytes() == b"rotten"
    told = said("decrypt", "--store", tmp_path / "store")
    assert told["objects"] == len(oids) - 1


def test_where_nothing_is_encrypted_the_commands_say_what_to_do(tmp_path: Path) -> None:
    filled(tmp_path / "store")
    assert "--store-key SOURCE" in refusal(2, "encrypt", "--store", tmp_path / "store")
    assert "no S3" in refusal(2, "decrypt", "--store", tmp_path / "store")
    assert "--only bucket" in refusal(
        2, "encrypt", "--store", tmp_path / "store", "--only", "bucket", f"--store-key={key(tmp_path)}"
    )


# Killed.


class Kills:
    """A command on a store, killed at each of its durable steps in turn; in the test command, at every few of them."""

    def __init__(self, store: Path, stride: int, record: Reliability) -> None:
        self.store = store
        self.kept = store.with_name("kept")
        self.stride = stride
        self.record = record

    def each(self, *arguments: str) -> Iterator[bool]:
        """After each kill, and after the command that came to its end: whether it did."""
        shutil.copytree(self.store, self.kept)
        tried = point = 0
        ended = False
        while not ended:
            point += self.stride
            shutil.rmtree(self.store)
            shutil.copytree(self.kept, self.store)
            status, _, _ = forking.killed_at(point, "forking:command", *arguments)
            print(f"killed at {point}")
            ended = status == 0
            tried += not ended
            yield ended
        assert tried > 3, "the kills did not reach the work"
        self.record(
            f"kill -9 during `lfsfs {' '.join(takewhile(lambda word: word[0] != '-', arguments))}` of a local disk",
            f"{tried} moments",
            "all is read, and the next run ends it",
        )
        shutil.rmtree(self.kept)


@pytest.fixture
def kills(tmp_path: Path, full_size: bool, reliability: Reliability) -> Kills:
    return Kills(tmp_path / "store", 1 if full_size else 5, reliability)


@pytest.mark.slow
@pytest.mark.promise("19.7")
def test_killed_at_every_step_of_encrypt_or_decrypt_all_is_read_and_the_next_run_ends_it(
    kills: Kills, tmp_path: Path
) -> None:
    oids = filled(kills.store)
    option = f"--store-key={key(tmp_path)}"
    for _ in kills.each("encrypt", "--store", str(kills.store), option):
        read_all(kills.store, oids)
        lfsfs("encrypt", "--store", kills.store, option)
        read_all(kills.store, oids)
        assert all(map(is_sealed, objects(kills.store)))
    for ended in kills.each("decrypt", "--store", str(kills.store)):
        read_all(kills.store, oids)
        if not ended and (kills.store / "keys.json").exists():
            lfsfs("decrypt", "--store", kills.store)
        read_all(kills.store, oids)
        assert not any(map(is_sealed, objects(kills.store)))


@pytest.mark.slow
@pytest.mark.promise("19.7")
def test_killed_at_every_step_of_another_master_key_one_of_the_two_opens_all(
    kills: Kills, tmp_path: Path
) -> None:
    filled(kills.store)
    lfsfs("encrypt", "--store", kills.store, f"--store-key={key(tmp_path)}")
    oids = filled(kills.store)
    kills.stride = min(kills.stride, 2)
    for _ in kills.each(
        "key", "rotate", "--store", str(kills.store), "--to", key(tmp_path, "second"), "--add"
    ):
        read_all(kills.store, oids)
        lfsfs("key", "rotate", "--store", kills.store, "--to", key(tmp_path, "second"))
        assert keys.load(kills.store, key(tmp_path, "second"))
        read_all(kills.store, oids)
