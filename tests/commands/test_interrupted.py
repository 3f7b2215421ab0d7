"""Ctrl-C: every long-running command ends at once, with 130 and no word, and leaves nothing half-done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lfsfs
from commands.elsewhere import LFSFS
from lfsfs.units import format_size

pytestmark = pytest.mark.timeout(120)
ENDS_SECONDS = 15.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with enough in it that nothing over all of it is done at once."""
    folder = tmp_path_factory.mktemp("interrupted")
    with lfsfs.connect(folder / "store", create=True) as client:
        hashes = [f"{number:064x}" for number in range(20_000)]
        client.embeddings.write_embeddings_batch(
            (hashes, np.random.default_rng(0).random((20_000, 64), np.float32))
        )
    (folder / "big").write_bytes(os.urandom(MIB) * 300)
    (folder / "hashes.txt").write_text("\n".join(hashes))
    subprocess.run([LFSFS, "put", folder / "big", "--store", folder / "store", "-q"], check=True, timeout=100)
    with (folder / "other").open("wb") as other:
        other.truncate(2 << 30)
    return folder / "store"


def started(store: Path, *arguments: str | Path) -> "subprocess.Popen[bytes]":
    """The command, under way: it has the index of the store open."""
    running = subprocess.Popen(
        # A test run in the background ignores the signal, and so would its children.
        ["env", "--default-signal=INT", LFSFS, *arguments, "--store", store],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=store.parent,
    )  # fmt: skip
    index = os.path.realpath(store / "index")
    end = time.monotonic() + 30
    while time.monotonic() < end and running.poll() is None:
        try:
            folder = f"/proc/{running.pid}/fd"
            links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        except OSError:
            links = []
        if any(link.startswith(index) for link in links):
            return running
        time.sleep(0.005)
    out, err = running.communicate(timeout=10)
    raise AssertionError(f"it never opened the store: {running.returncode} {out!r} {err!r}")


COMMANDS: dict[str, Callable[[Path], list[str | Path]]] = {
    "put": lambda folder: ["put", folder / "other"],
    "put from a pipe": lambda folder: ["put", "-"],
    "get": lambda folder: ["get", _oid(folder), "-o", folder / "taken"],
    "verify": lambda folder: ["verify"],
    "embed export": lambda folder: ["embed", "export", folder / "exported", "--format", "dir"],
    "embed search": lambda folder: ["embed", "search", "--like", f"{5:064x}", "-k", "9"],
    "embed orphans": lambda folder: ["embed", "orphans", "--referenced", folder / "hashes.txt"],
    "embed ls": lambda folder: ["embed", "ls"],
    "gc": lambda folder: ["gc", "--yes", "--grace", "0"],
    "fsck": lambda folder: ["fsck"],
    "stats": lambda folder: ["stats"],
}


def _oid(folder: Path) -> str:
    (largest,) = subprocess.check_output(
        [LFSFS, "ls", "--sort", "size", "-r", "--limit", "1", "--store", folder / "store"], text=True
    ).splitlines()
    return largest.split()[0]


@pytest.mark.slow
@pytest.mark.parametrize("command", list(COMMANDS))
def test_ctrl_c_ends_it_with_130_and_no_word(store: Path, command: str) -> None:
    running = started(store, *COMMANDS[command](store.parent))
    running.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - begun < ENDS_SECONDS
    assert b"Traceback" not in err and b"Error" not in err, err.decode()
    assert running.returncode in (130, -signal.SIGINT, 0), "or it had just ended, or all but Python had"
    if running.returncode == 130:
        assert err == b""
    assert (
        not (store.parent / "taken").exists()
        or format_size((store.parent / "taken").stat().st_size) == "300 MiB"
    )
    (store.parent / "taken").unlink(missing_ok=True)
    left = [file for file in (store / "staging").rglob("*") if file.is_file() and file.stat().st_size > MIB]
    assert left == [] or command.startswith("put"), "what a run leaves staged, the next one takes away"


@pytest.mark.slow
def test_after_all_that_the_store_is_whole(store: Path) -> None:
    checked = subprocess.run([LFSFS, "fsck", "--store", store], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "0 faults" in checked.stdout


def test_ctrl_c_while_lfsfs_still_loads_ends_it_without_a_word() -> None:
    loading = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "lfsfs.cli.output":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
import lfsfs.cli.entry
"""
    ended = subprocess.run([sys.executable, "-c", loading], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")
