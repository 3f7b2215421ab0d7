"""What a process does to the files below a folder, call by call, as strace(1) sees it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parents[1]
CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,fsync,fdatasync,syncfs,sync,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,symlinkat,copy_file_range,sendfile"
)
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)$", re.S)
_CALL = re.compile(r"^(\w+)\((.*?)\)? += (-?\d+|0x[0-9a-f]+|\?)(?:<([^>]*)>)?.*$", re.S)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_FILE = re.compile(r"^(-?\w+)(?:<([^>]*)>)?$")


@dataclass
class Call:
    """One system call that succeeded. `began`: how many calls had ended when it began."""

    name: str
    arguments: list[str]
    result: int
    opened: str
    began: int

    def text(self, number: int) -> bytes:
        """A string, or the strings of a vector, one after another."""
        found = _TEXT.findall(self.arguments[number])
        assert not any(cut for _, cut in found), "strace cuts it short"
        return b"".join(_bytes(text) for text, _ in found)

    def descriptor(self, number: int) -> int:
        found = _FILE.match(self.arguments[number])
        assert found, self.arguments[number]
        return -1 if found[1] == "AT_FDCWD" else int(found[1])

    def place(self, number: int) -> str:
        """Where the file of a descriptor, or of AT_FDCWD, lies."""
        found = _FILE.match(self.arguments[number])
        assert found, self.arguments[number]
        return os.fsdecode(_bytes(found[2] or ""))

    def path(self, number: int, at: int | None = None) -> str:
        """The path of an argument; relative ones from the folder that argument `at` has open."""
        text = os.fsdecode(self.text(number))
        return os.path.normpath(os.path.join(self.place(at), text) if at is not None else text)

    def number(self, number: int) -> int:
        return int(self.arguments[number], 0)


def record(folder: Path, *command: str | Path) -> list[Call]:
    """Runs `python COMMAND`; its calls in the order in which they ended."""
    trace = folder / "trace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-xx", "-s", "20000000", "--seccomp-bpf", "-o", trace, "-e", f"trace={CALLS}",
         sys.executable, "-P", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(_calls(trace.read_text().splitlines()))


@dataclass
class _Reading:
    ended: int = 0
    begun: dict[str, tuple[str, int]] = field(default_factory=dict)


def _calls(lines: list[str]) -> Iterator[Call]:
    reading = _Reading()
    for line in lines:
        found = _LINE.match(line)
        assert found, line
        pid, resumed, rest = found.groups()
        began = reading.ended
        if resumed:
            start, began = reading.begun.pop(pid)
            rest = start + rest
        elif rest.endswith(" <unfinished ...>"):
            reading.begun[pid] = rest.removesuffix(" <unfinished ...>"), began
            continue
        call = _CALL.match(rest)
        if call is None or call[3] == "?" or int(call[3], 0) < 0:
            continue  # it ended, got a signal, or failed
        yield Call(call[1], _split(call[2]), int(call[3], 0), os.fsdecode(_bytes(call[4] or "")), began)
        reading.ended += 1


def _split(arguments: str) -> list[str]:
    """At the commas that are in no bracket; a string has none (-xx)."""
    found, depth = [""], 0
    for piece in re.split(r"([,\[\]{}])", arguments):
        depth += (piece in "[{") - (piece in "]}") if len(piece) == 1 else 0
        if piece == "," and depth == 0:
            found.append("")
        else:
            found[-1] += piece
    return [text.strip() for text in found]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text else b""
