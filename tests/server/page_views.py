"""Pages as the tests of the server look at them, and what their parts say."""

from typing import Any

import requests

from .pages import Element, check_accessible, parsed
from .served import Served


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
