"""The drawing of a model: where the boxes of its modules lie, and what is written at the arrows between them.

The template ``model.svg.j2`` draws it; a page that follows a run changes the boxes' texts and classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from runner.report.printable import printable_label

BOX_WIDTH, BOX_HEIGHT = 190, 64
PITCH, GAP, MARGIN = 250, 116, 14
ASIDE = 70
"""Room on each side for lines that pass boxes."""
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
    """An arrow between two boxes as an SVG path, and its texts at (`at_x`, `at_y`), which end there if `ends`."""

    path: str
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
    """Lay a model out: each module above all those that send to it, and sources close to where they are read.

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
    pairs = [(lower, upper) for lower, upper in connections if lower in modules and upper in modules]
    rows = layers_of(modules, pairs)
    levels = {name: level for level, names in enumerate(rows) for name in names}
    skips = any(levels[upper] - levels[lower] > 1 for lower, upper in pairs)
    columns, top = max(map(len, rows), default=1), len(rows) - 1
    width = columns * PITCH + 2 * MARGIN + (110 if columns == 1 else 0) + (2 * ASIDE if skips else 0)
    corners: dict[str, tuple[float, float]] = {}
    for level, names in enumerate(rows):
        first = width / 2 - (len(names) - 1) * PITCH / 2 - BOX_WIDTH / 2
        for column, name in enumerate(names):
            corners[name] = (first + column * PITCH, MARGIN + (top - level) * (BOX_HEIGHT + GAP))
    boxes = tuple(
        Box(
            name,
            *corners[name],
            printable_label(name, MAX_SHOWN),
            printable_label(kind, MAX_SHOWN),
            (notes or {}).get(name, ""),
        )
        for name, kind in modules.items()
    )
    ends = _ends(corners, pairs)
    arrows = []
    for sent in messages or [Sent(lower, upper) for lower, upper in pairs]:
        up = (sent.sender, sent.receiver) in ends
        pair = (sent.sender, sent.receiver) if up else (sent.receiver, sent.sender)
        if pair in ends:
            arrows.append(_arrow(*ends[pair], up=up, lines=sent.lines, bend=levels[pair[1]] - levels[pair[0]] > 1))
    return Drawing(width, 2 * MARGIN + (top + 1) * BOX_HEIGHT + max(top, 0) * GAP, boxes, tuple(arrows))


def layers_of(modules: Iterable[str], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the layers of a model, the lowest first, each from left to right.

    Parameters
    ----------
    modules : iterable of str
        In order of connection.
    pairs : sequence of (lower, upper)
        The connections.
    """
    return _ordered_rows(_levels(modules, pairs), pairs)


def _levels(modules: Iterable[str], pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return for each module the length of the longest way up to it; `modules` are in order of connection.

    What nothing is sent to from below lies right below the lowest of those that read it.
    """
    levels: dict[str, int] = {}
    for name in modules:
        levels[name] = 1 + max((levels[low] for low, up in pairs if up == name and low in levels), default=-1)
    for name in modules:
        above = [levels[up] for low, up in pairs if low == name]
        if above and not any(up == name for _, up in pairs):
            levels[name] = min(above) - 1
    return levels


def _ordered_rows(levels: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the modules of each level from left to right, close to those that they are connected with below."""
    rows: list[list[str]] = []
    place: dict[str, float] = {}
    for level in range(max(levels.values(), default=-1) + 1):
        names = [name for name, own in levels.items() if own == level]

        def mean(name: str) -> float:
            lower = [place[low] for low, up in pairs if up == name and low in place]
            return sum(lower) / len(lower) if lower else float(len(levels))

        names.sort(key=mean)
        place.update({name: number - (len(names) - 1) / 2 for number, name in enumerate(names)})
        rows.append(names)
    return rows


_Point: TypeAlias = tuple[float, float]


def _ends(
    corners: Mapping[str, _Point], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[_Point, _Point]]:
    """Return for each connection where it leaves the lower box and where it reaches the upper one.

    Several connections at one side of a box are spread along it, in the order of their other ends.
    """
    at: dict[tuple[str, tuple[str, str]], float] = {}
    for name, (x, _) in corners.items():
        for side in (0, 1):
            own = [pair for pair in pairs if pair[side] == name]
            own.sort(key=lambda pair, side=side: corners[pair[1 - side]][0])  # type: ignore[misc]
            for number, pair in enumerate(own, start=1):
                at[name, pair] = x + BOX_WIDTH * number / (len(own) + 1)
    return {
        pair: ((at[pair[0], pair], corners[pair[0]][1]), (at[pair[1], pair], corners[pair[1]][1] + BOX_HEIGHT))
        for pair in pairs
    }


def _arrow(lower: _Point, upper: _Point, *, up: bool, lines: tuple[str, ...], bend: bool) -> Arrow:
    """Return the arrow between two points: upwards on the right of the line between them, downwards on its left.

    A line that passes other boxes bends to the right.
    """
    aside = 8 if up else -8
    start, end = (lower, upper) if up else (upper, lower)
    x1, y1, x2, y2 = start[0] + aside, start[1], end[0] + aside, end[1]
    along = 0.3  # of the way, so that the texts of both directions lie one above the other
    if not bend:
        at_x, at_y = x1 + along * (x2 - x1), y1 + along * (y2 - y1)
        path = f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"
    else:
        far = max(x1, x2) + BOX_WIDTH / 2 + ASIDE + (20 if up else -20)
        third = 0.3 * (y2 - y1)
        path = f"M{x1:.1f} {y1:.1f}C{far:.1f} {y1 + third:.1f} {far:.1f} {y2 - third:.1f} {x2:.1f} {y2:.1f}"
        t = 0.5
        at_x = (1 - t) ** 3 * x1 + 3 * t * (1 - t) * far + t**3 * x2
        at_y = (y1 + y2) / 2 + (14 if up else -30)
    return Arrow(path, lines, at_x + (7 if up else -7), at_y + (0 if up or bend else -4), not up)
