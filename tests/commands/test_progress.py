"""Progress: a bar with rate and time left, for what takes longer than a second and a person who watches."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import lfsfs
from commands.elsewhere import LFSFS
from lfsfs.cli import bars, output
from lfsfs.cli.main import main
from lfsfs.steps import Steps, Unit, watched

pytestmark = pytest.mark.timeout(90)

SLOWLY = ":~0x20000000"  # as a processor without SHA instructions


def watched_command(
    *arguments: str | Path, feed: bytes = b"", feeding: float = 0.0, **variables: str
) -> tuple[int, str]:
    """The command with standard error at a terminal, and standard input that comes slowly: status, what was seen."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"} | variables
    with subprocess.Popen(
        [LFSFS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as running:
        os.close(theirs)
        assert running.stdin is not None
        if feed:
            running.stdin.write(feed)
            running.stdin.flush()
            time.sleep(feeding)
        running.stdin.close()
        seen = b""
        while True:
            ready = select.select([ours], [], [], 30)[0]
            try:
                piece = os.read(ours, 65536) if ready else b""
            except OSError:
                break
            if not piece:
                break
            seen += piece
        status = running.wait(30)
    os.close(ours)
    return status, seen.decode(errors="replace")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file whose hashing takes some seconds."""
    file = tmp_path / "big"
    with file.open("wb") as out:
        out.truncate(1 << 30)
    return file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    made = subprocess.run(
        [LFSFS, "mount", tmp_path / "store", tmp_path / "mnt"], timeout=60, capture_output=True
    )
    assert made.returncode == 0
    subprocess.run([LFSFS, "unmount", tmp_path / "mnt"], timeout=60, check=True)
    return tmp_path / "store"


@pytest.mark.slow
def test_what_takes_long_shows_a_bar_with_rate_and_time_left_and_in_the_end_nothing(
    store: Path, big: Path
) -> None:
    status, seen = watched_command("put", big, "--store", store)
    assert status == 0
    assert re.search(r"put.*\d GiB.*[MG]i?B/s.*0:00:\d\d", seen), seen[-500:]
    assert seen.rstrip("\r\n").endswith("\x1b[2K") or "\x1b[?25h" in seen[-40:], (
        "it goes, and gives the cursor back"
    )
    assert watched_command("put", big, "--store", store, "--quiet") == (0, "")
    assert watched_command("put", big, "--store", store, "--json") == (0, "")
    piped = subprocess.run([LFSFS, "put", big, "--store", store], capture_output=True, timeout=60)
    assert piped.stderr == b""
    coloured, plain = "\x1b[38;", watched_command("put", big, "--store", store, NO_COLOR="1")[1]
    assert coloured not in plain
    status, seen = watched_command("verify", "--store", store, OPENSSL_ia32cap=SLOWLY)
    assert status == 0
    assert re.search(r"verify.*1\.0\d* GiB.*0:00:\d\d", seen), seen[-500:]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with something for each command to do."""
    folder = tmp_path_factory.mktemp("full") / "store"
    with lfsfs.connect(folder, create=True) as client:
        hashes = [f"{number:064x}" for number in range(2_000)]
        client.embeddings.write_embeddings_batch((hashes, np.eye(2_000, 16, dtype=np.float32)))
        client.embeddings.write_embedding("ff" * 32, np.ones(16, np.float32))
    files = [folder.parent / f"file{number}" for number in range(20)]
    for file in files:
        file.write_bytes(file.name.encode() * 1000)
    assert main(["put", *map(str, files), "--store", str(folder)]) == 0
    return folder


LONG = {
    "stats": ["sizes", "growth"],
    f"embed search --like {'ff' * 32}": ["comparing"],
    "embed stats": ["mean"],
    "fsck": ["index", "objects", "counters"],
    "gc --yes --grace 0 --budget 100%": ["looking", "moving to the trash"],
    "undelete --all": [""],
    "rm OID --force": [""],
    "vacuum --trash-time 0": ["trash", "reading vectors", "writing packs"],
    "encrypt --store-key KEY": ["local disk"],
    "decrypt": ["local disk"],
    "index rebuild": ["reading objects"],
}
"""Commands over all of a store, in an order in which each has something to do; the parts that each tells of."""


class Recorded(Steps):
    """What was begun: how far it came, and of how much."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Steps] = []

    def begin(self, what: str, of: int | None, unit: Unit) -> None:
        self.end()
        super().begin(what, of, unit)

    def end(self) -> list[Steps]:
        """Of parts with the same name the last."""
        self.parts.append(Steps(self.what, self.unit, self.done, self.of))
        return self.parts[1:]


def test_what_goes_through_all_of_a_store_says_how_far_it_is(
    full: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setattr(output, "_hushed", False)
    (full.parent / "key").write_bytes(bytes(32))
    (full.parent / "key").chmod(0o600)
    capsys.readouterr()
    assert main(["ls", "--limit", "1", "--store", str(full)]) == 0
    words = {"KEY": f"file:{full.parent / 'key'}", "OID": capsys.readouterr().out.split()[0]}
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        for command, parts in LONG.items():
            told = Recorded()
            monkeypatch.setattr(bars, "watched", partial(watched, told))
            assert main([*(words.get(word, word) for word in command.split()), "--store", str(full)]) == 0
            found = {one.what: one for one in told.end()}
            assert [part for part in parts if part not in found] == [], command
            for part in parts:
                of = found[part].of
                assert of is None if part == "counters" else of and found[part].done >= of, (
                    command,
                    found[part],
                )
    os.close(ours)


@pytest.mark.slow
def test_a_mount_that_has_to_read_all_of_a_store_first_says_how_far_it_is(tmp_path: Path) -> None:
    objects = tmp_path / "store" / "objects" / "ab" / "ab"
    objects.mkdir(parents=True)
    with (objects / ("ab" * 32)).open("wb") as file:
        file.truncate(1 << 30)
    status, seen = watched_command("mount", tmp_path / "store", tmp_path / "mnt", OPENSSL_ia32cap=SLOWLY)
    subprocess.run([LFSFS, "unmount", tmp_path / "mnt"], timeout=60, check=True)
    assert status == 0
    assert re.search(r"open: reading objects.*/1\.0 GiB.*B/s.*0:00:\d\d", seen), seen[-500:]


def test_what_is_quick_shows_none(store: Path, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x")
    assert watched_command("put", tmp_path / "small", "--store", store) == (0, "")
    assert watched_command("gc", "--store", store) == (0, "")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """A terminal on which bars are drawn at once; what is called tells what was seen there."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as drawn:
        monkeypatch.setattr("sys.stderr", drawn)
        monkeypatch.setattr(output, "_hushed", False)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(bars, "PATIENCE_SECONDS", 0.0)

        def seen() -> str:
            drawn.flush()
            return os.read(ours, 65536).decode()

        yield seen
    os.close(ours)


def test_each_part_has_its_unit_and_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[str, Unit]] = [("trash", "objects"), ("packs", "bytes")]
    with terminal(monkeypatch) as look:
        with bars.Bar("vacuum") as shown:
            for what, unit in parts:
                for done in (1_048_576, 2_097_152, 3_145_728):
                    shown.show_steps(Steps(what, unit, done, 4_194_304))
                    time.sleep(0.15)
        seen = look()
    assert re.search(r"vacuum: trash.*,\d{3}/4,194,304 objects.*objects/s.*0:00:0\d", seen), seen
    assert re.search(r"vacuum: packs.*/4\.2 MB|vacuum: packs.*/4\.0 MiB.*B/s.*0:00:0\d", seen), seen


@pytest.mark.parametrize("unit", ["bytes", "objects"])
def test_a_bar_says_how_far_how_fast_how_long(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as look:
        with bars.Bar("work", unit) as shown:
            for done in range(0, 5_000_000, 1_000_000):
                shown.show(done, 10_000_000)
                time.sleep(0.15)
        seen = look()
    said = (
        r"4,000,000/10,000,000 objects.*objects/s"
        if unit == "objects"
        else r"3\.8/9\.5 MiB.*MB/s|3\.8/9\.5 MiB"
    )
    assert re.search(said, seen), seen
    assert re.search(r"0:00:0\d", seen)
