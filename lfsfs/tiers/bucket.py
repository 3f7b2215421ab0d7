"""Bucket: the remote tier of a bucket as that says that it is: plain, compressed, encrypted, or on its way there.

What it says is read before the first request of a process: nothing plain gets into an encrypted bucket, and who has not
got its key, or another one, is told so, by every request.
"""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import trio

from lfsfs.config import S3Options
from lfsfs.errors import Denied, InvalidConfig, LfsfsError, NotFound
from lfsfs.oid import Oid
from lfsfs.tiers.bucket_settings import (
    KEY,
    LARGEST_BYTES,
    BucketSettings,
    Copy,
    Encryption,
    decode,
    new_settings,
)
from lfsfs.tiers.compression import CompressedRemote, Room
from lfsfs.tiers.encryption.masters import MasterKey, master_key
from lfsfs.tiers.encryption.names import HashedNames, PlainNames
from lfsfs.tiers.encryption.remote import EncryptedRemote
from lfsfs.tiers.encryption.ring import Ring, WrongKey, new_ring
from lfsfs.tiers.mixed import Mixed, Outside
from lfsfs.tiers.remote import NOTE_BYTES, Check, Direct, RemoteLeaf, RemoteTier, Sink, Source, Stored

log = logging.getLogger("lfsfs.remote")
T = TypeVar("T")
SEALED = "sealed"
"""What begins the keys of everything that is encrypted."""
LOOK_SECONDS = 60.0  # how often it is looked at again: another machine may have it encrypted, or decrypted
WRONG_KEY_SECONDS = (
    3.0  # what a bucket has to say whether it has got the master key that its copy does not have
)
_NOT_ENCRYPTED = "the bucket is not encrypted: mount with --encryption-key"
SETTLE_SECONDS = 5.0  # what others get to write over what we have written, where no write can be conditional


class NoKey(InvalidConfig):
    """The bucket is encrypted, and this machine has no master key."""


class Decrypted(InvalidConfig):
    """The bucket was decrypted, and a machine still has the master key that it had."""

    def __init__(self) -> None:
        super().__init__(
            "the bucket was decrypted (lfsfs decrypt): take encryption_key, and --encryption-key, away. To encrypt it"
            " again, make another master key: lfsfs key new"
        )


@dataclass(frozen=True)
class Wanted:
    """What a machine wants of a bucket. `key`: names the master key; None: it has none."""

    key: str | None = None
    hashed: bool = False
    compress: bool = False


@dataclass(frozen=True)
class _Opened:
    settings: BucketSettings | None
    ring: Ring | None
    new: RemoteTier
    """Where everything goes that is written."""
    old: RemoteTier
    """Where it goes in a bucket that is not encrypted."""
    tier: RemoteTier
    """Of the first and, where the bucket is mixed, the second."""


