"""An encrypted bucket as the tier of one machine sees it: keys that change, copies that rot, work that ends early."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
import trio
from tiers.conformance import Sources, whole

from lfsfs.config import S3Options
from lfsfs.errors import Corrupt, InvalidConfig, StoreFormat, Unavailable
from lfsfs.oid import Oid
from lfsfs.tiers.bucket import Bucket, Decrypted, Wanted, open_bucket
from lfsfs.tiers.bucket_settings import KEY, Copy
from lfsfs.tiers.conversion import convert, revert
from lfsfs.tiers.encryption import LocalKey, WrongKey
from lfsfs.tiers.encryption.masters import Refused, master_key
from lfsfs.tiers.s3 import open_s3

from .servers import Server
from .stores import Bucket as Aside

MIB = 1 << 20


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(tmp_path / "sources")


class Place:
    """One place in a bucket, and the machines that use it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.options = server.options(part_size=5 * MIB)
        self.folder = folder
        self.aside = Aside(server, self.options)
        self._numbers = count()

    def key(self, name: str = "master") -> str:
        file = self.folder / f"{name}.key"
        file.write_text(hashlib.sha256(name.encode()).hexdigest())
        return f"file:{file}"

    def machine(self, name: str = "a", **options: Any) -> AbstractAsyncContextManager[Bucket]:
        (self.folder / name).mkdir(exist_ok=True)
        given = S3Options(**{**vars(self.options), "encryption_key": self.key(), **options})
        return open_bucket(given, Copy(self.folder / name, "here"), self.new_path)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[Path]:
        path = self.new_path()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def new_path(self) -> Path:
        return self.folder / f"new-{next(self._numbers)}"

    def sealed(self, oid: Oid) -> str:
        return f"sealed/objects/{oid.path()}"


@pytest.fixture
def place(moto_server: Server, tmp_path: Path) -> Iterator[Place]:
    place = Place(moto_server, tmp_path)
    yield place
    assert not list(tmp_path.glob("new-*")), "no temporary file is left"


