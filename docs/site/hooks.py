"""Steps of mkdocs: pages and sources from outside of docs/, and equations as MathML.

The README and the other documents of the project become pages, and every file of the project that a page links to goes
with the site, so that no link leads out of it.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "actors/kernels/README.md": "kernels.md",
}
"""Documents outside of docs/, and the pages that they become."""

LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
FUNCTION = re.compile(r"(<mi>(?:log|exp|max)</mi>)(?!<mo)")
ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|exc):<code>[~]?(.*?)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents from outside of docs/, the style sheet, and the files that pages link to."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "assets/extra.css", abs_src_path=str(Path(__file__).with_name("extra.css"))))
    linked = {
        target
        for file in list(files.documentation_pages())
        for target in _targets(file.content_string, _source_of(file.src_uri))
        if not (target in PAGES or target.startswith("docs/"))
    }
    for target in sorted(linked):
        if (ROOT / target).is_file():
            files.append(File.generated(config, _name_of(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links of a page to pages and files of the site."""
    source = _source_of(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        target = _resolve(match["target"], source)
        if target is None:
            return match[0]
        if (ROOT / target).is_dir():
            raise PluginError(f"{source}: the link to the folder {target} has no page on the site: link to a file")
        relative = posixpath.relpath(_name_of(target), posixpath.dirname(page.file.src_uri) or ".")
        return f"{match['before']}{relative}{match['anchor'] or ''}"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)


def on_page_content(content: str, **_: object) -> str:
    """Write equations as MathML, which browsers draw by themselves, and roles of docstrings as code."""
    content = BLOCK.sub(lambda match: _mathml(match[1], "block"), content)
    content = INLINE.sub(lambda match: _mathml(match[1], "inline"), content)
    return ROLE.sub(r"<code>\1</code>", content)


def _mathml(latex: str, display: str) -> str:
    """Return an equation as MathML, with the space after names of functions that TeX leaves."""
    equation: str = convert(html.unescape(latex).strip(), display=display)
    if "\\" in equation:
        raise PluginError(f"the equation {latex.strip()!r} has a command that latex2mathml does not know")
    return FUNCTION.sub(r'\1<mspace width="0.17em" />', equation)


def _source_of(page: str) -> str:
    """Return the path in the project of the document that is this page of the site."""
    return next((source for source, name in PAGES.items() if name == page), f"docs/{page}")


def _name_of(source: str) -> str:
    """Return the place on the site of a file of the project; sources are texts, so that browsers show them."""
    if source in PAGES:
        return PAGES[source]
    return source.removeprefix("docs/") if source.startswith("docs/") else f"source/{source}.txt"


def _resolve(target: str, source: str) -> str | None:
    """Return the path in the project that a link of a document leads to; None for addresses elsewhere."""
    if re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _targets(markdown: str, source: str) -> set[str]:
    found = {_resolve(match["target"], source) for match in LINK.finditer(FENCE.sub("", markdown))}
    return {target for target in found if target is not None}
