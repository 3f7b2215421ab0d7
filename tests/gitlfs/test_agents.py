"""Custom transfer agents, which name a downloaded file for git-lfs to rename into the storage."""

import sys
from pathlib import Path

import pytest

from .bench import MIB, Bench, Clone, oids_in

AGENT = Path(__file__).with_name("agent.py")


def options(depot: Path, temp: Path) -> dict[str, str]:
    depot.mkdir(exist_ok=True)
    return {
        "lfs.standalonetransferagent": "depot",
        "lfs.customtransfer.depot.path": sys.executable,
        "lfs.customtransfer.depot.args": f"{AGENT} {depot} {temp}",
    }


def use_agent(clone: Clone, depot: Path, temp: Path) -> None:
    for key, value in options(depot, temp).items():
        clone.config(key, value)


@pytest.mark.parametrize("concurrent", ["true", "false"])
def test_an_agent_with_its_temps_in_the_storage_uploads_and_downloads(bench: Bench, concurrent: str) -> None:
    remote, depot = bench.remote("file"), bench.folder / "depot"
    contents = {f"{n}.bin": bench.blob(n * MIB // 3) for n in range(1, 7)}
    author = bench.init("author", remote=remote)
    author.config("lfs.customtransfer.depot.concurrent", concurrent)
    use_agent(author, depot, author.root / "tmp")
    oids = author.commit(contents)
    author.git("push", "-q", "origin", "main")
    assert oids_in(depot) == set(oids.values())

    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    clone.config("lfs.customtransfer.depot.concurrent", concurrent)
    use_agent(clone, depot, clone.root / "tmp")
    clone.git("lfs", "pull")
    assert {name: clone.read(name) for name in contents} == contents
    assert clone.objects() == set(oids.values())
    assert [name for name in clone.left_in("tmp") if name.startswith("agent-")] == []


def test_an_agent_that_hands_over_wrong_bytes_leaves_no_object(bench: Bench) -> None:
    remote, depot, content = bench.remote("file"), bench.folder / "depot", bench.blob()
    _, oids = bench.upstream({"a.bin": content}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    use_agent(clone, depot, clone.root / "tmp")
    (depot / oids["a.bin"]).write_bytes(bench.blob())
    clone.fails("lfs", "pull")
    assert clone.objects() == set()
    (depot / oids["a.bin"]).write_bytes(content)
    clone.git("lfs", "pull")
    assert clone.read("a.bin") == content


@pytest.mark.mount
def test_an_agent_with_its_temps_elsewhere_fails_and_says_that_it_crosses_devices(
    mounted_bench: Bench,
) -> None:
    bench, content = mounted_bench, mounted_bench.blob()
    remote, depot, elsewhere = bench.remote("file"), bench.folder / "depot", bench.folder / "elsewhere"
    elsewhere.mkdir()
    _, oids = bench.upstream({"a.bin": content}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    use_agent(clone, depot, elsewhere)
    (depot / oids["a.bin"]).write_bytes(content)
    assert "invalid cross-device link" in clone.fails("lfs", "pull")
    use_agent(clone, depot, clone.root / "tmp")
    clone.git("lfs", "pull")
    assert clone.read("a.bin") == content
