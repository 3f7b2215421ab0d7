"""Reading a repository: every LFS pointer that anything in it leads to, straight from git.

`git rev-list` names the objects of all refs, HEADs, reflogs (stashes are one), worktrees and indexes, and of what a
merge or rebase under way remembers; `git cat-file --batch-check` tells their sizes, `git cat-file --batch` gives those
that are small enough to be pointers. All of it streams through pipes: what lies in memory here is one blob at a time.
Nothing is fetched, and nothing in the repository is run: its configuration is not asked for programs.
"""

import os
import pwd
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lfsfs.errors import InvalidPointer, LfsfsError
from lfsfs.pointer import POINTER_LIMIT_BYTES, Pointer

_SHAPE = "%(objectname) %(objecttype) %(objectsize) %(rest)"
_PSEUDO_REFS = (
    "ORIG_HEAD", "MERGE_HEAD", "FETCH_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "BISECT_HEAD",
    "AUTO_MERGE", "MERGE_AUTOSTASH", "rebase-merge/autostash", "rebase-apply/autostash", "rebase-merge/orig-head",
    "rebase-merge/onto", "rebase-apply/orig-head",
)  # fmt: skip


class Unreadable(LfsfsError):
    """git could not read all of a repository."""


@dataclass(frozen=True, slots=True)
class Found:
    """A pointer in a repository: the blob that holds it, and a path where it was seen (bytes as surrogates)."""

    pointer: Pointer
    blob: str
    path: str


def pointers(directory: Path) -> Generator[Found, None, None]:
    """Every pointer in the repository whose git directory this is, each blob once. Unreadable, perhaps in the end.

    Blocks; closing the iterator ends the processes.
    """
    if not directory.is_dir():
        raise Unreadable(f"{directory} is not there")
    partial_clone = _is_partial(directory)
    with ExitStack() as stack:
        complaints = stack.enter_context(tempfile.TemporaryFile())
        run = _Runner(directory, complaints, stack)
        tips = _tips(directory, run)
        listing = run(
            "rev-list", "--objects", "--all", "--reflog", "--indexed-objects", "--missing=print", "--stdin"
        )
        checking = run("cat-file", f"--batch-check={_SHAPE}", "--buffer")
        reading = run("cat-file", "--batch", "--buffer")
        paths: dict[str, str] = {}
        failures: list[Exception] = []
        run.feed(listing, lambda: iter(tips), failures)
        run.feed(checking, lambda: _present(listing, partial_clone), failures)
        run.feed(reading, lambda: _small_blobs(checking, paths), failures)
        for blob, content in _contents(reading):
            path = paths.pop(blob, "")
            try:
                yield Found(Pointer.parse(content), blob, path)
            except InvalidPointer:
                continue
        run.ended(failures)


def why(directory: Path, found: Found) -> str:
    """Where in the repository the pointer is, in words: "refs/heads/main, commit 1a2b…, films/a.mov"."""
    with ExitStack() as stack:
        complaints = stack.enter_context(tempfile.TemporaryFile())
        run = _Runner(directory, complaints, stack)
        commit = run.said(
            "log", "--all", "--reflog", "--max-count=1", "--format=%H", f"--find-object={found.blob}"
        )
        where = f", {found.path}" if found.path else ""
        if not commit:
            return f"the index{where}"
        ref = run.said("for-each-ref", "--count=1", "--format=%(refname)", f"--contains={commit}")
        return f"{ref or 'a reflog'}, commit {commit[:12]}{where}"


