"""What every parser of the command line does the same way: errors in one line, checked option values."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from lfsfs.cli import output
from lfsfs.config import (
    Compression,
    Mode,
    ObjectNames,
    choices,
    parse_encryption_key,
    parse_endpoint,
    parse_rate,
    parse_s3_url,
)
from lfsfs.errors import InvalidConfig
from lfsfs.units import parse_count, parse_size

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Options are written out in full; an error is one line that names the help."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **named})

    def format_help(self) -> str:
        """What argparse says, and an example."""
        from lfsfs.cli import examples  # only who asks for help needs them

        return super().format_help() + examples.shown(self.prog.partition(" ")[2])

    def error(self, message: str) -> NoReturn:
        output.note(f"{message} (see `{self.prog} --help`)")
        raise SystemExit(output.USAGE)


def option(read: Callable[[str], T]) -> Callable[[str], T]:
    """`read` as the type of an option: its InvalidConfig becomes the message of a wrong command line."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except InvalidConfig as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def add_store_key_option(parser: argparse.ArgumentParser) -> None:
    """--store-key."""
    parser.add_argument(
        "--store-key", metavar="SOURCE", type=option(parse_encryption_key),
        help="encrypt the objects on the local disk: file:/PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY",
    )  # fmt: skip


STORE_SETTINGS = {"store_key": "store.encryption_key"}
"""As REMOTE_SETTINGS, of add_store_key_option."""


def add_remote_options(parser: argparse.ArgumentParser) -> None:
    """The options of a store that keeps its objects in S3 as well."""
    parser.add_argument(
        "--s3", metavar="s3://BUCKET/PREFIX", type=option(parse_s3_url), help="keep the objects in S3 as well"
    )
    parser.add_argument(
        "--s3-endpoint", metavar="URL", type=option(parse_endpoint), help="of a server that is not Amazon's"
    )
    parser.add_argument(
        "--encryption-key", metavar="SOURCE", type=option(parse_encryption_key),
        help="encrypt all that goes into S3: file:/PATH, env:VARIABLE, command:NAME:PROGRAM or kms:KEY",
    )  # fmt: skip
    parser.add_argument(
        "--object-names",
        choices=choices(ObjectNames),
        help="names of encrypted objects; hashed: they tell nothing",
    )
    parser.add_argument("--compression", choices=choices(Compression), help="of what goes into S3")
    parser.add_argument("--mode", choices=choices(Mode), help="when a commit returns: see docs/OPERATIONS.md")
    parser.add_argument(
        "--cache-size", metavar="SIZE", type=option(parse_size), help="local disk for what S3 has (10GiB)"
    )
    parser.add_argument(
        "--pending-size", metavar="SIZE", type=option(parse_size),
        help="local disk for what waits for its upload (the free disk, less a reserve)",
    )  # fmt: skip


REMOTE_SETTINGS = {
    "s3": "s3.url",
    "s3_endpoint": "s3.endpoint",
    "encryption_key": "s3.encryption_key",
    "object_names": "s3.object_names",
    "compression": "s3.compression",
    "mode": "cache.mode",
    "cache_size": "cache.size",
    "pending_size": "cache.pending_size",
}
"""The options of add_remote_options, and the keys of a configuration file that say the same."""


def add_scrub_option(parser: argparse.ArgumentParser) -> None:
    """--scrub-rate."""
    parser.add_argument(
        "--scrub-rate", metavar="SIZE", type=option(parse_rate),
        help="bytes a second that are verified while nobody uses the store, or off (32MiB)",
    )  # fmt: skip


LIMIT_SETTINGS = {
    "max_object_size": "limits.object_size",
    "max_objects": "limits.objects",
    "max_names": "limits.names",
    "max_path_length": "limits.path_length",
    "max_open_uploads": "limits.open_uploads",
    "keep_free": "limits.free_space",
}


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """What is refused because it is too much."""
    for name, kind, shown, told in (
        ("--max-object-size", option(parse_size), "SIZE", "the largest object (any)"),
        ("--max-objects", option(parse_count), "N", "objects in the store (any number)"),
        ("--max-names", option(parse_count), "N", "names in incoming/ (any number)"),
        ("--max-path-length", option(parse_count), "N", "bytes of a path below incoming/ (any number)"),
        ("--max-open-uploads", option(parse_count), "N", "files being written at once (any number)"),
        ("--keep-free", option(parse_size), "SIZE", "of the store's disk, left free (nothing)"),
    ):
        parser.add_argument(name, metavar=shown, type=kind, help=told)
