"""Every git-lfs command, in order, on both storages: it exits with the same and says the same."""

import difflib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .bench import KIB, MIB, Bench, Clone, Native, OnMount, Remote, Storage, pointer
from .lfs_server import LfsServer
from .mounted import Mount

pytestmark = pytest.mark.mount

WHEN = "2026-01-02T03:04:05Z"


class Transcript:
    """What a clone said to each command, without what differs from run to run."""

    def __init__(self, bench: Bench, clone: Clone, remote: Remote) -> None:
        self.clone = clone
        self.lines: list[str] = []
        self._plain = [
            (str(clone.root), "ROOT"),
            (remote.url, "REMOTE"),
            (str(remote.path), "REMOTE"),
            (str(bench.folder), "FOLDER"),
        ]

    def say(self, *arguments: str, stdin: bytes = b"") -> None:
        done = self.clone.run(*arguments, stdin=stdin)
        self.lines.append(f"$ git {' '.join(arguments)} -> {done.status}")
        self.lines.extend(self._steady(done.said).splitlines())

    def note(self, what: str, value: object) -> None:
        self.lines.append(f"{what}: {value}")

    def _steady(self, said: str) -> str:
        for found, name in self._plain:
            said = said.replace(found, name)
        said = re.sub(
            r"(?m)^.*: +\d+% \(\d+/\d+\),.*\n", "", said
        )  # a meter that only shows when there is time
        said = re.sub(r"lock-[\d-]+", "LOCK", said)
        said = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+?[\d:Z]*", "WHEN", said)
        said = re.sub(r"\d{8}T\d{6}\.\d+\.log", "LOG", said)
        return re.sub(r"(tmp/)\d+", r"\1RANDOM", said)


def story(bench: Bench, contents: dict[str, bytes], change: bytes) -> list[str]:
    """One repository's life, with every command of git-lfs that touches or tells of its storage."""
    bench.env |= {"GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_DATE": WHEN}
    remote = bench.remote()
    repo = bench.init("repo", remote=remote)
    told = Transcript(bench, repo, remote)
    say = told.say
    say("lfs", "version")
    say("lfs", "env")
    say("lfs", "track", "*.dat", "--lockable")
    say("lfs", "track")
    for name, content in contents.items():
        repo.write(name, content)
    say("lfs", "status")
    say("lfs", "pointer", "--file", "a.bin")
    say("add", "-A")
    for flags in ([], ["--porcelain"], ["--json"]):
        say("lfs", "status", *flags)
    say("commit", "-m", "first")
    say("status", "--porcelain")
    for flags in ([], ["--long"], ["--size"], ["--all"], ["--debug"], ["--name-only"]):
        say("lfs", "ls-files", *flags)
    say("show", "HEAD:a.bin")
    told.note("objects", sorted(repo.objects()))
    say("lfs", "push", "--dry-run", "origin", "main")
    say("push", "origin", "main")
    told.note("server", sorted(bench.on_server(remote)))
    say("push", "origin", "main")
    repo.write("a.bin", change)
    say("diff")
    say("lfs", "status")
    say("commit", "-am", "second")
    say("lfs", "prune", "--dry-run", "--verbose")
    say("push", "origin", "main")
    for command in (["lock", "a.bin"], ["locks"], ["locks", "--verify"], ["locks", "--local", "--json"]):
        say("lfs", command[0], *command[1:])
    say("lfs", "lock", "a.bin")
    say("lfs", "unlock", "a.bin")
    say("lfs", "fetch", "--recent")
    say("lfs", "fetch", "--all")
    say("lfs", "pull")
    say("lfs", "checkout")
    say("lfs", "fsck")
    say("lfs", "fsck", "HEAD~1")
    say("checkout", "-q", "HEAD~1")
    say("checkout", "-q", "main")
    say("lfs", "migrate", "info", "--everything")
    say("lfs", "prune", "--dry-run", "--verbose", "--verify-remote")
    say("lfs", "prune", "--verify-remote")
    told.note("objects", sorted(repo.objects()))
    say("lfs", "clean", "x.bin", stdin=change)
    say("lfs", "clean", "x.bin", stdin=pointer("0" * 64, 3).encode())
    say("lfs", "clean", "x.bin", stdin=b"")
    say("lfs", "smudge", "x.bin", stdin=pointer("1" * 64, 9).encode())
    say("lfs", "smudge", "x.bin", stdin=b"not a pointer")
    say("lfs", "pointer", "--check", "--stdin", stdin=pointer("2" * 64, 1).encode())
    say("lfs", "ext")
    say("lfs", "update", "--force")
    say("lfs", "install", "--local")
    say("lfs", "uninstall", "--local")
    say("lfs", "untrack", "*.dat")
    say("lfs", "logs")
    say("lfs", "dedup", "--test")
    say("lfs", "fetch", "nowhere")
    say("lfs", "push", "origin", "--object-id", "3" * 64)
    say("lfs", "fsck", "--objects", "--pointers")
    told.note("left", {name: len(repo.left_in(name)) for name in ("incomplete", "bad", "logs")})
    told.note(
        "empty temps", all((repo.root / "tmp" / name).stat().st_size == 0 for name in repo.left_in("tmp"))
    )
    return told.lines


def test_every_command_says_the_same_as_on_native(
    new_bench: Callable[[Storage], Bench],
    mount: Mount,
    tmp_path: Path,
    git_env: dict[str, str],
    server: LfsServer,
) -> None:
    blob = new_bench(Native()).blob
    contents = {"a.bin": blob(MIB), "b.bin": blob(33 * KIB), "e.bin": b"", "d/c.dat": blob(), "t.txt": b"t\n"}
    change = blob(2 * MIB)
    told = {
        storage.kind: story(
            Bench(tmp_path / storage.kind, storage, git_env, server, storage.kind), contents, change
        )
        for storage in (Native(), OnMount(mount))
    }
    assert (
        "\n".join(difflib.unified_diff(told["native"], told["lfsfs"], "native", "lfsfs", lineterm="")) == ""
    )