@pytest.mark.promise("16.3")
@pytest.mark.slow
async def test_a_bit_that_flipped_in_a_bucket_is_found_wherever_it_is_and_never_served(
    place: Place, sources: Sources
) -> None:
    content = os.urandom(70_000) + b"a" * 200_000
    async with place.machine(compression="zstd") as tier:
        oid = await sources.put(tier, content)
        stored = place.aside.get(place.sealed(oid))
        assert len(stored) < 80_000
        for at in [0, 20, 40, 96, 200, 50_000, len(stored) - 1]:
            place.aside.put(place.sealed(oid), stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
            pieces: list[bytes] = []
            with pytest.raises(Corrupt):
                await tier.fetch(oid, 0, len(content), pieces.append)
            assert content.startswith(b"".join(pieces))
            async with place.machine(compression="zstd") as fresh:
                with pytest.raises(Corrupt):
                    await fresh.read(oid, 0, len(content))
        for cut in (50, 96, 100, 65_000, len(stored) - 1):
            place.aside.put(place.sealed(oid), stored[:cut])
            with pytest.raises(Corrupt):
                await tier.read(oid, 0, len(content))
        place.aside.put(place.sealed(oid), stored)
        assert await whole(tier, oid) == content


async def test_an_object_that_was_put_anew_by_another_machine_is_read_with_its_new_key(
    place: Place, sources: Sources
) -> None:
    content = os.urandom(300_000)
    async with place.machine("a") as one, place.machine("b") as other:
        oid = await sources.put(one, content)
        assert await other.read(oid, 0, 10) == content[:10]
        await one.delete(oid)
        await sources.put(one, content)
        assert await other.read(oid, 100_000, 150_000) == content[100_000:250_000]


@pytest.mark.promise("16.5")
async def test_what_is_sealed_with_a_key_that_was_added_meanwhile_is_read_by_those_who_run(
    place: Place, sources: Sources
) -> None:
    async with place.machine("a") as one, place.machine("b") as other:
        first = await sources.put(one, b"first")
        assert await whole(other, first) == b"first"
        settings, ring = await one.settings(), (await one.ring()).with_new_key()
        assert settings is not None
        assert settings.encryption is not None
        master = master_key(place.key())
        encryption = type(settings.encryption)(False, False, ring.wrapped(master))
        await one.change(type(settings)(settings.id, False, encryption), ring)
        second = await sources.put(one, b"second")
        await one.put_note("machines/a.json", b"a note")
        assert ring.newest.id in place.aside.get(place.sealed(second))
        assert ring.newest.id not in place.aside.get(place.sealed(first))
        assert await whole(other, second) == b"second"
        assert await other.note("machines/a.json") == b"a note"
        assert await whole(other, first) == b"first"


@pytest.mark.promise("16.5")
async def test_a_machine_that_knew_the_bucket_with_the_old_master_key_comes_back_with_the_new_one(
    place: Place, sources: Sources
) -> None:
    async with place.machine("a") as one, place.machine("b") as other:
        oid = await sources.put(one, b"content")
        assert await whole(other, oid) == b"content"
        settings, ring = await one.settings(), await one.ring()
        assert settings is not None
        assert settings.encryption is not None
        wrapped = ring.wrapped(master_key(place.key("new")))
        await one.change(
            type(settings)(settings.id, False, type(settings.encryption)(False, False, wrapped)), ring
        )
    async with place.machine("b") as other:
        with pytest.raises(WrongKey):
            await whole(other, oid)
    async with place.machine("b", encryption_key=place.key("new")) as other:
        assert await whole(other, oid) == b"content"
    async with place.machine("b", encryption_key=place.key("new"), endpoint="http://127.0.0.1:9") as other:
        with pytest.raises(Unavailable):  # its copy has the new master key by now
            await other.check()


@pytest.mark.slow
async def test_of_machines_that_encrypt_a_new_bucket_at_once_one_makes_the_keys(
    place: Place, sources: Sources
) -> None:
    oids: dict[Oid, bytes] = {}

    async def begin(number: int) -> None:
        async with place.machine(f"machine-{number}") as tier:
            content = b"of %d" % number
            oids[await sources.put(tier, content)] = content

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(begin, number)
    async with place.machine("another") as tier:
        for oid, content in oids.items():
            assert await whole(tier, oid) == content
        assert await tier.scan(None, 10) == sorted(oids)


@pytest.mark.promise("16.6")
async def test_a_ring_that_somebody_has_removed_from_the_bucket_is_put_back(
    place: Place, sources: Sources
) -> None:
    async with place.machine() as tier:
        oid = await sources.put(tier, b"content")
    place.aside.delete(KEY)
    async with place.machine() as tier:
        assert await whole(tier, oid) == b"content"
    async with place.machine("another") as other:
        assert await whole(other, oid) == b"content"
    place.aside.delete(KEY)
    async with place.machine("third") as begun_anew:
        await begun_anew.check()
    async with place.machine() as tier:
        with pytest.raises(InvalidConfig, match="begun it anew"):
            await tier.check()


@pytest.mark.promise("16.2")
async def test_a_wrong_key_is_told_even_while_nobody_answers(place: Place) -> None:
    async with place.machine() as tier:
        await tier.check()
    nowhere = "http://127.0.0.1:9"
    for key, kind in ((None, InvalidConfig), (place.key("another"), WrongKey)):
        async with place.machine(endpoint=nowhere, encryption_key=key) as tier:
            with pytest.raises(kind, match="master key"):
                await tier.scan(None, 1)


@pytest.mark.promise("16.3")
async def test_settings_that_somebody_without_the_key_has_changed_are_refused(place: Place) -> None:
    async with place.machine() as tier:
        await tier.check()
    said = place.aside.get(KEY)
    assert b'"mixed": false' in said
    place.aside.put(KEY, said.replace(b'"mixed": false', b'"mixed": true'))
    async with place.machine("b") as tier:
        with pytest.raises(StoreFormat, match="does not have its keys"):
            await tier.check()


async def test_a_machine_that_runs_plain_learns_that_its_bucket_is_encrypted_now(
    place: Place, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfsfs.tiers.bucket.LOOK_SECONDS", 0.0)
    async with place.machine("a", encryption_key=None) as plain, place.machine("b") as encrypted:
        await sources.put(plain, b"plain")
        await sources.put(encrypted, b"sealed")
        with pytest.raises(InvalidConfig, match="encrypted"):
            await sources.put(plain, b"plain too")
        assert len(await encrypted.scan(None, 10)) == 2


@pytest.mark.promise("16.4")
@pytest.mark.slow
async def test_a_conversion_that_ends_early_is_gone_on_with(place: Place, sources: Sources) -> None:
    contents = {Oid.of(content): content for content in (b"%d" % number * 999 for number in range(12))}
    async with open_s3(place.options) as leaf:
        for content in contents.values():
            await sources.put(leaf, content)
        await leaf.put_note("machines/a.json", b"a note")
        damaged = await sources.put(leaf, b"damaged")
        place.aside.put(f"objects/{damaged.path()}", b"dAmaged")
    async with place.machine(object_names="hashed", compression="zstd") as tier:
        early = 0
        for seconds in (0.05, 0.1, 0.15, 0.2):
            with trio.move_on_after(seconds) as limit:
                await convert(tier, place.room, 2)
            early += limit.cancelled_caught
            assert {oid: await whole(tier, oid) for oid in contents} == contents, "all is there at any time"
        assert early
        done = await convert(tier, place.room, 2)
        assert done.damaged == [damaged]
        settings = await tier.settings()
        assert settings is not None
        assert settings.encryption is not None
        assert settings.encryption.mixed, "what stays plain is still looked for"
        assert place.aside.names("objects") == {damaged}
        assert place.aside.names("machines") == set()
        place.aside.delete(f"objects/{damaged.path()}")
        await convert(tier, place.room, 2)
        settings = await tier.settings()
        assert settings is not None
        assert settings.encryption is not None
        assert not settings.encryption.mixed
    async with place.machine("b") as other:
        assert {oid: await whole(other, oid) for oid in contents} == contents
        assert await other.note("machines/a.json") == b"a note"
        assert other.direct is None


@pytest.mark.promise("16.7")
@pytest.mark.slow
async def test_a_bucket_is_decrypted_in_its_place_beside_machines_that_run_however_often_that_ends_early(
    place: Place, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfsfs.tiers.bucket.LOOK_SECONDS", 0.0)
    contents = {Oid.of(content): content for content in (b"%d" % number * 999 for number in range(12))}
    async with place.machine("a", object_names="hashed") as one, place.machine("b") as other:
        for content in contents.values():
            await sources.put(one, content)
        await one.put_note("machines/a.json", b"a note")
        early = 0
        for seconds in (0.1, 0.15, 0.2, 0.25):
            with trio.move_on_after(seconds) as limit:
                await revert(one, place.room, 2, trio.lowlevel.checkpoint)
            early += limit.cancelled_caught
            for machine in (one, other):
                assert {oid: await whole(machine, oid) for oid in contents} == contents, (
                    "all is there meanwhile"
                )
                assert await machine.note("machines/a.json") == b"a note"
        assert early
        later = await sources.put(other, b"written meanwhile")
        assert place.aside.get(f"objects/{later.path()}") == b"written meanwhile"
        assert (await revert(one, place.room, 2, trio.lowlevel.checkpoint)).damaged == []
        contents[later] = b"written meanwhile"
        assert {oid: await whole(other, oid) for oid in contents} == contents
        assert await other.scan(None, 100) == sorted(contents)
    assert place.aside.names("sealed") == set()
    assert place.aside.names("objects") == set(contents)
    async with place.machine("without", encryption_key=None) as plain:
        assert {oid: await whole(plain, oid) for oid in contents} == contents
        assert await plain.note("machines/a.json") == b"a note"
        assert plain.direct is not None
    async with place.machine("b") as forgetful:
        with pytest.raises(Decrypted, match="take encryption_key"):
            await forgetful.check()
    async with place.machine("b", encryption_key=None) as known:
        assert await whole(known, later) == b"written meanwhile"
    async with place.machine("c", encryption_key=place.key("another")) as again:
        assert await whole(again, later) == b"written meanwhile"
        await sources.put(again, b"sealed again")
        assert await convert(again, place.room, 2)
    assert place.aside.names("objects") == set()


async def test_what_is_damaged_stays_encrypted_and_is_named(place: Place, sources: Sources) -> None:
    async with place.machine() as tier:
        oid, damaged = await sources.put(tier, b"whole"), await sources.put(tier, b"damaged" * 99)
        await tier.put_note("damaged/note", b"a note")
        for name in (place.sealed(damaged), "sealed/damaged/note"):
            sealed = place.aside.get(name)
            place.aside.put(name, sealed[:-1] + bytes([sealed[-1] ^ 1]))
        done = await revert(tier, place.room, 2, trio.lowlevel.checkpoint)
        assert (done.damaged, done.damaged_notes) == ([damaged], ["damaged/note"])
        assert await whole(tier, oid) == b"whole"
        with pytest.raises(Corrupt):
            await whole(tier, damaged)
        settings = await tier.settings()
        assert settings is not None
        assert settings.is_encrypted, "what stays encrypted is still looked for"
        with pytest.raises(InvalidConfig, match="lfsfs decrypt"):
            await convert(tier, place.room, 2)
        await tier.delete(damaged)
        await tier.delete_note("damaged/note")
        await revert(tier, place.room, 2, trio.lowlevel.checkpoint)
        settings = await tier.settings()
        assert settings is not None
        assert not settings.is_encrypted


@pytest.mark.promise("16.3")
async def test_that_a_bucket_was_decrypted_is_believed_of_who_has_its_keys_only(place: Place) -> None:
    async with place.machine() as tier:
        await tier.check()
    said = place.aside.get(KEY)
    place.aside.put(KEY, said.replace(b'"mixed": false', b'"mixed": false, "leaving": true'))
    for name in ("a", "b"):
        async with place.machine(name) as tier:
            with pytest.raises(StoreFormat, match="does not have its keys"):
                await tier.check()


async def test_what_is_compressed_is_read_by_who_does_not_compress(place: Place, sources: Sources) -> None:
    content = b"shrinks " * 100_000
    async with place.machine("a", encryption_key=None, compression="zstd") as one:
        oid = await sources.put(one, content)
        assert len(place.aside.get(f"objects/{oid.path()}")) < len(content) / 10
    async with place.machine("b", encryption_key=None) as other:
        assert await whole(other, oid) == content
        assert await other.size(oid) == len(content)
        assert [stored.size for stored in await other.survey(None, 5)] == [len(content)]
        plain = await sources.put(other, b"as it is " * 1000)
        assert place.aside.get(f"objects/{plain.path()}") == b"as it is " * 1000
        assert other.direct is None


async def test_a_range_of_a_large_object_fetches_little_more_than_the_range(
    place: Place, sources: Sources
) -> None:
    content = b"".join(b"%9d\n" % number for number in range(2 * MIB))
    async with place.machine("a", compression="zstd") as tier:
        oid = await sources.put(tier, content)
        opened = await tier._open()
        fetched = 0
        fetch = tier.leaf.below("sealed").__class__.fetch

        async def counting(self: Any, name: Oid, offset: int, size: int, sink: Any) -> None:
            def count(piece: bytes) -> None:
                nonlocal fetched
                fetched += len(piece)
                sink(piece)

            await fetch(self, name, offset, size, count)

        assert opened.ring is not None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(tier.leaf), "fetch", counting)
            for offset in (15 * MIB + 3, 7 * MIB, 18 * MIB):
                assert await tier.read(oid, offset, 1000) == content[offset : offset + 1000]
        assert fetched < 1.2 * MIB, fetched


def test_a_master_key_of_a_kms_wraps_what_only_it_unwraps(
    moto_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", moto_server.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tester-secret")
    client = boto3.session.Session().client("kms")
    ids = [client.create_key()["KeyMetadata"]["KeyId"] for _ in range(2)]
    client.close()
    one, other = (master_key(f"kms:{id}") for id in ids)
    wrapped = one.wrap(b"k" * 32)
    assert b"k" * 8 not in wrapped
    assert one.unwrap(wrapped) == b"k" * 32
    with pytest.raises((Refused, InvalidConfig)):
        other.unwrap(LocalKey(b"m" * 32).wrap(b"k" * 32))
    assert one.name == f"kms:{ids[0]}"
    with pytest.raises(InvalidConfig, match="cannot be used"):
        master_key("kms:00000000-0000-0000-0000-000000000000").wrap(b"k" * 32)
    assert Wanted() != Wanted(key=f"kms:{ids[0]}")
