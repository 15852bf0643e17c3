"""Plots of a run, each drawn from plain arrays into one file: PNG, or a vector format.

matplotlib is imported only inside the functions, and used without pyplot, so that no global state changes and no
display is required.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.types import Array, FloatArray, IntArray
from runner.report.category_names import category_name
from runner.report.clustering_metrics import match
from runner.report.printable import printable_line

# Ten colours that are distinguishable with common colour vision deficiencies: the first eight of Petroff (2021,
# arXiv:2107.02270) and, in the place of two greys, those that are farthest from the eight and from each other.
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#92dadd", "#a96b59", "#e76300", "#b9ac70", "#a81878", "#6018f0",
)  # fmt: skip
GREY = "#717581"
"""Of what is there for completeness, on light and dark grounds."""

INK = "#111111"
"""Of texts on a light ground; a picture on a page gives texts that are black the colour of the page's text."""

MARKERS = "os^Dv"  # one shape for each ten classes
VECTOR_FORMATS = ("svg", "pdf")
MAX_SIZE_WITH_NUMBERS = 12
MAX_LABELLED_GROUPS = 50
MAX_LEVEL_CHARACTERS = 4
MAX_IMAGES = 256
MIN_IMAGE_SIDE = 8
"""Rows of fewer columns than the square of it are no images: they are those of sensors."""
MAX_BARS = 40
"""Rows of at most as many columns are drawn as bars: a line would join channels that have nothing in common."""
MAX_DRAWN_SEQUENCES = 12
MAX_DRAWN_STATES = 400
"""Rows of a sequence whose classes are drawn over time: each has some pixels."""


def prepare_drawing(latents: bool) -> None:
    """Import what plots need, with `latents` those of latent vectors too, and draw one, as the first is the slowest."""
    with suppress(Exception):  # the plot itself says what is wrong
        if latents:
            importlib.import_module("sklearn.decomposition")
        figure, axes = _heat_map(np.eye(2), np.full((2, 2), "1"), None, None, "share")
        axes.set(xlabel="class", ylabel="category", title="title")
        _save_figure(figure, BytesIO())


