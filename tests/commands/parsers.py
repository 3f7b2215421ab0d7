"""The command line as a tree: every command with its parser."""

import argparse
from collections.abc import Iterator
from functools import cache

from lfsfs.cli.main import parser

INTERNAL = {"view"}
"""Commands that nobody types: processes of ours run them."""


@cache
def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command that a person can type, such as "embed put", with those that only have commands below them."""
    return dict(_below(parser(), ()))


def _below(
    top: argparse.ArgumentParser, way: tuple[str, ...]
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, found in action.choices.items():
                if name not in INTERNAL:
                    yield " ".join((*way, name)), found
                    yield from _below(found, (*way, name))
