"""Figures of a report: drawn with matplotlib from plain arrays, as SVG that is part of a page.

Texts stay texts, and what matplotlib draws in black gets the colour of the page's text, so that a figure can be read on
a light and on a dark page. Points and long timelines are pictures within the figure, which keeps it small. All figures
are as wide as a column of the page, so that their texts can be read on a telephone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actors.types import Array, FloatArray, IntArray
from runner.report.plots import (
    GREY,
    INK,
    MARKERS,
    MAX_BARS,
    MAX_LEVEL_CHARACTERS,
    MAX_SIZE_WITH_NUMBERS,
    PALETTE,
    as_pictures,
    class_labels,
    draw_points,
    draw_strips,
    label_text,
    legend_of,
    named_groups,
    state_strips,
    turn_labels,
)
from runner.report.reliability import Reliability

WIDTH = 4.6
"""Inches; about 440 pixels of a page."""

MAX_HEAT_MAP_CHARACTERS = 20
"""Of a label beside a heat map."""

MAX_PAIR_CHARACTERS = 14
"""Of each of the two names of a transition, beside its interval."""

MAX_CIRCLE_CHARACTERS = 10
"""Of a line in the circle of a class."""

MIN_ARROW = 0.005
"""Probability of the most probable other class from which a class that mostly follows itself has an arrow to it."""

MAX_VECTOR_SPANS = 400
"""Spans of time that are drawn as shapes; more become a picture."""

_numbers = count()


def svg(figure: Any) -> str:
    """Return a figure as an SVG element for an HTML page; its names differ from those of all other figures.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    """
    from matplotlib import rc_context

    file = BytesIO()
    figure.patch.set_alpha(0.0)
    for axes in figure.axes:
        axes.patch.set_alpha(0.0)
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "serket"}):
        figure.savefig(file, format="svg", metadata=metadata, dpi=160)
    text = file.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = re.sub(r"(?<=[:\s])#000000\b", "currentColor", text)
    text = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font-size: \1px", text)
    prefix = f"f{next(_numbers)}"
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    match = re.match(r"<svg[^>]*?viewBox=\"0 0 ([\d.]+) ([\d.]+)\"[^>]*>", text)
    if match is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    wide = float(match[1]) * 4 / 3
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {match[1]} {match[2]}" '
        f'style="max-width:{wide:.0f}px" role="img">'
    )
    return head + text[match.end() :]


def _axes(
    height: float, left: float = 0.7, top: float = 0.12, bottom: float = 0.48, right: float = 0.12
) -> tuple[Any, Any]:
    """Return a figure of this height and its axes, with margins in inches: a layout engine would draw it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (top + bottom) / height)
    return figure, figure.add_axes(box)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    label: str,
    top: float | None = None,
    bottom: float | None = None,
) -> str:
    """Draw lines over the rounds.

    Parameters
    ----------
    lines : mapping of str to (x, y)
        By name; None in y is a value that is not known. The legend is left out for one line.
    label : str
        Of the values, where there are several lines; one line is labelled by its name.
    top : float, optional
        The largest possible value, below which the axis ends.
    bottom : float, optional
        The smallest possible value of shares, at which the axis begins; it spans at least 0.01, so that rounding errors
        look like none.
    """
    from matplotlib.ticker import MaxNLocator

    legend = 0.2 * math.ceil(len(lines) / 2) if len(lines) > 1 else 0.0
    figure, axes = _axes(2.4 + legend, left=0.95, top=0.25 + legend)
    for number, (name, (given, values)) in enumerate(lines.items()):
        x = np.asarray(given, dtype=np.float64)
        y = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        known = np.isfinite(y)
        marker = "o" if known.sum() <= 60 else ""
        colour, dash = PALETTE[number % 10], ("-", "--", ":", "-.")[number // 10 % 4]
        axes.plot(x[known], y[known], dash, marker=marker, color=colour, markersize=4, label=label_text(name))
    axes.set_xlabel("round")
    axes.set_ylabel(label_text(label if len(lines) > 1 else next(iter(lines))))
    axes.grid(alpha=0.3)
    axes.margins(y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.ticklabel_format(axis="y", useOffset=False)
    if bottom is not None:
        axes.set_ylim(bottom, max(axes.get_ylim()[1], bottom + 0.01))
    if top is not None:
        low = axes.get_ylim()[0]
        axes.set_ylim(low, top + 0.03 * max(top - low, 0.05))
        below = MaxNLocator(6).tick_values(0.0, top - low)  # so that one tick is at the top, where curves end
        axes.set_yticks([top - distance for distance in below if 0.0 <= distance <= top - low])
    if len(lines) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)
    return svg(figure)


def spread(
    lines: Mapping[str, Sequence[tuple[float, float, float]]], x_label: str, y_label: str, top: float | None = None
) -> str:
    """Draw means over the values of a setting, with bars of one standard deviation.

    Parameters
    ----------
    lines : mapping of str to sequence of (value, mean, deviation)
        By name; the legend is left out for one line.
    x_label, y_label : str
    top : float, optional
        The largest possible value, below which the axis ends.
    """
    from matplotlib.ticker import MaxNLocator

    legend = 0.2 * math.ceil(len(lines) / 2) if len(lines) > 1 else 0.0
    figure, axes = _axes(2.4 + legend, left=0.95, top=0.25 + legend)
    for number, (name, points) in enumerate(lines.items()):
        x, mean, deviation = np.asarray(points, dtype=np.float64).T
        style = {"color": PALETTE[number % 10], "linestyle": ("-", "--", ":", "-.")[number // 10 % 4]}
        axes.errorbar(x, mean, deviation, marker="o", markersize=4, capsize=3, label=label_text(name), **style)
    axes.set_xlabel(label_text(x_label))
    axes.set_ylabel(label_text(y_label))
    axes.grid(alpha=0.3)
    axes.margins(y=0.12)
    if top is not None:
        axes.set_ylim(top=top + 0.03 * max(top - axes.get_ylim()[0], 0.05))
    whole = all(float(value).is_integer() for points in lines.values() for value, _, _ in points)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=whole, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if len(lines) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)
    return svg(figure)


def confusion(matrix: ArrayLike, rows: Sequence[Any], columns: Sequence[Any]) -> str:
    """Draw the confusion matrix (C, K) of categories and classes: shares of the category, with the numbers of rows."""
    counts = np.asarray(matrix, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    texts = [[f"{n:g}" if n else "" for n in row] for row in counts]
    return _heat_map(shares, texts, rows, columns, ("class", "label"))


def transitions(values: FloatArray, order: Sequence[int], names: Mapping[int, str] | None = None) -> str:
    """Draw transition probabilities (K, K), the classes in this order, with what they are matched to."""
    shown = values[np.ix_(order, order)]
    texts = [[_probability(p) for p in row] for row in shown]
    labels = class_labels(order, names or {})
    return _heat_map(shown, texts, labels, labels, ("next class", "class"))


def states(classes: ArrayLike, categories: ArrayLike | None, lengths: ArrayLike | None) -> str:
    """Draw the class of each row over time, a line for each sequence, below its category."""
    strips = state_strips(classes, categories, lengths)
    handles = legend_of(strips)
    longest = max(len(handle.get_label()) for handle in handles)
    in_line = min(4, max(1, int((WIDTH - 0.3) / (0.3 + 0.068 * longest))))  # names of 8 points, each with its colour
    legend = 0.2 * math.ceil(len(handles) / in_line) + 0.05
    figure, axes = _axes(0.55 + legend + (0.3 if categories is not None else 0.2) * len(strips.names), top=legend)
    draw_strips(axes, strips)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.12, 1.0), "handlelength": 1.0}
    axes.legend(handles=handles, ncols=in_line, frameon=False, fontsize=8, columnspacing=1.0, **place)
    return svg(figure)


def _heat_map(
    values: FloatArray,
    texts: Sequence[Sequence[str]],
    rows: Sequence[Any],
    columns: Sequence[Any],
    names: tuple[str, str],
) -> str:
    rows, columns = ([_shortened(each) for each in labels] for labels in (rows, columns))
    left = 0.45 + 0.075 * max(len(label_text(row)) for row in rows)
    longest = max(map(len, columns))
    bottom = 0.48 + (0.05 * longest if longest > MAX_LEVEL_CHARACTERS else 0.0)
    side = WIDTH - left - 0.12
    height = float(np.clip(side * len(rows) / len(columns), 0.8, 1.4 * side)) + 0.12 + bottom
    figure, axes = _axes(height, left=left, bottom=bottom)
    _draw_cells(axes, values, texts if max(values.shape) <= MAX_SIZE_WITH_NUMBERS else [])
    for axis, labels in ((axes.yaxis, rows), (axes.xaxis, columns)):
        step = math.ceil(len(labels) / 25)
        axis.set_ticks(range(0, len(labels), step), [label_text(label) for label in labels[::step]], fontsize=9)
    turn_labels(axes, columns)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    return svg(figure)


def _shortened(label: Any, most: int = MAX_HEAT_MAP_CHARACTERS) -> str:
    """Return a label of at most `most` characters."""
    text = str(label)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _lines_in_circle(name: str) -> list[str]:
    """Return the lines of a class's name in a circle: "2 = grasp" in two, which can be twice as large."""
    number, equals, label = name.partition(" = ")
    if not equals or len(name) <= MAX_CIRCLE_CHARACTERS - 4:
        return [_shortened(name, MAX_CIRCLE_CHARACTERS + 2)]
    return [_shortened(f"{number} =", MAX_CIRCLE_CHARACTERS), _shortened(label, MAX_CIRCLE_CHARACTERS)]


def _draw_cells(axes: Any, values: FloatArray, texts: Sequence[Sequence[str]]) -> None:
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            if text:
                colour = "white" if values[i, j] > 0.55 else INK
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)


