"""The map of an embedding collection: for those who see the whole store, without a script, as text too."""

import re
from pathlib import Path

import numpy as np
import pytest

import lfsfs
from lfsfs.server.access import editing

from .page_views import card, get, page_of
from .served import Served

HASHES = [f"{number:02x}" * 32 for number in range(1, 40)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("mapped")
    with lfsfs.connect(folder / "store", create=True) as client:
        matrix = np.random.default_rng(3).standard_normal((len(HASHES), 16)).astype(np.float32)
        client.embeddings.write_embeddings_batch((HASHES, matrix))
    with Served(folder) as server:
        yield server


def test_the_overview_leads_to_the_map_and_each_dot_tells_its_hash(served: Served) -> None:
    embeddings = card(page_of(served), "Embeddings")
    (link,) = embeddings.all("a")
    assert link.attributes["href"] == "/-/embeddings/default"
    page = page_of(served, "/-/embeddings/default")
    drawing = next(one for one in page.all("svg") if one.attributes.get("class") == "map")
    dots = drawing.all("a")
    assert {dot.attributes["href"] for dot in dots} == {f"?at={text}#map" for text in HASHES}
    assert {re.sub(r"\s", "", dot.one("text").text) for dot in dots} == set(HASHES)
    for dot in dots:
        where = dot.one("circle").attributes
        assert 0 <= float(where["cx"]) <= 600 and 0 <= float(where["cy"]) <= 600
    table = {row.text for row in page.one("table").all("th") if row.attributes.get("scope") == "row"}
    assert table == set(HASHES), "by keyboard and for who sees no picture"


def test_a_chosen_dot_is_told_in_words_with_its_neighbours_first(served: Served) -> None:
    page = page_of(served, f"/-/embeddings/default?at={HASHES[7]}")
    chosen = next(one for one in page.all("p") if one.attributes.get("id") == "chosen")
    assert chosen.one("code").text == HASHES[7]
    rows = [row.text for row in page.one("table").all("th") if row.attributes.get("scope") == "row"]
    assert rows[0] == HASHES[7]
    assert len(page_of(served, "/-/embeddings/default?at=%3Cscript%3E").all("script")) == 0


def test_a_collection_that_is_not_there(served: Served) -> None:
    for name in ("absent", "..", "a%2Fb", "%00"):
        assert get(served, f"/-/embeddings/{name}").status_code == 404


def test_what_cannot_be_drawn_is_said(served: Served) -> None:
    with lfsfs.connect(served.store) as client:
        client.embeddings.collection("texts").write_embeddings_batch({"a" * 64: np.asarray(["x", "y"])})
    assert "no vectors of numbers" in page_of(served, "/-/embeddings/texts").one("main").text


def test_it_is_only_for_those_who_see_the_whole_store(tmp_path: Path) -> None:
    with lfsfs.connect(tmp_path / "store", create=True) as client:
        client.embeddings.write_embeddings_batch((HASHES, np.ones((len(HASHES), 2), np.float32)))
    users = tmp_path / "users.toml"
    for name in ("ann", "root"):
        editing.add_user(users, name, f"secret of {name}")
    editing.grant(users, "ann", "admin", "ann/*")
    editing.grant(users, "root", "admin", "**")
    with Served(tmp_path, config=f'[access]\nusers = "{users}"\n') as server:
        path = "/-/embeddings/default"
        assert get(server, path).status_code == 401
        assert get(server, path, auth=("ann", "secret of ann")).status_code == 404
        assert "Embeddings" not in get(server, "/", auth=("ann", "secret of ann")).text
        assert HASHES[0] in get(server, path, auth=("root", "secret of root")).text
