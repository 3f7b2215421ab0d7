"""The page at /: it shows what there is, to those who may know of it, and nothing that it shows can harm them."""

import re
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lfsfs import Oid, open_store
from lfsfs.errors import Unavailable
from lfsfs.server.access import editing
from lfsfs.server.page import derived
from lfsfs.server.page.derived import Derived
from lfsfs.server.page.finding import clean
from lfsfs.server.page.locked import Locked
from lfsfs.server.page.plot import HEIGHT, LEAST_BARS, MOST_BARS, WIDTH, draw
from lfsfs.store import names
from lfsfs.store.growth import HOUR_NS, Series
from lfsfs.store.index import Tx
from lfsfs.store.locks import LocalLocks, LockPage
from lfsfs.store.references import Repository
from lfsfs.units import safe

from .pages import Element, check_accessible, parsed
from .served import Served, oid_of

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "tools/<script>alert(1)</script>"
HOSTILE_PATH = 'levels/\u202e"><img src=x onerror=alert(1)>.umap'
ANN, BOB, ROOT, AUDITOR = ("ann", "ann's"), ("bob", "bob's"), ("root", "root's"), ("auditor", "auditor's")


def page_of(server: Served, path: str = "/", *, status: int = 200, **how: Any) -> Element:
    """The page, which whatever its status is usable."""
    answer = get(server, path, **how)
    assert answer.status_code == status, answer.text
    page = parsed(answer.text)
    check_accessible(page)
    return page


def get(server: Served, path: str = "/", **how: Any) -> requests.Response:
    return requests.get(f"{server.url}{path}", timeout=30, allow_redirects=False, **how)


def card(page: Element, heading: str) -> Element:
    (found,) = [one for one in page.all("section") if one.all("h2") and one.all("h2")[0].text == heading]
    return found


def tiles(page: Element) -> dict[str, str]:
    found = [one for one in page.all("dl") if one.attributes.get("class") == "tiles"]
    return {tile.one("dt").text: tile.one("dd").text for tile in found[0].all("div")}


# Without users: all is shown.


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
            file = replace(names.new_inode(first + 1, "file", 0o644, 0, 0), oid=oid, size=5)
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


# With users: each sees what they may read, and no trace of the rest.


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


# What is behind it.


def test_a_plot_has_few_enough_bars_and_ends_at_the_total() -> None:
    now = 1_900_000_000
    for hours in (0, 1, 50, 1_000, 30_000, 400_000):
        series = Series()
        for back, size in ((hours, 700), (hours // 2, 1), (0, 3 << 20)):
            series.add((now // 3600 - back) * HOUR_NS, size)
        found = draw(series, now)
        assert found is not None
        assert LEAST_BARS <= len(found.bars) <= MOST_BARS + 1
        assert sum(bar.bytes for bar in found.bars) == found.bars[-1].total == 701 + (3 << 20)
        assert sum(bar.objects for bar in found.bars) == 3
        assert 3 <= len(found.lines) <= 6 and found.lines[-1] == (HEIGHT, "0 B") and found.lines[0][0] == 0
        assert abs(found.bars[-1].x + found.bars[-1].width - WIDTH) < 0.01
    assert draw(Series(), now) is None


async def test_a_long_walk_keeps_no_request_waiting_and_is_not_begun_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = 0

    def walk() -> Generator[None, None, int]:
        nonlocal walks
        walks += 1
        for _ in range(10):
            time.sleep(0.03)
            yield
        return walks

    monkeypatch.setattr(derived, "SHARE", 1)
    async with open_store(tmp_path / "store", create=True) as store, trio.open_nursery() as nursery:
        value = Derived(store.index, walk, trio.CapacityLimiter(1))
        assert await value.current(nursery, patience=0.01) is None
        assert await value.current(nursery, patience=0.01) is None
        assert await value.current(nursery, patience=30) == 1
        assert await value.current(nursery, patience=30) == 1, "nothing has changed"
        await store.put(b"something")
        assert await value.current(nursery, patience=0.01) == 1, "it rests: the last one is shown"
        await trio.sleep(1)
        assert await value.current(nursery, patience=30) == 2
        assert walks == 2


@pytest.mark.slow
def test_templates_and_style_are_in_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "lfsfs"):
        subprocess.run(["cp", "-r", REPOSITORY / name, source / name], check=True)
    made = [
        sys.executable,
        "-c",
        "import setuptools; setuptools.setup()",
        "-q",
        "build",
        "--build-lib",
        tmp_path / "built",
    ]
    subprocess.run(made, cwd=source, check=True, capture_output=True, timeout=120)
    page = REPOSITORY / "lfsfs" / "server" / "page"
    wanted = {
        str(file.relative_to(REPOSITORY))
        for part in ("templates", "assets")
        for file in (page / part).iterdir()
    }
    assert wanted and not {name for name in wanted if not (tmp_path / "built" / name).is_file()}


class Dear:
    """Locks that lie far away, some of them out of reach."""

    def __init__(self, near: LocalLocks) -> None:
        self.create, self.get, self.delete = near.create, near.get, near.delete
        self.near, self.asked = near, 0

    async def list(self, repository: str, *more: Any) -> LockPage:
        if repository == "/away":
            raise Unavailable("the bucket is away")
        self.asked += 1
        await trio.sleep(0.2)
        return await self.near.list(repository, *more)


async def test_a_list_of_locks_that_was_dear_is_shown_again_and_one_that_fails_is_told(
    tmp_path: Path,
) -> None:
    """Locks in a bucket cost requests. The lists of the store itself are never old."""

    def repositories(*names: str) -> list[Repository]:
        return [Repository(number, name, 0) for number, name in enumerate(names)]

    async with open_store(tmp_path / "store", create=True) as store:
        near = LocalLocks(store.index)
        dear = Dear(near)
        shown, at_once = Locked(dear), Locked(near)
        for path in ("x", "y"):
            await near.create("/a", path, "ann")
            assert [held.lock.path for held in (await shown.of(repositories("/a"))).locks] == ["x"]
            assert len((await at_once.of(repositories("/a"))).locks) == 1 + (path == "y")
        assert dear.asked == 1
        some = await shown.of(repositories("/a", "/away"))
        assert (len(some.locks), some.complete, some.problem) == (1, False, "the bucket is away")
