"""The page at /, without users: it shows what there is, and nothing that it shows can harm anybody."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfsfs import Oid, open_store
from lfsfs.server.page.finding import clean
from lfsfs.store import names
from lfsfs.store.index import Tx
from lfsfs.units import safe

from .page_views import card, get, page_of, tiles
from .pages import Element, check_accessible, parsed
from .served import Served, oid_of

HOSTILE = "tools/<script>alert(1)</script>"
HOSTILE_PATH = 'levels/\u202e"><img src=x onerror=alert(1)>.umap'


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("open")) as server:
        yield server


@pytest.fixture(scope="module")
def filled(open_server: Served) -> Served:
    """Two repositories that share an object, pushed by two people, and locks."""
    game, film = open_server.api("studio/game", "ann"), open_server.api("studio/film", "bob")
    for content in (b"a" * 3000, b"b" * 1000):
        game.put(content)
    film.put(b"a" * 3000)
    open_server.api(HOSTILE, "<b>eve</b>").put(b"hostile")
    for api, path in ((game, "art/hero.psd"), (film, HOSTILE_PATH)):
        assert api.post("locks", {"path": path}).status_code == 201
    return open_server


def test_a_new_store_has_a_page_that_says_how_to_begin_also_below_the_path_of_a_proxy(tmp_path: Path) -> None:
    with Served(tmp_path, "--url", "https://assets.example/lfs/") as server:
        page = page_of(server)
        assert tiles(page)["objects"] == "0"
        assert "lfs.url https://assets.example/lfs/OWNER/REPOSITORY.git/" in card(page, "Repositories").text
        assert "Nothing is stored yet" in card(page, "Growth").text
        assert "Nothing is locked" in card(page, "Locks").text
        assert "none: the local disk has the only copy" in card(page, "Storage").text
        assert not card(page, "Growth").all("svg")

        oid = oid_of(b"proxied")
        assert server.api("a/b").request("PUT", f"objects/{oid}", data=b"proxied").status_code == 200
        page = page_of(server)
        for link in page.all("a") + page.all("link"):
            assert link.attributes["href"].startswith(("/lfs/", "#"))
        assert page.one("form").attributes["action"] == "/lfs/-/search"
        assert get(server, f"/-/search?q={oid}").headers["location"] == f"/lfs/-/object/{oid}"
        assert "https://assets.example/lfs/a/b.git/info/lfs" in page_of(server, "/-/repository/a/b").text


def test_what_is_stored_is_told(filled: Served) -> None:
    page = page_of(filled)
    assert tiles(page) == {
        "objects": "3", "stored": "3.9 KiB", "saved by sharing": "2.9 KiB", "repositories": "3", "locks": "2",
    }  # fmt: skip
    rows = [[cell.text for cell in row.parts if isinstance(cell, Element)]
            for row in card(page, "Repositories").one("tbody").all("tr")]  # fmt: skip
    assert rows == [["studio/film", "1", "2.9 KiB"], ["studio/game", "2", "3.9 KiB"], [HOSTILE, "1", "7 B"]]
    assert len(card(page, "Newest objects").one("tbody").all("tr")) == 3
    assert "free of" in card(page, "Storage").text


def test_what_people_did_is_told_newest_first(filled: Served) -> None:
    done = [entry.text for entry in card(page_of(filled), "Recent activity").all("li")]
    assert [entry.rpartition(" just now")[0] for entry in done] == [
        'bob locked levels/\\u202e"><img src=x onerror=alert(1)>.umap in studio/film',
        "ann locked art/hero.psd in studio/game",
        f"<b>eve</b> pushed 1 object, 7 B , to {HOSTILE}".replace(" ,", ","),
        "bob pushed 1 object, 2.9 KiB, to studio/film",
        "ann pushed 2 objects, 3.9 KiB, to studio/game",
    ]


def test_growth_is_drawn_and_told_in_a_table(filled: Served) -> None:
    growth = card(page_of(filled), "Growth")
    assert "3.9 KiB in all" in growth.one("svg").attributes["aria-label"]
    assert growth.one("table").all("tr")[-1].text.endswith("3 3.9 KiB 3.9 KiB")


def test_the_page_of_a_repository(filled: Served) -> None:
    page = page_of(filled, "/-/repository/studio/game")
    assert tiles(page) == {"objects": "2", "in all": "3.9 KiB", "lock": "1"}
    assert f"lfs.url {filled.url}/studio/game.git/info/lfs" in card(page, "Use it").text
    assert "art/hero.psd" in card(page, "Locks").text
    oids = {link.attributes["title"] for link in card(page, "Objects").all("a")}
    assert oids == {oid_of(b"a" * 3000), oid_of(b"b" * 1000)}
    for wrong in ("/-/repository/studio/none", "/-/root/none", "/-/repository/studio/game?after=nonsense",
                  "/-/repository/..%2f..%2fetc", "/-/repository/"):  # fmt: skip
        page_of(filled, wrong, status=404)


def test_an_object_says_why_it_is_kept_and_comes_down(filled: Served) -> None:
    oid = oid_of(b"a" * 3000)
    page = page_of(filled, f"/-/object/{oid}")
    kept = [row.all("th")[0].text for row in card(page, "Why it is kept").one("tbody").all("tr")]
    assert kept == ["studio/film", "studio/game"]
    for link in card(page, "Get it").all("a"):
        assert get(filled, link.attributes["href"]).content == b"a" * 3000
    assert f"oid sha256:{oid} size 3000" in card(page, "Its pointer").text
    for wrong in (oid_of(b"none"), "abc", "%00", oid.upper()):
        page_of(filled, f"/-/object/{wrong}", status=404)


def test_search_finds_oids_repositories_and_locked_paths(filled: Served) -> None:
    oid = oid_of(b"b" * 1000)
    found = card(page_of(filled, f"/-/search?q={oid[:7]}"), "Objects")
    assert [link.text for link in found.all("a")] == [oid[:12], "studio/game"]
    for whole in (oid, f"%20sha256:{oid}%0a", f"oid%20sha256:{oid}", oid.upper()):
        answer = get(filled, f"/-/search?q={whole}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/-/object/{oid}")
    assert "studio/film" in card(page_of(filled, "/-/search?q=FILM"), "Repositories").text
    assert "art/hero.psd" in card(page_of(filled, "/-/search?q=hero"), "Locked paths").text
    assert "Nothing that you may see fits" in page_of(filled, "/-/search?q=absent").text
    assert "Type the beginning" in page_of(filled, "/-/search").text
    page_of(filled, f"/-/search?q={'x' * 5000}")
    page_of(filled, "/-/search?q=%ff%00%c3%28")


def test_names_and_roots_of_the_mount_are_found_by_their_beginning(tmp_path: Path) -> None:
    """Names that are no UTF-8 among them."""
    oid = trio.run(_name, tmp_path / "store")
    with Served(tmp_path) as server:
        objects = card(page_of(server, "/-/search?q=MAP"), "Objects")
        assert "incoming/levels/map\\xff1.umap" in objects.text
        page = page_of(server, f"/-/object/{oid}")
        assert "repos/clone" in card(page, "Why it is kept").text
        assert tiles(page_of(server, "/-/root/clone"))["object"] == "1"
        assert "repos/clone" in card(page_of(server), "Repositories").text


async def _name(path: Path) -> Oid:
    """An object with a name and a root."""
    async with open_store(path, create=True) as store:
        await store.add_repository("clone")
        oid = (await store.put(b"named", repository="clone")).oid

        def write(tx: Tx) -> None:
            names.make_root(tx, 0, 0)
            first = names.reserve(tx, 2)
            names.enter(tx, names.ROOT, b"levels", names.new_inode(first, "directory", 0o755, 0, 0))
            file = names.new_inode(first + 1, "file", 0o644, 0, 0)._replace(oid=oid, size=5)
            names.enter(tx, first, b"map\xff1.umap", file)

        await store.index.update(write)
        return oid


def test_nothing_that_a_name_holds_becomes_part_of_a_page(filled: Served) -> None:
    oid = oid_of(b"hostile")
    quoted = quote(HOSTILE)
    for path in ("/", f"/-/repository/{quoted}", f"/-/object/{oid}", f"/-/search?q={quoted}", "/-/locks",
                 "/-/repositories", "/-/search?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"):  # fmt: skip
        text = get(filled, path).text
        page = page_of(filled, path)
        assert not page.all("script") and not page.all("b")
        assert all(image.attributes["src"].startswith("/-/icon.svg?") for image in page.all("img"))
        assert "\u202e" not in text, "what turns the direction of writing is shown, not done"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(term=st.text(max_size=60) | st.text("0123456789abcdef/%<>&\"'", max_size=70))
def test_whatever_is_looked_for_the_answer_is_a_page(filled: Served, term: str) -> None:
    answer = get(filled, "/-/search", params={"q": term})
    assert answer.status_code in (200, 303)
    if answer.status_code == 200:
        page = parsed(answer.text)
        check_accessible(page)
        assert page.one("input").attributes["value"] == safe(clean(term))
    for kind in ("object", "repository", "root"):
        wrong = get(filled, f"/-/{kind}/{quote(term, safe='')}")
        assert wrong.status_code in (200, 404)
        if wrong.headers["content-type"].startswith("text/html"):  # a path that is no page's is the API's
            check_accessible(parsed(wrong.text))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(min_size=1, max_size=80).filter(lambda path: "\0" not in path))
def test_whatever_a_locked_path_holds_the_page_stays_one(filled: Served, path: str) -> None:
    api = filled.api("fuzzed/locks", "eve")
    made = api.post("locks", {"path": path})
    if made.status_code != 201:
        assert made.status_code in (409, 422)
        return
    try:
        shown = card(page_of(filled, "/-/repository/fuzzed/locks"), "Locks").one("th", scope="row").one("bdi")
        assert shown.text == " ".join(safe(path).split())
    finally:
        assert api.post(f"locks/{made.json()['lock']['id']}/unlock", {}).status_code == 200


def test_pages_load_nothing_from_elsewhere_and_run_nothing(filled: Served) -> None:
    for path in ("/", "/-/search", "/-/object/abc"):
        answer = get(filled, path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "script" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        page = parsed(answer.text)
        loaded = [one.attributes["href"] for one in page.all("link")] + [
            one.attributes["src"] for one in page.all("img")
        ]
        for address in loaded:
            assert address.startswith("/-/")
            asset = get(filled, address)
            assert asset.status_code == 200 and "immutable" in asset.headers["cache-control"]
            assert "http" not in asset.text.replace("http://www.w3.org/2000/svg", "")
        outside = [
            a.attributes["href"]
            for a in page.all("a")
            if not a.attributes["href"].startswith(("/", "#", "?"))
        ]
        assert outside == []


def test_a_page_is_looked_at_and_not_posted_to(filled: Served) -> None:
    assert requests.post(f"{filled.url}/", timeout=30).status_code == 405
    head = requests.head(f"{filled.url}/", timeout=30)
    assert head.status_code == 200 and head.text == "" and int(head.headers["content-length"]) > 1000


def test_a_name_that_somebody_pointed_at_us_shows_nothing(filled: Served) -> None:
    answer = get(filled, "/", headers={"Host": "evil.example"})
    assert answer.status_code == 403 and "studio/game" not in answer.text
