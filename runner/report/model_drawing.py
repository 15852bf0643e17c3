"""A model as text and as a drawing (SVG): its modules, how they are connected, and what each has learnt.

The drawing is one element of HTML without scripts, fonts or links, which notebooks show. Its lines have the colour of
the surrounding text, so that it suits light and dark pages. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actors.graph.graph import Graph
from actors.types import Array
from runner.report.model_layout import layers_of
from runner.report.printable import printable_label, printable_line

if TYPE_CHECKING:
    from runner.results import RunResults

_WIDTH, _GAP, _RISE = 190, 26, 40  # of a box, and the space between boxes and between layers, in pixels
_TEXT, _PICTURE = 62, 46  # heights of the lines of a box and of its picture
_MARGIN = 14
_COLOUR = "#3f90da"
_MAX_CLASSES = 40
"""Classes of which each gets a bar, or a row and a column of a heat map."""

_MAX_POINTS = 60
"""Points of a curve."""

_COUNTS = {"classes": "classes", "topics": "topics", "latent_dim": "latent dimensions", "most": "classes at most"}
"""Parameters that tell the size of a module."""


class _Box(NamedTuple):
    """A module's place in the drawing: the left and the upper edge, and the height."""

    x: float
    y: float
    height: float


def describe_model(graph: Graph, results: RunResults | None) -> str:
    """Return one line: the modules with their sizes along the connections, and how long they have learnt."""
    shown = {name: _short(graph, name) for name in graph.modules}
    names = list(graph.modules)
    pairs = [(each.lower, each.upper) for each in graph.connections]
    if pairs == list(pairwise(names)):
        text = " -> ".join(shown.values())
    else:
        text = ", ".join(f"{shown[lower]} -> {shown[upper]}" for lower, upper in pairs) or ", ".join(shown.values())
    return printable_line(f"{text}; {_describe_training(results)}", 1000)


def draw_model(name: str, graph: Graph, results: RunResults | None) -> str:
    """Return the drawing of a model as HTML.

    Parameters
    ----------
    name : str
        Name of the model, above the drawing.
    graph : Graph
    results : RunResults, optional
        What it has learnt.
    """
    learnt = {} if results is None else results.outputs
    pictures = {module: _picture(learnt.get(module, {})) for module in graph.modules}
    boxes = _place(graph, {module: _TEXT + _PICTURE * bool(picture) for module, (_, picture) in pictures.items()})
    width = max(box.x for box in boxes.values()) + _WIDTH + _MARGIN
    height = max(box.y + box.height for box in boxes.values()) + _MARGIN
    parts = [_draw_arrow(boxes[each.lower], boxes[each.upper]) for each in graph.connections]
    parts += [_draw_box(graph, module, boxes[module], *pictures[module]) for module in boxes]
    title = escape(f"{printable_line(name, 100)}: {_describe_training(results)}")
    return (
        f'<div><div style="font-weight:600;margin-bottom:4px">{title}</div>'
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(describe_model(graph, results))}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'style="max-width:100%;height:auto" font-family="sans-serif" font-size="12" fill="currentColor">'
        f"{''.join(parts)}</svg></div>"
    )


def _describe_training(results: RunResults | None) -> str:
    if results is None:
        return "not trained"
    metrics = results.metrics
    if not len(metrics):
        return "trained"
    known = {name: metrics[name][-1] for name in ("evidence", "accuracy") if np.isfinite(metrics[name][-1])}
    figures = {"evidence": "evidence {:.1f} nats", "accuracy": "accuracy {:.3f}"}
    parts = [figures[name].format(value) for name, value in known.items()]
    rounds = int(metrics["round"][-1])
    return ", ".join([f"trained in {rounds} round{'s' * (rounds > 1)}", *parts])


def _short(graph: Graph, name: str) -> str:
    """Return a module's name and size: ``gmm (5 classes)``."""
    size = _size(graph.modules[name].parameters)
    return f"{name} ({size})" if size else name


def _size(parameters: Mapping[str, Any]) -> str:
    return next((f"{parameters[key]} {what}" for key, what in _COUNTS.items() if parameters.get(key)), "")


# --- places ---------------------------------------------------------------------------------------------------------


def _place(graph: Graph, heights: Mapping[str, float]) -> dict[str, _Box]:
    """Return the place of each module of this height: layer above layer, each observation below what reads it."""
    layers = layers_of(graph.modules, [(each.lower, each.upper) for each in graph.connections])
    widest = max(map(len, layers)) * (_WIDTH + _GAP) - _GAP
    boxes: dict[str, _Box] = {}
    top = float(_MARGIN)
    for names in reversed(layers):
        left = _MARGIN + (widest - len(names) * (_WIDTH + _GAP) + _GAP) / 2
        for column, name in enumerate(names):
            boxes[name] = _Box(left + column * (_WIDTH + _GAP), top, heights[name])
        top += max(heights[name] for name in names) + _RISE
    return boxes