def draw_progress(
    rounds: Sequence[int],
    accuracy: Sequence[float | None] | None,
    evidence: Sequence[float | None],
    path: str | Path | BinaryIO,
    losses: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Plot accuracy and evidence by round in two panels, and losses by epoch in one for each module.

    Parameters
    ----------
    rounds : sequence of int, length R
        Numbers of the rounds, R ≥ 1.
    accuracy : sequence of float or None, length R, optional
        In [0, 1]; None if unknown. If all are unknown, the panel is left out.
    evidence : sequence of float or None, length R
        In nats; None if unknown.
    path : str, Path or binary file
        The PNG file.
    losses : mapping of str to array_like (E,), optional
        The loss of each epoch of the training, by module.

    Raises
    ------
    ValueError
        If the lengths differ or R is 0.
    """
    from matplotlib.ticker import MaxNLocator

    curves = {"evidence": _as_floats(evidence)}
    if accuracy is not None and np.isfinite(_as_floats(accuracy)).any():
        curves = {"accuracy": _as_floats(accuracy), **curves}
    if len(rounds) == 0 or any(len(values) != len(rounds) for values in curves.values()):
        raise ValueError(
            f"{len(rounds)} rounds, but {[len(v) for v in curves.values()]} values; expected one of each per round"
        )
    trained = {name: np.asarray(values, np.float64) for name, values in (losses or {}).items()}
    figure = _new_figure(7, 2.4 * (len(curves) + len(trained)) + 0.5)
    panels = figure.subplots(len(curves) + len(trained), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels[len(curves) :], trained.items(), strict=True):
        _plot_loss(axes, name, values)
    panels = panels[: len(curves)]
    for axes in panels[:-1]:
        axes.sharex(panels[-1])
        axes.tick_params(labelbottom=False)
    numbers = np.asarray(rounds)
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        known = np.flatnonzero(np.isfinite(values))
        colour = PALETTE[0] if name == "accuracy" else PALETTE[6]
        axes.plot(numbers[known], values[known], "o-", color=colour, linewidth=2, markersize=5)
        axes.set_ylabel("evidence (nats)" if name == "evidence" else name)
        axes.grid(alpha=0.3)
        axes.margins(x=0.08, y=0.2)
        if name == "accuracy":  # the range from just below the minimum to 1
            low = float(values[known].min())
            axes.set_ylim(max(0.0, low - 0.25 * (1 - low) - 0.01), 1 + 0.05 * (1 - low) + 0.002)
            axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= 1])
        if len(known) == 0:
            axes.text(0.5, 0.5, f"no {name} yet", transform=axes.transAxes, ha="center", va="center", color="0.4")
            continue
        last = values[known[-1]]
        text = f"{last:.4f}" if name == "accuracy" else f"{last:,.1f}"
        axes.set_title(f"{name}: {text} after round {rounds[int(known[-1])]}", loc="left", fontsize=10)
    panels[-1].set_xlabel("round")
    panels[-1].set_xlim(numbers.min() - 0.5, numbers.max() + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(min(len(rounds), 20), integer=True, min_n_ticks=1))
    _save_figure(figure, path)


def _plot_loss(axes: Any, name: str, values: FloatArray) -> None:
    """Plot the loss of each epoch of a module."""
    from matplotlib.ticker import MaxNLocator

    axes.plot(np.arange(1, len(values) + 1), values, color=PALETTE[3], linewidth=1.5)
    last = f": {values[-1]:,.4g} after epoch {len(values)}" if len(values) else ""
    axes.set_title(printable_line(f"loss of {name}{last}"), loc="left", fontsize=10, parse_math=False)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))


def draw_confusion(
    matrix: ArrayLike,
    row_labels: Sequence[Any] | None,
    column_labels: Sequence[Any] | None,
    path: str | Path | BinaryIO,
) -> None:
    """Draw the confusion matrix of categories and classes as a heat map.

    Parameters
    ----------
    matrix : array_like of numbers, shape (C, K)
        Counts, categories in rows and classes in columns (:func:`runner.report.clustering_metrics.confusion`).
    row_labels, column_labels : sequence, length C and K, or None
        Names of categories and classes; by default their indices.
    path : str, Path or binary file
        The picture (:func:`_save_figure`).

    Raises
    ------
    ValueError
        If `matrix` is not a matrix, or the numbers of labels do not match it.
    """
    counts = _as_matrix(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    texts = np.array([[f"{n:g}" if n else "" for n in row] for row in counts])
    correct = np.trace(counts) / max(counts.sum(), 1e-300)
    figure, axes = _heat_map(shares, texts, row_labels, column_labels, "share of the category")
    axes.set(xlabel="class", ylabel="category", title=f"categories and classes ({100 * correct:.2f} % matched)")
    _save_figure(figure, path)


def draw_transitions(
    T: ArrayLike,
    path: str | Path | BinaryIO,
    order: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Draw a transition matrix as a heat map.

    Parameters
    ----------
    T : array_like of float, shape (K, K)
        T[i, j]: probability that j follows i. The numbers are shown for K ≤ 12.
    path : str, Path or binary file
        The PNG file.
    order : sequence of int, length K, optional
        The order of the classes (a permutation of 0 … K−1), such as that of the matched categories.
    names : mapping of int to str, optional
        What stands beside the number of a class: the category to which it is matched.

    Raises
    ------
    ValueError
        If T is not square, or `order` is not a permutation of its classes.
    """
    values = _as_matrix(T)
    size = len(values)
    shown = np.arange(size) if order is None else np.asarray(order)
    if values.shape != (size, size) or not np.array_equal(np.sort(shown), np.arange(size)):
        raise ValueError(f"transitions of shape {values.shape}, order {order}: expected a square and a permutation")
    values = values[np.ix_(shown, shown)]
    texts = np.array(
        [[f"{p:.2f}".lstrip("0") if 0.005 <= p < 0.995 else "1" if p > 0.5 else "" for p in r] for r in values]
    )
    labels = class_labels(shown.tolist(), names or {})
    figure, axes = _heat_map(values, texts, labels, labels, "probability")
    axes.set(xlabel="next class", ylabel="class", title="transition probabilities")
    _save_figure(figure, path)


def class_labels(order: Sequence[int], names: Mapping[int, str]) -> list[str]:
    """Return the number of each class and its name, ``3 = grasp``; numbers alone where all names are these."""
    if all(names.get(k, str(k)) == str(k) for k in order):
        return [str(k) for k in order]
    return [f"{k} = {names[k]}" if k in names else str(k) for k in order]


def draw_states(
    classes: ArrayLike, categories: ArrayLike | None, lengths: ArrayLike | None, path: str | Path | BinaryIO
) -> None:
    """Draw the class of each row over time, a line for each sequence, below its label.

    Parameters
    ----------
    classes : array_like of int, shape (N,)
        N ≥ 1. Classes have the colours of the labels to which they are matched.
    categories : array_like of int, shape (N,), or None
    lengths : array_like of int, shape (S,), or None
        Lengths of the sequences, with sum N; None: one sequence.
    path : str, Path or binary file
        The PNG file.

    Raises
    ------
    ValueError
        If the lengths or the categories do not match the rows.
    """
    strips = state_strips(classes, categories, lengths)
    height, handles = 0.9 + (0.42 if categories is not None else 0.3) * len(strips.names), legend_of(strips)
    lines = math.ceil(len(handles) / math.ceil(len(handles) / 20))
    beside = 0.25 + 0.24 * lines <= height  # else the legend would be cut
    below = 0.0 if beside else 0.2 + 0.24 * math.ceil(len(handles) / 6)
    figure = _new_figure(9, height + below)
    axes = figure.add_subplot()
    draw_strips(axes, strips)
    axes.set_title(strips.title, fontsize=10)
    if beside:
        figure.legend(handles=handles, loc="outside right center", ncols=math.ceil(len(handles) / 20))
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=9)
    _save_figure(figure, path)


