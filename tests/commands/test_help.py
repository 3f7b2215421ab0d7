"""Help: every command says what it does, shows an example that can be typed, and completes in the shells."""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands.parsers import commands
from lfsfs.cli import completing
from lfsfs.cli.examples import EXAMPLES
from lfsfs.cli.main import parser

BIN = Path(sys.executable).parent
COMPLETIONS = Path(__file__).parents[2] / "completions"
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[=>]|\][^\x07]*\x07|\(B)")
PATIENCE_SECONDS = 20.0


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_help_of_every_command_shows_an_example(command: str) -> None:
    shown = commands()[command].format_help()
    assert f"\n  lfsfs {command}" in shown or f"| lfsfs {command}" in shown, shown
    assert shown.count("\n\n") >= 2, "what it does is said"


def test_every_example_can_be_typed() -> None:
    for command, lines in EXAMPLES.items():
        assert command in commands()
        for line in lines:
            typed = line.split("|")[-1].split(">")[0]
            words = shlex.split(typed)
            assert words[: len(command.split()) + 1] == ["lfsfs", *command.split()], line
            parsed = parser(words[1:]).parse_args(words[1:])
            assert callable(parsed.run), line


def test_every_option_is_explained() -> None:
    silent = [
        f"{command} {action.option_strings[-1]}"
        for command, found in commands().items()
        for action in found._actions
        if action.option_strings and action.help is None
    ]
    assert silent == []


# Completion.


@pytest.mark.parametrize(("shell", "file"), [("bash", "lfsfs"), ("zsh", "_lfsfs"), ("fish", "lfsfs.fish")])
def test_what_the_package_installs_is_what_the_command_prints(shell: str, file: str) -> None:
    printed = subprocess.check_output([BIN / "lfsfs", "completion", shell], text=True)
    assert printed == (COMPLETIONS / file).read_text(), (
        f"{sys.executable} -m lfsfs.cli.completing completions"
    )


class Terminal:
    """A shell at a terminal: what one types, and what is on the screen then."""

    def __init__(self, *command: str, home: Path) -> None:
        environment = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": str(home),
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
        }
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(home)
            os.execvpe(command[0], command, environment)

    def types(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def shows(self, wanted: str) -> str:
        """What it has shown since the last time, when `wanted` is there."""
        seen, end = "", time.monotonic() + PATIENCE_SECONDS
        while wanted not in seen:
            assert time.monotonic() < end, f"no {wanted!r} in {seen!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                seen = ESCAPES.sub("", seen + os.read(self._fd, 65536).decode(errors="replace"))
        return seen

    def end(self) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}


@pytest.mark.parametrize("shell", list(SHELLS))
def test_the_tab_key_completes_commands_options_and_values(shell: str, tmp_path: Path) -> None:
    assert shutil.which(shell), f"{shell} is installed by scripts/install tests"
    terminal = Terminal(*SHELLS[shell], home=tmp_path)
    try:
        begin = "autoload -U compinit; compinit -u;" if shell == "zsh" else ""
        joined = "source <(lfsfs completion bash)" if shell != "fish" else "lfsfs completion fish | source"
        terminal.types(f"{begin} {joined.replace('bash', shell)}; echo re''ady\n")
        terminal.shows("ready")
        terminal.types("lfsfs unm\t")
        terminal.shows("unmount")
        terminal.types("\x15lfsfs mount --durab\t")
        terminal.shows("--durability")
        terminal.types("\x15lfsfs embed exp\t")
        terminal.shows("export")
        terminal.types("\x15lfsfs mount --durability sy\t")
        terminal.shows("sync")
    finally:
        terminal.end()


def test_completion_offers_commands_quickly_and_none_that_nobody_types() -> None:
    offered = _offered("lfsfs ")
    assert {"mount", "put", "doctor", "completion"} <= set(offered)
    assert "view" not in offered


def test_completion_of_a_command_loads_no_other(tmp_path: Path) -> None:
    assert "--collection" in _offered("lfsfs embed put --c")
    assert tuple(_offered("lfsfs completion ")) == completing.SHELLS


def _offered(line: str) -> list[str]:
    """What a shell is told of a line that ends at the cursor."""
    environment = os.environ | {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)),
                                "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}  # fmt: skip
    asked = subprocess.run(
        ["bash", "-c", f"{BIN / 'lfsfs'} 8>&1 9>/dev/null"], env=environment, capture_output=True, text=True
    )
    return asked.stdout.split("\n")