def transition_graph(values: FloatArray, order: Sequence[int], names: Mapping[int, str], share: float = 0.9) -> str:
    """Draw the classes on a circle, each with its most probable next classes that have this share of the probability.

    A class that mostly follows itself has an arrow to the most probable other one, too.

    The arrow to the most probable other class is blue; a class that follows itself has a ring, as wide as that is
    probable.

    Parameters
    ----------
    values : ndarray (K, K)
    order : sequence of int
        The classes in the order around the circle.
    names : mapping of int to str
    share : float
    """
    from matplotlib.patches import Circle, FancyArrowPatch

    figure, axes = _axes(WIDTH, left=0.02, right=0.02, top=0.02, bottom=0.02)
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
    angles = math.pi / 2 - 2 * math.pi * np.arange(len(order)) / len(order)
    places = {k: (math.cos(a), math.sin(a)) for k, a in zip(order, angles, strict=True)}
    radius = min(0.18, 2.4 / len(order))
    shrink = 72 * WIDTH / 2.5 * radius
    for k in order:
        likely = np.argsort(-values[k], kind="stable")
        needed = int(np.searchsorted(np.cumsum(values[k][likely]), share)) + 1
        others = [int(j) for j in likely if j != k]
        reached = [int(j) for j in likely[:needed] if j != k]
        if others and not reached and values[k, others[0]] >= MIN_ARROW:  # the class mostly follows itself
            reached = others[:1]
        for j in reached:
            colour = PALETTE[0] if j == others[0] else GREY
            axes.add_patch(
                FancyArrowPatch(
                    places[k], places[j], arrowstyle="-|>", mutation_scale=10, color=colour, shrinkA=shrink,
                    shrinkB=shrink, linewidth=0.5 + 2.5 * float(values[k, j]), connectionstyle="arc3,rad=0.12",
                )
            )  # fmt: skip
        ring = float(values[k, k])
        axes.add_patch(Circle(places[k], radius, facecolor="#dbe9f6", edgecolor=PALETTE[6], linewidth=0.3 + 4 * ring))
        lines = _lines_in_circle(names.get(k, str(k)))
        size = float(np.clip(340 * radius / max(2, *map(len, lines)), 4, 12))
        text = "\n".join(map(label_text, lines))
        axes.text(*places[k], text, ha="center", va="center", fontsize=size, color=INK)
    axes.set_axis_off()
    return svg(figure)


