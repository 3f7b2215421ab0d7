"""Stock git-lfs where a real clamd looks at every object: what is infected is not added, not pulled, not pushed."""

import random
from collections.abc import Callable, Iterator

import pytest
from clamav import FINDING, MARK, Clamav
from gitlfs.bench import KIB, MIB, Clone
from gitlfs.mounted import Mount

from .clones import Team
from .served import Served, oid_of

_random = random.Random("infected")
INFECTED = {size: _random.randbytes(size) + MARK for size in (10 * KIB, 3 * MIB)}
SIZES = pytest.mark.parametrize("size", list(INFECTED), ids=["small", "large"])
pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def scan(clamav: Clamav) -> str:
    return f'[scan]\nclamd = "{clamav.address}"\n'


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, scan: str) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("scanned")
    (folder / "scan.toml").write_text(scan)
    with Mount(folder / "own", "--config", str(folder / "scan.toml")) as mount:
        (mount.path / "repos" / "r").mkdir()
        yield mount


@pytest.fixture(scope="module")
def scanning(tmp_path_factory: pytest.TempPathFactory, scan: str) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("scanning"), config=scan) as server:
        yield server


def on(mount: Mount, clone: Clone, root: str) -> Clone:
    """The clone, whose storage is a root of the mount from now on."""
    clone.root = mount.path / root
    clone.config("lfs.storage", clone.root)
    return clone


@pytest.mark.promise("15.1")
@SIZES
@pytest.mark.parametrize("root", [".", "repos/r"], ids=["shared", "repository"])
def test_git_add_of_what_is_infected_fails_and_of_the_rest_does_not(
    mount: Mount, team: Callable[[str], Team], served: Served, size: int, root: str
) -> None:
    clone = on(mount, team(served.url + "/none").first("first"), root)
    clone.write("bad.bin", INFECTED[size])
    assert "clean filter 'lfs' failed" in clone.fails("add", "bad.bin")
    assert "permission denied" in clone.git("lfs", "logs", "last")
    assert "bad.bin" not in clone.git("ls-files")
    (clone.path / "bad.bin").unlink()
    oids = clone.commit({"good.bin": INFECTED[size][:-1]})
    assert oids["good.bin"] in clone.objects()
    assert oid_of(INFECTED[size]) not in clone.objects()
    assert FINDING in mount.log()


@pytest.mark.promise("15.1")
@SIZES
def test_git_lfs_pull_of_what_is_infected_leaves_the_pointer(
    mount: Mount, team: Callable[[str], Team], served: Served, size: int
) -> None:
    people = team(f"{served.url}/infected/pull{size}.git/info/lfs")
    people.pushed("first", {"bad.bin": INFECTED[size], "good.bin": b"good"})
    clone = on(mount, people.clone("second"), "repos/r")
    clone.config("lfs.transfer.maxretries", "1")  # it would go on asking for half a minute
    clone.env["GIT_LFS_SKIP_SMUDGE"] = "1"
    clone.git("checkout", "-q", "main")
    del clone.env["GIT_LFS_SKIP_SMUDGE"]
    clone.fails("lfs", "pull")
    assert clone.read("bad.bin").startswith(b"version https://git-lfs")
    clone.git("lfs", "pull", "--include", "good.bin")
    assert clone.read("good.bin") == b"good"
    assert oid_of(INFECTED[size]) not in clone.objects()


@pytest.mark.promise("15.2")
@SIZES
def test_git_push_of_what_is_infected_fails_with_what_was_found_and_of_the_rest_does_not(
    team: Callable[[str], Team], scanning: Served, size: int
) -> None:
    people = team(f"{scanning.url}/infected/push{size}.git/info/lfs")
    clone, _ = people.pushed("first", {"good.bin": INFECTED[size][:-1]})
    clone.commit({"bad.bin": INFECTED[size]})
    said = clone.fails("push", "origin", "main")
    assert FINDING in said, said
    assert clone.git("ls-remote", "origin", "main").split()[0] == clone.git("rev-parse", "main~1").strip()
