"""Killed before and after every durable step, those in the bucket too: encryption, other keys, scrub, packs rewritten.

Whoever looks next reads everything right, and the same command once more comes to its end.
"""

import hashlib
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from forking import killed_at, run
from recording import Reliability

from lfsfs import Store, open_store
from lfsfs.config import S3Options
from lfsfs.errors import Corrupt
from lfsfs.oid import Oid
from lfsfs.store import attachment, packs
from lfsfs.store.layout import open_layout
from lfsfs.store.vacuum import vacuum
from lfsfs.tiers.bucket_settings import decode

from . import victim
from .servers import Server
from .stores import Bucket, content_of, damage, object_name

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
BOUND = 150
STRIDE, FIRST = 25, 10  # in the test command; scripts/torture kills takes every point


class World:
    """A store and its place in a bucket, which can be put back to what they were when they were `kept`."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.folder = folder
        self.options = server.options(part_size=5 << 20)
        self.bucket = Bucket(server, self.options)
        self.store = folder / "store"
        self._kept: dict[str, bytes] = {}

    def make(self) -> None:
        trio.run(victim.prepared, self.store, self.options)
        self.use(self.options)

    def use(self, options: S3Options) -> None:
        """The store's next process has these."""
        attachment.save(self.store, (options, victim.CACHE))

    def key(self, name: str) -> str:
        file = self.folder / f"{name}.key"
        file.write_text(hashlib.sha256(name.encode()).hexdigest())
        return f"file:{file}"

    def keep(self) -> None:
        shutil.copytree(self.store, self.folder / "kept")
        self._kept = {name: self.bucket.get(name) for name in self.names()}

    def put_back(self) -> None:
        shutil.rmtree(self.store)
        shutil.copytree(self.folder / "kept", self.store)
        there = self.names()
        with self.bucket.server.client() as client:
            where = {"Bucket": self.bucket.server.bucket}
            for name in there - self._kept.keys():
                client.delete_object(**where, Key=self.bucket.key(name))
            for name, content in self._kept.items():
                client.put_object(**where, Key=self.bucket.key(name), Body=content)

    def names(self) -> set[str]:
        """Of all that lies in the place."""
        prefix = self.bucket.key("")
        with self.bucket.server.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket.server.bucket, Prefix=prefix
            )
            return {item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])}

    async def looked_at(self, look: Callable[[Store], Awaitable[None]], folder: str, **options: str) -> None:
        """Opens a store with this bucket: of the folder, or a new one that knows nothing of it."""
        remote = (replace(self.options, **options), victim.CACHE)  # type: ignore[arg-type]
        async with open_store(self.folder / folder, create=True, remote=remote) as store:
            await look(store)


@pytest.fixture
def world(moto_server: Server, tmp_path: Path) -> Iterator[World]:
    world = World(moto_server, tmp_path)
    world.make()
    yield world


class Kills:
    """Kills a call at each point in turn, or, in the test command, at one of a few: others each time."""

    def __init__(self, world: World, full_size: bool, reliability: Reliability) -> None:
        self._world = world
        self._points = range(1, BOUND)
        if not full_size:
            self._points = range(random.randint(1, FIRST), BOUND, STRIDE)
        self._record = reliability

    def each(self, look: Callable[[bool], None], what: str, call: str, *arguments: object) -> None:
        """`look` looks after each, told whether the call came to its end."""
        tried = point = 0
        for point in self._points:
            self._world.put_back()
            status, _, _ = killed_at(point, call, *arguments)
            print(f"killed at {point}")
            look(status == 0)
            if status == 0:
                break
            tried += 1
        else:
            pytest.fail(f"more than {BOUND} steps")
        assert point > 4, "the kills did not reach the work"
        self._record(f"kill -9 during {what}", f"{tried} moments", "all is read, and the next run ends it")


@pytest.fixture
def kills(world: World, full_size: bool, reliability: Reliability) -> Kills:
    return Kills(world, full_size, reliability)


async def all_are_read(store: Store) -> None:
    for oid, content in victim.oids().items():
        assert await content_of(store, oid) == content


