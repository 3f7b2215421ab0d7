"""What every parser of the command line does the same way: errors in one line, checked option values."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from lfsfs.cli import output
from lfsfs.errors import InvalidConfig

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Options are written out in full; an error is one line that names the help."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **named})

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
