"""Checks on a page that must open anywhere."""

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr", "col"}
FETCHING = {"src", "srcset", "poster", "data", "action", "xlink:href"}  # attributes a browser fetches on its own
LIMIT = 5_000_000  # bytes


class Page(HTMLParser):
    """Reads a page and notes every text, tag that does not close, and address."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.used: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        self.wrong += self.open

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self._note(tag, name, value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            self._note(tag, name, value or "")

    def _note(self, tag: str, name: str, value: str) -> None:
        if name == "id":
            self.ids.append(value)
        elif name == "href" and tag == "a":
            self.links.append(value)
        elif name == "href" and value.startswith("#"):
            self.used.append(value[1:])
        elif name in FETCHING or name == "href":
            self.fetched.append(value)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: Path) -> Page:
    """The page, found well formed, small, and without anything that a browser would fetch."""
    page = Page(path)
    assert page.wrong == []
    assert page.fetched == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.used) <= set(page.ids)
    assert {link.split(":")[0] for link in page.links} <= {"https", "data"}
    assert [link for link in page.links if link.startswith("http")] == ["https://arxiv.org/abs/2010.05625"]
    assert not re.search(r"@import|url\(|\bimport\(|fetch\(|XMLHttpRequest", page.source)
    assert len(page.source.encode()) < LIMIT
    return page


def numbers_of(path: Path) -> list[str]:
    """Every field of a CSV file as it is written there."""
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        return [field for row in csv.reader(file) for field in row if field]