class StateStrips(NamedTuple):
    """Classes over time, to be drawn: see :func:`state_strips`.

    Attributes
    ----------
    lines : ndarray of int, shape (H, L)
        Indices of groups; -1 where nothing is drawn. Each sequence has lines of its labels above lines of its
        classes, with one of -1 between; several of -1 are between sequences.
    places : list of float
        The line of the middle of each sequence.
    names : list of str
        The numbers of the sequences.
    groups : list of str
        The name of each group: a label, or a class that is matched to none.
    title : str
    """

    lines: IntArray
    places: list[float]
    names: list[str]
    groups: list[str]
    title: str


def state_strips(classes: ArrayLike, categories: ArrayLike | None, lengths: ArrayLike | None) -> StateStrips:
    """Return what is drawn of classes over time: the first rows of the first sequences.

    Raises
    ------
    ValueError
        If the lengths or the categories do not match the rows.
    """
    found = np.asarray(classes)
    truth = None if categories is None else np.asanyarray(categories)
    spans = np.array([len(found)]) if lengths is None else np.asarray(lengths)
    sizes = {len(found), int(spans.sum()), len(found if truth is None else truth)}
    if found.ndim != 1 or len(found) == 0 or len(sizes) > 1:
        raise ValueError(f"{len(found)} classes, expected as many categories, and lengths that add up to that")
    names, of_rows = _name_groups(found, truth)
    starts = np.concatenate([[0], np.cumsum(spans)])
    shown = range(min(len(spans), MAX_DRAWN_SEQUENCES))
    width = min(int(spans[: len(shown)].max()), MAX_DRAWN_STATES)
    lines: list[IntArray] = []
    places = []
    blank = np.full(width, -1, np.int64)
    for each in shown:
        first = len(lines)
        for groups, thickness in zip(of_rows, (8, 12)[-len(of_rows) :], strict=True):
            lines += [blank] * (len(lines) > first)  # between labels and classes
            line = blank.copy()
            own = groups[starts[each] : starts[each + 1]][:width]
            line[: len(own)] = own
            lines += [line] * thickness
        places.append((first + len(lines) - 1) / 2)
        lines += [blank] * 5
    said = [f"the first {len(shown)} of {len(spans)} sequences"] if len(shown) < len(spans) else []
    said += [f"the first {width} rows"] if width < spans[: len(shown)].max() else []
    what = "classes over time" if truth is None else "labels (above) and classes (below) over time"
    return StateStrips(np.stack(lines[:-5]), places, [str(n) for n in shown], names, ", ".join([what, *said]))