def leading_transitions(
    values: FloatArray, order: Sequence[int], most: int, share: float = 0.9
) -> list[tuple[int, int]]:
    """Return the transitions (class, next class) that make up this share of each class's probability, at most `most`.

    They are in the order of the classes, those of a class from its most probable one on.
    """
    pairs = list[tuple[int, int]]()
    for k in order:
        likely = np.argsort(-values[k], kind="stable")
        needed = int(np.searchsorted(np.cumsum(values[k][likely]), share * values[k].sum())) + 1
        pairs += [(k, int(j)) for j in likely[:needed]]
    return pairs[:most]


def transition_intervals(
    values: FloatArray, low: FloatArray, high: FloatArray, pairs: Sequence[tuple[int, int]], names: Mapping[int, str]
) -> str:
    """Draw the probabilities (K, K) of transitions `pairs` as points, with a bar from `low` to `high` (K, K) each."""
    labels = [" → ".join(_shortened(names.get(each, each), MAX_PAIR_CHARACTERS) for each in pair) for pair in pairs]
    left = 0.3 + 0.085 * max(len(label_text(label)) for label in labels)
    figure, axes = _axes(0.2 * len(pairs) + 0.7, left=left)
    for place, pair in enumerate(pairs):
        axes.plot([low[pair], high[pair]], [place, place], "-|", color=PALETTE[0], linewidth=2, markersize=7)
        axes.plot(values[pair], place, "o", color=PALETTE[1], markersize=4)
    axes.set_yticks(range(len(pairs)), [label_text(label) for label in labels], fontsize=8)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks((0, 0.5, 1))
    axes.set_xlabel(
        "probability with its 95 % interval", loc="right"
    )  # centred, it is wider than the axes beside long names
    axes.grid(axis="x", alpha=0.3)
    return svg(figure)


