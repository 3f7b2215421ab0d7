"""The page in a real browser, headless Chromium: light, dark, as wide as a phone, and by keyboard alone.

pytest tests/server/test_page_in_browser.py --screenshots FOLDER       # to look at them
"""

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from gitlfs.mounted import within
from s3.servers import moto
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import lfsfs
from lfsfs.server.access import editing

from .served import Served, oid_of

pytestmark = pytest.mark.slow

WIDTHS = {"desk": 1200, "phone": 320}
SCHEMES = ("light", "dark")
LONG = "research/a-repository-whose-name-is-much-longer-than-any-phone-is-wide-and-has-no-space"
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
         "--disable-background-networking")  # fmt: skip
CONTRAST = 4.5
"""WCAG 2.2, 1.4.3."""

CONTRASTS = """
const parts = text => text.match(/[\\d.]+/g).map(Number);
const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = colour => {
  const [red, green, blue] = colour.slice(0, 3).map(value => linear(value / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ground = element => {
  for (; element; element = element.parentElement) {
    const colour = parts(getComputedStyle(element).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const ratio = (element, pseudo) => {
  const two = [luminance(parts(getComputedStyle(element, pseudo).color)), luminance(ground(element))];
  return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
};
const found = [[ratio(document.querySelector('#q'), '::placeholder'), 'placeholder']];
for (const element of document.querySelectorAll('body *')) {
  const speaks = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (speaks && !element.closest('svg, .hidden') && element.getClientRects().length)
    found.push([ratio(element, null), element.outerHTML.slice(0, 90)]);
}
return found;
"""
TOO_WIDE = """
return [...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.hidden, .skip') && e.getBoundingClientRect().right > arguments[0] + 0.5)
  .map(e => e.outerHTML.slice(0, 90));
"""
FOCUSED = """
const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
return {name: (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent).trim().replace(/\\s+/g, ' '),
        tag: e.tagName, outline: parseFloat(style.outlineWidth), style: style.outlineStyle,
        seen: box.bottom > 0 && box.top < innerHeight, body: e === document.body};
"""


class Browser:
    """Chromium with one window. What a page says on its console, or a policy refuses, is an error."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for argument in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        self.driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        self.driver.set_page_load_timeout(60)

    def tell(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def dress(self, scheme: str, width: int) -> None:
        self.width = width
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.tell("Emulation.setEmulatedMedia", features=features)
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def open(self, url: str) -> None:
        self.driver.get(url)
        assert self.driver.get_log("browser") == []  # type: ignore[no-untyped-call]

    def press(self, *keys: str) -> dict[str, Any]:
        """What has the focus then."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()
        return self.focused()

    def focused(self) -> dict[str, Any]:
        return dict(self.driver.execute_script(FOCUSED))  # type: ignore[no-untyped-call]

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def shoot(self, file: Path) -> None:
        """The whole page."""
        size = self.tell("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.tell("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(shot["data"]))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.driver.quit()


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    given = request.config.getoption("--screenshots")
    folder = Path(given) if given else tmp_path_factory.mktemp("shots")
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture(scope="module")
def filled(server: Served) -> Served:
    for repository, user in (("studio/game", "ann"), (LONG, "build machine"), ("tools/<i>x</i>", "bob")):
        api = server.api(repository, user)
        for number in range(5):
            api.put(f"{number} of {repository if number else 'both'}".encode() * 4000)
        path = f"art/{'a-long-name-' * 9}/hero \u202e.psd"
        assert api.post("locks", {"path": path}).status_code == 201
    random = np.random.default_rng(9)
    heaps = np.repeat(6 * random.standard_normal((5, 32)), 80, axis=0) + random.standard_normal((400, 32))
    with lfsfs.connect(server.store) as client:
        client.embeddings.write_embeddings_batch(([f"{row:064x}" for row in range(400)], heaps))
    return server


def check_looks(browser: Browser, shot: Path) -> None:
    """Nothing sticks out, everything can be read, and there is a picture of it."""
    browser.shoot(shot)
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert browser.run(TOO_WIDE, browser.width) == []  # a phone would shrink the page until all of it fits
    contrasts = browser.run(CONTRASTS)
    assert len(contrasts) > 8
    assert [(round(ratio, 2), what) for ratio, what in contrasts if ratio < CONTRAST] == []