def _name_groups(classes: IntArray, labels: IntArray | None) -> tuple[list[str], list[IntArray]]:
    """Return the names of the groups, and the group of each row: by label, if there are labels, and by class.

    A class is in the group of the label to which it is matched.
    """
    found, by_class = np.unique(classes, return_inverse=True)
    if labels is None:
        return [f"class {k}" for k in found.tolist()], [by_class]
    known, by_label = np.unique(np.asarray(labels), return_inverse=True)
    matched = match(classes, labels)
    inverse = {label: k for k, label in matched.items()}
    names = [
        f"{category_name(labels, label)} = class {inverse[label]}" if label in inverse else category_name(labels, label)
        for label in known.tolist()
    ]
    group_of = []
    for k in found.tolist():
        if k in matched:
            group_of.append(int(np.searchsorted(known, matched[k])))
        else:
            group_of.append(len(names))
            names.append(f"class {k}")
    return names, [by_label, np.array(group_of)[by_class]]


def draw_strips(axes: Any, strips: StateStrips) -> None:
    """Draw classes over time into axes."""
    from matplotlib.colors import to_rgba_array

    colours = np.append(to_rgba_array(_group_colours(len(strips.groups))), [[0.0, 0.0, 0.0, 0.0]], axis=0)
    axes.imshow(colours[strips.lines], interpolation="nearest", aspect="auto")
    axes.set_yticks(strips.places, strips.names, fontsize=8)
    axes.set(xlabel="row of the sequence", ylabel="sequence" if len(strips.names) > 1 else "")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def legend_of(strips: StateStrips) -> list[Any]:
    """Return handles of a legend of the groups, at most the first 40."""
    from matplotlib.patches import Patch

    colours = _group_colours(len(strips.groups))
    return [Patch(color=c, label=label_text(name)) for c, name in zip(colours[:40], strips.groups, strict=False)]


def _group_colours(count: int) -> list[Any]:
    """Return a colour for each group: the palette's for ten, others from a colour map."""
    from matplotlib import colormaps

    return list(PALETTE[:count]) if count <= len(PALETTE) else list(colormaps["turbo"](np.linspace(0, 1, count)))


