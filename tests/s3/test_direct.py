"""Straight to S3: clients move the bytes themselves, and nothing is an object before it is verified."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import trio
from gitlfs.bench import KIB, MIB, git_environment
from gitlfs.mounted import within
from server.clones import Team
from server.served import Api, Served, oid_of

import lfsfs
from lfsfs import open_store
from lfsfs.config import CacheOptions
from lfsfs.embeddings import codec
from lfsfs.store.parcels import GRACE_SECONDS, Parcels

from .machines import Place
from .proxy import Proxy
from .servers import Server

HTTP_SECONDS = 30


class Straight:
    """A server whose clients go to S3 by themselves, and the place in the bucket."""

    def __init__(self, folder: Path, server: Server, endpoint: str, more: str = "") -> None:
        self.server = server
        self.options = replace(server.options(), endpoint=endpoint)
        self.place = Place(server, endpoint, self.options.url.prefix)
        self.served = Served(
            folder,
            config=f'[s3]\nurl = "{self.place.url}"\nendpoint = "{endpoint}"\n'
            f'access_key_id = "{server.access_key_id}"\nsecret_access_key = "{server.secret_access_key}"\n'
            f'[server]\ndirect = "on"\n{more}\n',
        )

    def __enter__(self) -> "Straight":
        self.served.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.served.stop()

    def api(self, name: str) -> Api:
        return self.served.api(name)

    def keys(self, below: str) -> list[str]:
        with self.server.client() as client:
            found = client.list_objects_v2(Bucket=self.server.bucket, Prefix=f"{self.place.prefix}/{below}/")
        return [item["Key"] for item in found.get("Contents", [])]


def send(action: dict[str, Any], content: bytes) -> requests.Response:
    """PUT, as git-lfs does it, without the credentials of the API."""
    return requests.put(action["href"], data=content, headers=action["header"], timeout=HTTP_SECONDS)


def verified(api: Api, action: dict[str, Any], content: bytes) -> int:
    said = {"oid": oid_of(content), "size": len(content)}
    return api.act(action, "POST", json=said).status_code


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, rgw_server: Server) -> Iterator[Straight]:
    """Before Ceph, which compares no SHA-256."""
    with Straight(tmp_path_factory.mktemp("straight"), rgw_server, rgw_server.endpoint) as server:
        yield server


@pytest.mark.parametrize("size", [100, 3 * MIB], ids=["small", "with digests"])
def test_bytes_do_not_pass_through_the_server(straight: Straight, rgw_server: Server, size: int) -> None:
    api, content = straight.api(f"studio/game{size}"), os.urandom(size)
    oid = oid_of(content)
    actions = api.asked("upload", oid, size)["actions"]
    assert actions["upload"]["href"].startswith(rgw_server.endpoint)
    assert send(actions["upload"], content).status_code == 200
    assert oid not in straight.place.oids()
    assert api.batch("download", (oid, size)).json()["objects"][0]["error"]["code"] == 404
    assert verified(api, actions["verify"], content) == 200
    assert straight.place.get(oid) == content
    assert straight.keys("parcels") == []
    assert [key.rpartition("/")[2] for key in straight.keys("digests") if oid in key] == (
        [oid] if size > MIB else []
    )
    assert verified(api, actions["verify"], content) == 200, "once more does no harm"
    assert "actions" not in api.asked("upload", oid, size)
    action = api.asked("download", oid, size)["actions"]["download"]
    assert action["href"].startswith(rgw_server.endpoint)
    assert requests.get(action["href"], timeout=HTTP_SECONDS).content == content
    part = requests.get(action["href"], headers={"Range": "bytes=5-9"}, timeout=HTTP_SECONDS)
    assert (part.status_code, part.content) == (206, content[5:10])
    assert api.get(f"objects/{oid}").content == content, "the server has it as well"


def test_wrong_bytes_are_never_an_object(straight: Straight) -> None:
    api, content = straight.api("studio/wrong"), os.urandom(2 * MIB)
    oid, wrong = oid_of(content), os.urandom(2 * MIB)
    actions = api.asked("upload", oid, len(content))["actions"]
    assert send(actions["upload"], wrong).status_code == 200, (
        "Ceph compares SHA-256 by now: test something else"
    )
    assert verified(api, actions["verify"], content) == 422
    assert verified(api, actions["verify"], content) == 404, "it is gone"
    assert oid not in straight.place.oids()
    assert oid_of(wrong) not in straight.place.oids()
    assert straight.keys("parcels") == []
    assert api.batch("download", (oid, len(content))).json()["objects"][0]["error"]["code"] == 404
    assert send(actions["upload"], content[:-1]).status_code == 403, "the size is signed"
    assert send(actions["upload"], content).status_code == 200
    assert verified(api, actions["verify"], content) == 200
    assert straight.place.get(oid) == content


def test_what_was_damaged_in_the_bucket_is_mended_by_a_push(straight: Straight) -> None:
    api, content = straight.api("studio/damaged"), os.urandom(2 * MIB)
    oid = api.put(content)
    straight.place.flip(oid, MIB + 5)
    with suppress(requests.exceptions.ChunkedEncodingError):  # the first block is whole
        assert api.get(f"objects/{oid}").status_code == 500
    assert within(10, lambda: straight.keys("damaged") != [])
    assert "actions" in api.asked("upload", oid, len(content))
    assert api.put(content) == oid
    assert straight.place.get(oid) == content
    assert api.get(f"objects/{oid}").content == content
    assert straight.keys("damaged") == []


def test_what_is_made_of_a_vector_is_in_no_bucket_and_comes_through_the_server(straight: Straight) -> None:
    matrix = np.random.default_rng(5).standard_normal((1, 384), np.float32)
    with lfsfs.connect(straight.served.store) as client:
        client.embeddings.write_embeddings_batch((["0" * 63 + "1"], matrix))
        client.embeddings.pack()
    api, content = straight.api("studio/vectors"), codec.render(matrix[0])
    oid = oid_of(content)
    assert api.request("PUT", f"objects/{oid}", data=content).status_code == 200
    assert oid not in straight.place.oids()
    action = api.asked("download", oid, len(content))["actions"]["download"]
    assert action["href"].startswith(straight.served.url), "S3 could not give what it has not got"
    assert api.act(action, "GET").content == content


def test_knowing_an_oid_is_no_proof_of_having_the_bytes(straight: Straight) -> None:
    mine, theirs, content = straight.api("mine/game"), straight.api("theirs/game"), os.urandom(KIB)
    oid = mine.put(content)
    actions = theirs.asked("upload", oid, KIB)["actions"]
    assert verified(theirs, actions["verify"], content) == 404
    assert theirs.batch("download", (oid, KIB)).json()["objects"][0]["error"]["code"] == 404
    other = straight.api("others/game").asked("upload", oid, KIB)["actions"]
    assert send(other["upload"], content).status_code == 200
    stolen = {"href": actions["verify"]["href"], "header": other["verify"]["header"]}
    assert verified(theirs, stolen, content) == 403, "a ticket is for one repository"
    assert send(actions["upload"], content).status_code == 200
    assert verified(theirs, actions["verify"], content) == 200
    assert theirs.fetch(oid, KIB).content == content


async def test_what_is_written_while_the_server_looks_is_not_what_becomes_the_object(
    rgw_server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    with Straight(tmp_path, rgw_server, proxy.endpoint) as straight:
        api, content = straight.api("studio/game"), os.urandom(2 * MIB)
        actions = api.asked("upload", oid_of(content), len(content))["actions"]
        assert send(actions["upload"], content).status_code == 200
        proxy.fault(method="GET", path=".copy", delay=3.0)

        async with trio.open_nursery() as nursery:
            statuses: list[int] = []

            async def verify() -> None:
                statuses.append(await trio.to_thread.run_sync(verified, api, actions["verify"], content))

            nursery.start_soon(verify)
            await trio.sleep(1.5)
            await trio.to_thread.run_sync(send, actions["upload"], os.urandom(2 * MIB))
        assert statuses == [200]
        assert straight.place.get(oid_of(content)) == content
        assert straight.place.damaged() == set()


def test_actions_expire(rgw_server: Server, tmp_path: Path) -> None:
    with Straight(tmp_path, rgw_server, rgw_server.endpoint, 'action_lifetime = "2s"') as straight:
        api, content = straight.api("studio/game"), os.urandom(KIB)
        old = api.asked("upload", oid_of(content), KIB)["actions"]
        assert old["upload"]["expires_in"] <= 2
        time.sleep(3.5)
        assert send(old["upload"], content).status_code == 403
        assert verified(api, old["verify"], content) == 403
        assert straight.keys("parcels") == []
        assert api.put(content) == oid_of(content)
        action = api.asked("download", oid_of(content), KIB)["actions"]["download"]
        time.sleep(3.5)
        assert requests.get(action["href"], timeout=HTTP_SECONDS).status_code == 403


async def test_what_nobody_verified_is_swept_in_time(rgw_server: Server, tmp_path: Path) -> None:
    options, now = rgw_server.options(), time.time()
    async with open_store(tmp_path / "store", create=True, remote=(options, CacheOptions())) as store:
        assert store.remote is not None
        parcels, tier = Parcels(store, store.remote), await store.remote.tier()
        old, young = parcels.new(int(now) - GRACE_SECONDS - 60), parcels.new(int(now))
        for note in (old, old + ".copy", young):
            await tier.put_note(note, b"left behind")
        await tier.put_note("pastry", b"not ours")
        assert await parcels.sweep(now) == 2
        assert await tier.notes("p", None, 10) == [young, "pastry"]
        assert tier.direct is not None
        assert not await tier.direct.checks_sha256()


def test_a_server_that_compares_sha256_is_not_read_again(
    rgw_server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    proxy.fault(times=math.inf, method="PUT", path="", check_sha256=True)
    with Straight(tmp_path, rgw_server, proxy.endpoint) as straight:
        api, content = straight.api("studio/game"), os.urandom(3 * MIB)
        oid = oid_of(content)
        actions = api.asked("upload", oid, len(content))["actions"]
        assert send(actions["upload"], os.urandom(3 * MIB)).status_code == 400
        assert verified(api, actions["verify"], content) == 404
        assert send(actions["upload"], content).status_code == 200
        before = proxy.counters()["bytes down"]
        assert verified(api, actions["verify"], content) == 200
        assert proxy.counters()["bytes down"] - before < 64 * KIB
        assert straight.place.get(oid) == content
        assert api.get(f"objects/{oid}").content == content, "the digests come with the first read"


def test_git_lfs_pushes_and_clones_and_goes_on_after_a_cut(
    rgw_server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    files = {f"{number}.bin": os.urandom(number * MIB + 1) for number in range(1, 5)}
    with Straight(tmp_path / "served", rgw_server, proxy.endpoint) as straight:
        team = Team(tmp_path, git_environment(tmp_path / "home"), straight.api("studio/game").url)
        _, oids = team.pushed("ann", files)
        assert straight.place.oids() == set(oids.values())
        assert straight.place.damaged() == set()
        before = proxy.counters()["bytes down"]
        proxy.fault(method="GET", path=oids["4.bin"], cut_reply_after=3 * MIB)
        bob = team.clone("bob")
        bob.git("checkout", "-q", "main")
        assert {name: bob.read(name) for name in files} == files
        moved = proxy.counters()["bytes down"] - before
        assert 10 * MIB <= moved < 11 * MIB, "it did not go on where it was cut"


async def test_a_bucket_whose_bytes_need_a_key_of_ours_is_not_gone_to_directly(
    tmp_path: Path, moto_server: Server
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    options = moto_server.options(sse="c", customer_key=key)
    async with open_store(tmp_path / "store", create=True, remote=(options, CacheOptions())) as store:
        assert store.remote is not None
        assert (await store.remote.tier()).direct is None
