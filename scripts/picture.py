"""The picture of the README: two clones on one store, as the commands say it. Run by scripts/picture."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 92
SECONDS = 120
BEFORE = """
git config --global user.name Ann; git config --global user.email ann@example.org
git config --global init.defaultBranch main; git config --global advice.detachedHead false
git lfs install --skip-repo
git config --global lfs.fetchrecentrefsdays 0; git config --global lfs.fetchrecentcommitsdays 0
git config --global lfs.pruneoffsetdays 0
mkdir work; git init -q --bare git/game.git; git clone -q git/game.git work/game
head -c 40M /dev/urandom >work/game/hero.psd
"""
SHOWN = (
    "lfsfs mount ~/lfs-store ~/lfs",
    "cd ~/work/game && lfsfs attach",
    "git lfs track '*.psd'",
    "git add . && git commit -qm 'Hero, 40 MB' && git push -q",
    "# a second clone: it finds every object already there",
    "git clone -q --no-checkout ~/git/game.git ~/work/game2 && cd ~/work/game2",
    "lfsfs attach && git checkout -q main && ls -sh",
    "du -sh ~/lfs-store/objects",
    "# and what one clone prunes (with lfs.pruneoffsetdays = 0: now) stays for the other",
    "cd ~/work/game && git rm -q hero.psd && git commit -qm 'No hero' && git push -q",
    "git lfs prune",
    "cd ~/work/game2 && git lfs fsck",
)
"""What is shown, as it is typed."""
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Fonts that rich would have a browser load from somewhere else."""


def main(out: Path) -> None:
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)
    with tempfile.TemporaryDirectory(prefix="lfsfs-picture-") as home:
        folder = os.environ | {"HOME": home, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment = folder | {"GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C.UTF-8", "COLUMNS": str(COLUMNS)}
        place = home
        typed(BEFORE, place, environment)
        try:
            for command in SHOWN:
                show(console, command)
                said, place = typed(command, place, environment)
                console.print(Text(said.replace(home, "~")), end="", highlight=False, soft_wrap=True)
        finally:
            typed("lfsfs unmount ~/lfs", home, environment)
    svg = console.export_svg(title="two clones, one store")
    out.write_text(FONT_FACES.sub("", svg))


def show(console: Console, command: str) -> None:
    note = command.startswith("#")
    console.print(
        Text(command if note else f"$ {command}", style="green" if note else "bold cyan"), soft_wrap=True
    )


def typed(command: str, place: str, environment: dict[str, str]) -> tuple[str, str]:
    """What a command says, on both outputs, and the folder that it leaves the shell in."""
    with tempfile.NamedTemporaryFile("r") as left:
        done = subprocess.run(
            ["bash", "-euc", f"{command}\npwd >{left.name}"], cwd=place, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"picture: {command}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout.replace("\r", "\n"), left.read().strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
