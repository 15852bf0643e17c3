"""HTML pages in one file each: nothing is loaded from anywhere, all texts are escaped, and scripts are named by digest.

A page consists of sections, a section of panels, and a panel of figures, tables and sentences. What could not be
measured is said in the panel's place.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from runner.report.model_layout import BOX_HEIGHT, BOX_WIDTH, Drawing
from runner.report.printable import printable


@dataclass(frozen=True)
class Picture:
    """An SVG element, and what it shows, for those who do not see it."""

    svg: str
    shows: str


@dataclass(frozen=True)
class Table:
    """A table; where its values are `numbers`, they are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    numbers: bool = True


@dataclass(frozen=True)
class Panel:
    """A part of a section.

    Parameters
    ----------
    title : str
    pictures : sequence of Picture
    tables : sequence of Table
    sentences : sequence of str
    missing : str
        Why there is nothing to show; empty otherwise.
    code : str
        Text that is shown as it is.
    drawing : Drawing, optional
        Of the model.
    wide : bool
        Whether it takes the whole width of the page.
    """

    title: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()
    missing: str = ""
    code: str = ""
    drawing: Drawing | None = None
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page, with its place in the table of contents."""

    key: str
    title: str
    panels: Sequence[Panel]


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("runner.report", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or callable(value) else _text(value),
    )
    made.tests["number"] = _is_number
    made.globals.update(box_width=BOX_WIDTH, box_height=BOX_HEIGHT, markup=Markup)
    return made


def _text(value: Any) -> Any:
    """Return a value for a page: texts without control characters, which HTML does not allow; "90 %" is not broken."""
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", printable(value, 1 << 20)) if isinstance(value, str) else value


def _is_number(value: Any) -> bool:
    text = str(value)
    return bool(re.fullmatch(r"[−+-]?[\d,.]+(e[+-]?\d+)?( ?(s|min|%|B|KiB|MiB|GiB|nats))?", text))


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].strip()


def render_page(title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, Any] | None = None) -> str:
    """Return a page as HTML.

    Parameters
    ----------
    title, subtitle : str
    sections : sequence of Section
    facts : mapping of str to value, optional
        The figures at its top, by name.
    """
    script = _source("page.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            facts=facts or {},
            style=Markup(_source("page.css")),
            script=Markup(script),
            digest=script_digest(script),
        )
    )


def render_watch_page(run: str, drawing: Drawing) -> tuple[str, str]:
    """Return the page that follows a run, and the digest of its script for the server's policy."""
    script = "\n".join((_source("page.js"), _source("watch.js")))
    digest = script_digest(script)
    html = (
        _environment()
        .get_template("watch.html.j2")
        .render(run=run, drawing=drawing, style=Markup(_source("page.css")), script=Markup(script), digest=digest)
    )
    return html, digest


def script_digest(script: str) -> str:
    """Return the name of a script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
