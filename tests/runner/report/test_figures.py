"""Figures of reports: SVG that is part of a page, and the cycles of a transition matrix."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text

from runner.report import figures
from runner.report.model_layout import Sent, draw_model
from runner.report.printable import format_bytes

HOSTILE = '</text></svg><script>alert("1")</script>'


def cyclic(order, stay=0.0):
    size = len(order)
    values = np.full((size, size), 0.0)
    for place, k in enumerate(order):
        values[k, order[(place + 1) % size]] = 1 - stay
        values[k, k] = stay
    return values


@pytest.mark.parametrize(
    ("values", "cycles"),
    [
        (cyclic([0, 1, 2, 3]), [[0, 1, 2, 3]]),
        (cyclic([2, 0, 3, 1], stay=0.9), [[0, 3, 1, 2]]),  # a class that mostly follows itself is in its cycle, too
        (np.kron(np.eye(2), [[0.1, 0.9], [0.8, 0.2]]), [[0, 1], [2, 3]]),
        (np.array([[0.0, 1, 0], [0, 0.2, 0.8], [0, 0.6, 0.4]]), [[1, 2]]),  # class 0 only leads into it
    ],
)
def test_cycles_follow_the_most_probable_other_class(values, cycles):
    assert figures.most_probable_cycles(values) == cycles


DRAWN = {
    "curves": lambda: figures.curves({HOSTILE: ([1, 2], [0.5, None]), "b": ([1], [0.25])}, "agreement", 1.0),
    "confusion": lambda: figures.confusion([[3, 1], [0, 2]], [HOSTILE, "$x$"], ["a", "b"]),
    "transitions": lambda: figures.transitions(cyclic([0, 1, 2], 0.25), [2, 0, 1]),
    "graph": lambda: figures.transition_graph(cyclic([0, 1, 2], 0.25), [2, 0, 1], {1: HOSTILE}),
    "intervals": lambda: figures.transition_intervals(
        np.eye(2), np.eye(2) - 0.1, np.eye(2), [(0, 0), (1, 1)], {1: HOSTILE}
    ),
    "latents": lambda: figures.latents(np.eye(4)[:, :2], ("x", HOSTILE), np.array([0, 0, 1, 1]), "by class"),
    "images": lambda: figures.images(np.ones((3, 64)), ["a", HOSTILE, "c"]),
    "curved images": lambda: figures.images(np.ones((3, 65)), ["a", HOSTILE, "c"]),
    "bars": lambda: figures.images(np.ones((3, 5)), ["a", HOSTILE, "c"]),
    "pairs": lambda: figures.pairs(np.ones((7, 64)), np.zeros((7, 64)), [HOSTILE] * 7),
    "pairs of bars": lambda: figures.pairs(np.ones((2, 16)), np.zeros((2, 16)), [HOSTILE] * 2),
    "curved pairs": lambda: figures.pairs(np.ones((2, 5)), np.zeros((2, 5)), [HOSTILE] * 2),
    "posteriors": lambda: figures.posteriors({"with": np.eye(3)[:2], HOSTILE: np.eye(3)[1:]}, [7, 9]),
    "timeline": lambda: figures.timeline({"a": [(0.0, 1.0)], HOSTILE: [(1.0, 2.0)] * 500}, [1.5]),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_well_formed_and_its_texts_are_texts(name):
    drawn = DRAWN[name]()
    root = ElementTree.fromstring(drawn)
    assert root.tag.endswith("svg")
    assert not [each for each in root.iter() if each.tag.endswith(("script", "style", "metadata"))]
    assert [each for each in root.iter() if each.tag.endswith("text")]
    assert "#000000" not in drawn, "black follows the colour of the page's text"
    targets = [value for each in root.iter() for key, value in each.attrib.items() if key.endswith("href")]
    assert not [target for target in targets if not target.startswith(("#", "data:image/png;base64,"))]


NAMED = {0: "2 = grasp the cup", 1: "0 = lift", 2: "1 = grasp the plate"}


def drawn_texts(draw, monkeypatch):
    """Return the texts of a figure, with their sizes, and those that reach out of it."""
    kept = []
    monkeypatch.setattr(figures, "svg", lambda figure: kept.append(figure) or "")
    draw()
    (figure,) = kept
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    inside = figure.bbox.padded(2)
    boxes = [text.get_window_extent() for text in texts]
    out = [text.get_text() for text, box in zip(texts, boxes, strict=True) if not inside.contains(*box.min)
           or not inside.contains(*box.max)]  # fmt: skip
    return {text.get_text(): text.get_fontsize() for text in texts}, out


def test_the_names_of_transitions_are_told_apart_and_fit(monkeypatch):
    pairs = [(k, j) for k in range(3) for j in range(3)]
    texts, out = drawn_texts(
        lambda: figures.transition_intervals(np.eye(3), np.eye(3) - 0.1, np.eye(3), pairs, NAMED), monkeypatch
    )
    assert out == []
    assert len([text for text in texts if "→" in text]) == 9
    assert "2 = grasp the… → 0 = lift" in texts


def test_names_in_the_circles_of_classes_have_two_lines_that_can_be_read(monkeypatch):
    texts, out = drawn_texts(lambda: figures.transition_graph(cyclic([0, 1, 2]), [0, 1, 2], NAMED), monkeypatch)
    assert out == []
    assert set(texts) == {"2 =\ngrasp the…", "0 =\nlift", "1 =\ngrasp the…"}
    assert min(texts.values()) >= 6
    texts, _ = drawn_texts(lambda: figures.transition_graph(cyclic([0, 1]), [0, 1], {0: "5 = 0"}), monkeypatch)
    assert texts == {"5 = 0": pytest.approx(12, abs=0.5), "1": 12}


@pytest.mark.parametrize(("values", "low", "high"), [([8e-7, 9e-7], 0, 0.01), ([0.1, 0.3], 0, 0.35)])
def test_calibration_errors_are_drawn_from_zero(monkeypatch, values, low, high):
    kept = []
    monkeypatch.setattr(figures, "svg", lambda figure: kept.append(figure) or "")
    figures.curves({"ece": ([1, 2], values)}, "ece", bottom=0.0)
    assert kept[0].axes[0].get_ylim() == pytest.approx((low, high), rel=0.1)


def test_two_figures_of_a_page_share_no_name():
    named = [set(re.findall(r'\bid="([^"]+)"', DRAWN["curves"]())) for _ in range(2)]
    assert named[0]
    assert named[1]
    assert not named[0] & named[1]


def ends_of(arrow):
    """Return the heights at which a path begins and ends."""
    numbers = re.findall(r"-?[\d.]+", arrow.path)
    return float(numbers[1]), float(numbers[-1])


def test_a_module_lies_above_all_that_send_to_it():
    drawing = draw_model(
        {"a": "observation", "b": "vae", "c": "gmm", "d": "markov"},
        [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")],
        [Sent("c", "d", ("up",)), Sent("d", "c", ("down",))],
    )
    height = {box.module: -box.y for box in drawing.boxes}
    assert height["a"] < height["b"] < height["c"] < height["d"]
    up, down = drawing.arrows
    assert (up.lines, up.ends, down.lines, down.ends) == (("up",), False, ("down",), True)
    assert ends_of(up)[1] < ends_of(up)[0] == ends_of(down)[1]
    assert up.at_y > down.at_y
    assert all(0 <= box.x <= drawing.width - 190 for box in drawing.boxes)


def test_modules_of_one_level_lie_beside_each_other():
    drawing = draw_model({"a": "x", "b": "x", "c": "y"}, [("a", "c"), ("b", "c")])
    a, b, c = drawing.boxes
    assert (a.y == b.y, abs(a.x - b.x) >= 190) == (True, True)
    assert c.x == (a.x + b.x) / 2


def test_a_source_lies_below_the_module_that_reads_it_and_no_line_crosses():
    kinds = dict.fromkeys(["pictures", "words", "vae", "gmm", "mlda", "mm"], "x")
    pairs = [("pictures", "vae"), ("vae", "gmm"), ("gmm", "mlda"), ("words", "mlda"), ("gmm", "mm")]
    boxes = {box.module: box for box in draw_model(kinds, pairs).boxes}
    assert boxes["words"].y == boxes["gmm"].y
    assert boxes["mm"].y == boxes["mlda"].y
    assert boxes["gmm"].x < boxes["words"].x
    assert boxes["mm"].x < boxes["mlda"].x


def test_a_line_that_passes_a_box_bends_around_it():
    drawing = draw_model(dict.fromkeys("abc", "x"), [("a", "b"), ("b", "c"), ("a", "c")])
    straight, _, bent = (arrow.path for arrow in drawing.arrows)
    assert ("C" in straight, "C" in bent) == (False, True)
    right = max(box.x for box in drawing.boxes) + 190
    assert right < max(float(x) for x in re.findall(r"([\d.]+) [\d.]+", bent)) <= drawing.width + 40


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (9 << 20, "9.0 MiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_written_with_a_unit(size, text):
    assert format_bytes(size) == text


def test_a_class_that_mostly_follows_itself_has_an_arrow_to_the_class_that_comes_next():
    def arrows(values):
        return figures.transition_graph(values, range(3), {}).count("<path")

    sticky = 0.95 * np.eye(3) + 0.05 * np.roll(np.eye(3), 1, axis=1)
    assert arrows(sticky) >= arrows(np.eye(3)) + 3


def test_the_leading_transitions_make_up_most_of_the_probability():
    values = np.array([[0.95, 0.04, 0.01], [0.5, 0.05, 0.45], [0.3, 0.3, 0.4]])
    assert figures.leading_transitions(values, [1, 0, 2], 10) == [(1, 0), (1, 2), (0, 0), (2, 2), (2, 0), (2, 1)]
    assert figures.leading_transitions(values, [1, 0, 2], 2) == [(1, 0), (1, 2)]
    assert figures.leading_transitions(np.zeros((2, 2)), [0, 1], 9) == [(0, 0), (1, 0)]


def test_an_axis_of_shares_ends_at_one():
    for values in ([1.0, 1.0, 1.0], [0.2, 0.9, 1.0], [0.62, 0.7, 0.71]):
        drawn = figures.curves({"accuracy": ([1, 2, 3], values)}, "agreement", 1.0)
        ticks = [float(text) for text in re.findall(r">\s*([01]\.\d+)\s*<", drawn)]
        assert max(ticks) == 1.0
        assert len(ticks) >= 3
    drawn = figures.curves({"accuracy": ([1, 2], [0.999, 1.0])}, "agreement", 1.0)
    numbers = [float(text) for text in re.findall(r">\s*([01]\.\d+)\s*<", drawn)]
    assert numbers
    assert max(numbers) <= 1.0