def test_an_empty_store_can_be_looked_at(browser: Browser, server: Served, shots: Path) -> None:
    browser.dress("light", WIDTHS["desk"])
    browser.open(server.url)
    check_looks(browser, shots / "empty.png")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("device", WIDTHS)
def test_every_page_can_be_read_in_every_light_and_width(
    browser: Browser, filled: Served, shots: Path, scheme: str, device: str
) -> None:
    browser.dress(scheme, WIDTHS[device])
    oid = oid_of(b"0 of both" * 4000)
    pages = {
        "overview": "/", "object": f"/-/object/{oid}", "repository": f"/-/repository/{LONG}", "search": "/-/search?q=a",
        "locks": "/-/locks", "nothing": "/-/search?q=nothing%20fits",
        "map": f"/-/embeddings/default?at={7:064x}",
    }  # fmt: skip
    for name, path in pages.items():
        browser.open(f"{filled.url}{path}")
        check_looks(browser, shots / f"{name}-{device}-{scheme}.png")
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(", "))) < 200) == (scheme == "dark")


DOT = """
const dot = document.querySelectorAll('.map a')[arguments[0]];
dot.scrollIntoView({block: 'center'});
const box = dot.querySelector('circle').getBoundingClientRect();
return [box.x + box.width / 2, box.y + box.height / 2];
"""
TOLD = """
return [...document.querySelectorAll('.map text')].filter(text => getComputedStyle(text).display !== 'none')
  .map(text => text.textContent);
"""


