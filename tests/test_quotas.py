"""Quotas: what a repository refers to is counted, and more than it may is refused, before anything is stored of it."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gitlfs.bench import Clone
from gitlfs.mounted import Mount, lfsfs
from server.clones import Team
from server.conftest import git_env as git_env
from server.conftest import team as team
from server.served import Served
from test_promises import commit, drop, listed, oid_of, path_in

from lfsfs import open_store
from lfsfs.config_policy import Policy, QuotaOptions
from lfsfs.errors import QuotaExceeded
from lfsfs.integrity.counters import check_counters
from lfsfs.store import quotas, references

KIB = 1 << 10
CONFIG = """
[quota]
repository = "100KiB"
repositories = { large = "1MiB", "/team/web" = "10KiB" }
"""

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    (tmp_path / "lfsfs.toml").write_text(CONFIG)
    with Mount(tmp_path / "own", "--config", str(tmp_path / "lfsfs.toml")) as mount:
        for name in ("one", "two", "large"):
            (mount.path / "repos" / name).mkdir()
        yield mount


def content(size_kib: int, seed: int = 0) -> bytes:
    return bytes([seed]) * size_kib * KIB


def over_quota(what: Callable[[], object]) -> None:
    with pytest.raises(OSError) as failed:
        what()
    assert failed.value.errno == errno.EDQUOT, failed.value


def used(mount: Mount) -> dict[str, tuple[int, int]]:
    """By `lfsfs status`: what each repository refers to, and may refer to."""
    said = json.loads(lfsfs("status", "--json", "--store", mount.store))
    return {one["name"]: (one["bytes"], one["quota"]) for one in said["repositories"] if "quota" in one}


@pytest.mark.promise("17.4")
def test_a_repository_beyond_its_quota_gets_edquot_and_nothing_is_stored(mount: Mount) -> None:
    one = mount.path / "repos" / "one"
    commit(one, content(60))
    over_quota(lambda: commit(one, content(41, 1)))
    assert oid_of(content(41, 1)) not in listed(mount.path / "objects")
    temp = next((one / "tmp").iterdir())
    over_quota(lambda: os.link(temp, path_in(one / "objects", oid_of(content(41, 1)))))
    commit(one, content(40, 2))
    commit(one, content(60))  # it refers to that already
    assert used(mount) == {
        "one": (100 * KIB, 100 * KIB), "two": (0, 100 * KIB), "large": (0, 1024 * KIB),
    }  # fmt: skip
    assert "100 KiB of 100 KiB" in lfsfs("status", "--store", mount.store)
    commit(mount.path / "repos" / "large", content(41, 1))
    drop(mount, "no-repository", content(500, 3))
    commit(mount.path, content(500, 4))


@pytest.mark.promise("17.4")
def test_a_lookup_counts_as_a_commit_does_and_prune_gives_room(mount: Mount) -> None:
    one, two = mount.path / "repos" / "one", mount.path / "repos" / "two"
    oids = [commit(one, content(50, seed)) for seed in (1, 2)]
    for oid in oids:
        assert path_in(two / "objects", oid).stat().st_size == 50 * KIB
    third = commit(mount.path, content(50, 3))
    over_quota(lambda: path_in(two / "objects", third).stat())
    path_in(two / "objects", oids[0]).unlink()
    mount.stop()  # what was dropped is in the index
    mount.start()
    assert used(mount)["two"] == (50 * KIB, 100 * KIB)
    path_in(two / "objects", third).stat()
    assert listed(two / "objects") == {oids[1], third}
    over_quota(lambda: path_in(two / "objects", oids[0]).stat())


@pytest.mark.promise("17.4")
def test_git_add_beyond_the_quota_fails(mount: Mount, team: Callable[[str], Team], tmp_path: Path) -> None:
    clone: Clone = team("http://127.0.0.1:1/none").first("first")
    clone.root = mount.path / "repos" / "one"
    clone.config("lfs.storage", clone.root)
    clone.commit({"fits.bin": content(90)})
    clone.write("more.bin", content(90, 1))
    assert "clean filter 'lfs' failed" in clone.fails("add", "more.bin")
    assert "quota exceeded" in clone.git("lfs", "logs", "last")


def test_a_new_configuration_holds_for_old_and_new_repositories(mount: Mount, tmp_path: Path) -> None:
    commit(mount.path / "repos" / "one", content(60))
    mount.stop()
    (tmp_path / "lfsfs.toml").write_text('[quota]\nrepositories = { one = "50KiB", later = "1KiB" }\n')
    mount.start()
    assert used(mount) == {"one": (60 * KIB, 50 * KIB)}
    over_quota(lambda: commit(mount.path / "repos" / "one", b"more"))
    commit(mount.path / "repos" / "two", content(200, 1))
    (mount.path / "repos" / "later").mkdir()
    over_quota(lambda: commit(mount.path / "repos" / "later", content(2, 2)))
    mount.stop()
    (tmp_path / "lfsfs.toml").write_text("")
    mount.start()
    commit(mount.path / "repos" / "one", b"more")
    assert used(mount) == {}


def test_a_push_beyond_the_quota_is_507_before_its_first_byte(tmp_path: Path) -> None:
    with Served(tmp_path, config=CONFIG) as server:
        api = server.api("team/web")
        api.put(content(8))
        oid = oid_of(content(3, 1))
        put = api.request("PUT", f"objects/{oid}", data=content(3, 1))
        assert (put.status_code, "no room for" in put.text) == (507, True)
        pieces = (content(1, 1) for _ in range(3))  # nobody says how many
        assert api.request("PUT", f"objects/{oid}", data=pieces).status_code == 507
        tus = {"Tus-Resumable": "1.0.0", "Upload-Length": str(3 * KIB)}
        assert api.request("POST", f"uploads/{oid}", headers=tus).status_code == 507
        api.put(content(2, 1))
        server.api("team/other").put(content(3, 1))
        said = json.loads(lfsfs("status", "--json", "--store", server.store))["repositories"]
        assert {one["name"]: one["bytes"] for one in said} == {"/team/web": 10 * KIB, "/team/other": 3 * KIB}


async def test_whatever_happens_to_references_the_count_stays_right(tmp_path: Path) -> None:
    policy = Policy(quota=QuotaOptions(None, 100, {"r": 1000}))
    async with open_store(tmp_path / "store", create=True, policy=policy) as store:
        root = await store.add_repository("r")
        oids = [(await store.put(bytes(size), repository="r")).oid for size in (1, 10, 100)]

        def said() -> int:
            found = store.index.view(lambda tx: quotas.get(tx, root.id))
            assert found is not None
            return found.used

        assert said() == 111
        for _ in range(2):
            store.references.drop_soon(root.id, oids[1])
            await store.index.flush()
            assert said() == 101
            await store.references.look_up(root.id, oids[1])
            assert said() == 111
        with pytest.raises(QuotaExceeded):
            await store.put(bytes(1000), repository="r")
        assert said() == 111
        assert await check_counters(store.index, repair=False) == []
        await store.index.update(lambda tx: tx.put("meta", quotas.USED + bytes(3) + b"\1", bytes(8)))
        assert [fault.repaired for fault in await check_counters(store.index, repair=True)] == [True]
        assert said() == 111
        await store.remove_repository("r")
        assert store.index.view(lambda tx: quotas.get(tx, root.id)) is None
        again = await store.add_repository("r")
        assert store.index.view(lambda tx: quotas.get(tx, again.id)) == quotas.Quota(0, 1000)
        assert await check_counters(store.index, repair=False) == []
    async with open_store(tmp_path / "store", policy=Policy()) as store:
        await store.put(bytes(5000), repository="r")
        assert store.index.view(lambda tx: references.count(tx, again.id)) == 1