def latents(plane: FloatArray, names: tuple[str, str], groups: Array | None, legend: str) -> str:
    """Plot latent vectors projected to a plane (N, 2), with names of its axes, coloured by group (N,)."""
    indices, labels = np.zeros(len(plane), np.int64), list[str]()
    if groups is not None:
        labels, indices = named_groups(groups)
    figure, axes = _axes(3.9, top=0.35, left=0.6)
    draw_points(axes, plane, indices, labels if len(labels) <= len(PALETTE) * len(MARKERS) else [], rasterized=True)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(label_text(legend), fontsize=10)
    return svg(figure)


def images(stack: FloatArray, titles: Sequence[str]) -> str:
    """Draw images (K, H, W), or rows (K, P) as images or curves (:func:`runner.report.plots.as_pictures`)."""
    shown = as_pictures(stack)
    return _picture_grid(shown, titles, 5) if shown.ndim == 3 else _curve_grid([shown], titles)


def pairs(originals: FloatArray, decoded: FloatArray, titles: Sequence[str]) -> str:
    """Draw rows (n, P) above their reconstructions (n, P); those that are no images as curves, both in one panel."""
    one, other = as_pictures(originals), as_pictures(decoded)
    if one.ndim == 2:
        return _curve_grid([one, other], titles)
    return _picture_grid(np.concatenate([one, other], axis=1), titles, 6)


def _picture_grid(stack: FloatArray, titles: Sequence[str], columns: int) -> str:
    """Draw pictures (n, H, W) in one array of pixels, which is much faster than in axes of their own."""
    count, height, width = stack.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    line = max(math.ceil(0.24 * width), 3)  # of pixels, for the title above each picture
    canvas = np.full((rows * (height + line), columns * (width + 1)), np.nan)
    for n, picture in enumerate(stack):
        y, x = n // columns * (height + line) + line, n % columns * (width + 1)
        canvas[y : y + height, x : x + width] = picture
    figure, axes = _axes(WIDTH * canvas.shape[0] / canvas.shape[1], 0.0, 0.0, 0.0, 0.0)
    finite = stack[np.isfinite(stack)]
    low, high = min(float(finite.min(initial=0)), 0.0), max(float(finite.max(initial=0)), 1e-12)
    high = max(high, 1.0) if low == 0 else high  # keep the brightness of images in [0, 1]
    axes.imshow(canvas, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="auto")
    for n, title in enumerate(titles[:count]):
        x, y = n % columns * (width + 1) + (width - 1) / 2, n // columns * (height + line) + line / 2
        axes.text(x, y, label_text(title), ha="center", va="center", fontsize=9 if columns <= 5 else 8)
    axes.set_axis_off()
    return svg(figure)


