"""Clones on mounts over one bucket do at random all that git-lfs can do, gc runs without grace, the cache is tiny.

At the end every commit that any clone knows checks out whole in that clone. `scripts/torture clones [MINUTES]`: sixteen
clones, on one mount and on two.
"""

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from gitlfs.bench import Clone, git_environment, oid_of
from gitlfs.lfs_server import LfsServer
from gitlfs.mounted import LFSFS, lfsfs
from recording import Reliability

from .machines import KIB, Machine, Place

pytestmark = [pytest.mark.mount, pytest.mark.slow]

CACHE = ("--cache-size", "4MiB", "--pending-size", "16MiB")
SETTINGS = 'deadline = "300s"\n'
"""All of it shares a machine with Ceph and sixteen gits: that S3 does not answer for half a minute is no news."""
GIT_SECONDS = 900
MINUTES = 20
SHORT_SECONDS = 4.0
GC_SECONDS = 120
GC_PAUSE_SECONDS = 0.3
REFUSED = 4
NAMES = 6


class Worker:
    """One clone and what it does; each has a branch of its own, and all see each other's."""

    def __init__(self, clone: Clone, number: int, count: int) -> None:
        self.clone = clone
        self.branch = f"c{number}"
        self.others = [f"origin/c{other}" for other in range(count)]
        self.chance = random.Random(number)
        self.done: Counter[str] = Counter()

    def work(self, until: float) -> None:
        acts = {
            self.commit: 5,
            self.push: 3,
            self.pull: 3,
            self.checkout: 3,
            self.prune: 2,
            self.fsck: 1,
            self.reset: 1,
        }
        while time.monotonic() < until:
            act = self.chance.choices(list(acts), list(acts.values()))[0]
            act()
            self.done[act.__name__] += 1

    def content(self) -> bytes:
        """One of so few that clones share many."""
        seed = self.chance.randrange(40)
        return random.Random(seed).randbytes(random.Random(seed).randrange(1, 300) * KIB)

    def commit(self) -> None:
        files = {
            f"{self.chance.randrange(NAMES)}.bin": self.content() for _ in range(self.chance.randint(1, 3))
        }
        for name, content in files.items():
            self.clone.write(name, content)
        self.clone.git("add", "-A")
        self.clone.git("commit", "-q", "--allow-empty", "-m", "at random")

    def push(self) -> None:
        self.clone.git("push", "-q", "-f", "origin", self.branch)

    def pull(self) -> None:
        """What another one has pushed, checked out, and sometimes taken for the own branch."""
        self.clone.git("fetch", "-q", "origin")
        other = self.chance.choice(self.others)
        if self.clone.run("rev-parse", "-q", "--verify", other).status == 0:
            self.clone.git("checkout", "-q", "-f", "--detach", other)
            if self.chance.random() < 0.5:
                self.clone.git(
                    "merge", "-q", "-s", "ours", "--allow-unrelated-histories", "--no-edit", self.branch
                )
                self.clone.git("branch", "-f", self.branch, "HEAD")
            self.clone.git("checkout", "-q", "-f", self.branch)

    def checkout(self) -> None:
        """An older commit, and back."""
        commits = self.clone.git("rev-list", "--max-count=20", self.branch).split()
        self.clone.git("checkout", "-q", "-f", "--detach", self.chance.choice(commits))
        self.clone.git("checkout", "-q", "-f", self.branch)

    def prune(self) -> None:
        self.clone.git("lfs", "prune")

    def fsck(self) -> None:
        self.clone.git("lfs", "fsck", "HEAD")

    def reset(self) -> None:
        """The last commit is forgotten, and so is that it was there."""
        if self.clone.run("rev-parse", "-q", "--verify", "HEAD~1").status == 0:
            self.clone.git("reset", "-q", "--hard", "HEAD~1")
            self.clone.git("reflog", "expire", "--expire=now", "--all")

    def every_commit_is_whole(self) -> int:
        """How many commits there are in all its refs; of those with the same files, one is checked out."""
        commits = self.clone.git("rev-list", "--all").split()
        trees = {self.clone.git("rev-parse", f"{commit}^{{tree}}"): commit for commit in commits}
        for commit in trees.values():
            self.clone.git("checkout", "-q", "-f", "--detach", commit)
            for line in self.clone.git("lfs", "ls-files", "--long").splitlines():
                oid, _, name = line.split(maxsplit=2)
                assert oid_of(self.clone.read(name)) == oid, f"{name} of {commit} in {self.branch}"
        self.clone.git("checkout", "-q", "-f", self.branch)
        self.clone.git("lfs", "fsck")
        return len(commits)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LfsServer]:
    """Where the clones push to, over HTTP: git and LFS."""
    folder = tmp_path / "remotes"
    folder.mkdir()
    with LfsServer(folder, git_environment(tmp_path / "home")) as server:
        yield server


def worker(machine: Machine, server: LfsServer, folder: Path, number: int, count: int) -> Worker:
    folder.mkdir()
    clone = Clone(folder, machine.path / "repos" / folder.name, server.environment, GIT_SECONDS)
    clone.git("init", "-q", "-b", f"c{number}")
    clone.git("remote", "add", "origin", server.url("shared"))
    lfsfs("attach", folder, "--mount", machine.path, "--name", folder.name)
    for key, value in (("concurrenttransfers", "2"), ("fetchrecentrefsdays", "0"), ("pruneoffsetdays", "0")):
        clone.config(f"lfs.{key}", value)
    clone.config("gc.auto", "0")
    clone.config("maintenance.auto", "false")
    clone.track()
    clone.commit({"base.bin": f"base of {number}".encode()})
    return Worker(clone, number, count)


def collect(machine: Machine, until: float) -> int:
    """gc without grace, again and again; how many objects it took. It may be that a clone is just being written to."""
    taken = 0
    command = [LFSFS, "gc", "--yes", "--grace", "0", "--json", "--store", machine.store]
    while time.monotonic() < until:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GC_SECONDS, check=False)
        if done.returncode == REFUSED:
            assert "cannot be read" in done.stderr or "share" in done.stderr, done.stderr
        else:
            assert done.returncode == 0, done.stderr
            taken += json.loads(done.stdout)["deleted"]["objects"]
        time.sleep(GC_PAUSE_SECONDS)
    return taken


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mounts", [1, 2], ids=["one mount", "two mounts"])
def test_every_commit_of_every_clone_is_whole_whatever_all_of_them_did(
    tmp_path: Path, place: Place, server: LfsServer, mounts: int, full_size: bool, reliability: Reliability
) -> None:
    minutes = float(os.environ.get("LFSFS_MINUTES", MINUTES)) / 2 if full_size else SHORT_SECONDS / 60
    count = 16 if full_size else 3
    subprocess.run(["git", "init", "-q", "--bare", server.folder / "shared.git"], check=True)
    config = ["git", "-C", str(server.folder / "shared.git"), "config", "http.receivepack", "true"]
    subprocess.run(config, check=True)
    with ExitStack() as stack:
        machines = [
            stack.enter_context(Machine(tmp_path / f"m{n}", place, *CACHE, cache=SETTINGS))
            for n in range(mounts)
        ]
        workers = [
            worker(machines[n % mounts], server, tmp_path / f"clone{n}", n, count) for n in range(count)
        ]
        until = time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(count + mounts) as pool:
            collecting = [pool.submit(collect, machine, until) for machine in machines]
            for working in [pool.submit(one.work, until) for one in workers]:
                working.result()
            taken = sum(one.result() for one in collecting)
            commits = sum(pool.map(Worker.every_commit_is_whole, workers))
    done = sum((one.done for one in workers), Counter[str]())
    assert taken or not full_size
    where = "one mount" if mounts == 1 else "two mounts over one bucket"
    acts = ", ".join(f"{number} {act}" for act, number in sorted(done.items()))
    reliability(
        f"{count} clones on {where}, gc without grace, a cache of 4 MiB, on Ceph",
        f"{minutes:.0f} minutes: {acts}; gc took {taken} objects",
        f"each of {commits} commits checks out whole",
    )