def draw_latents(
    first: ArrayLike,
    last: ArrayLike,
    colours: ArrayLike | None,
    path: str | Path | BinaryIO,
    names: Sequence[str] = ("first round", "last round"),
) -> None:
    """Plot latent vectors of two rounds side by side, both projected to the two principal components of the last.

    The panels have the same axes.

    Parameters
    ----------
    first, last : array_like of float, shape (N, D)
        Latent vectors of the same rows; one-dimensional ones are plotted over the row index.
    colours : array_like of int, shape (N,), or None
        Class or category of each row; also written at the median of its points.
    path : str, Path or binary file
        The PNG file.
    names : sequence of two str
        Titles of the two panels.

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    from matplotlib.lines import Line2D

    pair = [_as_matrix(first), _as_matrix(last)]
    groups = np.zeros(len(pair[0]), dtype=np.int64) if colours is None else np.asanyarray(colours)
    if groups.ndim != 1 or any(len(points) != len(groups) for points in pair):
        raise ValueError(
            f"{len(pair[0])} and {len(pair[1])} latent vectors, {groups.shape} colours: expected one per row"
        )
    labels, indices = named_groups(groups)
    labelled = colours is not None and len(labels) <= MAX_LABELLED_GROUPS
    figure = _new_figure(11, 5.4)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    basis = pair[1] if pair[0].shape[1] == pair[1].shape[1] else None
    planes = [project(points, basis) for points in pair]
    limits = padded_limits(np.concatenate([plane for plane, _ in planes]))
    for axes, (plane, axis_labels), name in zip(panels, planes, names, strict=True):
        axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1], xlim=limits[0], ylim=limits[1])
        draw_points(axes, plane, indices, labels if labelled else [])
        axes.set_title(printable_line(name), parse_math=False)
    if labelled:
        styles = [(PALETTE[index % 10], MARKERS[index // 10 % len(MARKERS)]) for index in range(len(labels))]
        handles = [Line2D([], [], color=colour, marker=marker, linestyle="") for colour, marker in styles]
        texts = [label_text(label) for label in labels]
        figure.legend(handles, texts, loc="outside right center", ncols=math.ceil(len(labels) / 20))
    _save_figure(figure, path)


def named_groups(groups: Array) -> tuple[list[str], IntArray]:
    """Return the name of each group, and the index of each row's group."""
    known, indices = np.unique(np.asarray(groups), return_inverse=True)
    return [category_name(groups, label) for label in known.tolist()], indices


def as_pictures(stack: ArrayLike) -> FloatArray:
    """Return rows (K, P) as square images (K, H, W) if P is the square of at least MIN_IMAGE_SIDE; else as they are."""
    values = np.asarray(stack, dtype=np.float64)
    side = math.isqrt(values.shape[1]) if values.ndim == 2 else 0
    return values.reshape(-1, side, side) if side >= MIN_IMAGE_SIDE and side * side == values.shape[1] else values


def draw_images(images: ArrayLike, path: str | Path | BinaryIO, titles: Sequence[str] | None = None) -> None:
    """Draw images in a grid, each with its title; at most the first 256.

    Parameters
    ----------
    images : array_like of float, shape (K, P) or (K, H, W)
        K ≥ 1. Rows are drawn as square images if P is a square number, else as curves. All have the same scale.
    path : str, Path or binary file
        The PNG file.
    titles : sequence of str, length K, optional

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    stack = np.asarray(images, dtype=np.float64)
    if stack.ndim not in (2, 3) or stack.size == 0 or (titles is not None and len(titles) != len(stack)):
        raise ValueError(f"images of shape {stack.shape}: expected (K, P) or (K, H, W), and K titles or none")
    total, stack = len(stack), stack[:MAX_IMAGES]
    stack = as_pictures(stack)
    columns = math.ceil(math.sqrt(len(stack)))
    rows = math.ceil(len(stack) / columns)
    cell = float(np.clip(14 / columns, 0.7, 2.2 if stack.ndim == 2 else 1.5))
    figure = _new_figure(max(cell * columns, 2.0), max((cell + (0.25 if titles is not None else 0)) * rows, 2.0))
    finite = stack[np.isfinite(stack)]
    low, high = min(finite.min(initial=0), 0), max(finite.max(initial=0), 1e-12)
    if stack.ndim == 3 and low == 0:
        high = max(high, 1)  # keep the brightness of images in [0, 1]
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(stack) :]:
        axes.remove()
    for index, image in enumerate(stack):
        axes = panels[index]
        if image.ndim == 2:
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        else:
            if len(image) > MAX_BARS:
                axes.plot(image, color=PALETTE[0], linewidth=1.5)
            else:
                axes.bar(range(len(image)), image, color=PALETTE[0])
                axes.axhline(0, color="0.6", linewidth=0.8)
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set(xticks=[], yticks=[])
        if titles is not None:
            axes.set_title(printable_line(titles[index]), fontsize=9, parse_math=False)
    if total > len(stack):
        figure.suptitle(f"the first {len(stack)} of {total}")
    _save_figure(figure, path)


def _new_figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save_figure(figure: Any, path: str | Path | BinaryIO) -> None:
    """Write a figure as PNG, or as the suffix of a path says (:data:`VECTOR_FORMATS`)."""
    from matplotlib import rc_context

    suffix = Path(path).suffix[1:].lower() if isinstance(path, str | Path) else ""
    if suffix not in VECTOR_FORMATS:
        figure.savefig(path, format="png", dpi=120)
        return
    dates = {"svg": "Date", "pdf": "CreationDate"}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "serket", "pdf.fonttype": 42}):  # texts stay texts
        figure.savefig(path, format=suffix, dpi=300, metadata={dates[suffix]: None})


def label_text(label: Any) -> str:
    """Return a label for texts of matplotlib that would read a part between two dollar signs as a formula."""
    return printable_line(label).replace("$", r"\$")


def _as_floats(values: Sequence[float | None]) -> FloatArray:
    """Return values as an array, with NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _as_matrix(values: ArrayLike) -> FloatArray:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"an array of shape {matrix.shape}; expected a matrix with at least one row and one column")
    return matrix