def _curve_grid(stacks: Sequence[FloatArray], titles: Sequence[str]) -> str:
    """Draw rows (n, P) as curves in a grid, those of all stacks in the same panels; the grid is one plot.

    Few columns are no curve: they are bars, those of the other stacks points.
    """
    count, length = stacks[0].shape
    columns = min(count, 4)
    rows = math.ceil(count / columns)
    finite = np.concatenate([stack[np.isfinite(stack)] for stack in stacks])
    low, high = float(finite.min(initial=0)), float(finite.max(initial=0))
    span = max(high - low, 1e-12)
    figure, axes = _axes(rows * 1.1 + 0.1, 0.05, 0.02, 0.02, 0.05)
    x = np.linspace(0.05, 0.95, length)
    for colour, stack in zip(PALETTE, stacks, strict=False):
        for n, values in enumerate(stack):
            across, up = n % columns + x, -(n // columns) + 0.75 * (values - low) / span
            if length > MAX_BARS:
                axes.plot(across, up, color=colour, linewidth=1.2)
            elif stack is stacks[0]:
                base = -(n // columns) + 0.75 * -low / span
                axes.bar(across, up - base, 0.7 * 0.9 / length, base, color=colour)
            else:
                axes.plot(across, up, "o", color=colour, markersize=4)
    for n, title in enumerate(titles[:count]):
        axes.text(n % columns + 0.5, -(n // columns) + 0.87, label_text(title), ha="center", va="center", fontsize=8)
    axes.set(xlim=(0, columns), ylim=(1.02 - rows - 0.05, 1.0))
    axes.set_axis_off()
    return svg(figure)


def posteriors(tables: Mapping[str, FloatArray], rows: Sequence[Any]) -> str:
    """Draw class posteriors (n, K) of the same rows as one heat map, with a block of rows for each of `tables`."""
    names = list(tables)
    values = np.concatenate([np.vstack([np.full((1, tables[name].shape[1]), np.nan), tables[name]]) for name in names])
    height = 0.24 * len(values)
    figure, axes = _axes(height + 0.5, left=0.75, top=0.02)
    texts = [[_probability(p) for p in row] for row in np.nan_to_num(values)] if values.shape[1] <= 12 else []
    _draw_cells(axes, values, texts)
    for number, name in enumerate(names):
        axes.text(-0.5, number * (len(rows) + 1), label_text(name), va="center", fontsize=9, weight="bold")
    places = [n * (len(rows) + 1) + 1 + i for n in range(len(names)) for i in range(len(rows))]
    axes.set_yticks(places, [label_text(row) for _ in names for row in rows], fontsize=8)
    step = math.ceil(values.shape[1] / 20)
    axes.set_xticks(range(0, values.shape[1], step))
    axes.set_xlabel("class")
    axes.set_ylabel("row")
    return svg(figure)


def reliability(tables: Mapping[str, Reliability]) -> str:
    """Draw accuracy over confidence by bin, a line for each of `tables`; points are as large as bins have rows."""
    legend = 0.2 * math.ceil(len(tables) / 2) if len(tables) > 1 else 0.0
    figure, axes = _axes(3.0 + legend, left=0.95, top=0.25 + legend)
    low = min(float(min(each.confidence.min(), each.accuracy.min())) for each in tables.values())
    axes.plot([0, 1], [0, 1], "--", color="#808080", linewidth=1)
    for number, (name, each) in enumerate(tables.items()):
        colour, share = PALETTE[number % 10], each.rows / each.rows.sum()
        axes.plot(each.confidence, each.accuracy, "-", color=colour, linewidth=1, label=label_text(name))
        axes.scatter(each.confidence, each.accuracy, 8 + 120 * share, color=colour, alpha=0.7, linewidths=0)
    axes.set_xlim(max(low - 0.05, 0.0), 1.02)
    axes.set_ylim(max(low - 0.05, 0.0), 1.04)
    axes.set_xlabel("probability of the most probable class")
    axes.set_ylabel("share of rows where it is right")
    axes.grid(alpha=0.3)
    if len(tables) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False, fontsize=9)
    return svg(figure)


def timeline(tracks: Mapping[str, Sequence[tuple[float, float]]], marks: Sequence[float] = ()) -> str:
    """Draw when each module worked.

    Parameters
    ----------
    tracks : mapping of str to sequence of (start, seconds)
        By module, the lowest first.
    marks : sequence of float
        Moments, as of deaths.
    """
    left = min(0.2 + 0.085 * max(len(label_text(name)) for name in tracks), 1.8)
    figure, axes = _axes(0.3 * max(len(tracks), 2) + 0.65, left=left)
    many = sum(map(len, tracks.values())) > MAX_VECTOR_SPANS
    for number, spans in enumerate(tracks.values()):
        axes.broken_barh(spans, (number - 0.38, 0.76), facecolors=PALETTE[number % 10], rasterized=many)
    for when in marks:
        axes.axvline(when, color=PALETTE[2], linewidth=1.5)
    axes.set_yticks(range(len(tracks)), [label_text(name)[:20] for name in tracks], fontsize=9)
    axes.set_ylim(-0.6, len(tracks) - 0.4)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("seconds since the first event")
    axes.grid(axis="x", alpha=0.3)
    return svg(figure)


def _probability(p: float) -> str:
    return f"{p:.2f}".lstrip("0") if 0.005 <= p < 0.995 else "1" if p > 0.5 else ""


def most_probable_cycles(values: FloatArray) -> list[list[int]]:
    """Return the cycles along the most probable transitions to another class, each from its least class on.

    Every class leads into one of them.
    """
    others = np.array(values, dtype=np.float64)
    np.fill_diagonal(others, -1.0)
    following: IntArray = others.argmax(axis=1)
    found: dict[int, list[int]] = {}
    for start in range(len(others)):
        path, k = dict[int, int](), start
        while k not in path:
            path[k] = len(path)
            k = int(following[k])
        cycle = list(path)[path[k] :]
        least = cycle.index(min(cycle))
        found[min(cycle)] = cycle[least:] + cycle[:least]
    return [found[first] for first in sorted(found)]
