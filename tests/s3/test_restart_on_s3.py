"""`lfsfs restart` of a mount with a bucket behind it: uploads, reads that wait for the bucket, and keys go on."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from gitlfs.bench import oid_of
from gitlfs.mounted import is_running, lfsfs, within
from server.served import free_port

from .machines import KIB, MIB, Machine, Place, until
from .proxy import Proxy

pytestmark = [pytest.mark.mount, pytest.mark.slow, pytest.mark.timeout(180)]
SLOW_BYTES = 2 * MIB  # a second


def restart(machine: Machine) -> int:
    """The old daemon, which may have something to answer yet."""
    before = machine.pid
    assert "requests waited for" in lfsfs("restart", machine.path)
    assert machine.pid != before
    return before


def ends(pid: int) -> None:
    assert within(30, lambda: not is_running(pid)), "the old daemon stays"


class Reading(threading.Thread):
    """Reads a file in pieces; what there was, or what went wrong."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.content = b""
        self.failure: Exception | None = None
        self._file = path.open("rb", buffering=0)
        self.start()

    def run(self) -> None:
        try:
            with self._file:
                while piece := self._file.read(128 * KIB):
                    self.content += piece
        except Exception as failed:
            self.failure = failed


def dropped(machine: Machine, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        machine.drop(name, content)


@pytest.mark.promise("7.6")
def test_what_waits_for_its_upload_and_who_waits_for_the_bucket_go_on_with_the_new_daemon(
    tmp_path: Path, place: Place, proxy: Proxy
) -> None:
    """The bucket does not answer when the old daemon is asked, and is slow afterwards."""
    uploaded = os.urandom(9 * MIB)
    waiting = {f"w{number}": os.urandom(300 * KIB) for number in range(12)} | {"large": os.urandom(12 * MIB)}
    options = ("--cache-size", "64MiB")
    with Machine(tmp_path / "a", place, *options) as other:
        oid = other.drop("there", uploaded)
        other.sync()
    with Machine(tmp_path / "b", place, *options, cache='deadline = "60s"') as machine:
        proxy.pace(rate=SLOW_BYTES)
        dropped(machine, waiting)
        reading = Reading(machine.object(oid))
        until(30, lambda: len(reading.content) > MIB, "the read began")
        proxy.down()
        assert machine.remote()["pending_objects"] > 0
        with (machine.path / "incoming" / "open").open("wb", buffering=0) as half:
            half.write(b"one ")
            old = restart(machine)
            half.write(b"two")
        machine.drop("later", b"dropped when nobody answered")
        assert (machine.path / "incoming" / "large").read_bytes() == waiting["large"]
        proxy.up()
        proxy.pace()
        reading.join(60)
        assert reading.failure is None and reading.content == uploaded
        ends(old)
        machine.sync()
        wanted = {*map(oid_of, waiting.values()), oid, oid_of(b"one two")}
        wanted.add(oid_of(b"dropped when nobody answered"))
        assert wanted <= place.oids()
        assert place.damaged() == set()
        until(30, lambda: place.uploads_under_way() == [], "nothing is left half uploaded")
    lfsfs("verify", "--store", machine.store)


@pytest.mark.promise("7.6")
@pytest.mark.parametrize("mode", ["write-through", "s3-only"])
def test_a_commit_that_waits_for_the_bucket_returns_when_the_bucket_has_it(
    tmp_path: Path, place: Place, proxy: Proxy, mode: str
) -> None:
    """It is under way when the restart is asked for: the restart waits, or the commit goes on; neither fails."""
    first, content = os.urandom(5 * MIB), os.urandom(6 * MIB)
    with Machine(tmp_path / "m", place, "--mode", mode) as machine:
        oid = machine.drop("first", first)
        proxy.pace(rate=SLOW_BYTES)
        failures: list[Exception] = []

        def commit() -> None:
            try:
                machine.drop("second", content)
                assert place.get(oid_of(content)) == content
            except Exception as failed:
                failures.append(failed)

        reading = Reading(machine.object(oid))
        writing = threading.Thread(target=commit)
        writing.start()
        until(30, lambda: place.uploads_under_way() != [] or not writing.is_alive(), "the upload began")
        old = restart(machine)
        proxy.pace()
        writing.join(90)
        reading.join(60)
        ends(old)
        assert failures == []
        assert reading.failure is None and reading.content == first
        assert (machine.path / "incoming" / "second").read_bytes() == content
        if mode == "s3-only":
            assert machine.local() == set()
        assert place.damaged() == set()


def _encrypted(folder: Path) -> tuple[str, ...]:
    lfsfs("key", "new", folder / "store.key")
    lfsfs("key", "new", folder / "bucket.key")
    return (
        "--store-key", f"file:{folder / 'store.key'}", "--encryption-key", f"file:{folder / 'bucket.key'}",
        "--compression", "zstd",
    )  # fmt: skip


@pytest.mark.promise("7.6")
@pytest.mark.parametrize("options", [_encrypted], ids=["store and bucket encrypted"])
def test_keys_and_what_listens_go_over(
    tmp_path: Path, place: Place, options: Callable[[Path], tuple[str, ...]]
) -> None:
    port = free_port()
    content, half = os.urandom(3 * MIB), os.urandom(2 * MIB)
    url = f"http://127.0.0.1:{port}"
    with Machine(tmp_path / "m", place, *options(tmp_path), "--listen", f"127.0.0.1:{port}") as machine:
        oid = machine.drop("first", content)
        sent = requests.put(f"{url}/objects/{oid_of(b'sent')}", b"sent", timeout=30)
        assert sent.ok or sent.status_code in (401, 404)
        with (
            machine.object(oid).open("rb", buffering=0) as reading,
            (machine.path / "incoming" / "half").open("wb", buffering=0) as writing,
        ):
            begun = reading.read(MIB)
            writing.write(half[:MIB])
            ends(restart(machine))
            while piece := reading.read(MIB):
                begun += piece
            writing.write(half[MIB:])
        assert begun == content
        assert requests.get(f"{url}/readyz", timeout=30).status_code == 200
        machine.sync()
        for wanted in (content, half):
            stored = (
                machine.store / "objects" / oid_of(wanted)[:2] / oid_of(wanted)[2:4] / oid_of(wanted)
            ).read_bytes()
            assert wanted[:KIB] not in stored, "it is encrypted on the local disk"
            assert machine.read(oid_of(wanted)) == wanted
        assert not any(content[:KIB] in place.get(one) for one in place.oids())
    lfsfs("verify", "--store", machine.store)
