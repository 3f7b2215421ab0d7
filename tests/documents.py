"""The blocks of a Markdown document, and a place to run them in.

A fenced block of `sh` or `python` is run, all blocks of a document one after the other, in one shell. What a reader does
not see stands in HTML comments, each on lines of its own before or after a block:

    <!-- first: SHELL -->      is run at this place, to have what the block needs
    <!-- then: SHELL -->       the same, to look at what came of it, and to tidy up
    <!-- given: PYTHON -->     stands at the beginning of the next block of Python
    <!-- not run: REASON -->   the next block is not run, for this reason
    <!-- fails -->             the next block does not succeed
    <!-- elsewhere -->         from here on, in a home of its own
    <!-- its Python is run by tests/FILE -->       and not here
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ALONE = "grep ' - fuse.lfsfs ' /proc/self/mountinfo | cut -d' ' -f5 | xargs -r umount -l\n"
UNSHARE = ("unshare", "--mount", "--propagation=private")
"""The mounts that others have on this machine are not those of the document."""
COMMANDS = Path(sys.executable).parent
_PART = re.compile(
    r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$"
    r"|^<!-- (?P<word>first|then|given|not run|fails|elsewhere)(:\s*(?P<text>.*?))?\s*-->",
    re.MULTILINE | re.DOTALL,
)
_RUN_BY = re.compile(r"^<!-- its Python is run by (tests/\w+\.py) -->$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"(?<![$\w{])(OID|HASH)(?![\w=.])")
IDENTITY = """
[user]
    name = Ann
    email = ann@example.org
[init]
    defaultBranch = main
[push]
    default = current
[filter "lfs"]
    clean = git-lfs clean -- %f
    smudge = git-lfs smudge -- %f
    process = git-lfs filter-process
    required = true
"""


def run_by(document: Path) -> list[str]:
    """The tests that run its Python."""
    return _RUN_BY.findall(document.read_text())


@dataclass(frozen=True)
class Part:
    """Something to run. `reason`: why it is not run after all; `world`: the number of the home that it is run in."""

    line: int
    language: str
    code: str
    reason: str | None
    fails: bool
    world: int


def parts(document: Path) -> Iterator[Part]:
    """What is to be run of it, and what is not, in its order."""
    text = document.read_text()
    languages = ("sh",) if _RUN_BY.search(text) else ("sh", "python")
    reason, fails, world, given = None, False, 0, ""
    for found in _PART.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        word, said = found["word"], (found["text"] or "").strip()
        if word == "not run":
            reason = said
        elif word == "fails":
            fails = True
        elif word == "elsewhere":
            world += 1
        elif word == "given":
            given = said + "\n"
        elif word is not None:
            yield Part(line, "sh", said + "\n", None, False, world)
        elif found["language"] in languages:
            yield Part(line, found["language"], given + found["code"], reason, fails, world)
            reason, fails, given = None, False, ""


class World:
    """A home, a machine's /srv and /etc, git repositories to clone, a bucket, and a port."""

    def __init__(
        self, folder: Path, bucket: str, endpoint: str, port: int, credentials: dict[str, str]
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self._words = {
            "git@example.org:": f"{folder}/origin/",
            "/home/me": str(self.home),
            "/srv/": f"{folder}/srv/",
            "/var/lib/": f"{folder}/var/lib/",
            "/etc/lfsfs": f"{folder}/etc",
            "s3://my-bucket/": f"s3://{bucket}/",
            "s3://new-bucket/": f"s3://{bucket}/new/",
            "https://s3.example.org": endpoint,
            "127.0.0.1:8080": f"127.0.0.1:{port}",
        }
        self.environment = {
            "HOME": str(self.home),
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "XDG_RUNTIME_DIR": str(folder / "run"),
            **credentials,
        }
        for name in ("home/work", "srv", "var/lib", "etc", "run", "origin"):
            (folder / name).mkdir(parents=True)
        (self.home / ".gitconfig").write_text(IDENTITY)
        (self.home / "some.psd").write_bytes(os.urandom(300_000))
        for name in ("game", "film", "search"):
            subprocess.run(
                ["git", "init", "-q", "--bare", "-b", "main", folder / "origin" / f"{name}.git"], check=True
            )

    def run(self, document: str, found: list[Part], seconds: float) -> tuple[int, str]:
        """All of it in one shell, which ends at the first command that fails: its exit status, and what was said."""
        steps = "".join(f"echo '### {document}:{part.line}'\n{self._shell(part)}" for part in found)
        root = os.geteuid() == 0
        script = f"{ALONE if root else ''}set -euo pipefail\ncd ~\n{steps}"
        with (self.folder / "said").open(
            "w+"
        ) as said:  # no pipe: what runs on in the background would hold it open
            ended = subprocess.run(
                [*(UNSHARE if root else ()), "bash", "-c", script], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT, timeout=seconds, check=False,
            )  # fmt: skip
            said.seek(0)
            return ended.returncode, said.read()

    def _shell(self, part: Part) -> str:
        code = part.code
        for word, here in self._words.items():
            code = code.replace(word, here)
        if part.language == "sh":
            code = _PLACEHOLDER.sub(r'"$\1"', code)
        if part.language == "python":
            return f"{sys.executable} - <<'PYTHON'\n{code}PYTHON\n"
        return f"! {{\n{code}}}\n" if part.fails else code
