"""A daemon that follows another one, which has started it: it loads everything first, then says that it is there."""

import argparse
import os
from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from lfsfs.cli import background, output
from lfsfs.config import Config
from lfsfs.errors import LfsfsError
from lfsfs.store.layout import open_layout
from lfsfs.succession import Predecessor, Program


class Serve(Protocol):
    """Serves until it is to end; the exit status."""

    def __call__(
        self, config: Config, parent: background.Parent, program: Program | None, predecessor: Predecessor
    ) -> int: ...


def follow(arguments: argparse.Namespace, configure: Callable[[], Config], serve: Serve) -> int:
    """Follows. What keeps this one from it, the other one is told, and serves on."""
    predecessor = Predecessor(arguments.predecessor_fd)
    try:
        config, program = configure(), background.program(arguments)
        open_layout(config.store, create=False)
        _load(config)
        predecessor.loaded(config)
        os.chdir("/")
        return serve(config, background.Parent(None), program, predecessor)
    except (LfsfsError, OSError) as error:
        predecessor.failed(output.told(error))
        raise


def _load(config: Config) -> None:
    """What a daemon of this configuration imports, sooner or later."""
    modules = ["lfsfs.daemon", "lfsfs.cli.tracking"]
    if config.server.listen:
        modules += ["lfsfs.server.serving", "lfsfs.server.access.permissions"]
    if config.s3 is not None:
        modules += ["lfsfs.tiers.bucket"]
    for module in modules:
        import_module(module)