def _draw_arrow(lower: _Box, upper: _Box) -> str:
    """Return a line between two modules with a head at both ends: messages go up and down."""
    x1, y1, x2, y2 = lower.x + _WIDTH / 2, lower.y, upper.x + _WIDTH / 2, upper.y + upper.height
    line = f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="currentColor" stroke-opacity="0.6"/>'
    angle = math.atan2(y2 - y1, x2 - x1)
    return line + _draw_head(x2, y2, angle) + _draw_head(x1, y1, angle + math.pi)


def _draw_head(x: float, y: float, angle: float) -> str:
    corners = [(x, y)] + [(x - 8 * math.cos(angle + turn), y - 8 * math.sin(angle + turn)) for turn in (0.4, -0.4)]
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    return f'<polygon points="{points}" fill-opacity="0.6"/>'


# --- boxes ------------------------------------------------------------------------------------------------------------


def _draw_box(graph: Graph, name: str, box: _Box, caption: str, picture: str) -> str:
    """Return a module's box: its name, its type and size, and a caption and a small picture of what it has learnt."""
    spec = graph.modules[name]
    kind = "observations" if name in graph.sources else spec.type.rpartition(":")[2]
    size = _size(spec.parameters)
    x, y = box.x + 10, box.y
    parts = [
        f'<rect x="{box.x:g}" y="{y:g}" width="{_WIDTH}" height="{box.height:g}" rx="8" fill="{_COLOUR}" '
        'fill-opacity="0.10" stroke="currentColor" stroke-opacity="0.5"/>',
        f'<text x="{x:g}" y="{y + 19:g}" font-weight="600" font-size="13">{_fit(name, 24)}</text>',
        f'<text x="{x:g}" y="{y + 35:g}" fill-opacity="0.75">{_fit(", ".join(filter(None, [kind, size])), 30)}</text>',
        f'<text x="{x:g}" y="{y + 51:g}" fill-opacity="0.75">{_fit(caption, 30)}</text>',
    ]
    if picture:
        parts.append(f'<g transform="translate({x:g} {y + 58:g})">{picture}</g>')
    title = f"<title>{escape(printable_line(f'{name}: {spec.type}', 200))}</title>"
    return f"<g>{title}{''.join(parts)}</g>"


def _fit(text: str, characters: int) -> str:
    return escape(printable_label(text, characters))


def _picture(learnt: Mapping[str, Array]) -> tuple[str, str]:
    """Return a caption and a picture, 170×42, of a module's outputs; empty if there is nothing to show."""
    transitions, classes, losses = learnt.get("trans_prob"), learnt.get("class"), learnt.get("loss")
    if transitions is not None and transitions.ndim == 2 and len(transitions):
        likely = float(transitions.max(axis=1).mean())
        caption = f"transitions, most likely {likely:.0%}"
        return caption, _draw_matrix(transitions) if len(transitions) <= _MAX_CLASSES else ""
    if classes is not None and classes.ndim == 1 and len(classes):
        sizes = np.bincount(classes[classes >= 0])
        caption = f"{np.count_nonzero(sizes)} classes used, {len(classes):,} rows"
        return caption, _draw_bars(sizes) if len(sizes) <= _MAX_CLASSES else ""
    if losses is not None and losses.ndim == 1 and len(losses) > 1 and np.isfinite(losses).all():
        return f"loss {losses[0]:.4g} → {losses[-1]:.4g}", _draw_curve(losses)
    latents = learnt.get("z")
    if latents is not None and latents.ndim == 2:
        return f"{latents.shape[1]} dimensions, {len(latents):,} rows", ""
    return "", ""


def _draw_matrix(values: Array) -> str:
    side = 42 / len(values)
    cells = [
        f'<rect x="{column * side:.2f}" y="{row * side:.2f}" width="{side:.2f}" height="{side:.2f}" '
        f'fill="{_COLOUR}" fill-opacity="{min(max(float(value), 0.0), 1.0):.2f}"/>'
        for row, line in enumerate(values)
        for column, value in enumerate(line)
        if value >= 0.005
    ]
    frame = '<rect width="42" height="42" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
    return "".join([*cells, frame])


def _draw_bars(sizes: Sequence[int] | Array) -> str:
    step, most = min(170 / len(sizes), 17.0), max(int(max(sizes)), 1)
    return "".join(
        f'<rect x="{place * step:.2f}" y="{42 - 42 * size / most:.2f}" width="{step * 0.8:.2f}" '
        f'height="{42 * size / most:.2f}" fill="{_COLOUR}"><title>class {place}: {size} rows</title></rect>'
        for place, size in enumerate(map(int, sizes))
    )


def _draw_curve(values: Array) -> str:
    chosen = values[np.unique(np.linspace(0, len(values) - 1, _MAX_POINTS).astype(int))].astype(np.float64)
    low, high = float(chosen.min()), float(chosen.max())
    height = 42 - 40 * (chosen - low) / max(high - low, np.finfo(np.float64).tiny)
    points = " ".join(f"{170 * place / (len(chosen) - 1):.1f},{y:.1f}" for place, y in enumerate(height))
    return f'<polyline points="{points}" fill="none" stroke="{_COLOUR}" stroke-width="2"/>'
