"""Much at once, and much in all: large objects in bounded memory, many objects, many clients while the server dies.

At full size (scripts/torture server): 5 GiB, 10,000 objects, 16 clients for minutes.
"""

import hashlib
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gitlfs.bench import Clone

from .clones import Team
from .served import Served

MIB = 1 << 20
MEMORY_BYTES = 200 * MIB


@pytest.fixture
def noise(tmp_path: Path) -> Callable[[int], tuple[Path, str]]:
    """Makes a file of so many MiB that does not compress; its oid."""

    def make(mib: int) -> tuple[Path, str]:
        path, digest = tmp_path / "noise", hashlib.sha256()
        piece = bytearray(random.Random(mib).randbytes(MIB))
        with path.open("wb") as file:
            for number in range(mib):
                piece[:8] = number.to_bytes(8, "big")
                file.write(piece)
                digest.update(piece)
        return path, digest.hexdigest()

    return make


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_large_object_goes_both_ways_in_bounded_memory(
    tmp_path: Path, noise: Callable[[int], tuple[Path, str]], full_size: bool
) -> None:
    path, oid = noise(5 * 1024 if full_size else 300)
    with Served(tmp_path / "served", "--durability", "fast", executed=True) as served:
        url = f"{served.url}/large/one/objects/{oid}"
        begun = time.monotonic()
        subprocess.run(["curl", "-sf", "-T", path, "-H", "Expect:", url], check=True, timeout=1800)
        sent = time.monotonic()
        assert streamed_oid(url) == oid
        report(f"{path.stat().st_size / MIB:.0f} MiB: in {sent - begun:.1f} s, out {time.monotonic() - sent:.1f} s,"
               f" memory at most {served.memory_peak() / MIB:.0f} MiB")  # fmt: skip
        assert served.memory_peak() < MEMORY_BYTES


def streamed_oid(url: str) -> str:
    digest = hashlib.sha256()
    with subprocess.Popen(["curl", "-sf", url], stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        while piece := curl.stdout.read(MIB):
            digest.update(piece)
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_objects_go_in_one_push(
    team: Callable[[str], Team], tmp_path: Path, full_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gitlfs.bench.GIT_SECONDS", 1800)
    number = 10_000 if full_size else 300
    with Served(tmp_path / "served", executed=True) as served:
        people = team(f"{served.url}/many/files.git/info/lfs")
        ann = people.first("ann")
        files = {f"{n % 100}/{n}.bin": n.to_bytes(8, "big") * 100 for n in range(number)}
        ann.commit(files)
        begun = time.monotonic()
        ann.git("push", "-q", "-u", "origin", "main")
        pushed = time.monotonic()
        bob = people.clone("bob")
        bob.git("checkout", "-q", "main")
        report(
            f"{number} objects: pushed in {pushed - begun:.1f} s, checked out in {time.monotonic() - pushed:.1f} s"
        )
        assert all(bob.read(name) == content for name, content in files.items())
        assert served.memory_peak() < MEMORY_BYTES


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_clients_outlive_the_server_that_dies_and_comes_back(
    team: Callable[[str], Team], tmp_path: Path, full_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a branch of its own, and tries again as people do. No lock is ever granted twice."""
    monkeypatch.setattr("gitlfs.bench.GIT_SECONDS", 1800)
    clients, seconds, kills = (16, 180, 12) if full_size else (4, 12, 2)
    with Served(tmp_path / "served", executed=True) as served:
        people = team(f"{served.url}/busy/place.git/info/lfs")
        people.pushed("first", {"seed.bin": b"seed"})
        crowd = [Client(people, number, time.monotonic() + seconds) for number in range(clients)]
        for client in crowd:
            client.start()
        for _ in range(kills):
            time.sleep(seconds / (kills + 1))
            served.kill()
            time.sleep(0.5)
            served.start()
        for client in crowd:
            client.join()
        failed = [client.failure for client in crowd if client.failure]
        assert not failed, failed[0]
        report(f"{clients} clients, {kills} kills: {sum(client.pushes for client in crowd)} pushes,"
               f" {sum(client.retries for client in crowd)} tried again")  # fmt: skip
        assert sum(client.pushes for client in crowd) >= clients
        held = [
            (lock["path"], lock["owner"]["name"])
            for lock in served.api("busy/place").get("locks").json()["locks"]
        ]
        granted = [(path, f"user{client.number}") for client in crowd for path in client.locks]
        assert sorted(granted) == sorted(held), "what was granted is held, by the one it was granted to"
        assert len({path for path, _ in granted}) == len(granted)
        last = people.clone("last")
        for client in crowd:
            last.git("checkout", "-q", f"origin/user{client.number}")
            found = {name: last.read(name) for name in client.files}
            assert found == client.files, f"nothing of user{client.number} is lost"


class Client(threading.Thread):
    """Commits, pushes and takes locks that others want too, until the time is over."""

    TRIES = 30

    def __init__(self, people: Team, number: int, until: float) -> None:
        super().__init__(name=f"client-{number}")
        self.number = number
        self._until = until
        url = people.url.replace("://", f"://user{number}:any@")
        self._clone: Clone = people.clone(f"user{number}", url=url)
        self._clone.git("checkout", "-q", "-b", f"user{number}", "origin/main")
        self.files: dict[str, bytes] = {}
        self.locks: list[str] = []
        self.pushes = self.retries = 0
        self.failure = ""

    def run(self) -> None:
        try:
            while time.monotonic() < self._until:
                self._round()
        except AssertionError as failed:
            self.failure = str(failed)

    def _round(self) -> None:
        name = f"user{self.number}/{len(self.files)}.bin"
        content = random.Random(name).randbytes(200_000)
        self._clone.commit({name: content})
        self._until_done("push", "-q", "origin", f"user{self.number}")
        self.files[name] = content
        self.pushes += 1
        path = f"shared-{self.pushes}.bin"
        api_says = self._clone.run("lfs", "lock", path)
        if api_says.status == 0:
            self.locks.append(path)
        elif "already" not in api_says.said:  # the server was away: whether we got it, the server knows
            time.sleep(1)
            if self._owns(path):
                self.locks.append(path)

    def _owns(self, path: str) -> bool:
        return f"{path}\tuser{self.number}\t" in self._until_done("lfs", "locks", "--path", path)

    def _until_done(self, *command: str) -> str:
        for _ in range(self.TRIES):
            done = self._clone.run(*command)
            if done.status == 0:
                return done.stdout
            self.retries += 1
            time.sleep(1)
        raise AssertionError(f"user{self.number}: git {command} fails again and again: {done}")


def report(text: str) -> None:
    """With -rP, beside the test's name."""
    print(text)
