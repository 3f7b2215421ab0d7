"""key, encrypt and decrypt: the keys of an encrypted bucket or local disk, and what lies there plain."""

import argparse
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import trio

from lfsfs.cli import output
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, chosen_store, with_store
from lfsfs.config import parse_encryption_key
from lfsfs.errors import Exists, InvalidConfig
from lfsfs.store import attachment
from lfsfs.store.layout import has_keys, open_layout
from lfsfs.units import format_size

if TYPE_CHECKING:
    from lfsfs.store.sealing import Sealed
    from lfsfs.store.store import Store
    from lfsfs.tiers.bucket import Bucket
    from lfsfs.tiers.conversion import Converted

Place = Literal["bucket", "local"]
PLACES = get_args(Place)
KEY_BYTES = 32
PARALLEL = 4
SPARE_SECONDS = 5.0  # for a request that was on its way when a machine last looked


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    key = commands.add_parser("key", help="the keys of an encrypted bucket or store").add_subparsers(
        metavar="ACTION", required=True
    )
    new = key.add_parser(
        "new",
        help="make a master key",
        description="Makes a master key by chance, in a file that only you may read.",
    )
    new.add_argument("file", metavar="FILE", type=Path, help="a new file")
    new.set_defaults(run=run_new)
    show = key.add_parser(
        "show",
        help="which keys a bucket or store has",
        description="Says which keys a bucket has, and the local disk; none of their bytes.",
    )
    add_options(show)
    show.set_defaults(run=run_show)
    rotate = key.add_parser(
        "rotate",
        help="change the master key, or the key of what comes",
        description="Changes the keys of an encrypted bucket, or of the local disk. Nothing is written anew. With --to,"
        " the keys are wrapped by another master key. With --add, what is written from now on has a new key.",
    )
    rotate.add_argument(
        "--to",
        metavar="SOURCE",
        type=option(parse_encryption_key),
        help="the new master key, as --encryption-key has it",
    )
    rotate.add_argument("--add", action="store_true", help="add a key to those that are there")
    _add_only(rotate)
    add_options(rotate)
    rotate.set_defaults(run=run_rotate)
    encrypt = commands.add_parser(
        "encrypt",
        help="encrypt what lies in a bucket, or on the local disk, plain",
        description="Encrypts, in its place, what was in a bucket before it was encrypted, and what was on the local"
        " disk. May be ended and begun again, beside a mount too. With --store-key, the local disk begins to be"
        " encrypted, while nothing has the store mounted. Exits with 1 where something is damaged, and stays plain.",
    )
    encrypt.add_argument(
        "--store-key", metavar="SOURCE", type=option(parse_encryption_key),
        help="encrypt the local disk from now on: file:/PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY",
    )  # fmt: skip
    _add_only(encrypt)
    add_options(encrypt)
    encrypt.set_defaults(run=run_encrypt)
    decrypt = commands.add_parser(
        "decrypt",
        help="decrypt an encrypted bucket, or local disk, for good",
        description="Decrypts, in its place, all that lies in an encrypted bucket, or on an encrypted local disk: the"
        " opposite of `lfsfs encrypt`. From its beginning on, what any machine writes there is plain. May be ended and"
        " begun again. Of a bucket, it waits for a minute first, until every machine knows; of the local disk, it begins"
        " while nothing has the store mounted. Afterwards no machine needs the master key any more: take it away from"
        " their configuration. Exits with 1 where something is damaged, and stays encrypted.",
    )
    _add_only(decrypt)
    add_options(decrypt)
    decrypt.set_defaults(run=run_decrypt)


def _add_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", choices=PLACES, help="the bucket, or the local disk (where both are encrypted)"
    )


