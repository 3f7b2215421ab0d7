"""A page as a reader without eyes gets it: its parts in order, checked for what makes it usable at all."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset(("meta", "link", "input", "img", "br"))


@dataclass
class Element:
    """`text`: with that of all elements inside."""

    tag: str
    attributes: dict[str, str]
    within: "Element | None" = None
    parts: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        pieces = [part if isinstance(part, str) else part.text for part in self.parts]
        return " ".join(" ".join(pieces).split())

    def every(self) -> list["Element"]:
        """Those inside, however deep, in the order in which they begin."""
        found: list[Element] = []
        for part in self.parts:
            if isinstance(part, Element):
                found += [part, *part.every()]
        return found

    def all(self, tag: str) -> list["Element"]:
        return [element for element in self.every() if element.tag == tag]

    def one(self, tag: str, **attributes: str) -> "Element":
        (found,) = [one for one in self.all(tag) if attributes.items() <= one.attributes.items()]
        return found


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = self.at = Element("", {})

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attributes}, self.at)
        assert len(made.attributes) == len(attributes), f"an attribute twice: {attributes}"
        self.at.parts.append(made)
        if tag not in VOID:
            self.at = made

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Of SVG; HTML has none."""
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.at.tag == tag, f"</{tag}> ends <{self.at.tag}>"
            assert self.at.within is not None
            self.at = self.at.within

    def handle_data(self, data: str) -> None:
        self.at.parts.append(data)


def parsed(text: str) -> Element:
    """The page; an error where its elements are not closed in order."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.at is parser.root, f"<{parser.at.tag}> is not closed"
    return parser.root


def check_accessible(page: Element) -> None:
    """What can be told without a browser of WCAG 2.2 AA: language, title, headings, landmarks, labels, table headers."""
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("head").one("title").text
    assert len(page.all("h1")) == 1 and len(page.all("main")) == 1
    everything = page.every()
    ids = [element.attributes["id"] for element in everything if "id" in element.attributes]
    assert len(ids) == len(set(ids)), f"an id twice: {ids}"
    for element in everything:
        for name in ("aria-labelledby", "for"):
            assert element.attributes.get(name, ids[0]) in ids
        assert not {"style", "onclick", "onerror", "onload", "tabIndex"} & set(element.attributes)
    assert page.one("a", **{"class": "skip"}).attributes["href"] == "#main"
    labelled = {label.attributes["for"] for label in page.all("label")}
    assert all(field.attributes["id"] in labelled for field in page.all("input"))
    assert all("alt" in image.attributes for image in page.all("img"))
    assert all(link.text and link.attributes["href"] for link in page.all("a"))
    assert all(drawing.attributes["aria-label"] for drawing in page.all("svg"))
    for table in page.all("table"):
        assert all(cell.attributes["scope"] in ("col", "row") for cell in table.all("th"))
        widths = {len(row.all("th")) + len(row.all("td")) for row in table.all("tr")}
        assert len(widths) == 1, "rows of different lengths"
