"""Drawings of a run, each from plain arrays into one PNG.

matplotlib is imported inside the functions alone, and used without pyplot: nothing global changes, and no window system
is needed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Petroff's ten colours, which people with the common colour deficiencies can tell apart
PALETTE = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "os^Dv"  # the second ten classes differ in shape, and so on
MOST_NUMBERS = 12
MOST_LABELS = 50
MOST_IMAGES = 256


def draw_progress(
    rounds: Sequence[int],
    accuracy: Sequence[float | None] | None,
    evidence: Sequence[float | None],
    path: str | Path,
) -> None:
    """Draw accuracy and evidence by round, one above the other.

    Parameters
    ----------
    rounds : sequence of int, length R
        Numbers of the rounds, R ≥ 1.
    accuracy : sequence of float or None, length R, optional
        In [0, 1]; None where it is not known, and without any that is, its panel is left out.
    evidence : sequence of float or None, length R
        None where it is not known.
    path : str or Path
        Where to write the PNG.

    Raises
    ------
    ValueError
        If the lengths differ or there is no round.
    """
    from matplotlib.ticker import MaxNLocator

    curves = {"evidence": _numbers(evidence)}
    if accuracy is not None and np.isfinite(_numbers(accuracy)).any():
        curves = {"accuracy": _numbers(accuracy), **curves}
    if len(rounds) == 0 or any(len(values) != len(rounds) for values in curves.values()):
        raise ValueError(
            f"{len(rounds)} rounds, but {[len(v) for v in curves.values()]} values; give one of each a round"
        )
    figure = _figure(7, 2.4 * len(curves) + 0.5)
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    numbers = np.asarray(rounds)
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        known = np.flatnonzero(np.isfinite(values))
        colour = PALETTE[0] if name == "accuracy" else PALETTE[6]
        axes.plot(numbers[known], values[known], "o-", color=colour, linewidth=2, markersize=5)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.margins(x=0.08, y=0.2)
        if name == "accuracy":  # near 1 is where the differences are
            low = float(values[known].min())
            axes.set_ylim(max(0.0, low - 0.25 * (1 - low) - 0.01), 1 + 0.05 * (1 - low) + 0.002)
        if len(known) == 0:
            axes.text(0.5, 0.5, f"no {name} yet", transform=axes.transAxes, ha="center", va="center", color="0.4")
            continue
        last = values[known[-1]]
        text = f"{last:.4f}" if name == "accuracy" else f"{last:,.1f}"
        axes.set_title(f"{name}: {text} after round {rounds[int(known[-1])]}", loc="left", fontsize=10)
    panels[-1].set_xlabel("round")
    panels[-1].set_xlim(numbers.min() - 0.5, numbers.max() + 0.5)
    panels[-1].xaxis.set_major_locator(MaxNLocator(min(len(rounds), 20), integer=True, min_n_ticks=1))
    _save(figure, path)


def draw_confusion(
    matrix: ArrayLike, row_labels: Sequence[Any] | None, column_labels: Sequence[Any] | None, path: str | Path
) -> None:
    """Draw how many rows of each category fell into each class.

    Parameters
    ----------
    matrix : array_like of numbers, shape (C, K)
        Counts, categories in rows and classes in columns (`metrics.confusion`).
    row_labels, column_labels : sequence, length C and K, or None
        Names of categories and classes; None numbers them.
    path : str or Path
        Where to write the PNG.

    Raises
    ------
    ValueError
        If the matrix isn't one, or labels don't fit it.
    """
    counts = _matrix(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)
    texts = np.array([[f"{n:g}" if n else "" for n in row] for row in counts])
    correct = np.trace(counts) / max(counts.sum(), 1e-300)
    figure, axes = _heat_map(shares, texts, row_labels, column_labels, "share of the category")
    axes.set(xlabel="class", ylabel="category", title=f"categories and classes ({100 * correct:.2f} % matched)")
    _save(figure, path)


def draw_transitions(T: ArrayLike, path: str | Path, order: Sequence[int] | None = None) -> None:
    """Draw the probabilities of the class that comes next.

    Parameters
    ----------
    T : array_like of float, shape (K, K)
        T[i, j]: probability that j follows i. With K ≤ 12 the numbers are written in.
    path : str or Path
        Where to write the PNG.
    order : sequence of int, length K, optional
        The order to show the classes in (a permutation of 0 … K−1), such as that of the matched categories.

    Raises
    ------
    ValueError
        If T isn't square, or `order` isn't a permutation of its classes.
    """
    values = _matrix(T)
    size = len(values)
    shown = np.arange(size) if order is None else np.asarray(order)
    if values.shape != (size, size) or not np.array_equal(np.sort(shown), np.arange(size)):
        raise ValueError(f"transitions of shape {values.shape}, order {order}: a square and a permutation are needed")
    values = values[np.ix_(shown, shown)]
    texts = np.array(
        [[f"{p:.2f}".lstrip("0") if 0.005 <= p < 0.995 else "1" if p > 0.5 else "" for p in r] for r in values]
    )
    figure, axes = _heat_map(values, texts, list(shown), list(shown), "probability")
    axes.set(xlabel="next class", ylabel="class", title="transition probabilities")
    _save(figure, path)


def draw_latents(
    first: ArrayLike,
    last: ArrayLike,
    colours: ArrayLike | None,
    path: str | Path,
    names: Sequence[str] = ("first round", "last round"),
) -> None:
    """Draw latent vectors of two rounds side by side, each in its own two principal components.

    Parameters
    ----------
    first, last : array_like of float, shape (N, D)
        Latent vectors of the same rows; with one component they are drawn over the row number.
    colours : array_like of int, shape (N,), or None
        Class or category of each row, written at the middle of its points as well.
    path : str or Path
        Where to write the PNG.
    names : sequence of two str
        Titles of the two panels.

    Raises
    ------
    ValueError
        If the shapes don't fit.
    """
    from matplotlib.lines import Line2D

    pair = [_matrix(first), _matrix(last)]
    groups = np.zeros(len(pair[0]), dtype=np.int64) if colours is None else np.asarray(colours)
    if groups.ndim != 1 or any(len(points) != len(groups) for points in pair):
        raise ValueError(
            f"{len(pair[0])} and {len(pair[1])} latent vectors, {groups.shape} colours: one a row is needed"
        )
    known, which = np.unique(groups, return_inverse=True)
    named = colours is not None and len(known) <= MOST_LABELS
    figure = _figure(11, 5.4)
    panels = figure.subplots(1, 2)
    for axes, points, name in zip(panels, pair, names, strict=True):
        _scatter(axes, points, which, known if named else [])
        axes.set_title(name, parse_math=False)
    if named:
        looks = [(PALETTE[index % 10], MARKERS[index // 10 % len(MARKERS)]) for index in range(len(known))]
        dots = [Line2D([], [], color=colour, marker=shape, linestyle="") for colour, shape in looks]
        names_of = [str(group) for group in known]
        figure.legend(dots, names_of, loc="outside right center", ncols=math.ceil(len(known) / 20))
    _save(figure, path)


def draw_images(images: ArrayLike, path: str | Path, titles: Sequence[str] | None = None) -> None:
    """Draw images in a grid, each with its title; of more than 256 the first 256.

    Parameters
    ----------
    images : array_like of float, shape (K, P) or (K, H, W)
        K ≥ 1. P that is a square number makes a square image, any other a curve. All share one scale.
    path : str or Path
        Where to write the PNG.
    titles : sequence of str, length K, optional
        By default none.

    Raises
    ------
    ValueError
        If the shapes don't fit.
    """
    stack = np.asarray(images, dtype=np.float64)
    if stack.ndim not in (2, 3) or stack.size == 0 or (titles is not None and len(titles) != len(stack)):
        raise ValueError(f"images of shape {stack.shape}: (K, P) or (K, H, W) and, if any, K titles are needed")
    total, stack = len(stack), stack[:MOST_IMAGES]
    side = math.isqrt(stack.shape[1])
    if stack.ndim == 2 and side * side == stack.shape[1]:
        stack = stack.reshape(-1, side, side)
    columns = math.ceil(math.sqrt(len(stack)))
    rows = math.ceil(len(stack) / columns)
    cell = float(np.clip(14 / columns, 0.7, 2.2 if stack.ndim == 2 else 1.5))
    figure = _figure(max(cell * columns, 2.0), max((cell + (0.25 if titles is not None else 0)) * rows, 2.0))
    finite = stack[np.isfinite(stack)]
    low, high = min(finite.min(initial=0), 0), max(finite.max(initial=0), 1e-12)
    if stack.ndim == 3 and low == 0:
        high = max(high, 1)  # images in [0, 1] keep their brightness
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(stack) :]:
        axes.remove()
    for index, image in enumerate(stack):
        axes = panels[index]
        if image.ndim == 2:
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        else:
            axes.plot(image, color=PALETTE[0], linewidth=1.5)
            axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axes.set(xticks=[], yticks=[])
        if titles is not None:
            axes.set_title(str(titles[index]), fontsize=9, parse_math=False)
    if total > len(stack):
        figure.suptitle(f"the first {len(stack)} of {total}")
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> None:
    figure.savefig(path, format="png", dpi=120)


def _numbers(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _matrix(values: ArrayLike) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"an array of shape {matrix.shape}; a matrix with at least one row and one column is needed")
    return matrix


def _heat_map(
    values: Floats,
    texts: NDArray[np.str_],
    row_labels: Sequence[Any] | None,
    column_labels: Sequence[Any] | None,
    meaning: str,
) -> tuple[Any, Any]:
    """Draw values in [0, 1] as a heat map, with their texts if it is small; return the figure and its axes."""
    rows, columns = values.shape
    names = [range(n) if given is None else given for n, given in ((rows, row_labels), (columns, column_labels))]
    if (len(names[0]), len(names[1])) != values.shape:
        raise ValueError(f"{len(names[0])} and {len(names[1])} labels for a matrix of shape {values.shape}")
    cell = 0.5 if max(rows, columns) <= MOST_NUMBERS else max(0.12, 7 / max(rows, columns))
    figure = _figure(min(max(cell * columns, 2.5), 12) + 1.8, min(max(cell * rows, 2.5), 12) + 0.9)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label=meaning, shrink=0.8)
    for axis, labels in ((axes.yaxis, names[0]), (axes.xaxis, names[1])):
        step = math.ceil(len(labels) / 25)
        axis.set_ticks(
            range(0, len(labels), step), [str(label) for label in labels[::step]], fontsize=9, parse_math=False
        )
    if max(rows, columns) <= MOST_NUMBERS:
        for i, j in np.ndindex(rows, columns):
            ink = "white" if values[i, j] > 0.55 else "black" if values[i, j] >= 0.02 else "0.5"
            axes.text(j, i, texts[i, j], ha="center", va="center", color=ink, fontsize=8)
    return figure, axes


def _scatter(axes: Any, points: Floats, which: NDArray[np.int64], names: Sequence[Any] | NDArray[Any]) -> None:
    """Draw points in two dimensions, coloured by group, and the groups' names, if any, at their middles."""
    plane, labels = _components(points)
    size = float(np.clip(25000 / len(plane), 6, 50))
    for shape in range(len(MARKERS)):  # in the order of the rows, so that no group covers the others
        mine = which // 10 % len(MARKERS) == shape
        colours = [PALETTE[index % 10] for index in which[mine]]
        axes.scatter(*plane[mine].T, s=size, c=colours, marker=MARKERS[shape], alpha=0.7, linewidths=0)
    for index, name in enumerate(names):
        middle = np.median(plane[which == index], axis=0)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "alpha": 0.9, "edgecolor": PALETTE[index % 10]}
        axes.annotate(str(name), middle, ha="center", va="center", fontsize=10, weight="bold", bbox=box)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.2)


def _components(points: Floats) -> tuple[Floats, tuple[str, str]]:
    """Project to two principal components, or one and the row number; with the names of the axes."""
    from sklearn.decomposition import PCA

    rows, width = points.shape
    if rows == 1 or width == 1:
        return np.column_stack([np.arange(rows), points[:, 0]]), ("row", "latent dimension 1")
    pca = PCA(2, svd_solver="full")
    with np.errstate(invalid="ignore"):  # all points in one place have no variance to share
        plane = pca.fit_transform(points)
    share = np.nan_to_num(pca.explained_variance_ratio_)
    return plane, (f"component 1 ({share[0]:.0%} of the variance)", f"component 2 ({share[1]:.0%})")
