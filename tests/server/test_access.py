"""Two repositories, and people who may use one of them: what each gets to know of the other is nothing."""

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from gitlfs.mounted import within

from lfsfs.server.access import editing
from lfsfs.server.access.passwords import _compare, hashed

from .served import Api, Served, oid_of

ATTEMPTS = 5
CONFIG = f"""
[access]
attempts = {ATTEMPTS}
"""
PEOPLE = {
    "alice": {"studio/game": "admin"},
    "bob": {"other/film": "write"},
    "rita": {"studio/game": "read"},
    "will": {"studio/game": "write"},
}


@dataclass
class Known(Api):
    """The API for somebody with a password, or with another Authorization header. `address`: as a proxy says it."""

    password: str = "right"
    authorization: str = ""
    address: str = ""

    def request(self, method: str, path: str, **how: Any) -> requests.Response:
        said = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        own = {"Authorization": self.authorization or f"Basic {said}"}
        if self.address:
            own["X-Forwarded-For"] = self.address
        return super().request(method, path, **how | {"headers": own | how.get("headers", {})})


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with users."""
    served = Served(tmp_path_factory.mktemp("closed"), config=CONFIG)
    served.store.mkdir()
    for name, roles in PEOPLE.items():
        editing.add_user(users(served), name, "right")
        for pattern, role in roles.items():
            editing.grant(users(served), name, role, pattern)
    editing.grant(users(served), "anonymous", "read", "public/*")
    editing.grant(users(served), "alice", "write", "public/*")
    with served:
        yield served


def users(served: Served) -> Path:
    return served.store / "users.toml"


def api(served: Served, user: str, repository: str = "studio/game", **how: str) -> Known:
    return Known(served.api(repository).url, user, **how)


def content(about: str) -> bytes:
    return hashlib.sha256(about.encode()).digest() * 100


def test_metrics_are_for_who_administers_the_store(closed: Served) -> None:
    """A proxy on this machine comes from the loopback too: so it is credentials that count."""

    def status(**how: Any) -> int:
        return requests.get(f"{closed.url}/metrics", timeout=30, **how).status_code

    assert status() == 401
    assert status(auth=("alice", "right")) == 403, "she administers one repository"
    editing.add_user(users(closed), "prometheus", "right")
    editing.grant(users(closed), "prometheus", "admin", "-/whole/store")
    assert within(10, lambda: status(auth=("prometheus", "right")) == 200)
    assert api(closed, "prometheus").batch("download").status_code == 404, "and nothing else"
    assert requests.get(f"{closed.url}/healthz", timeout=30).status_code == 200, "that tells nothing"


def test_who_may_do_nothing_in_a_repository_is_told_that_there_is_none(closed: Served) -> None:
    here, stranger = api(closed, "alice"), api(closed, "bob")
    oid = here.put(content("secret"))
    lock = here.post("locks", {"path": "secret.bin"}).json()["lock"]["id"]
    said = {"oid": oid, "size": len(content("secret"))}
    answers = [
        stranger.batch("download", (oid, 3200)),
        stranger.batch("upload", (oid, 3200)),
        stranger.get(f"objects/{oid}"),
        stranger.request("HEAD", f"objects/{oid}"),
        stranger.request("PUT", f"objects/{oid}", data=content("secret")),
        stranger.post(f"verify/{oid}", said),
        stranger.request(
            "POST", f"uploads/{oid}", headers={"Upload-Length": "3200", "Tus-Resumable": "1.0.0"}
        ),
        stranger.get("locks"),
        stranger.get(f"locks?id={lock}"),
        stranger.post("locks", {"path": "mine.bin"}),
        stranger.post("locks/verify", {}),
        stranger.post(f"locks/{lock}/unlock", {}),
        stranger.post(f"locks/{lock}/unlock", {"force": True}),
    ]
    assert [answer.status_code for answer in answers] == [404] * len(answers)
    absent = api(closed, "bob", "no/such").batch("download", (oid, 3200))
    assert absent.json()["message"] == answers[0].json()["message"].replace("studio/game", "no/such")
    assert [one["id"] for one in here.get("locks").json()["locks"]] == [lock]
    assert here.post(f"locks/{lock}/unlock", {}).status_code == 200


def test_an_oid_grants_nobody_its_bytes_whoever_has_them(closed: Served) -> None:
    here, other = api(closed, "alice"), api(closed, "bob", "other/film")
    oid = here.put(content("shared"))
    size = len(content("shared"))
    other.put(content("anything"))
    assert other.asked("download", oid, size)["error"]["code"] == 404
    assert other.get(f"objects/{oid}").status_code == 404
    assert other.request("HEAD", f"objects/{oid}").status_code == 404
    assert other.post(f"verify/{oid}", {"oid": oid, "size": size}).status_code == 404
    offered = other.asked("upload", oid, size)
    assert "upload" in offered["actions"], "told that the store has it"
    wrong = other.act(offered["actions"]["upload"], "PUT", data=bytes(size))
    assert wrong.status_code == 422
    assert other.get(f"objects/{oid}").status_code == 404
    assert other.put(content("shared")) == oid  # who has the bytes may have them
    assert other.fetch(oid, size).content == content("shared")
    assert "actions" not in other.asked("upload", oid, size)


def test_reading_is_not_writing_and_writing_is_not_ending_others_locks(closed: Served) -> None:
    alice, will, rita = (api(closed, name) for name in ("alice", "will", "rita"))
    oid = alice.put(content("roles"))
    assert rita.fetch(oid, 3200).content == content("roles")
    lock = alice.post("locks", {"path": "roles.bin"}).json()["lock"]["id"]
    assert lock in rita.get("locks").text
    for answer in (
        rita.batch("upload", (oid, 3200)),
        rita.request("PUT", f"objects/{oid}", data=content("roles")),
        rita.post("locks", {"path": "b.bin"}),
        rita.post("locks/verify", {}),
        rita.post(f"locks/{lock}/unlock", {"force": True}),
        will.post(f"locks/{lock}/unlock", {}),
        will.post(f"locks/{lock}/unlock", {"force": True}),
    ):
        assert answer.status_code == 403
        assert "may not" in answer.json()["message"] or "locked by alice" in answer.json()["message"]
    mine = will.post("locks", {"path": "wills.bin"}).json()["lock"]["id"]
    assert alice.post(f"locks/{mine}/unlock", {}).status_code == 403
    assert alice.post(f"locks/{mine}/unlock", {"force": True}).status_code == 200


def test_without_credentials_there_is_only_what_anybody_may_read(closed: Served) -> None:
    oid = api(closed, "alice", "public/art").put(content("public"))
    anybody = closed.api("public/art")
    assert anybody.fetch(oid, 3200).content == content("public")
    for answer in (
        anybody.batch("upload", (oid, 3200)),
        anybody.post("locks", {"path": "a"}),
        closed.api("studio/game").batch("download", (oid, 3200)),
        closed.api("no/such").batch("download", (oid, 3200)),
    ):
        assert answer.status_code == 401
        assert answer.headers["LFS-Authenticate"].startswith("Basic ")
    assert api(closed, "bob", "public/art").asked("download", oid, 3200)["actions"]


def test_a_wrong_password_is_401_and_after_some_429_with_the_time_to_wait(closed: Served) -> None:
    remembered = api(closed, "alice", address="192.0.2.1")
    assert remembered.batch("download").status_code == 200
    for name in ("alice", "nobody-of-that-name"):
        wrong = api(closed, name, password="wrong", address="192.0.2.1")
        assert [wrong.batch("download").status_code for _ in range(ATTEMPTS)] == [401] * ATTEMPTS
        answer = wrong.batch("download")
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    # The header says of itself that others sent it: only what the proxy added counts.
    spoofed = api(closed, "alice", password="wrong", address="203.0.113.9, 192.0.2.1")
    assert spoofed.batch("download").status_code == 429
    assert remembered.batch("download").status_code == 200, "who was let in before is locked out"
    assert api(closed, "alice", password="wrong", address="192.0.2.2").batch("download").status_code == 401


def test_a_name_that_is_nobodys_takes_as_long_as_a_wrong_password() -> None:
    stored = hashed("right")
    _compare("x", None)  # makes what it compares with

    def cpu(given: str | None) -> float:
        begun = time.thread_time()
        for _ in range(2):
            assert not _compare("wrong", given)
        return time.thread_time() - begun

    pairs = [(cpu(stored), cpu(None)) for _ in range(5)]
    known, unknown = (min(side) for side in zip(*pairs, strict=True))
    assert 0.5 < unknown / known < 2


def test_a_token_is_its_users_and_no_more_than_it_says(closed: Served) -> None:
    file = users(closed)
    reading = editing.add_token(file, "will", "ci", "read", None)
    old = editing.add_token(file, "will", "old", None, int(time.time()) - 1)
    full = editing.add_token(file, "will", "full", None, None)
    oid = api(closed, "will", authorization=f"Bearer {full}").put(content("token"))
    as_password = api(closed, "will", password=reading)
    assert as_password.fetch(oid, 3200).content == content("token")
    assert as_password.batch("upload", (oid, 3200)).status_code == 403
    for wrong in (
        api(closed, "alice", password=full),
        api(closed, "will", authorization=f"Bearer {full[:-1]}"),
        api(closed, "will", authorization=f"Bearer lfsfs_00000000_{full.rpartition('_')[2]}"),
        api(closed, "will", authorization=f"Bearer {old}"),
    ):
        wrong.address = "192.0.2.3"
        assert wrong.batch("download").status_code == 401
    editing.remove_token(file, "will", full.split("_")[1])
    assert api(closed, "will", authorization=f"Bearer {full}").batch("download").status_code == 401


def test_who_is_removed_is_out_at_once(closed: Served) -> None:
    editing.add_user(users(closed), "eve", "right")
    eve = api(closed, "eve", address="192.0.2.4")
    assert eve.batch("download").status_code == 404
    editing.grant(users(closed), "eve", "read", "studio/*")
    assert eve.batch("download").status_code == 200
    editing.set_password(users(closed), "eve", "other")
    assert eve.batch("download").status_code == 401
    editing.remove_user(users(closed), "eve")
    eve.password = "other"
    assert eve.batch("download").status_code == 401


def test_a_ticket_opens_what_it_is_for_and_nothing_else(closed: Served) -> None:
    alice = api(closed, "alice")
    oid, another = alice.put(content("ticket")), alice.put(content("another"))
    api(closed, "bob", "other/film").put(content("ticket"))
    header = alice.asked("download", oid, 3200)["actions"]["download"]["header"]
    assert set(header) == {"Authorization"}
    bearer = api(closed, "", authorization=header["Authorization"])
    assert bearer.get(f"objects/{oid}").status_code == 200
    abroad = api(closed, "", "other/film", authorization=header["Authorization"])
    for answer in (
        bearer.get(f"objects/{another}"),
        bearer.request("PUT", f"objects/{oid}", data=content("ticket")),
        bearer.batch("download", (oid, 3200)),
        bearer.get("locks"),
        abroad.get(f"objects/{oid}"),
    ):
        assert answer.status_code == 403
    scheme, _, token = header["Authorization"].partition(" ")
    forged = bytearray(base64.urlsafe_b64decode(token))
    forged[-2] ^= 1
    bearer.authorization = f"{scheme} {base64.urlsafe_b64encode(bytes(forged)).decode()}"
    assert bearer.get(f"objects/{oid}").status_code == 401


def _basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        _basic("no colon"),
        _basic("alice:"),
        _basic(":right"),
        _basic("alice:right\r\nSet-Cookie: stolen=1"),
        _basic("alice\0:right"),
        _basic("Alice:right"),
        _basic(" alice:right"),
        _basic("a" * 9000 + ":right"),
        _basic("everyone:right"),
        _basic("anonymous:"),
        "Bearer",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "Bearer lfsfs_",
        "Digest username=alice",
        "RemoteAuth",
        "RemoteAuth " + base64.b64encode(b"[]" * 40).decode(),
        "Negotiate x",
    ],
    ids=range(20),
)
def test_credentials_that_make_no_sense_are_401_and_come_back_in_no_header(
    closed: Served, authorization: str
) -> None:
    answer = api(
        closed, "", authorization=authorization, address=f"198.51.100.{len(authorization) % 250}"
    ).get("locks")
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "right" not in answer.text


def test_what_a_client_writes_into_a_lock_or_a_path_is_no_header(closed: Served) -> None:
    alice = api(closed, "alice")
    path = "a\r\nSet-Cookie: stolen=1\r\n\r\n<script>"
    answer = alice.post("locks", {"path": path, "ref": {"name": path}})
    assert answer.status_code == 201
    assert answer.json()["lock"]["path"] == path
    assert "Set-Cookie" not in answer.headers
    assert alice.post(f"locks/{answer.json()['lock']['id']}/unlock", {}).status_code == 200
    injected = requests.get(
        closed.url + "/studio/game%0d%0aSet-Cookie:%20stolen=1/info/lfs/locks", timeout=30
    )
    assert injected.status_code in (401, 404)
    assert "Set-Cookie" not in injected.headers


def test_oids_are_not_guessed_by_how_the_answer_differs(closed: Served) -> None:
    api(closed, "alice").put(content("guessed"))
    bob = api(closed, "bob", "other/film")
    there, absent = oid_of(content("guessed")), oid_of(b"nowhere")

    def told(oid: str) -> list[object]:
        said = {"oid": oid, "size": 3200}
        answers = [bob.get(f"objects/{oid}"), bob.post(f"verify/{oid}", said)]
        found: list[object] = [bob.asked("download", oid, 3200)["error"]]
        found += [sorted(bob.asked("upload", oid, 3200)["actions"])]
        return found + [(answer.status_code, answer.json()["message"].replace(oid, "")) for answer in answers]

    assert told(there) == told(absent)
