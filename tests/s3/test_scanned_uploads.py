"""What clients put into the bucket themselves passes the scanner too, before it is an object."""

import os
from collections.abc import Iterator

import pytest
from clamav import FINDING, MARK, Clamav
from server.served import oid_of

from .servers import Server
from .test_direct import Straight, send

MIB = 1 << 20


@pytest.fixture(scope="module", params=["moto_server", pytest.param("rgw_server", marks=pytest.mark.slow)])
def straight(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, clamav: Clamav
) -> Iterator[Straight]:
    server: Server = request.getfixturevalue(request.param)
    more = f'[scan]\nclamd = "{clamav.address}"'
    with Straight(tmp_path_factory.mktemp("scanned"), server, server.endpoint, more) as found:
        yield found


@pytest.mark.promise("15.2")
@pytest.mark.parametrize("size", [100, 3 * MIB], ids=["small", "large"])
def test_an_upload_past_the_server_that_is_infected_is_422_and_gone(straight: Straight, size: int) -> None:
    api = straight.api(f"scan/direct{size}")
    for content in (os.urandom(size) + MARK, os.urandom(size)):
        oid = oid_of(content)
        actions = api.asked("upload", oid, len(content))["actions"]
        assert actions["upload"]["href"].startswith(straight.server.endpoint)
        assert send(actions["upload"], content).status_code == 200
        said = api.act(actions["verify"], "POST", json={"oid": oid, "size": len(content)})
        infected = MARK in content
        assert said.status_code == (422 if infected else 200)
        assert (FINDING in said.text) == infected
        assert (oid in straight.place.oids()) == (not infected)
        assert straight.keys("parcels") == []
        found = api.batch("download", (oid, len(content))).json()["objects"][0]
        assert ("error" in found) == infected


@pytest.mark.promise("15.2")
def test_a_wrong_claim_gives_no_object_a_bad_name(straight: Straight) -> None:
    """What a scanner says is kept for the oid that the bytes have, not for the one that somebody said they have."""
    api, content = straight.api("scan/claim"), os.urandom(1000)
    oid = oid_of(content)
    actions = api.asked("upload", oid, len(content))["actions"]
    wrong = (MARK + bytes(1000))[: len(content)]
    send(actions["upload"], wrong)  # a server that compares SHA-256 refuses it at once
    assert api.act(actions["verify"], "POST", json={"oid": oid, "size": len(content)}).status_code in (
        404,
        422,
    )
    assert api.put(content) == oid