def _heat_map(
    values: FloatArray,
    texts: NDArray[np.str_],
    row_labels: Sequence[Any] | None,
    column_labels: Sequence[Any] | None,
    meaning: str,
) -> tuple[Any, Any]:
    """Draw values in [0, 1] as a heat map, with their texts if it is small enough; return the figure and its axes."""
    rows, columns = values.shape
    names = [range(n) if given is None else given for n, given in ((rows, row_labels), (columns, column_labels))]
    if (len(names[0]), len(names[1])) != values.shape:
        raise ValueError(f"{len(names[0])} and {len(names[1])} labels for a matrix of shape {values.shape}")
    cell = 0.5 if max(rows, columns) <= MAX_SIZE_WITH_NUMBERS else max(0.12, 7 / max(rows, columns))
    figure = _new_figure(min(max(cell * columns, 2.5), 12) + 1.8, min(max(cell * rows, 2.5), 12) + 0.9)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label=meaning, shrink=0.8)
    for axis, labels in ((axes.yaxis, names[0]), (axes.xaxis, names[1])):
        step = math.ceil(len(labels) / 25)
        axis.set_ticks(
            range(0, len(labels), step),
            [printable_line(label) for label in labels[::step]],
            fontsize=9,
            parse_math=False,
        )
    turn_labels(axes, [str(label) for label in names[1]])
    if max(rows, columns) <= MAX_SIZE_WITH_NUMBERS:
        for i, j in np.ndindex(rows, columns):
            text_colour = "white" if values[i, j] > 0.55 else "black" if values[i, j] >= 0.02 else "0.5"
            axes.text(j, i, texts[i, j], ha="center", va="center", color=text_colour, fontsize=8)
    return figure, axes


def turn_labels(axes: Any, labels: Sequence[str]) -> None:
    """Turn the labels below a heat map where they are too long to stand side by side."""
    if max(map(len, labels), default=0) > MAX_LEVEL_CHARACTERS:
        axes.tick_params(axis="x", labelrotation=40)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def padded_limits(plane: FloatArray) -> list[tuple[float, float]]:
    """Return the limits of axes in which points of the plane (N, 2) lie, with a margin."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    return [(float(a), float(b)) for a, b in zip(low - margin, high + margin, strict=True)]


def draw_points(
    axes: Any, plane: FloatArray, groups: IntArray, labels: Sequence[Any] | NDArray[Any], *, rasterized: bool = False
) -> None:
    """Plot points of the plane (N, 2), coloured by group index, with the groups' labels, if any, at their medians."""
    from matplotlib.colors import to_rgba_array

    size = float(np.clip(25000 / len(plane), 6, 50))
    for number, marker in enumerate(MARKERS):  # points in the order of the rows, so that no group hides the others
        selected = groups // 10 % len(MARKERS) == number
        if rasterized and not selected.any():
            continue
        colours = to_rgba_array(PALETTE)[groups[selected] % 10]
        options: dict[str, Any] = {"alpha": 0.7, "linewidths": 0, "rasterized": rasterized}
        axes.scatter(*plane[selected].T, s=size, c=colours, marker=marker, **options)
    _label_groups(axes, plane, groups, [label_text(label) for label in labels])
    axes.grid(alpha=0.2)


