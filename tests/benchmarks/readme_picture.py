"""Draws the README's picture from a run: ``python -m tests.benchmarks.readme_picture runs/mnist``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

from runner.data.datasets import load

INK, ACCENT, FRAME = "#2b3440", "#c8553d", "#d5d9de"
WIDTH, HEIGHT = 12.0, 4.6
OUTPUT = Path(__file__).parents[2] / "docs" / "images" / "mnist_run.png"


def draw_inputs(figure, images, rows=5, columns=6):
    """Draw the first images of the data."""
    width, height = 0.047, 0.152
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        place = [0.015 + column * width, 0.735 - row * height, width * 0.92, width * 0.92 * WIDTH / HEIGHT]
        axes = figure.add_axes(place, xticks=[], yticks=[])
        axes.imshow(images[number], cmap="gray_r", vmin=0, vmax=1)
        for spine in axes.spines.values():
            spine.set_color(FRAME)
    figure.text(0.155, 0.055, "…", ha="center", fontsize=14)


def draw_cycle(figure, means, transitions, first, accuracy):
    """Draw the classes' mean images in a ring, each with an arrow to the most probable next class."""
    order = [first]
    while len(order) < len(transitions):
        order.append(int(transitions[order[-1]].argmax()))
    if sorted(order) != list(range(len(transitions))):
        sys.exit("the transitions are no cycle of all classes")
    axes = figure.add_axes([0.335, 0.04, 0.34, 0.87], aspect="equal")
    angles = 2 * np.pi * np.arange(len(order)) / len(order)
    places = {k: (np.sin(angle), np.cos(angle)) for k, angle in zip(order, angles, strict=True)}
    half = 0.172
    style = {"connectionstyle": "arc3,rad=-0.10", "shrinkA": 26, "shrinkB": 26, "arrowstyle": "-|>"}
    for k, (x, y) in places.items():
        following = int(transitions[k].argmax())
        weight = 0.6 + 2.2 * transitions[k, following]
        axes.add_patch(
            FancyArrowPatch((x, y), places[following], mutation_scale=13, lw=weight, color=ACCENT, zorder=1, **style)
        )
        extent = (x - half, x + half, y - half, y + half)
        axes.imshow(means[k], cmap="gray_r", extent=extent, zorder=2, vmin=0, vmax=1)
        axes.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, fill=False, ec="#9aa3ad", lw=0.8, zorder=3))
    axes.text(0, 0.06, "VAE + GMM + MM", ha="center", va="center", fontsize=12)
    axes.text(0, -0.14, f"accuracy {accuracy:.3f}", ha="center", va="center", fontsize=11, color=ACCENT)
    axes.set(xlim=(-1.28, 1.28), ylim=(-1.28, 1.28))
    axes.axis("off")


def draw_transitions(figure, transitions):
    """Draw the transition matrix, classes numbered as the run found them."""
    ticks = range(len(transitions))
    axes = figure.add_axes([0.725, 0.13, 0.235, 0.72], xticks=ticks, yticks=ticks)
    axes.imshow(transitions, cmap="Reds", vmin=0, vmax=1)
    axes.set(xlabel="next class", ylabel="class (numbered as found)")
    axes.tick_params(length=0, labelsize=9)


def main(run: Path) -> None:
    """Draw the picture."""
    plt.rcParams.update({"font.size": 11, "text.color": INK, "axes.edgecolor": INK})
    means = np.load(run / "module001_vae" / "mu_hat_learn.npy").reshape(-1, 28, 28)
    classes = np.loadtxt(run / "module002_gmm" / "class_learn.txt", dtype=int)
    accuracy = float((run / "module002_gmm" / "acc_learn.txt").read_text())
    transitions = np.loadtxt(run / "module003_mm" / "trans_prob_learn.txt")
    figure = plt.figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    titles = ("input: 3,000 digits in order, no labels", "learnt: ten classes and their order")
    for x, title in zip((0.155, 0.505, 0.845), (*titles, "learnt: transition probabilities"), strict=True):
        figure.text(x, 0.93, title, ha="center", fontsize=12, weight="bold")
    draw_inputs(figure, load("mnist", count=3000, order="cyclic").observations.reshape(-1, 28, 28))
    draw_cycle(figure, means, transitions, int(classes[0]), accuracy)
    draw_transitions(figure, transitions)
    figure.savefig(OUTPUT, dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
