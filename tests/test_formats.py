"""Stores of other formats, and of an older lfsfs: opened, upgraded, or refused with what to do."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forking
import numpy as np
import pytest

import lfsfs
from lfsfs import Oid
from lfsfs.alone import try_alone
from lfsfs.errors import InUse, StoreFormat
from lfsfs.store import keys
from lfsfs.store.formats import Formats
from lfsfs.store.layout import DAEMON_LOCK, FORMAT_FILE, FORMATS, KEYS_COPY, KEYS_FILE, open_layout

OLD = Path(__file__).parent / "stores" / "before-gc.tar.xz"
"""Written by an lfsfs that had no gc, no counters of references, and not half of the tables of today."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    store = tmp_path / "old"
    store.mkdir()
    subprocess.run(["tar", "-xJf", OLD, "-C", store], check=True)
    return store


def version(store: Path) -> int:
    return int(json.loads((store / FORMAT_FILE).read_text())["format"])


@pytest.mark.slow
def test_a_store_of_an_older_lfsfs_has_all_that_it_had(old: Path) -> None:
    large = Oid.of(b"a large one\n" * 200_000)
    with lfsfs.connect(old) as client:
        assert {row.oid for row in client.list()} >= {
            large,
            Oid.of(b"named\n"),
            Oid.of(b"referred to by nothing\n"),
        }
        assert client.read(large, 12, 11) == b"a large one"
        assert client.names_of(Oid.of(b"named\n")) == ["file.txt"]
        assert client.why(large) == ["repos/game refers to it"]
        hashes, matrix = client.embeddings.matrix()
        assert hashes[0] == "0" * 64
        assert (matrix == np.vstack([np.eye(3, 8), np.full(8, 7)])).all()
    for command in (("fsck",), ("gc", "--yes", "--grace", "0", "--budget", "100%"), ("verify",), ("fsck",)):
        status, out, err = forking.run("forking:command", *command, "--store", str(old), seconds=60)
        assert status == 0, out + err
    with lfsfs.connect(old) as client:
        assert client.exists(large)
        assert not client.exists(Oid.of(b"referred to by nothing\n"))
        assert len(client.embeddings) == 4


def test_it_can_be_looked_at_read_only_first(old: Path) -> None:
    with lfsfs.connect(old, read_only=True) as client:
        assert client.usage().objects == 4


def test_a_newer_format_is_refused_with_what_to_do(old: Path) -> None:
    text = (old / FORMAT_FILE).read_text().replace('"format": 1', '"format": 3')
    (old / FORMAT_FILE).write_text(text)
    with pytest.raises(StoreFormat, match=r"made by a newer lfsfs \(format 3; .* up to 2\): upgrade lfsfs"):
        lfsfs.connect(old)
    assert (old / FORMAT_FILE).read_text() == text


# The way from one format to the next: with the steps of an lfsfs that may be one day.


def _second(store: Path) -> None:
    (store / "second").write_text("made by the step from 1 to 2")


def _third(store: Path) -> None:
    assert (store / "second").exists(), "steps come one after another"
    (store / "third").touch()


LATER = Formats(3, {1: _second, 2: _third})


def test_an_older_format_is_upgraded_step_by_step_and_keeps_its_identity(old: Path) -> None:
    before = json.loads((old / FORMAT_FILE).read_text())
    layout = open_layout(old, create=False, formats=LATER)
    assert json.loads((old / FORMAT_FILE).read_text()) == before | {"format": 3}
    assert (layout.id, (old / "third").exists()) == (before["id"], True)
    with pytest.raises(StoreFormat, match="upgrade lfsfs"):
        open_layout(old, create=False)  # the older lfsfs keeps its hands off


def test_a_step_that_fails_is_taken_again_and_those_before_it_are_not(old: Path) -> None:
    def fail(store: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(lfsfs.LfsfsError, match="No space left"):
        open_layout(old, create=False, formats=Formats(3, {1: _second, 2: fail}))
    assert version(old) == 2
    (old / "second").write_text("not to be made again")
    open_layout(old, create=False, formats=LATER)
    assert (version(old), (old / "second").read_text()) == (3, "not to be made again")


def test_nothing_is_upgraded_under_a_daemon_of_an_older_lfsfs(old: Path) -> None:
    with (old / DAEMON_LOCK).open("a+b") as lock:
        assert try_alone(lock)
        with pytest.raises(InUse, match="unmount it"):
            open_layout(old, create=False, formats=LATER)
    assert version(old) == 1


def upgrade(store: str) -> None:
    """In a process of its own, to be killed."""
    open_layout(Path(store), create=False, formats=LATER)


def points(old: Path) -> Iterator[tuple[int, int]]:
    point, status = 1, -9
    while status != 0:
        status, _, _ = forking.killed_at(point, "test_formats:upgrade", str(old))
        yield point, status
        point += 1


def test_killed_at_any_moment_it_is_one_format_or_the_next(old: Path) -> None:
    seen = []
    for point, _ in points(old):
        seen.append(version(old))
        assert (old / "second").exists() or version(old) == 1, point
    assert (seen[0], seen[-1]) == (1, 3)


def test_there_is_a_step_from_every_format_to_this_one() -> None:
    assert set(FORMATS.steps) == set(range(1, FORMATS.newest))
    with pytest.raises(ValueError, match="steps to format 3"):
        Formats(3, {2: _third})


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A store whose objects are encrypted."""
    (tmp_path / "master.key").write_text("17" * 32)
    open_layout(tmp_path / "sealed", create=True)
    keys.create(tmp_path / "sealed", f"file:{tmp_path / 'master.key'}")
    with lfsfs.connect(tmp_path / "sealed") as client:
        client.put(b"a secret")
    return tmp_path / "sealed"


def as_an_older_one(store: Path) -> None:
    """As an lfsfs opens it that knows no store but of the first format."""
    open_layout(store, create=False, formats=Formats(1, {}))


def test_an_lfsfs_that_knows_no_keys_refuses_an_encrypted_store_by_its_format(sealed: Path) -> None:
    with pytest.raises(StoreFormat, match=r"newer lfsfs \(format 2; this one reads up to 1\): upgrade"):
        as_an_older_one(sealed)
    keys.remove(sealed)
    as_an_older_one(sealed)


def test_an_encrypted_store_whose_format_says_nothing_of_it_says_it_once_it_was_opened(sealed: Path) -> None:
    """As lfsfs made them, for a while."""
    text = (sealed / FORMAT_FILE).read_text()
    (sealed / FORMAT_FILE).write_text(text.replace('"format": 2', '"format": 1'))
    as_an_older_one(sealed)
    with lfsfs.connect(sealed) as client:
        assert client.read(Oid.of(b"a secret")) == b"a secret"
    assert (sealed / FORMAT_FILE).read_text() == text


def test_an_encrypted_store_that_has_lost_its_keys_is_not_taken_for_a_plain_one(sealed: Path) -> None:
    kept = (sealed / KEYS_COPY).read_bytes()
    for name in (KEYS_FILE, KEYS_COPY):
        (sealed / name).unlink()
    status, out, err = forking.run("forking:command", "ls", "--store", str(sealed), seconds=60)
    assert status and "keys.json is gone" in err, out + err
    (sealed / KEYS_COPY).write_bytes(kept)
    with lfsfs.connect(sealed) as client:
        assert client.read(Oid.of(b"a secret")) == b"a secret"