class _Runner:
    """Starts git on a repository, and sees to it that it ends."""

    def __init__(self, directory: Path, complaints: IO[bytes], stack: ExitStack) -> None:
        self._directory = directory
        self._complaints = complaints
        self._stack = stack
        self._started: list[subprocess.Popen[bytes]] = []
        self._feeders: list[threading.Thread] = []

    def __call__(self, *arguments: str) -> "subprocess.Popen[bytes]":
        process = self._stack.enter_context(_ending(self._popen(arguments)))
        self._started.append(process)
        return process

    def said(self, *arguments: str) -> str:
        """The first line that git prints. Unreadable."""
        process = self(*arguments)
        said, _ = process.communicate()
        self.ended([])
        return os.fsdecode(said.split(b"\n", 1)[0])

    def _popen(self, arguments: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        safe = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat")
        environment = _environment()
        owner = self._directory.stat().st_uid
        user: dict[str, Any] = {}
        if (
            os.geteuid() == 0 and owner != 0
        ):  # git refuses to read what belongs to somebody else, and is right
            group = pwd.getpwuid(owner).pw_gid
            user = {"user": owner, "group": group, "extra_groups": []}
            environment["GIT_CONFIG_GLOBAL"] = "/dev/null"
        try:
            return subprocess.Popen(
                ["git", *safe, f"--git-dir={self._directory}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                env=environment,
                cwd="/",
                **user,
            )
        except OSError as error:
            raise Unreadable(f"git cannot be run: {error.strerror}") from error

    def feed(
        self,
        process: "subprocess.Popen[bytes]",
        lines: Callable[[], Iterator[bytes]],
        failures: list[Exception],
    ) -> None:
        """Writes the lines to the process, in a thread of its own."""

        def write() -> None:
            assert process.stdin is not None
            try:
                for line in lines():
                    process.stdin.write(line)
            except (OSError, ValueError, LfsfsError) as error:  # it has ended, or was ended: its status tells
                failures.append(error)
            finally:
                try:
                    process.stdin.close()
                except OSError as error:
                    failures.append(error)

        thread = threading.Thread(target=write, name="lfsfs-git", daemon=True)
        thread.start()
        self._feeders.append(thread)

    def ended(self, failures: list[Exception]) -> None:
        """All has been read. Unreadable, in git's own words, where one of them failed."""
        for thread in self._feeders:
            thread.join()
        statuses = [process.wait() for process in self._started]
        ours = [failed for failed in failures if isinstance(failed, LfsfsError)]
        if ours:
            raise ours[0]
        if any(statuses) or failures:
            self._complaints.seek(0)
            said = self._complaints.read(4096).decode(errors="replace").strip().splitlines()
            reason = said[0].removeprefix("fatal: ").removeprefix("error: ") if said else "git failed"
            raise Unreadable(f"{self._directory}: {reason}")


@contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> "Iterator[subprocess.Popen[bytes]]":
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdout, process.stdin):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what was not written yet is of no use any more


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # for a git that does not know the former
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }


def _is_partial(directory: Path) -> bool:
    """Whether objects may be missing by design: they are not here, so nobody here needs what they point to."""
    return any((directory / "objects" / "pack").glob("*.promisor"))


def _tips(directory: Path, run: _Runner) -> list[bytes]:
    """What git itself starts from in `git gc`, but `git rev-list --all` does not: merges and rebases under way."""
    worktrees = directory / "worktrees"
    places = [directory, *(worktrees.iterdir() if worktrees.is_dir() else ())]
    names: set[bytes] = set()
    for place in places:
        for name in _PSEUDO_REFS:
            try:
                lines = (place / name).read_bytes().splitlines()
            except OSError:
                continue
            names.update(line.split()[0] for line in lines if line.split() and _is_id(line.split()[0]))
    if not names:
        return []
    checking = run("cat-file", "--batch-check=%(objectname) %(objecttype)")
    said, _ = checking.communicate(b"\n".join(sorted(names)) + b"\n")
    return [line.split()[0] + b"\n" for line in said.splitlines() if not line.endswith(b" missing")]


def _is_id(word: bytes) -> bool:
    return len(word) in (40, 64) and not word.strip(b"0123456789abcdef")


def _present(listing: "subprocess.Popen[bytes]", partial_clone: bool) -> Iterator[bytes]:
    """What git names, as it names it: an id, and perhaps a path."""
    assert listing.stdout is not None
    for line in listing.stdout:
        if not line.startswith(b"?"):
            yield line
        elif not partial_clone:
            raise Unreadable(
                f"the repository lacks the git object {line[1:].strip().decode(errors='replace')}"
            )


def _small_blobs(checking: "subprocess.Popen[bytes]", paths: dict[str, str]) -> Iterator[bytes]:
    """The ids of those that may be pointers. Their paths are kept until they have been read."""
    assert checking.stdout is not None
    for line in checking.stdout:
        words = line.rstrip(b"\n").split(b" ", 3)
        if len(words) < 3 or words[1] == b"missing":
            raise Unreadable(f"the repository lacks the git object {words[0].decode(errors='replace')}")
        if words[1] == b"blob" and 0 < int(words[2]) < POINTER_LIMIT_BYTES:
            paths[words[0].decode()] = os.fsdecode(words[3]) if len(words) > 3 else ""
            yield words[0] + b"\n"


def _contents(reading: "subprocess.Popen[bytes]") -> Iterator[tuple[str, bytes]]:
    """Each blob and its content. Unreadable where one of them is cut short."""
    assert reading.stdout is not None
    while head := reading.stdout.readline():
        words = head.split()
        if len(words) != 3:
            raise Unreadable(
                f"the repository lacks the git object {head[:64].decode(errors='replace').strip()}"
            )
        size = int(words[2])
        content = reading.stdout.read(size + 1)
        if len(content) != size + 1:
            raise Unreadable("git ended in the middle of an object")
        yield words[0].decode(), content[:-1]
