"""The drawing of a model: where the boxes of its modules lie, and what is written at the arrows between them.

The template ``model.svg.j2`` draws it; a page that follows a run changes the boxes' texts and classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.report.printable import printable_line

BOX_WIDTH, BOX_HEIGHT = 190, 64
PITCH, GAP, MARGIN = 250, 104, 14
MAX_SHOWN = 26
"""Characters of a name in a box."""


@dataclass(frozen=True)
class Sent:
    """Messages along one arrow: from `sender` to `receiver`, with lines of text."""

    sender: str
    receiver: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Box:
    """A module's box: its upper left corner and its texts."""

    module: str
    x: float
    y: float
    name: str
    kind: str
    note: str


@dataclass(frozen=True)
class Arrow:
    """An arrow between two boxes, and its texts at (`at_x`, `at_y`), which end there if `ends`."""

    x1: float
    y1: float
    x2: float
    y2: float
    lines: tuple[str, ...]
    at_x: float
    at_y: float
    ends: bool


@dataclass(frozen=True)
class Drawing:
    """A model's drawing; lengths in pixels."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def draw_model(
    modules: Mapping[str, str],
    connections: Iterable[tuple[str, str]],
    messages: Sequence[Sent] = (),
    notes: Mapping[str, str] | None = None,
) -> Drawing:
    """Lay a model out: sources at the bottom, each module above all those that send to it.

    Parameters
    ----------
    modules : mapping of str to str
        The type of each module, in order of connection.
    connections : iterable of (lower, upper)
    messages : sequence of Sent, optional
        By default an arrow upwards for each connection, without text.
    notes : mapping of str to str, optional
        The third line in a module's box.
    """
    pairs = list(connections)
    levels = _levels(modules, pairs)
    by_level: dict[int, list[str]] = {}
    for name, level in levels.items():
        by_level.setdefault(level, []).append(name)
    columns = max(map(len, by_level.values()), default=1)
    width = columns * PITCH + 2 * MARGIN + (110 if columns == 1 else 0)
    top = max(by_level, default=0)
    corners: dict[str, tuple[float, float]] = {}
    for level, names in by_level.items():
        first = width / 2 - (len(names) - 1) * PITCH / 2 - BOX_WIDTH / 2
        for column, name in enumerate(names):
            corners[name] = (first + column * PITCH, MARGIN + (top - level) * (BOX_HEIGHT + GAP))
    boxes = tuple(
        Box(name, *corners[name], _short(name), _short(kind), (notes or {}).get(name, ""))
        for name, kind in modules.items()
    )
    sent = messages or [Sent(lower, upper) for lower, upper in pairs]
    arrows = tuple(
        _arrow(corners[each.sender], corners[each.receiver], each.lines)
        for each in sent
        if each.sender in corners and each.receiver in corners
    )
    return Drawing(width, 2 * MARGIN + (top + 1) * BOX_HEIGHT + top * GAP, boxes, arrows)


def _levels(modules: Iterable[str], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return for each module the length of the longest way up to it; `modules` are in order of connection."""
    levels: dict[str, int] = {}
    for name in modules:
        levels[name] = 1 + max(
            (levels[lower] for lower, upper in pairs if upper == name and lower in levels), default=-1
        )
    return levels


def _arrow(start: tuple[float, float], end: tuple[float, float], lines: tuple[str, ...]) -> Arrow:
    """Return the arrow between two boxes: upwards on the right of the line between them, downwards on its left."""
    up = end[1] < start[1]
    aside = 9 if up else -9
    x1, x2 = start[0] + BOX_WIDTH / 2 + aside, end[0] + BOX_WIDTH / 2 + aside
    y1 = start[1] if up else start[1] + BOX_HEIGHT
    y2 = end[1] + BOX_HEIGHT if up else end[1]
    along = 0.4  # of the way, so that the texts of both directions lie one above the other
    at_x, at_y = x1 + along * (x2 - x1) + (7 if up else -7), y1 + along * (y2 - y1)
    return Arrow(x1, y1, x2, y2, lines, at_x, at_y, not up)


def _short(text: str) -> str:
    shown = printable_line(text, 200)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[: MAX_SHOWN - 1]}…"


def format_bytes(size: float) -> str:
    """Return a size as text: ``512 B``, ``1.5 KiB``, ``9.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError
