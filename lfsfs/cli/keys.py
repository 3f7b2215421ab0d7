"""key: the keys of an encrypted bucket or local disk."""

import argparse
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lfsfs.cli import output
from lfsfs.cli.encrypted import Place, add_only, bucket_of, names_key, one_place, remember
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.config import parse_encryption_key
from lfsfs.errors import Exists, InvalidConfig
from lfsfs.store.layout import has_keys

if TYPE_CHECKING:
    from lfsfs.store.store import Store

KEY_BYTES = 32


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
    add_only(rotate)
    add_options(rotate)
    rotate.set_defaults(run=run_rotate)


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
        if "local" in local and (store.remote is None or not names_key(store)):
            return dict(local)
        bucket = await bucket_of(store)
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
        place = one_place(store, arguments.only)
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

    bucket = await bucket_of(store)
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
        remember(store, to)
    return master.name