class Bucket:
    """The RemoteTier of a bucket. `open_bucket` makes one."""

    def __init__(
        self, leaf: RemoteLeaf, wanted: Wanted, copy: Copy | None, new_path: Callable[[], Path] | None,
        room: Room | None = None,
    ) -> None:  # fmt: skip
        """`copy`: what the store keeps of the bucket's settings, and `new_path` where what is being compressed lies,
        as far as there is `room`; None: there is no store, or no bound.
        """
        self.leaf = leaf
        self._wanted = wanted
        self._copy = copy
        self._new_path = new_path if wanted.compress else None
        self._room = room
        self._opened: _Opened | None = None
        self._looked = -math.inf
        self._runs = False  # it was opened before
        self._opening = trio.Lock()

    @property
    def direct(self) -> Direct | None:
        settings = None if self._opened is None else self._opened.settings
        plain = settings is None or not (settings.is_encrypted or settings.compressed)
        return self.leaf.direct if plain and self._wanted == Wanted() else None

    # What the bucket says.

    async def settings(self) -> BucketSettings | None:
        """As they are in the bucket now; None where that is plain."""
        return (await self._open(again=True)).settings

    async def ring(self) -> Ring:
        """The keys. InvalidConfig where the bucket is not encrypted."""
        found = (await self._open(again=True)).ring
        if found is None:
            raise InvalidConfig(_NOT_ENCRYPTED)
        return found

    async def sides(self) -> tuple[RemoteTier, RemoteTier]:
        """Where everything goes, and where it was before: encrypted and plain, or the other way round while the bucket
        is being decrypted. InvalidConfig where it is not encrypted.
        """
        opened = await self._open()
        if opened.new is opened.old:
            raise InvalidConfig(_NOT_ENCRYPTED)
        return opened.new, opened.old

    async def change(self, settings: BucketSettings, ring: Ring | None) -> None:
        """Writes other settings, signed by the ring, which the next request finds."""
        settings = settings if ring is None else settings.signed(ring)
        # The bucket first: a copy with another master key than the bucket's would keep this store out of it.
        await self.leaf.put_note(KEY, settings.encode())
        if self._copy is not None:
            self._copy.save(settings)
        self._opened = None

    def use_key(self, source: str) -> None:
        """Opens the bucket with another master key from now on."""
        self._wanted = replace(self._wanted, key=source)
        self._opened = None

    async def _tier(self) -> RemoteTier:
        return (await self._open()).tier

    async def _open(self, *, again: bool = False) -> _Opened:
        async with self._opening:
            opened = self._opened
            if opened is not None and not again:
                if time.monotonic() - self._looked <= LOOK_SECONDS:
                    return opened
                if opened.settings is not None and await self._read() == opened.settings:
                    return opened
            self._opened = await self._load()
            self._runs = True
            return self._opened

    async def _load(self) -> _Opened:
        kept = self._copy.load() if self._copy is not None else None
        master = await _in_thread(self.master)
        refused: InvalidConfig | None = None
        if kept is not None and kept.is_encrypted:
            try:
                await trio.to_thread.run_sync(kept.open_ring, self._needed(master))
            except (
                WrongKey,
                NoKey,
            ) as error:  # or another machine has changed the master key, or decrypted it
                refused = error
        said = await (self._read() if refused is None else self._read_or(refused))
        if said is not None and kept is not None and said.id != kept.id:
            raise InvalidConfig(
                f"the bucket has another {KEY} than this store knows: somebody has begun it anew. If that was meant,"
                f" remove {KEY} from the store"
            )
        if said is None and kept is not None:
            log.warning("%s of the bucket is gone: it is put back", KEY)
            await self.leaf.put_note(KEY, kept.encode(), only_new=True)
            said = kept
        settings, ring = await self._agree(said, master)
        if settings is not None and self._copy is not None:
            self._copy.save(settings)
        return self._stacked(settings, ring)

    async def _read_or(self, refused: InvalidConfig) -> BucketSettings:
        """What an encrypted bucket says; `refused` is raised where it does not, or not soon."""
        said = None
        try:
            with trio.move_on_after(WRONG_KEY_SECONDS):
                said = await self._read()
        except LfsfsError as failed:
            raise refused from failed
        if said is None or said.encryption is None:
            raise refused
        return said

    def master(self) -> MasterKey | None:
        """Of this machine. Blocks."""
        return None if self._wanted.key is None else master_key(self._wanted.key)

    def _needed(self, master: MasterKey | None) -> MasterKey:
        if master is None:
            raise NoKey("the bucket is encrypted: its master key is needed: --encryption-key SOURCE")
        return master

    async def _read(self) -> BucketSettings | None:
        try:
            said = decode(await self.leaf.note(KEY, LARGEST_BYTES))
        except NotFound:
            said = None
        except Denied:  # so some servers call what is not there, where one may not list
            if self._wanted != Wanted():
                raise
            return None
        self._looked = time.monotonic()
        return said

    async def _agree(
        self, said: BucketSettings | None, master: MasterKey | None
    ) -> tuple[BucketSettings | None, Ring | None]:
        """What the bucket says and what is wanted of it, as one. What is wanted and not said yet is written."""
        if said is None and master is None and not self._wanted.compress:
            return None, None
        settings, ring = said or new_settings(), None
        if settings.encryption is not None and not settings.is_encrypted:
            if master is not None and master.name == settings.encryption.ring.get("master"):
                await _in_thread(settings.open_ring, master)  # or anybody could have said it
                if not self._runs:
                    raise Decrypted
                log.warning("the bucket was decrypted: what this machine writes there is plain from now on")
                return settings, None
            if master is None and not self._wanted.compress:
                return settings, None
            settings = replace(settings, encryption=None)
        if settings.encryption is not None:
            ring = await _in_thread(settings.open_ring, self._needed(master))
            if self._wanted.hashed and not settings.encryption.hashed:
                raise InvalidConfig(
                    "the names in this bucket are plain: they can be hashed from the beginning only"
                )
        elif master is not None:
            ring = new_ring()
            wrapped = await _in_thread(ring.wrapped, master)
            mixed = await self._is_used()
            settings = replace(settings, encryption=Encryption(self._wanted.hashed, mixed, wrapped))
        if self._wanted.compress:
            settings = replace(settings, compressed=True)
        if ring is not None:
            settings = settings.signed(ring)
        if settings == said:
            return settings, ring
        if await self._write(settings, new=said is None):
            return settings, ring
        return await self._agree(await self._read(), master)  # another machine was first

    async def _is_used(self) -> bool:
        return bool(await self.leaf.survey(None, 1) or await self.leaf.notes("", None, 1))

    async def _write(self, settings: BucketSettings, *, new: bool) -> bool:
        """Whether it is what the bucket says then."""
        if not new:
            await self.leaf.put_note(KEY, settings.encode())
            return True
        if await self.leaf.grants_names():
            return await self.leaf.put_note(KEY, settings.encode(), only_new=True)
        await self.leaf.put_note(KEY, settings.encode())
        await trio.sleep(SETTLE_SECONDS)
        return await self._read() == settings

    def _stacked(self, settings: BucketSettings | None, ring: Ring | None) -> _Opened:
        plain = self._decoded(settings, self.leaf)
        if settings is None or settings.encryption is None or ring is None:
            return _Opened(settings, ring, plain, plain, plain)
        names = HashedNames(ring.oldest.key) if settings.encryption.hashed else PlainNames()
        sealed = self._decoded(settings, EncryptedRemote(self.leaf.below(SEALED), ring, names, self.ring))
        new, old = sealed, self._outside(plain)
        if settings.encryption.leaving:
            new, old = old, new
        tier = Mixed(new, old) if settings.encryption.mixed else new
        return _Opened(settings, ring, new, old, tier)

    def _outside(self, plain: RemoteTier) -> RemoteTier:
        return Outside(plain, SEALED)

    def _decoded(self, settings: BucketSettings | None, tier: RemoteTier) -> RemoteTier:
        compressed = settings is not None and settings.compressed
        return CompressedRemote(tier, self._new_path, self._room) if compressed else tier

    # The tier.

    async def put(self, oid: Oid, source: Path) -> None:
        await (await self._tier()).put(oid, source)

    async def put_checked(self, oid: Oid, source: Path, check: Check) -> None:
        await (await self._tier()).put_checked(oid, source, check)

    async def put_source(self, oid: Oid, source: Source, check: Check) -> None:
        await (await self._tier()).put_source(oid, source, check)

    async def read(self, oid: Oid, offset: int, size: int) -> bytes:
        return await (await self._tier()).read(oid, offset, size)

    async def fetch(self, oid: Oid, offset: int, size: int, sink: Sink) -> None:
        await (await self._tier()).fetch(oid, offset, size, sink)

    async def size(self, oid: Oid) -> int:
        return await (await self._tier()).size(oid)

    async def delete(self, oid: Oid) -> None:
        await (await self._tier()).delete(oid)

    async def scan(self, after: Oid | None, limit: int) -> list[Oid]:
        return await (await self._tier()).scan(after, limit)

    async def survey(self, after: Oid | None, limit: int) -> list[Stored]:
        return await (await self._tier()).survey(after, limit)

    async def put_note(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        return await (await self._tier()).put_note(key, content, only_new=only_new)

    async def grants_names(self) -> bool:
        return await (await self._tier()).grants_names()

    async def note(self, key: str, limit: int = NOTE_BYTES) -> bytes:
        return await (await self._tier()).note(key, limit)

    async def delete_note(self, key: str) -> None:
        await (await self._tier()).delete_note(key)

    async def notes(self, prefix: str, after: str | None, limit: int) -> list[str]:
        return await (await self._tier()).notes(prefix, after, limit)

    async def check(self) -> None:
        await self.leaf.check()  # says best what is wrong
        await self._tier()

    async def abort_uploads(self, older_than_seconds: float, among: Collection[Oid] | None = None) -> int:
        return await (await self._tier()).abort_uploads(older_than_seconds, among)


async def _in_thread(ask: Callable[..., T], *arguments: object) -> T:
    """Runs what may have to ask a KMS, or a program. A cancelled caller goes on at once."""
    return await trio.to_thread.run_sync(lambda: ask(*arguments), abandon_on_cancel=True)


@asynccontextmanager
async def open_bucket(
    options: S3Options, copy: Copy | None = None, new_path: Callable[[], Path] | None = None,
    room: Room | None = None,
) -> AsyncIterator[Bucket]:  # fmt: skip
    """The tier, until the block ends; the rest as Bucket has it. Asks nothing: the first request does."""
    from lfsfs.tiers.s3 import open_s3  # brings boto3

    wanted = Wanted(options.encryption_key, options.object_names == "hashed", options.compression == "zstd")
    async with open_s3(options) as leaf:
        yield Bucket(leaf, wanted, copy, new_path, room)