def _label_groups(axes: Any, plane: FloatArray, groups: IntArray, labels: Sequence[str]) -> None:
    """Write the label of each group near the median of its points, so that no label hides another."""
    if not labels:
        return
    axes.autoscale_view()  # else the axes are those of no points until they are drawn
    medians = np.stack([np.median(plane[groups == index], axis=0) for index in range(len(labels))])
    to_axes = axes.transData + axes.transAxes.inverted()
    inches = np.array([axes.figure.get_figwidth(), axes.figure.get_figheight()]) * axes.get_position().size
    sizes = np.array([[11.0 * 0.62 * len(label) + 9.0, 19.0] for label in labels]) / (72.0 * inches)
    low, high = sizes / 2, np.maximum(1.0 - sizes / 2, sizes / 2)
    places = np.clip(spread_boxes(to_axes.transform(medians), sizes), low, high)
    for index, (label, median, place) in enumerate(zip(labels, medians, places, strict=True)):
        colour = PALETTE[index % 10]
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.9, "edgecolor": colour}
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 1.2, "shrinkA": 0.0, "shrinkB": 0.0}
        text = {"fontsize": 10, "weight": "bold", "color": INK, "ha": "center", "va": "center", "bbox": box}
        axes.annotate(label, median, place, xycoords="data", textcoords="axes fraction", arrowprops=arrow, **text)


def spread_boxes(centres: ArrayLike, sizes: ArrayLike) -> FloatArray:
    """Return centres of boxes that are moved apart until no two of them overlap, at most 1,000 times.

    Parameters
    ----------
    centres : array_like of float, shape (K, 2)
    sizes : array_like of float, shape (K, 2)
        Widths and heights.

    Returns
    -------
    ndarray of float64, shape (K, 2)
    """
    places, extent = np.array(centres, np.float64), np.asarray(sizes, np.float64)
    first, second = np.triu_indices(len(places), 1)
    needed = (extent[first] + extent[second]) / 2
    for _ in range(1000):
        apart = places[second] - places[first]
        lacking = needed - np.abs(apart)
        overlaps = (lacking > 1e-9).all(axis=1)
        if not overlaps.any():
            break
        for pair in np.flatnonzero(overlaps):  # along the axis on which less is lacking; equal centres upwards
            one, two = first[pair], second[pair]
            difference = places[two] - places[one]
            short = needed[pair] - np.abs(difference)
            if (short <= 0).any():
                continue
            axis = int(short[1] <= short[0])
            step = (0.55 * short[axis] + 1e-6) * (1.0 if difference[axis] >= 0 else -1.0)
            places[one, axis] -= step
            places[two, axis] += step
    return places


def project(points: FloatArray, basis: FloatArray | None = None) -> tuple[FloatArray, tuple[str, str]]:
    """Return two principal components, or row index and latent dimension, with the labels of the axes.

    The components are those of `basis`, by default of the points.
    """
    from sklearn.decomposition import PCA

    rows, width = points.shape
    if rows == 1 or width == 1:
        return np.column_stack([np.arange(rows), points[:, 0]]), ("row", "latent dimension 1")
    pca = PCA(2, svd_solver="full")
    with np.errstate(invalid="ignore"):  # 0/0 in the explained variance of identical points
        plane = pca.fit(points if basis is None else basis).transform(points)
        share = np.nan_to_num(plane.var(axis=0) / points.var(axis=0).sum())
    return plane, (f"component 1 ({share[0]:.0%} of the variance)", f"component 2 ({share[1]:.0%})")
