"""The commands that work straight on a store: what they print, what they say of errors, how they end."""

import argparse
import importlib.metadata
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from lfsfs.cli.main import MODULES, main, parser
from lfsfs.cli.output import safe
from lfsfs.oid import Oid
from lfsfs.store.opening import open_store
from lfsfs.store.store import Store

LFSFS = Path(sys.executable).with_name("lfsfs")
ABSENT_OID = "f" * 64


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """An empty store with the repository root `game`."""
    path = tmp_path / "store"

    async def make() -> None:
        async with open_store(path, create=True) as store:
            await store.add_repository("game")

    trio.run(make)
    return path


@pytest.fixture
def run(store: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on the store of the test, in this process."""
    monkeypatch.setenv("LFSFS_STORE", str(store))

    def run(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(str(end.code))
        out, err = capfd.readouterr()
        return Ended(status, out, err)

    return run


@pytest.fixture
def put(run: Run, tmp_path: Path) -> Callable[..., str]:
    """Stores content; its oid."""

    def put(content: bytes, *options: str) -> str:
        file = tmp_path / "some-file"
        file.write_bytes(content)
        ended = run("put", *options, file)
        assert ended.status == 0, ended.err
        return ended.out.split()[0]

    return put


def fails(ended: Ended, status: int, *said: str) -> None:
    """It ended so, with one line that says all of this, and no traceback."""
    assert ended.status == status, ended
    assert ended.err.startswith("lfsfs: ")
    assert ended.err.count("\n") == 1, ended.err
    for words in said:
        assert words in ended.err


# put and get.


def test_what_is_put_is_told_by_oid_and_comes_back_the_same(run: Run, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a.bin").write_bytes(content)
    ended = run("put", tmp_path / "a.bin")
    assert (ended.status, ended.out) == (0, f"{Oid.of(content)}  {tmp_path / 'a.bin'}\n")
    assert run("get", Oid.of(content), "-o", tmp_path / "back").status == 0
    assert (tmp_path / "back").read_bytes() == content
    assert run("get", Oid.of(content)[:12], "-o", tmp_path / "again").status == 0
    assert (tmp_path / "again").read_bytes() == content


def test_put_takes_many_files_and_tells_them_in_their_order(run: Run, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.txt" for number in range(20)]
    for file in files:
        file.write_text(file.name)
    ended = run("put", "--json", *files)
    assert [entry["file"] for entry in ended.json] == [str(file) for file in files]
    assert [entry["oid"] for entry in ended.json] == [Oid.of(file.name.encode()) for file in files]


def test_a_file_that_cannot_be_put_is_told_and_the_others_are_stored(run: Run, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"good")
    ended = run("put", tmp_path / "absent", good)
    fails(ended, 1, "absent", "No such file or directory")
    assert ended.out.startswith(Oid.of(b"good"))
    ended = run("put", good, tmp_path)
    fails(ended, 4, f"{tmp_path}: is a directory")
    assert ended.out.startswith(Oid.of(b"good"))


def test_put_reads_standard_input_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert run("put", "-").out == f"{Oid.of(b'piped')}  -\n"
    fails(run("put", "-", "-"), 2, "standard input")


def test_put_into_a_repository_makes_it_refer_to_the_object(run: Run, put: Callable[..., str]) -> None:
    oid = put(b"for the game", "--repo", "game")
    assert [entry["oid"] for entry in run("ls", "--repo", "game", "--json").json] == [oid]
    fails(run("put", "--repo", "nowhere", __file__), 3, "nowhere")


def test_get_writes_to_a_pipe_but_not_by_accident_to_a_terminal(store: Path, put: Callable[..., str]) -> None:
    content = os.urandom(2_500_000)
    oid = put(content)
    assert subprocess.check_output([LFSFS, "get", oid, "--store", store]) == content
    terminal, inside = pty.openpty()
    try:
        done = subprocess.run(
            [LFSFS, "get", oid, "--store", store], stdout=inside, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(inside)
        os.close(terminal)
    assert (done.returncode, b"standard output is a terminal" in done.stderr) == (2, True)


def test_get_says_what_it_wrote_as_json(run: Run, put: Callable[..., str], tmp_path: Path) -> None:
    oid = put(b"some bytes")
    target = tmp_path / "x"
    assert run("get", oid, "-o", target, "--json").json["file"] == str(target)
    fails(run("get", oid, "--json"), 2, "-o FILE")
    fails(run("get", oid, "-o", tmp_path), 2, "is a directory")


def test_get_replaces_a_file_whole_or_leaves_it_alone(
    run: Run, store: Path, put: Callable[..., str], tmp_path: Path
) -> None:
    oid, target = put(os.urandom(5_000_000)), tmp_path / "target"
    target.write_bytes(b"as it was")
    held = store / "objects" / Oid(oid).path()
    held.chmod(0o644)
    with held.open("r+b") as file:
        file.seek(4_500_000)
        file.write(b"rot")
    fails(run("get", oid, "-o", target), 1, oid)
    assert target.read_bytes() == b"as it was"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["some-file", "store", "target"]


# stat, rm, status.


def test_stat_tells_what_the_store_knows(run: Run, put: Callable[..., str]) -> None:
    oid = put(b"x" * 5000, "--repo", "game")
    found = run("stat", oid[:8], "--json").json
    assert (found["oid"], found["size"], found["state"]) == (oid, 5000, "whole")
    assert found["why"] == ["repos/game refers to it"]
    assert found["type"] == "text/plain"
    lines = run("stat", oid).out.splitlines()
    assert lines[0].split() == ["oid", oid]
    assert lines[1].split(maxsplit=1) == ["size", "5000 bytes (4.9 KiB)"]
    assert "repos/game refers to it" in lines[-1]


def test_rm_removes_what_nothing_refers_to_and_refuses_the_rest(run: Run, put: Callable[..., str]) -> None:
    free, kept = put(b"nobody's"), put(b"the game's", "--repo", "game")
    ended = run("rm", free, kept, ABSENT_OID)
    assert ended.status == 4
    assert ended.out == f"removed {free}\n"
    assert [line for line in ended.err.splitlines() if kept in line]
    assert [line for line in ended.err.splitlines() if ABSENT_OID in line]
    assert run("rm", "--force", "--json", kept).json == [{"oid": kept}]
    assert run("ls").out == ""


def test_status_of_a_store_that_is_not_mounted(run: Run, store: Path, put: Callable[..., str]) -> None:
    put(b"12345", "--repo", "game")
    put(b"678")
    found = run("status", "--json").json
    assert (found["pid"], found["mountpoint"], found["started"]) == (None, None, None)
    assert (found["store"], found["objects"], found["bytes"], found["names"]) == (str(store), 2, 8, 0)
    assert [(root["name"], root["objects"]) for root in found["repositories"]] == [("game", 1)]
    assert found["free_bytes"] > 0
    said = run("status").out
    assert "not mounted" in said
    assert "game  1 objects" in said


# ls.


def sized(put: Callable[..., str], *sizes: int) -> dict[int, str]:
    return {size: put(os.urandom(size)) for size in sizes}


def listed(ended: Ended) -> list[str]:
    assert ended.status == 0, ended.err
    return [line.split()[0] for line in ended.out.splitlines()]


def test_ls_filters_by_size_and_sorts(run: Run, put: Callable[..., str]) -> None:
    of = sized(put, 10, 2000, 3000, 5000)
    assert listed(run("ls")) == sorted(of.values())
    assert listed(run("ls", "--sort", "size")) == [of[10], of[2000], of[3000], of[5000]]
    assert listed(run("ls", "--sort", "size", "-r")) == [of[5000], of[3000], of[2000], of[10]]
    assert listed(run("ls", "--sort", "size", "--min-size", "2kB", "--max-size", "3000")) == [
        of[2000],
        of[3000],
    ]
    assert listed(run("ls", "--prefix", of[10][:6].upper())) == [of[10]]


def test_ls_filters_by_time(run: Run, put: Callable[..., str]) -> None:
    oid = put(b"now")
    assert listed(run("ls", "--since", "1h")) == [oid]
    assert listed(run("ls", "--since", "2020-01-01", "--until", "9999-01-01T00:00:00Z")) == [oid]
    assert listed(run("ls", "--until", "1h")) == []
    created = run("stat", oid, "--json").json["created"]
    assert listed(run("ls", "--until", created.replace("Z", "+00:00"), "--since", "1h")) in ([], [oid])


def test_ls_filters_by_type(run: Run, put: Callable[..., str]) -> None:
    text, picture = put(b"just words\n"), put(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0")
    assert listed(run("ls", "--type", "image/png")) == [picture]
    assert listed(run("ls", "--type", "text/*")) == listed(run("ls", "--type", "text/")) == [text]


def test_ls_pages_reach_every_object_once(run: Run, put: Callable[..., str]) -> None:
    everything = sorted(sized(put, *range(1, 8)).values())
    found, cursor = [], []
    while True:
        ended = run("ls", "--limit", "3", *cursor)
        found += listed(ended)
        if not ended.err:
            break
        assert ended.err.startswith("lfsfs: there are more: --cursor ")
        cursor = ended.err.split()[-2:]
    assert found == everything


def test_ls_as_json_is_one_array_however_long(run: Run, put: Callable[..., str]) -> None:
    assert run("ls", "--json").json == []
    of = sized(put, 5, 6)
    assert {entry["oid"]: entry["size"] for entry in run("ls", "--json").json} == {of[5]: 5, of[6]: 6}


def test_ls_searches(run: Run, put: Callable[..., str]) -> None:
    oid = put(b"to be found")
    assert listed(run("ls", "--search", oid[:5])) == [oid]
    assert run("ls", "--search", oid[:5], "--json").json[0]["matched"] == oid[:5]
    assert listed(run("ls", "--search", "text/pl")) == [oid]
    fails(run("ls", "--search", "x", "--min-size", "3"), 2, "--min-size")


def test_ls_into_a_pipe_that_closes_is_quiet(store: Path, put: Callable[..., str]) -> None:
    sized(put, *range(1, 30))
    listing = subprocess.Popen(
        [LFSFS, "ls", "--store", store], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout is not None and listing.stderr is not None
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait(30) == 1


# Which store, and what is wrong with it.


def test_a_store_is_named_by_option_or_by_environment(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(run("ls", "--store", tmp_path / "absent"), 3, "no store at")
    monkeypatch.setenv("LFSFS_STORE", str(tmp_path / "absent"))
    fails(run("status"), 3, "no store at")
    assert run("ls", "--store", store).status == 0


def test_what_is_no_store_is_said(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    fails(run("ls", "--store", file), 1, "is not a directory")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "lfsfs.json").write_text('{"format": 999, "id": "00000000-0000-0000-0000-000000000000"}')
    fails(run("ls", "--store", newer), 1, "newer lfsfs")
    (newer / "lfsfs.json").write_text("{")
    fails(run("ls", "--store", newer), 1, "damaged")


def test_a_damaged_index_is_said(run: Run, store: Path) -> None:
    data = store / "index" / "data.mdb"
    whole = data.read_bytes()
    data.write_bytes(b"this is no LMDB file" * 1000)
    fails(run("ls"), 1, str(store / "index"))
    data.write_bytes(whole[:5000])
    fails(run("ls"), 1, str(store / "index"))


# Exit statuses and messages.


def test_an_absent_object_and_an_ambiguous_one(run: Run, put: Callable[..., str]) -> None:
    for command in ("get", "stat", "rm"):
        fails(run(command, ABSENT_OID), 3, ABSENT_OID)
        fails(run(command, "abcd"), 3, "abcd")
        fails(run(command, "not-an-oid"), 3, "not-an-oid")
    contents: dict[str, bytes] = {}
    for number in range(100_000):
        content = b"%d" % number
        other = contents.setdefault(Oid.of(content)[:4], content)
        if other != content:
            oids = put(content), put(other)
            break
    fails(run("stat", oids[0][:4]), 4, "several objects begin with")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frobnicate",), "frobnicate"),
        (("ls", "--min-size", "many"), "not a size: 'many'"),
        (("ls", "--since", "yesterday"), "not a time: 'yesterday'"),
        (("ls", "--sort", "colour"), "invalid choice: 'colour'"),
        (("ls", "--limit", "0"), "1 or more"),
        (("ls", "--min", "3"), "--min"),
        (("ls", "--cursor", "!"), "not a cursor"),
        (("ls", "--prefix", "xyz"), "not a prefix"),
        (("put",), "FILE"),
        (("mount", "/s", "/m", "--umask", "999"), "not a umask: '999'"),
        (("mount", "/s", "/m", "--uid", "me"), "not a user or group number: 'me'"),
        (("mount", "/s"), "no MNT was given"),
        (("mount", "--config", "/absent.toml", "/s", "/m"), "/absent.toml: No such file"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    fails(run(*arguments), 2, said)


def test_an_interrupted_command_ends_quietly_and_leaves_nothing(store: Path) -> None:
    putting = subprocess.Popen(
        # A test run in the background ignores the signal, and so would its children.
        ["env", "--default-signal=INT", LFSFS, "put", "-", "--store", store],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert putting.stdin is not None
    putting.stdin.write(b"x" * 3_000_000)
    putting.stdin.flush()
    deadline = time.monotonic() + 30
    while not any(file.is_file() for file in (store / "staging").rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    putting.send_signal(signal.SIGINT)
    out, err = putting.communicate(timeout=30)
    assert (putting.returncode, out, err) == (130, b"", b"")
    assert [file for file in (store / "staging").rglob("*") if file.is_file() and file.stat().st_size] == []


def test_a_name_of_any_bytes_is_printed_on_one_line_and_as_json(run: Run, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\nb\xff\x1b[31m\xc3\xa9 c")
    Path(name).write_bytes(b"odd")
    lines = run("put", name).out.splitlines()
    assert lines == [f"{Oid.of(b'odd')}  {tmp_path}/a\\nb\\xff\\x1b[31mé c"]
    assert run("put", name, "--json").json[0]["file"] == name
    fails(run("put", name + "?"), 1, "a\\nb\\xff")


def test_safe_text_is_printable_and_plain_text_stays() -> None:
    assert safe("plain é 漢") == "plain é 漢"
    assert safe("a\u202eb\u0085\ud800") == "a\\u202eb\\x85\\ud800"


def test_help_of_every_command_and_of_the_whole(run: Run) -> None:
    top = run("--help")
    assert top.status == 0
    for command in ["mount", "unmount", "attach", "detach", "put", "get", "stat", "ls", "rm", "status"]:
        assert command in top.out
        assert run(command, "--help").status == 0


def test_nothing_heavy_is_loaded_for_a_simple_command() -> None:
    loaded = (
        "import sys; from lfsfs.cli.main import parser; parser();"
        " print(*{'boto3', 'botocore', 'numpy', 'lfsfs.fuse'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == ""


def test_the_version_comes_with_those_of_the_libraries(run: Run) -> None:
    ended = run("--version")
    assert ended.status == 0
    lines = dict(line.split(" ", 1) for line in ended.out.splitlines())
    assert lines["lfsfs"] == importlib.metadata.version("lfsfs")
    assert lines["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"trio", "lmdb", "boto3", "numpy", "git-lfs", "Linux"} <= lines.keys()
    assert "--version" in run("--help").out


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["ls", "--help"]], ids=" ".join)
def test_a_reader_that_has_had_enough_is_no_error_worth_a_line(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        command = [sys.executable, "-m", "lfsfs.cli.main", *arguments]
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.stderr == b""
    assert ended.returncode in (0, 1), "argparse takes it for a success"


def commands_of(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def test_a_command_that_is_given_has_only_its_own_module_loaded_and_is_the_same() -> None:
    whole = commands_of(parser())
    assert list(whole) == [command for theirs in MODULES.values() for command in theirs]
    for command in whole:
        assert commands_of(parser([command]))[command].format_help() == whole[command].format_help()


def test_mounting_does_not_load_what_only_the_daemon_needs() -> None:
    loaded = (
        "import sys; from lfsfs.cli.main import parser; parser(['mount']);"
        " print(*{'trio', 'lmdb', 'lfsfs.cli.embedding'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", loaded], text=True).strip() == ""


def test_a_transfer_agent_that_waits_for_work_has_loaded_next_to_nothing() -> None:
    waiting = "import sys, lfsfs.cli.main; print(*{'trio', 'lmdb', 'argparse'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", waiting], text=True).strip() == ""


async def test_what_a_command_stores_an_open_store_sees(store: Path, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from outside")
    async with open_store(store) as mine:
        assert isinstance(mine, Store)
        await trio.run_process([LFSFS, "put", tmp_path / "f", "--store", store], capture_stdout=True)
        assert await mine.exists(Oid.of(b"from outside"))