def run_new(arguments: argparse.Namespace) -> int:
    """Makes a master key."""
    try:
        fd = os.open(arguments.file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Exists(f"{arguments.file} is there already: no key is ever written over") from error
    with open(fd, "w") as file:
        file.write(secrets.token_hex(KEY_BYTES) + "\n")
        file.flush()
        os.fsync(fd)
    output.line(f"{arguments.file}: keep a copy elsewhere. Without it nobody reads what is encrypted with it")
    return output.DONE


def run_show(arguments: argparse.Namespace) -> int:
    """Says what bucket and store say of their encryption."""

    async def look(store: "Store") -> dict[str, object]:
        local = (
            {"local": await trio.to_thread.run_sync(_shown_keys, store)}
            if has_keys(store.layout.path)
            else {}
        )
        if "local" in local and (store.remote is None or not _names_key(store)):
            return dict(local)
        bucket = await _bucket(store)
        settings, ring = await bucket.settings(), await bucket.ring()
        assert settings is not None and settings.encryption is not None
        return {
            "master": settings.encryption.ring["master"],
            "names": "hashed" if settings.encryption.hashed else "plain",
            "mixed": settings.encryption.mixed,
            "decrypting": settings.encryption.leaving,
            "compressed": settings.compressed,
            "keys": [{"id": key.id.hex(), "created": key.created} for key in ring.keys],
            **local,
        }

    said = with_store(arguments, look)
    if arguments.json:
        output.as_json(said)
        return output.DONE
    local = said.pop("local", None)
    rows: list[tuple[str, str]] = []
    if said:
        to_do = "decrypt` decrypts the rest" if said["decrypting"] else "encrypt` encrypts what is plain"
        mixed = f"yes: `lfsfs {to_do}" if said["mixed"] else "no"
        rows = [
            (name, str(value))
            for name, value in (said | {"mixed": mixed}).items()
            if name not in ("decrypting", "keys")
        ]
        rows.append(("keys", _ids(said["keys"])))
    if isinstance(local, dict):
        state = "is being decrypted: `lfsfs decrypt` ends that" if local["decrypting"] else "encrypted"
        rows += [
            ("local disk", state),
            ("local key", str(local["key"])),
            ("local master", str(local["master"])),
            ("local keys", _ids(local["keys"])),
        ]
    output.table(rows)
    return output.DONE


def _ids(keys: object) -> str:
    assert isinstance(keys, list)
    return "\n".join(key["id"] for key in keys)


def _shown_keys(store: "Store") -> dict[str, object]:
    """Blocks."""
    from lfsfs.store import keys
    from lfsfs.tiers.encryption.masters import master_key

    found = keys.load(store.layout.path)
    return {
        "key": found.source,
        "master": master_key(found.source).name,
        "decrypting": found.leaving,
        "keys": [{"id": key.id.hex(), "created": key.created} for key in found.ring.keys],
    }


def run_rotate(arguments: argparse.Namespace) -> int:
    """Changes the keys."""
    if arguments.to is None and not arguments.add:
        raise InvalidConfig("give --to SOURCE for another master key, or --add for another key of what comes")

    async def rotate(store: "Store") -> tuple[Place, str]:
        place = _one_place(store, arguments.only)
        if place == "local":
            return place, await trio.to_thread.run_sync(_rotate_local, store, arguments.to, arguments.add)
        return place, await _rotate_bucket(store, arguments.to, arguments.add)

    place, name = with_store(arguments, rotate, busy="rotate")
    if arguments.json:
        output.as_json({"master": name})
    elif place == "bucket":
        output.line(
            f"the bucket's keys are wrapped by {name}: every machine needs that from its next start on"
        )
    else:
        output.line(
            f"the keys of the local disk are wrapped by {name}: a mount needs that from its next start on"
        )
    return output.DONE


def _rotate_local(store: "Store", to: str | None, add: bool) -> str:
    """Blocks."""
    from lfsfs.store import keys
    from lfsfs.tiers.encryption.masters import master_key

    found = keys.load(store.layout.path)
    ring = found.ring.with_new_key() if add else found.ring
    changed = replace(found, source=to or found.source, ring=ring)
    keys.save(store.layout.path, changed)
    return master_key(changed.source).name


async def _rotate_bucket(store: "Store", to: str | None, add: bool) -> str:
    from lfsfs.tiers.encryption import WrongKey
    from lfsfs.tiers.encryption.masters import master_key

    bucket = await _bucket(store)
    try:
        ring = await bucket.ring()
    except WrongKey:
        if to is None:
            raise
        bucket.use_key(to)  # a run that was cut off has changed it already
        ring = await bucket.ring()
    settings = await bucket.settings()
    assert settings is not None and settings.encryption is not None
    master = await trio.to_thread.run_sync(lambda: bucket.master() if to is None else master_key(to))
    assert master is not None
    ring = ring.with_new_key() if add else ring
    wrapped = await trio.to_thread.run_sync(ring.wrapped, master)
    await bucket.change(replace(settings, encryption=replace(settings.encryption, ring=wrapped)), ring)
    if to is not None:
        _remember(store, to)
    return master.name


def _remember(store: "Store", key: str | None) -> None:
    """The store's next mount uses this key, or none, unless a configuration file names another."""
    attached = attachment.load(store.layout.path)
    if attached is not None:
        s3, cache = attached
        attachment.save(store.layout.path, (replace(s3, encryption_key=key), cache))


def run_encrypt(arguments: argparse.Namespace) -> int:
    """Converts, and says what was done."""
    from lfsfs.tiers.conversion import convert

    if arguments.store_key is not None:
        if arguments.only == "bucket":
            raise InvalidConfig("--store-key is of the local disk: it does not go with --only bucket")
        _begin(chosen_store(arguments.store), arguments.store_key)

    async def run(store: "Store") -> _Done:
        places = [arguments.only] if arguments.only else _places(store)
        if not places:
            raise InvalidConfig(
                f"nothing of {store.layout.path} is to be encrypted: give --store-key SOURCE for the local disk,"
                " or mount with --encryption-key for the bucket"
            )
        done = _Done()
        if "local" in places:
            done.add_local(await _convert_local(store, seals=True))
        if "bucket" in places:
            done.add(await convert(await _bucket(store), store.staging.new_path, PARALLEL))
        return done

    return _tell(arguments, with_store(arguments, run, busy="encrypt"), "encrypted")


def _begin(path: Path, source: str) -> None:
    """From now on what comes to the store is encrypted."""
    from lfsfs.store import keys

    layout = open_layout(path, create=False)
    if not has_keys(layout.path):
        keys.create(layout.path, source)
        return
    keys.leave(layout.path, keys.load(layout.path, source, keep=True), leaving=False)


async def _convert_local(store: "Store", *, seals: bool) -> "Sealed":
    from lfsfs.store.sealing import convert
    from lfsfs.tiers.encryption import EncryptedTier

    if not isinstance(store.tier, EncryptedTier):
        raise InvalidConfig(f"the local disk of {store.layout.path} is not encrypted")
    if seals != store.tier.seals:
        raise InvalidConfig(
            "the local disk is being decrypted: end that first, by `lfsfs decrypt`, or take it back, by"
            " `lfsfs encrypt --store-key SOURCE`"
        )
    return await convert(store, store.tier, PARALLEL, seals=seals)


def run_decrypt(arguments: argparse.Namespace) -> int:
    """Converts the other way round, and says what was done."""
    path = chosen_store(arguments.store)
    place = with_store(arguments, _place_to_decrypt(arguments.only))
    if place == "local":
        from lfsfs.store import keys

        keys.leave(path, keys.load(path))
        done = _Done()
        done.add_local(
            with_store(arguments, lambda store: _convert_local(store, seals=False), busy="decrypt")
        )
        return _tell(arguments, done, "decrypted")
    return _tell(arguments, with_store(arguments, _decrypt_bucket, busy="decrypt"), "decrypted")


def _place_to_decrypt(only: Place | None) -> "Callable[[Store], Awaitable[Place]]":
    async def find(store: "Store") -> Place:
        return _one_place(store, only)

    return find


async def _decrypt_bucket(store: "Store") -> "_Done":
    from lfsfs.tiers import bucket as tiers
    from lfsfs.tiers.conversion import revert

    async def settle() -> None:
        seconds = tiers.LOOK_SECONDS + SPARE_SECONDS
        output.note(f"waiting for {seconds:.0f} s, until every machine on the bucket knows of it")
        await trio.sleep(seconds)

    done = _Done()
    try:
        bucket = await _bucket(store)
        done.add(await revert(bucket, store.staging.new_path, PARALLEL, settle))
        left = await bucket.settings()
    except tiers.Decrypted:  # by a run that was cut off, or on another machine
        left = None
    if left is None or not left.is_encrypted:
        _remember(store, None)
    return done


@dataclass
class _Done:
    """What was converted, wherever."""

    objects: int = 0
    bytes: int = 0
    notes: int = 0
    damaged: list[str] = field(default_factory=list)

    def add(self, done: "Converted") -> None:
        self.objects += done.objects
        self.bytes += done.bytes
        self.notes += done.notes
        self.damaged += [*sorted(done.damaged), *done.damaged_notes]

    def add_local(self, done: "Sealed") -> None:
        self.objects += done.objects
        self.bytes += done.bytes
        self.damaged += sorted(done.damaged)


def _tell(arguments: argparse.Namespace, done: _Done, what: str) -> int:
    if arguments.json:
        output.as_json(asdict(done))
    else:
        output.line(f"{what}: {done.objects} objects ({format_size(done.bytes)}), {done.notes} notes")
        for name in done.damaged:
            output.note(f"{name} is damaged, and stays as it is: see `lfsfs verify`")
    return output.FAILED if done.damaged else output.DONE


def _places(store: "Store") -> list[Place]:
    """What of the store is encrypted."""
    local: list[Place] = ["local"] if has_keys(store.layout.path) else []
    return [*local, "bucket"] if store.remote is not None and (_names_key(store) or not local) else local


def _one_place(store: "Store", only: Place | None) -> Place:
    """InvalidConfig where both are encrypted, and nobody says which is meant."""
    places = _places(store)
    if only is not None:
        return only
    if len(places) > 1:
        raise InvalidConfig(
            "both the bucket and the local disk are encrypted: give --only bucket or --only local"
        )
    return places[0] if places else "bucket"


def _names_key(store: "Store") -> bool:
    """Whether the store was mounted with a key of its bucket."""
    attached = attachment.load(store.layout.path)
    return attached is not None and attached[0].encryption_key is not None


async def _bucket(store: "Store") -> "Bucket":
    from lfsfs.tiers.bucket import Bucket

    if store.remote is None:
        raise InvalidConfig(f"{store.layout.path} has no S3: there is no bucket to be encrypted")
    tier = await store.remote.tier()
    assert isinstance(tier, Bucket)
    return tier