def test_a_dot_of_the_map_tells_its_hash_to_a_mouse_a_finger_and_a_keyboard(
    browser: Browser, filled: Served, shots: Path
) -> None:
    browser.dress("light", WIDTHS["desk"])
    browser.open(f"{filled.url}/-/embeddings/default")
    assert browser.run(TOLD) == []
    x, y = browser.run(DOT, 399)  # the last one lies above all others
    browser.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.run(TOLD) == [f"{399:064x}"]
    browser.shoot(shots / "map-pointed-at.png")
    browser.dress("dark", WIDTHS["phone"])
    browser.open(f"{filled.url}/-/embeddings/default")
    x, y = browser.run(DOT, 399)
    for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
        browser.tell("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    wait = WebDriverWait(browser.driver, 10)
    chosen = "return document.querySelector('#chosen code')?.textContent"
    wait.until(lambda _: browser.run(chosen) == f"{399:064x}")
    browser.shoot(shots / "map-touched.png")
    browser.dress("light", WIDTHS["desk"])
    browser.open(f"{filled.url}/-/embeddings/default")
    browser.run("document.querySelector('summary').focus()")
    browser.press(Keys.ENTER)
    browser.press(Keys.TAB)
    assert browser.press(Keys.TAB)["name"] == f"{0:064x}"
    browser.press(Keys.ENTER)
    wait.until(lambda _: browser.run(chosen) == f"{0:064x}")


def test_the_page_is_used_by_keyboard_alone(browser: Browser, filled: Served) -> None:
    browser.dress("light", WIDTHS["desk"])
    browser.open(filled.url)
    stops = [browser.press(Keys.TAB)]
    while not stops[-1]["body"] and len(stops) < 200:
        stops.append(browser.press(Keys.TAB))
    named = [stop["name"] for stop in stops[:-1]]
    assert named[:4] == [
        "Skip to the content",
        "lfsfs",
        "Search for an oid, a name or a repository",
        "Search",
    ]
    assert LONG in named and "The same as a table" in named
    for stop in stops[:-1]:
        assert stop["name"] and stop["seen"], f"the focus is where nobody sees it: {stop}"
        assert stop["outline"] >= 2 and stop["style"] == "solid", f"nothing shows the focus: {stop}"
    links = len(
        browser.driver.find_elements(By.CSS_SELECTOR, "a[href], button, input, summary, [tabindex='0']")
    )
    hidden = len(browser.driver.find_elements(By.CSS_SELECTOR, "details:not([open]) [tabindex='0']"))
    assert len(named) == links - hidden, "the keyboard reaches everything, once"


def test_the_skip_link_skips_and_the_table_opens(browser: Browser, filled: Served) -> None:
    browser.dress("light", WIDTHS["phone"])
    browser.open(filled.url)
    browser.press(Keys.TAB)
    assert browser.press(Keys.ENTER)["tag"] == "MAIN"
    assert browser.press(Keys.TAB)["name"] == "The same as a table"
    browser.press(Keys.ENTER)
    assert browser.run("return document.querySelector('details').open")
    assert browser.press(Keys.TAB)["name"] == "Growth as a table"


def test_a_search_by_keyboard_leads_to_the_object(browser: Browser, filled: Served) -> None:
    oid = oid_of(b"0 of both" * 4000)
    browser.dress("dark", WIDTHS["phone"])
    browser.open(filled.url)
    for _ in range(3):
        browser.press(Keys.TAB)
    browser.press(oid[:10], Keys.ENTER)
    assert browser.driver.title.startswith(oid[:10])
    assert browser.run("return document.querySelector('#q').value") == oid[:10]
    browser.driver.find_element(By.LINK_TEXT, oid[:12]).click()
    assert browser.driver.find_element(By.CSS_SELECTOR, ".title p").text == oid
    kept = [
        one.text for one in browser.driver.find_elements(By.CSS_SELECTOR, "[aria-labelledby=why] tbody th")
    ]
    assert kept == sorted([f"{LONG}", "studio/game", "tools/<i>x</i>"])


def test_a_search_for_markup_runs_nothing(browser: Browser, filled: Served) -> None:
    browser.open(
        f"{filled.url}/-/search?q=%22%3E%3Cimg%20src=x%20onerror=document.title=1%3E%3Cscript%3Edocument.title=1"
    )
    assert "Search" in browser.driver.find_element(By.TAG_NAME, "h1").text
    assert browser.driver.title != "1" and not browser.driver.find_elements(By.TAG_NAME, "script")


def test_who_may_see_something_without_credentials_can_sign_in(
    browser: Browser, shots: Path, tmp_path: Path
) -> None:
    """A browser sends credentials by itself only below the path at which it was asked for them."""
    users = tmp_path / "users.toml"
    editing.add_user(users, "ann", "secret")
    editing.grant(users, "ann", "write", "studio/*")
    editing.grant(users, "anonymous", "read", "studio/open")
    with Served(tmp_path, config=f'[access]\nusers = "{users}"\n') as server:
        for name in ("open", "closed"):
            url = f"{server.url}/studio/{name}.git/info/lfs/objects/{oid_of(name.encode())}"
            assert requests.put(url, name.encode(), auth=("ann", "secret"), timeout=30).status_code == 200
        browser.dress("light", WIDTHS["desk"])
        browser.open(server.url)
        assert "studio/closed" not in browser.driver.page_source
        way = browser.driver.find_element(By.LINK_TEXT, "Sign in").get_attribute("href")
        assert way is not None
        browser.driver.get(way.replace("://", "://ann:secret@"))  # what the browser would ask a person
        browser.open(server.url)
        assert browser.driver.find_element(By.CLASS_NAME, "who").text == "signed in as ann"
        browser.driver.find_element(By.LINK_TEXT, "studio/closed").click()
        check_looks(browser, shots / "signed-in.png")
        browser.open(server.url)
        check_looks(browser, shots / "a-part.png")


def test_an_outage_of_s3_can_be_seen_and_what_waits_for_it(
    browser: Browser, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def storage() -> str:
        browser.open(server.url)
        return browser.driver.find_element(By.CSS_SELECTOR, "[aria-labelledby=storage]").text

    browser.dress("dark", WIDTHS["desk"])
    with ExitStack() as stack, ExitStack() as outage:
        bucket = outage.enter_context(moto(tmp_path / "moto"))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret_access_key)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
        url = f"s3://{bucket.bucket}/page"
        server = stack.enter_context(Served(tmp_path, "--s3", url, "--s3-endpoint", bucket.endpoint))
        server.api().put(b"uploaded")
        assert within(30, lambda: "nothing waits" in storage()), storage()
        assert f"answers {url}, write-back" in storage()
        check_looks(browser, shots / "s3.png")
        outage.close()
        server.api().put(b"waits" * 1000)
        assert within(60, lambda: "does not answer" in storage()), storage()
        assert "1 object 4.9 KiB" in storage()
        locks = browser.driver.find_element(By.CSS_SELECTOR, "[aria-labelledby=locks]").text
        assert "does not answer" in locks, "with S3, locks are in the bucket"
        check_looks(browser, shots / "s3-away.png")
