"""key, encrypt and decrypt: the keys of an encrypted bucket, and what lies in it plain."""

import argparse
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lfsfs.cli import output
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.config import parse_encryption_key
from lfsfs.errors import Exists, InvalidConfig
from lfsfs.store import attachment
from lfsfs.units import format_size

if TYPE_CHECKING:
    from lfsfs.store.store import Store
    from lfsfs.tiers.bucket import Bucket
    from lfsfs.tiers.conversion import Converted

KEY_BYTES = 32
PARALLEL = 4
SPARE_SECONDS = 5.0  # for a request that was on its way when a machine last looked


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    key = commands.add_parser("key", help="the keys of an encrypted bucket").add_subparsers(
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
        help="which keys a bucket has",
        description="Says which keys a bucket has; none of their bytes.",
    )
    add_options(show)
    show.set_defaults(run=run_show)
    rotate = key.add_parser(
        "rotate",
        help="change the master key, or the key of what comes",
        description="Changes the keys of an encrypted bucket. No object is written anew. With --to, the bucket's keys"
        " are wrapped by another master key. With --add, what is written from now on has a new key of the bucket.",
    )
    rotate.add_argument(
        "--to",
        metavar="SOURCE",
        type=option(parse_encryption_key),
        help="the new master key, as --encryption-key has it",
    )
    rotate.add_argument("--add", action="store_true", help="add a key to those of the bucket")
    add_options(rotate)
    rotate.set_defaults(run=run_rotate)
    encrypt = commands.add_parser(
        "encrypt",
        help="encrypt what lies in a bucket plain",
        description="Encrypts, in its place, what was in a bucket before it was encrypted. May be ended and begun again,"
        " beside a mount too. Exits with 1 where something is damaged, and stays plain.",
    )
    add_options(encrypt)
    encrypt.set_defaults(run=run_encrypt)
    decrypt = commands.add_parser(
        "decrypt",
        help="decrypt an encrypted bucket, for good",
        description="Decrypts, in its place, all that lies in an encrypted bucket: the opposite of `lfsfs encrypt`."
        " From its beginning on, what any machine writes there is plain. May be ended and begun again, beside mounts."
        " It waits for a minute first, until every machine knows. Afterwards no machine needs the master key any more:"
        " take it away from their configuration. Exits with 1 where something is damaged, and stays encrypted.",
    )
    add_options(decrypt)
    decrypt.set_defaults(run=run_decrypt)


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
    """Says what the bucket says of its encryption."""

    async def look(store: "Store") -> dict[str, object]:
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
        }

    said = with_store(arguments, look)
    if arguments.json:
        output.as_json(said)
        return output.DONE
    keys = said.pop("keys")
    assert isinstance(keys, list)
    to_do = "decrypt` decrypts the rest" if said["decrypting"] else "encrypt` encrypts what is plain"
    mixed = f"yes: `lfsfs {to_do}" if said["mixed"] else "no"
    rows = [(name, str(value)) for name, value in (said | {"mixed": mixed}).items() if name != "decrypting"]
    output.table([*rows, ("keys", "\n".join(key["id"] for key in keys))])
    return output.DONE


def run_rotate(arguments: argparse.Namespace) -> int:
    """Changes the keys."""
    if arguments.to is None and not arguments.add:
        raise InvalidConfig("give --to SOURCE for another master key, or --add for another key of the bucket")

    async def rotate(store: "Store") -> str:
        from lfsfs.tiers.encryption import WrongKey
        from lfsfs.tiers.encryption.masters import master_key

        bucket = await _bucket(store)
        try:
            ring = await bucket.ring()
        except WrongKey:
            if arguments.to is None:
                raise
            bucket.use_key(arguments.to)  # a run that was cut off has changed it already
            ring = await bucket.ring()
        settings = await bucket.settings()
        assert settings is not None and settings.encryption is not None
        master = await trio.to_thread.run_sync(
            lambda: bucket.master() if arguments.to is None else master_key(arguments.to)
        )
        assert master is not None
        ring = ring.with_new_key() if arguments.add else ring
        wrapped = await trio.to_thread.run_sync(ring.wrapped, master)
        await bucket.change(replace(settings, encryption=replace(settings.encryption, ring=wrapped)), ring)
        if arguments.to is not None:
            _remember(store, arguments.to)
        return master.name

    name = with_store(arguments, rotate, busy="rotate")
    if arguments.json:
        output.as_json({"master": name})
    else:
        output.line(
            f"the bucket's keys are wrapped by {name}: every machine needs that from its next start on"
        )
    return output.DONE


def _remember(store: "Store", key: str | None) -> None:
    """The store's next mount uses this key, or none, unless a configuration file names another."""
    attached = attachment.load(store.layout.path)
    if attached is not None:
        s3, cache = attached
        attachment.save(store.layout.path, (replace(s3, encryption_key=key), cache))


def run_encrypt(arguments: argparse.Namespace) -> int:
    """Converts, and says what was done."""
    from lfsfs.tiers.conversion import Converted, convert

    async def run(store: "Store") -> Converted:
        return await convert(await _bucket(store), store.staging.new_path, PARALLEL)

    return _tell(arguments, with_store(arguments, run, busy="encrypt"), "encrypted")


def run_decrypt(arguments: argparse.Namespace) -> int:
    """Converts the other way round, and says what was done."""
    from lfsfs.tiers import bucket as tiers
    from lfsfs.tiers.conversion import Converted, revert

    async def settle() -> None:
        seconds = tiers.LOOK_SECONDS + SPARE_SECONDS
        output.note(f"waiting for {seconds:.0f} s, until every machine on the bucket knows of it")
        await trio.sleep(seconds)

    async def run(store: "Store") -> Converted:
        try:
            bucket = await _bucket(store)
            done = await revert(bucket, store.staging.new_path, PARALLEL, settle)
            left = await bucket.settings()
        except tiers.Decrypted:  # by a run that was cut off, or on another machine
            done, left = Converted(), None
        if left is None or not left.is_encrypted:
            _remember(store, None)
        return done

    return _tell(arguments, with_store(arguments, run, busy="decrypt"), "decrypted")


def _tell(arguments: argparse.Namespace, done: "Converted", what: str) -> int:
    damaged = [*sorted(done.damaged), *done.damaged_notes]
    if arguments.json:
        said = {"objects": done.objects, "bytes": done.bytes, "notes": done.notes, "damaged": damaged}
        output.as_json(said)
    else:
        output.line(f"{what}: {done.objects} objects ({format_size(done.bytes)}), {done.notes} notes")
        for name in damaged:
            output.note(f"{name} is damaged in the bucket, and stays as it is: see `lfsfs verify`")
    return output.FAILED if damaged else output.DONE


async def _bucket(store: "Store") -> "Bucket":
    from lfsfs.tiers.bucket import Bucket

    if store.remote is None:
        raise InvalidConfig(f"{store.layout.path} has no S3: there is no bucket to be encrypted")
    tier = await store.remote.tier()
    assert isinstance(tier, Bucket)
    return tier