@pytest.mark.promise("16.8")
def test_killed_at_every_step_of_encrypt_everything_is_read_and_the_next_one_ends_it(
    world: World, kills: Kills
) -> None:
    key = world.key("master")
    world.use(replace(world.options, encryption_key=key))
    shutil.rmtree(world.store / "cache", ignore_errors=True)
    world.keep()

    def look(ended: bool) -> None:
        number = sum(1 for _ in world.folder.glob("fresh-*"))
        trio.run(lambda: world.looked_at(all_are_read, f"fresh-{number}", encryption_key=key))
        if not ended:
            status, out, err = run("forking:command", "encrypt", "--store", world.store, seconds=60)
            assert status == 0, out + err
        names = world.names()
        assert {name for name in names if not name.startswith("sealed/")} == {"bucket.json"}
        assert b'"mixed": false' in world.bucket.get("bucket.json")
        trio.run(lambda: world.looked_at(all_are_read, f"fresh-{number}", encryption_key=key))

    kills.each(look, "`lfsfs encrypt`", "forking:command", "encrypt", "--store", world.store)


@pytest.mark.promise("16.8")
def test_killed_at_every_step_of_decrypt_everything_is_read_and_the_next_one_ends_it(
    world: World, kills: Kills
) -> None:
    key = world.key("master")
    world.use(replace(world.options, encryption_key=key))
    assert run("forking:command", "encrypt", "--store", world.store, seconds=60)[0] == 0
    world.keep()
    number = 0

    def look(ended: bool) -> None:
        nonlocal number
        number += 1
        options = {} if ended or _is_decrypted(world) else {"encryption_key": key}
        trio.run(lambda: world.looked_at(all_are_read, f"fresh-{number}", **options))
        if not ended:
            status, out, err = run("s3.victim:decrypt", world.store, seconds=60)
            assert status == 0, out + err
        assert not {name for name in world.names() if name.startswith("sealed/")}
        trio.run(lambda: world.looked_at(all_are_read, f"fresh-{number}"))
        attached = attachment.load(world.store)
        assert attached is not None
        assert attached[0].encryption_key is None

    kills.each(look, "`lfsfs decrypt`", "s3.victim:decrypt", world.store)


def _is_decrypted(world: World) -> bool:
    settings = decode(world.bucket.get("bucket.json"))
    return not settings.is_encrypted


@pytest.mark.promise("16.8")
def test_killed_at_every_step_of_another_key_the_old_or_the_new_one_opens_all(
    world: World, kills: Kills
) -> None:
    old, new = world.key("old"), world.key("new")
    world.use(replace(world.options, encryption_key=old))
    command = ("encrypt", "--store", world.store)
    assert run("forking:command", *command, seconds=60)[0] == 0
    world.keep()
    number = 0

    def look(ended: bool) -> None:
        nonlocal number
        number += 1
        named = new if f'"{_named(world, "new")}"' in world.bucket.get("bucket.json").decode() else old
        assert named == new or not ended
        trio.run(lambda: world.looked_at(all_are_read, f"fresh-{number}", encryption_key=named))
        # The store itself: with the key that it remembers, or with the one that the command was given.
        if not ended:
            again = ("key", "rotate", "--to", new, "--add", "--store", world.store)
            status, out, err = run("forking:command", *again, seconds=60)
            assert status == 0, out + err
        trio.run(lambda: world.looked_at(all_are_read, f"fresh-{number}", encryption_key=new))
        status, out, err = run("forking:command", "key", "show", "--store", world.store, seconds=60)
        assert status == 0, out + err

    rotate = ("key", "rotate", "--to", new, "--add", "--store", world.store)
    kills.each(look, "`lfsfs key rotate`", "forking:command", *rotate)


def _named(world: World, name: str) -> str:
    """What a ring says that its master key is."""
    from lfsfs.tiers.encryption.masters import master_key

    return master_key(world.key(name)).name


def test_killed_at_every_step_of_a_scrub_what_is_whole_somewhere_heals_and_the_rest_is_not_served(
    world: World, kills: Kills
) -> None:
    def harm() -> None:
        async def here() -> None:
            async with open_store(world.store) as store:
                for content in (victim.HERE, victim.NOWHERE):
                    damage(store, Oid.of(content), 7)

        trio.run(here)
        for content in (victim.THERE, victim.NOWHERE):
            world.bucket.flip(object_name(Oid.of(content)), 9)
            world.bucket.put(f"damaged/{Oid.of(content)}", b"")  # as another machine says that has found it

    async def served(store: Store) -> None:
        """As they are read at any time: right, or not at all."""
        for oid, content in victim.oids().items():
            if content == victim.NOWHERE:
                with pytest.raises(Corrupt):
                    await content_of(store, oid)
            else:
                assert await content_of(store, oid) == content

    harm()
    world.keep()

    def look(ended: bool) -> None:
        if not ended:
            status, out, err = run("s3.victim:run", "scrub", world.store, seconds=60)
            assert status == 0, out + err
        for content in (victim.WHOLE, victim.HERE, victim.THERE):
            assert world.bucket.get(object_name(Oid.of(content))) == content
        trio.run(lambda: world.looked_at(served, "store"))

    kills.each(look, "a scrub", "s3.victim:run", "scrub", world.store)


