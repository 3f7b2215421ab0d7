"""The page at / with users: each sees what they may read, and no trace of the rest."""

import re
import time
from collections.abc import Iterator

import pytest
import requests

from lfsfs.server.access import editing

from .page_views import card, get, page_of, tiles
from .pages import check_accessible, parsed
from .served import Served, oid_of

ANN, BOB, ROOT, AUDITOR = ("ann", "ann's"), ("bob", "bob's"), ("root", "root's"), ("auditor", "auditor's")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("closed")
    users = folder / "users.toml"
    for name, secret in (ANN, BOB, ROOT):
        editing.add_user(users, name, secret)
    editing.grant(users, "ann", "write", "ann/*")
    editing.grant(users, "bob", "write", "bob/*")
    editing.grant(users, "everyone", "read", "shared/*")
    editing.grant(users, "root", "admin", "**")
    editing.add_user(users, *AUDITOR)
    editing.grant(users, "auditor", "admin", "-/whole/store")
    with Served(folder, config=f'[access]\nusers = "{users}"\n') as server:
        yield server


@pytest.fixture(scope="module")
def theirs(closed: Served) -> Served:
    """ann's and bob's, with one object that both have."""
    for (name, secret), contents in {ANN: (b"both", b"of ann"), BOB: (b"both", b"of bob")}.items():
        for content in contents:
            oid = oid_of(content)
            url = f"{closed.url}/{name}/secret-of-{name}.git/info/lfs"
            assert (
                requests.put(f"{url}/objects/{oid}", content, auth=(name, secret), timeout=30).status_code
                == 200
            )
        body = {"path": f"plans-of-{name}.psd"}
        headers = {"Content-Type": "application/vnd.git-lfs+json"}
        made = requests.post(f"{url}/locks", json=body, headers=headers, auth=(name, secret), timeout=30)
        assert made.status_code == 201, made.text
    return closed


def test_who_says_nothing_is_asked(theirs: Served) -> None:
    for path in ("/", "/-/search?q=a", f"/-/object/{oid_of(b'both')}", "/-/repositories", "/-/locks"):
        answer = get(theirs, path)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic ")
        assert "secret-of" not in answer.text
        check_accessible(parsed(answer.text))
    assert get(theirs, "/", auth=("ann", "wrong")).status_code == 401


def test_each_sees_their_own_and_no_trace_of_others(theirs: Served) -> None:
    mine, other = oid_of(b"of ann"), oid_of(b"of bob")
    both = oid_of(b"both")
    for path in ("/", "/-/repositories", "/-/locks", "/-/repository/ann/secret-of-ann", f"/-/object/{both}",
                 "/-/search?q=secret", "/-/search?q=plans", "/-/search?q=bob", f"/-/search?q={other[:5]}"):  # fmt: skip
        text = re.sub(r'value="[^"]*"|<h1>.*</h1>|<title>.*</title>', "", get(theirs, path, auth=ANN).text)
        assert "bob" not in text and other[:12] not in text, path
    page = page_of(theirs, auth=ANN)
    assert tiles(page) == {
        "objects": "2", "in these repositories": "10 B", "saved by sharing": "0 B", "repository": "1", "lock": "1",
    }  # fmt: skip
    assert not [one for one in page.all("h2") if one.text in ("Storage", "Newest objects")]
    assert "10 B in all" in card(page, "Growth").one("svg").attributes["aria-label"]
    assert str(theirs.store) not in page.text
    assert "ann/secret-of-ann" in page_of(theirs, f"/-/search?q={mine[:9]}", auth=ANN).text
    kept = card(page_of(theirs, f"/-/object/{oid_of(b'both')}", auth=ANN), "Why it is kept")
    assert [link.text for link in kept.all("a")] == ["ann/secret-of-ann"]


def test_what_is_not_mine_is_as_if_it_were_not_there(theirs: Served) -> None:
    def said(path: str) -> tuple[int, str]:
        answer = get(theirs, path, auth=ANN)
        return answer.status_code, re.sub(r"[0-9a-f]{32}|As of .*? UTC", "", answer.text)

    assert said(f"/-/object/{oid_of(b'of bob')}") == said(f"/-/object/{oid_of(b'of nobody')}")
    assert said("/-/repository/bob/secret-of-bob") == said("/-/repository/bob/none") == said("/-/root/none")
    for found, absent in ((oid_of(b"of bob"), oid_of(b"of nobody")), ("plans-of-bob", "plans-of-xyz")):
        answers = [said(f"/-/search?q={term}") for term in (found, absent)]
        assert answers[0] == (200, answers[1][1].replace(absent, found))


def test_when_an_object_came_in_is_not_told_to_those_who_see_a_part(theirs: Served) -> None:
    """It would say that somebody else had it before."""
    facts = card(page_of(theirs, f"/-/object/{oid_of(b'both')}", auth=BOB), "What it is").text
    assert "Came in" not in facts and "Last read" not in facts


@pytest.mark.parametrize("who", [ROOT, AUDITOR], ids=["root", "auditor"])
def test_who_administers_everything_sees_the_whole_store(theirs: Served, who: tuple[str, str]) -> None:
    page = page_of(theirs, auth=who)
    assert tiles(page)["objects"] == "3" and tiles(page)["saved by sharing"] == "4 B"
    assert "bob/secret-of-bob" in page.text and "ann/secret-of-ann" in page.text
    assert "plans-of-bob.psd" in card(page, "Locks").text
    assert f"signed in as {who[0]}" in page.text


def test_anonymous_sees_what_anonymous_may_read_and_can_sign_in(theirs: Served) -> None:
    users = theirs.folder / "users.toml"
    editing.grant(users, "anonymous", "read", "ann/*")
    try:
        deadline = time.monotonic() + 30
        while get(theirs).status_code == 401 and time.monotonic() < deadline:
            time.sleep(0.2)
        page = page_of(theirs)
        assert "ann/secret-of-ann" in page.text and "bob" not in page.text
        (link,) = [link for link in page.all("a") if link.text == "Sign in"]
        assert get(theirs, link.attributes["href"]).status_code == 401
        signed = get(theirs, link.attributes["href"], auth=BOB)
        assert (signed.status_code, signed.headers["location"]) == (303, "/")
    finally:
        editing.revoke(users, "anonymous", "ann/*")
