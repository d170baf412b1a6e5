"""A strict reader of pages: every element closed in order, ids unique, and all that a page would load."""

from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "hr", "input"}


class PageReader(HTMLParser):
    """Collects elements, ids, addresses and text; asserts that elements nest as they must."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.elements if attribute in attributes]

    def tags(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(html: str) -> PageReader:
    """The page, read to its end."""
    reader = PageReader()
    reader.feed(html)
    reader.close()
    assert reader.open == [], f"left open: {reader.open}"
    return reader


def assert_sound(html: str) -> PageReader:
    """Everything promised of any page: it parses, stands alone, names no host, and stays under 5 MB."""
    page = read(html)
    assert len(html.encode()) < 5_000_000
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert page.tags("script") == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for address in page.values("src") + page.values("href"):
        assert address.startswith(("#", "data:")), address
        assert not address.startswith("#") or address[1:] in ids, address
    for pointed in page.values("aria-labelledby"):
        assert pointed in ids
    assert all(image.get("alt") for image in page.tags("img"))
    assert all(figure.get("aria-label") for figure in page.tags("svg"))
    assert len(page.tags("h1")) == 1
    return page
