"""Checks of HTML pages that are to be complete in themselves."""

import base64
import hashlib
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its text without styles and scripts."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.scripts, self._open = [], [], [], []
        self.feed(html)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def check_self_contained(html):
    """Check that a page loads nothing, runs one script, which its policy names, and has no handlers; return it."""
    page = Page(html)
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                assert value.startswith(("#", "data:")), (tag, name, value[:80])
    assert not re.search(r"@import|url\((?!#|[\"']?#)", html)
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) - len(set(ids)) <= ids.count("head"), "an id is used twice"
    return page
