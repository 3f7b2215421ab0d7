"""Every command and every option of it is used by some test.

The tests' own sources are read: a command and its option have to stand, as texts, in one file of tests.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from commands.parsers import commands

TESTS = Path(__file__).parents[1]
EVERYWHERE = {"--help", "--quiet", "--json", "--store"}
"""Options that many commands share, and one piece of code answers: tests/test_cli.py and test_progress.py try them."""


@cache
def _statements() -> list[tuple[Path, frozenset[str]]]:
    """For each test or helper, the words of all texts in it: what it may give a command."""
    found = []
    for file in TESTS.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            found.append((file, frozenset(_words(node))))
    return found


def _words(node: ast.AST) -> Iterator[str]:
    """Of its texts, but of no docstring."""
    said = {id(one.value) for one in ast.walk(node) if isinstance(one, ast.Expr)}
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in said:
            yield one.value
            yield from re.split(r"[\s'\"=]+", one.value)


def _files(words: set[str]) -> set[Path]:
    return {file for file, there in _statements() if words <= there}


def options() -> list[tuple[str, list[str]]]:
    """Every command with each of its options, in all their forms."""
    return [
        (command, list(action.option_strings))
        for command, parser in commands().items()
        for action in parser._actions
        if action.option_strings and action.help is not argparse.SUPPRESS
    ]


def test_every_command_is_used_by_a_test() -> None:
    assert [command for command in commands() if not _files({command.split()[-1]})] == []


def test_every_option_is_used_by_a_test() -> None:
    unused = []
    for command, forms in options():
        if EVERYWHERE.isdisjoint(forms):
            there = _files({command.split()[-1]})
            if not any(there & _files({form}) for form in forms):
                unused.append(f"{command} {forms[-1]}")
    assert unused == []