def test_killed_at_every_step_of_a_pack_that_is_rewritten_no_vector_is_lost(
    world: World, kills: Kills
) -> None:
    world.keep()
    hashes, matrix = victim.vectors()
    half = victim.COUNT // 2
    identity = open_layout(world.store, create=False).id
    number = 0

    async def the_rest_is_there(store: Store) -> None:
        found = await store.embeddings.read_embeddings_batch(hashes[half:])
        assert [found[text].tobytes() for text in hashes[half:]] == [row.tobytes() for row in matrix[half:]]

    async def the_rest_comes_back(store: Store) -> None:
        assert store.remote is not None
        await store.remote.drain()
        await the_rest_is_there(store)

    async def finished(store: Store) -> None:
        await the_rest_is_there(store)
        found = await store.embeddings.read_embeddings_batch(hashes[:half])
        assert len(found.missing) == half
        assert store.remote is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.remote.run)
            await victim.drained(store)
            nursery.cancel_scope.cancel()
        await store.embeddings.vacuum()
        await vacuum(store, [], keep=0)
        (pack,) = store.index.view(packs.every)
        assert world.bucket.names() == {pack.oid, *victim.oids()}

    def look(ended: bool) -> None:
        nonlocal number
        number += 1
        trio.run(lambda: world.looked_at(the_rest_is_there, "store"))
        lost = f"lost-{number}"  # a disk that is lost at this moment
        open_layout(world.folder / lost, create=True, identity=identity)
        trio.run(lambda: world.looked_at(the_rest_comes_back, lost))
        if not ended:
            status, out, err = run("s3.victim:run", "rewrite", world.store, seconds=60)
            assert status == 0, out + err
        trio.run(lambda: world.looked_at(finished, "store"))

    kills.each(look, "the rewriting of a pack in a bucket", "s3.victim:run", "rewrite", world.store)


def test_killed_at_every_step_of_an_upload_nothing_is_lost_and_the_next_one_ends_it(
    world: World, kills: Kills
) -> None:
    contents = [b"%d waits" % number * 999 for number in range(4)]

    async def commit(store: Store) -> None:
        for content in contents:
            await store.put(content, repository="film")

    async def committed_are_read(store: Store) -> None:
        for content in contents:
            assert await content_of(store, Oid.of(content)) == content

    trio.run(lambda: world.looked_at(commit, "store"))
    world.keep()

    def look(ended: bool) -> None:
        trio.run(lambda: world.looked_at(committed_are_read, "store"))
        for name in world.bucket.names() & set(map(Oid.of, contents)):
            assert Oid.of(world.bucket.get(object_name(Oid(name)))) == name, "what is there is whole"
        if not ended:
            status, out, err = run("s3.victim:run", "upload", world.store, seconds=60)
            assert status == 0, out + err
        assert set(map(Oid.of, contents)) < world.bucket.names()

    kills.each(look, "an upload", "s3.victim:run", "upload", world.store)


@pytest.mark.promise("13.9")
def test_killed_at_every_step_of_gc_and_vacuum_what_is_referred_to_stays_in_the_bucket_and_the_rest_goes(
    world: World, kills: Kills
) -> None:
    async def refer_to_one(store: Store) -> None:
        await store.remove_repository("film")
        await store.add_repository("other")
        await store.put(victim.WHOLE, repository="other")

    async def whole_is_read(store: Store) -> None:
        assert await content_of(store, Oid.of(victim.WHOLE)) == victim.WHOLE
        for oid, content in victim.oids().items():
            if store.lookup(oid) is not None:
                assert await content_of(store, oid) == content, "there, whole, or not there"

    trio.run(lambda: world.looked_at(refer_to_one, "store"))
    world.keep()

    def look(ended: bool) -> None:
        trio.run(lambda: world.looked_at(whole_is_read, "store"))
        if not ended:
            status, out, err = run("s3.victim:run", "free", world.store, seconds=60)
            assert status == 0, out + err
        assert world.bucket.names() & set(victim.oids()) == {Oid.of(victim.WHOLE)}
        assert world.bucket.names("withdrawals") == set()

    kills.each(look, "gc and vacuum in a bucket", "s3.victim:run", "free", world.store)


@pytest.fixture(autouse=True)
def credentials(moto_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", moto_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", moto_server.secret_access_key)
