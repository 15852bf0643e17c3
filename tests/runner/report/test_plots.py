"""Tests of the plots: files, panels, labels, and edge cases."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.report import figures as drawings
from runner.report import plots as report
from runner.report.category_names import NamedCategories
from runner.runs import artifacts

RNG = np.random.default_rng(0)


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that draws, checks the file, and returns the figure's panels without colour bars."""
    figures: list[Any] = []
    save = report._save_figure

    def keep(figure: Any, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(report, "_save_figure", keep)

    def draw(function: Any, *arguments: Any, **options: Any) -> list[Any]:
        path = tmp_path / "drawing.png"
        function(*arguments, path=path, **options)
        from matplotlib.image import imread

        assert path.read_bytes().startswith(b"\x89PNG")
        pixels = imread(path)
        assert min(pixels.shape[:2]) >= 100
        assert pixels[..., :3].var() > 1e-4
        return [axes for axes in figures[-1].axes if axes.get_label() != "<colorbar>"]

    return draw


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


# progress


def test_progress_has_one_panel_for_accuracy_and_one_for_evidence(drawn: Any) -> None:
    panels = drawn(report.draw_progress, [1, 2, 3], [0.8, 0.9, 0.99], [-3.0, -2.0, -1.0])
    assert [axes.get_ylabel() for axes in panels] == ["accuracy", "evidence (nats)"]
    assert panels[0].get_title(loc="left") == "accuracy: 0.9900 after round 3"


def test_progress_has_a_panel_for_the_losses_of_each_module_by_epoch(drawn: Any) -> None:
    panels = drawn(report.draw_progress, [1, 2], None, [-3.0, -2.0], losses={"vae": [5.0, 4.0, 3.5], "nn": [2.0, 1.0]})
    assert [axes.get_ylabel() for axes in panels] == ["evidence (nats)", "loss", "loss"]
    assert panels[1].get_title(loc="left") == "loss of vae: 3.5 after epoch 3"
    assert panels[2].lines[0].get_xydata().tolist() == [[1.0, 2.0], [2.0, 1.0]]
    assert panels[1].get_xlabel() == "epoch"


@pytest.mark.parametrize("low", [0.2, 0.9, 0.999])
def test_no_tick_of_accuracy_is_above_one(drawn: Any, low: float) -> None:
    panel = drawn(report.draw_progress, [1, 2], [low, 1.0], [-2.0, -1.0])[0]
    assert 0.9 * low < max(panel.get_yticks()) <= 1.0
    assert panel.get_ylim()[1] > 1.0  # the last point is whole


@pytest.mark.parametrize("accuracy", [None, [None, None]])
def test_progress_without_categories_shows_only_evidence(drawn: Any, accuracy: Any) -> None:
    (panel,) = drawn(report.draw_progress, [1, 2], accuracy, [-2.0, -1.0])
    assert panel.get_ylabel() == "evidence (nats)"


def test_progress_leaves_out_unknown_values(drawn: Any) -> None:
    upper, lower = drawn(report.draw_progress, [1, 2, 3], [0.5, None, 1.0], [None, -2.0, None])
    np.testing.assert_array_equal(upper.lines[0].get_xdata(), [1, 3])
    np.testing.assert_array_equal(lower.lines[0].get_xdata(), [2])
    _, lower = drawn(report.draw_progress, [1], [1.0], [None])
    assert texts(lower) == ["no evidence yet"]


def test_progress_of_a_single_round_has_a_single_tick(drawn: Any) -> None:
    panels = drawn(report.draw_progress, [1], [0.8], [-5.0])
    low, high = panels[-1].get_xlim()
    assert [tick for tick in panels[-1].get_xticks() if low <= tick <= high] == [1]


def test_progress_shows_every_value_within_the_axes(drawn: Any) -> None:
    for accuracy in ([0.0, 1.0], [1.0, 1.0], [0.989, 0.99]):
        upper, _ = drawn(report.draw_progress, [1, 2], accuracy, [-1.0, -1.0])
        low, high = upper.get_ylim()
        assert low <= min(accuracy) < max(accuracy) + 1e-9 < high


def test_progress_requires_one_value_per_round(tmp_path: Path) -> None:
    for rounds, accuracy, evidence in (([1, 2], [0.5], [1.0, 2.0]), ([], None, [])):
        with pytest.raises(ValueError, match="expected one of each per round"):
            report.draw_progress(rounds, accuracy, evidence, tmp_path / "a.png")


# confusion and transitions


def test_confusion_shows_counts_and_names(drawn: Any) -> None:
    (panel,) = drawn(report.draw_confusion, [[5, 0, 1], [0, 4, 0]], ["cat", "dog"], [2, 0, 1])
    assert texts(panel) == ["5", "", "1", "", "4", ""]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["cat", "dog"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "0", "1"]
    assert "90.00 %" in panel.get_title()


@pytest.mark.parametrize("shape", [(1, 1), (12, 12), (3, 40), (120, 120)])
def test_confusion_of_any_size_is_drawn_with_numbers_if_small(drawn: Any, shape: tuple[int, int]) -> None:
    (panel,) = drawn(report.draw_confusion, RNG.integers(0, 9, shape), None, None)
    assert len(panel.texts) == (shape[0] * shape[1] if max(shape) <= 12 else 0)
    assert len(panel.get_xticks()) <= 25


def test_a_category_without_rows_is_drawn(drawn: Any) -> None:
    drawn(report.draw_confusion, [[0, 0], [1, 2]], None, None)


def test_confusion_labels_must_match_the_matrix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 and 2 labels"):
        report.draw_confusion([[1, 2], [3, 4]], ["a"], ["b", "c"], tmp_path / "a.png")


def test_transitions_are_shown_in_the_given_order(drawn: Any) -> None:
    T = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.1, 0.9, 0.0]])
    (panel,) = drawn(report.draw_transitions, T, order=[2, 0, 1])
    assert texts(panel) == ["", ".10", ".90", ".75", "", ".25", "", "1", ""]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "0", "1"]


@pytest.mark.parametrize("size", [1, 12, 13, 60])
def test_transitions_of_any_size_are_drawn_with_numbers_if_small(drawn: Any, size: int) -> None:
    (panel,) = drawn(report.draw_transitions, RNG.dirichlet(np.ones(size), size))
    assert len(panel.texts) == (size * size if size <= 12 else 0)


@pytest.mark.parametrize(("T", "order"), [(np.ones((2, 3)), None), (np.eye(2), [0, 0]), (np.eye(2), [1])])
def test_transitions_must_be_square_and_the_order_a_permutation(tmp_path: Path, T: Any, order: Any) -> None:
    with pytest.raises(ValueError, match="expected a square and a permutation"):
        report.draw_transitions(T, tmp_path / "a.png", order)


# latent vectors


@pytest.mark.parametrize(
    ("commit", "title"), [("round-001", "round 1"), ("round-012", "round 12"), ("round-003-step-01", "round 3, step 1")]
)
def test_rounds_are_called_as_people_call_them(commit: str, title: str) -> None:
    assert artifacts._commit_title(commit) == title


def test_latents_are_drawn_side_by_side_with_a_label_at_each_group(drawn: Any) -> None:
    colours = np.arange(60) % 3
    points = RNG.normal(size=(60, 5)) + 10 * np.eye(5)[colours]
    panels = drawn(report.draw_latents, points, points * 2, colours, names=["round 1", "round 5"])
    assert [axes.get_title() for axes in panels] == ["round 1", "round 5"]
    assert all(texts(axes) == ["0", "1", "2"] for axes in panels)
    assert sum(len(dots.get_offsets()) for dots in panels[0].collections) == 60


def test_both_panels_of_latents_show_the_components_of_the_last_round_in_the_same_axes(drawn: Any) -> None:
    """The second set is a rotation of the first: along its components the first has exchanged axes."""
    first = RNG.normal(size=(80, 4)) * [9.0, 3.0, 0.1, 0.1]
    panels = drawn(report.draw_latents, first, first[:, [1, 0, 2, 3]], None)
    assert panels[0].get_xlim() == panels[1].get_xlim()
    assert panels[0].get_ylim() == panels[1].get_ylim()
    before, after = (np.concatenate([dots.get_offsets() for dots in axes.collections]) for axes in panels)
    assert before.std(axis=0).round(1).tolist() == after.std(axis=0)[::-1].round(1).tolist()
    variances = first.var(axis=0) / first.var(axis=0).sum()
    assert f"({variances[1]:.0%} of the variance)" in panels[0].get_xlabel()
    assert f"({variances[0]:.0%} of the variance)" in panels[1].get_xlabel()
    low, high = np.min([before, after], axis=(0, 1)), np.max([before, after], axis=(0, 1))
    assert (np.array([panels[0].get_xlim()[0], panels[0].get_ylim()[0]]) < low).all()
    assert (np.array([panels[0].get_xlim()[1], panels[0].get_ylim()[1]]) > high).all()


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 4), (2, 2), (9, 1), (9, 2), (3, 50)])
def test_latents_of_any_shape_are_drawn(drawn: Any, rows: int, width: int) -> None:
    points = RNG.normal(size=(rows, width))
    panels = drawn(report.draw_latents, points, points + 1, np.arange(rows))
    assert len(panels) == 2
    assert all(sum(len(dots.get_offsets()) for dots in axes.collections) == rows for axes in panels)


def test_identical_latents_and_latents_without_colours_are_drawn(drawn: Any) -> None:
    panels = drawn(report.draw_latents, np.zeros((5, 3)), np.ones((5, 2)), None)
    assert all(texts(axes) == [] for axes in panels)


def test_more_groups_than_can_be_labelled_are_drawn(drawn: Any) -> None:
    for groups in (15, 45, 80):
        drawn(report.draw_latents, RNG.normal(size=(160, 3)), RNG.normal(size=(160, 3)), np.arange(160) % groups)


def test_latents_require_one_colour_per_row(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one per row"):
        report.draw_latents(np.ones((3, 2)), np.ones((4, 2)), [0, 1, 2], tmp_path / "a.png")


# images


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_flat_images_are_drawn_as_squares_in_a_grid(drawn: Any, count: int) -> None:
    panels = drawn(report.draw_images, RNG.random((count, 784)), titles=[f"class {k}" for k in range(count)])
    assert len(panels) == count
    assert [axes.get_title() for axes in panels] == [f"class {k}" for k in range(count)]
    assert all(axes.images[0].get_array().shape == (28, 28) for axes in panels)


def test_rectangular_images_keep_their_shape(drawn: Any) -> None:
    (panel,) = drawn(report.draw_images, RNG.random((1, 5, 9)))
    assert panel.images[0].get_array().shape == (5, 9)


def test_rows_whose_length_is_not_a_square_number_are_drawn_as_curves(drawn: Any) -> None:
    panels = drawn(report.draw_images, RNG.normal(size=(3, 65)))
    assert all(len(axes.lines) == 1 and not axes.images for axes in panels)
    assert len({axes.get_ylim() for axes in panels}) == 1


@pytest.mark.parametrize("channels", [4, 9, 18, 36])
def test_the_channels_of_sensors_are_bars_and_no_picture_where_their_number_is_a_square(
    drawn: Any, channels: int
) -> None:
    means = RNG.normal(size=(3, channels))
    for axes, mean in zip(drawn(report.draw_images, means), means, strict=True):
        assert not axes.images
        np.testing.assert_allclose([bar.get_height() for bar in axes.patches], mean)


def test_names_of_categories_stand_beside_classes(drawn: Any) -> None:
    axes = drawn(report.draw_transitions, np.eye(3), order=[2, 0, 1], names={0: "lift", 2: "grasp", 1: "1"})[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert shown == ["2 = grasp", "0 = lift", "1 = 1"]
    numbers = drawn(report.draw_transitions, np.eye(3), names={0: "0", 1: "1", 2: "2"})[0]
    assert [text.get_text() for text in numbers.get_yticklabels()] == ["0", "1", "2"]
    assert {text.get_rotation() for text in axes.get_xticklabels()} == {40.0}  # long ones side by side would overlap
    labels = NamedCategories(np.array([0, 1] * 10), ["grasp", "lift"])
    figure = drawn(report.draw_latents, RNG.normal(size=(20, 3)), RNG.normal(size=(20, 3)), labels)[0].figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grasp", "lift"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["grasp", "lift"]
    strips = report.state_strips(np.array([1, 0] * 10), labels, None)
    assert strips.groups == ["grasp = class 1", "lift = class 0"]


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_a_suffix_chooses_a_vector_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    for path in (tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"):
        report.draw_transitions(np.eye(2), path, names={0: "a name"})
        assert path.read_bytes().startswith(start)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()  # without a date
    if suffix == "svg":
        assert "0 = a name" in (tmp_path / "a.svg").read_text()  # as text


def test_images_share_one_scale(drawn: Any) -> None:
    for images, scale in ((np.full((2, 64), 0.3), (0, 1)), (np.array([[-2.0] * 64, [3.0] * 64]), (-2, 3))):
        panels = drawn(report.draw_images, images)
        assert all(axes.images[0].get_clim() == scale for axes in panels)


def test_images_with_one_pixel_or_only_zeros_or_nan_are_drawn(drawn: Any) -> None:
    for images in (np.ones((2, 1)), np.zeros((2, 9)), np.full((2, 9), np.nan), np.zeros((1, 5))):
        assert len(drawn(report.draw_images, images)) == len(images)


def test_only_the_first_of_many_images_are_drawn(drawn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_IMAGES", 6)
    panels = drawn(report.draw_images, RNG.random((9, 4)))
    assert len(panels) == 6
    assert panels[0].figure.get_suptitle() == "the first 6 of 9"


def test_titles_are_not_parsed_as_mathematics(drawn: Any) -> None:
    drawn(report.draw_images, np.ones((1, 4)), titles=["$\\nonsense{$"])


@pytest.mark.parametrize(("images", "titles"), [(np.ones(4), None), (np.ones((0, 4)), None), (np.ones((2, 4)), ["a"])])
def test_images_or_titles_of_wrong_shape_are_rejected(tmp_path: Path, images: Any, titles: Any) -> None:
    with pytest.raises(ValueError, match=r"expected \(K, P\) or \(K, H, W\), and K titles or none"):
        report.draw_images(images, tmp_path / "a.png", titles)


def test_matplotlib_is_imported_only_when_drawing_and_pyplot_never(tmp_path: Path) -> None:
    code = (
        "import sys; from runner.report import plots as report; assert 'matplotlib' not in sys.modules;"
        f"report.draw_images([[1, 2, 3, 4]], {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_preparing_to_draw_imports_all_that_the_plots_of_a_run_import():
    code = """
import io, sys
import numpy as np
from runner.report import plots
plots.prepare_drawing(True)
before = set(sys.modules)
points, file = np.random.default_rng(0).normal(size=(20, 3)), io.BytesIO()
plots.draw_progress([1], [1.0], [2.0], file)
plots.draw_confusion(np.eye(2), None, None, file)
plots.draw_transitions(np.eye(2), file)
plots.draw_latents(points, points, None, file, names=("before", "after"))
plots.draw_images(np.zeros((2, 3, 3)), file)
print(len(set(sys.modules) - before), sorted(set(sys.modules) - before)[:5])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout.split()[0]) < 10, result.stdout


# states over time


def test_each_sequence_has_a_line_with_labels_above_classes_in_the_same_colours(drawn: Any) -> None:
    """Class 7 is label 0, class 5 label 1; the second row of the second sequence is wrong."""
    labels = [0, 0, 1, 0, 1]
    strips = report.state_strips([7, 7, 5, 7, 7], labels, [3, 2])
    assert strips.groups == ["0 = class 7", "1 = class 5"]
    ends = np.flatnonzero(np.any(strips.lines[1:] != strips.lines[:-1], axis=1))
    shown = strips.lines[[0, *(ends + 1)]]  # between labels and classes is a thin line, between sequences a thick one
    blank = [-1, -1, -1]
    assert shown.tolist() == [[0, 0, 1], blank, [0, 0, 1], blank, [0, 1, -1], blank, [0, 0, -1]]
    between = np.flatnonzero(np.all(strips.lines == -1, axis=1))
    assert between.tolist() == [8, 21, 22, 23, 24, 25, 34]
    (panel,) = drawn(report.draw_states, [7, 7, 5, 7, 7], labels, [3, 2])
    assert [text.get_text() for text in panel.get_yticklabels()] == ["0", "1"]


def test_without_labels_the_classes_stand_alone_and_what_is_left_out_is_said(drawn: Any) -> None:
    classes = np.arange(30 * 500) % 11  # eleven classes have colours of their own
    (panel,) = drawn(report.draw_states, classes, None, np.full(30, 500))
    assert panel.get_title() == "classes over time, the first 12 of 30 sequences, the first 400 rows"
    pixels = panel.images[0].get_array()
    assert pixels.shape[:2] == (12 * 17 - 5, 400)
    assert len(np.unique(pixels[0], axis=0)) == 11


def test_a_class_that_is_matched_to_no_label_is_a_group_of_its_own() -> None:
    strips = report.state_strips([0, 0, 1, 2], [4, 4, 9, 9], None)
    assert strips.groups[0] == "4 = class 0"
    assert strips.groups[1:] in (["9 = class 1", "class 2"], ["9 = class 2", "class 1"])
    other = strips.lines[-1]  # of the classes, which the labels are above
    assert other[2] != other[3]


@pytest.mark.parametrize("wrong", [{"categories": [1]}, {"lengths": [3]}])
def test_labels_or_lengths_of_other_rows_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected as many categories, and lengths that add up"):
        report.state_strips([0, 1], **{"categories": None, "lengths": None, **wrong})


# --- legibility -----------------------------------------------------------------------------------------------

VISION = {  # Machado, Oliveira and Fernandes (2009), severity 1
    "common": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour: str, vision: Any) -> Any:
    """Return CIE L*a*b* (D65) of a colour as it is seen."""
    value = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.clip(
        np.asarray(vision) @ np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4), 0, 1
    )
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_no_two_colours_of_groups_are_alike_and_none_is_grey(vision: str) -> None:
    seen = [lab(colour, VISION[vision]) for colour in report.PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 18
    if vision == "common":
        assert min(np.hypot(*colour[1:]) for colour in seen) > 20


@pytest.mark.parametrize("count", [1, 2, 10, 30])
def test_boxes_are_moved_apart_until_none_hides_another(count: int) -> None:
    centres = 0.5 + 0.02 * np.random.default_rng(count).normal(size=(count, 2))
    centres[: count // 2] = centres[0]
    sizes = np.tile([0.06, 0.04], (count, 1))
    places = report.spread_boxes(centres, sizes)
    for one, two in itertools.combinations(places, 2):
        assert (np.abs(one - two) >= [0.06, 0.04] - np.array(1e-6)).any()
    np.testing.assert_array_equal(report.spread_boxes(places, sizes), places)


def test_boxes_that_do_not_overlap_stay_where_they_are() -> None:
    centres = np.array([[0.1, 0.1], [0.5, 0.1], [0.5, 0.2]])
    np.testing.assert_array_equal(report.spread_boxes(centres, np.full((3, 2), 0.09)), centres)


def test_labels_of_groups_in_one_place_do_not_hide_each_other(drawn: Any) -> None:
    points = np.random.default_rng(0).normal(size=(300, 2))
    for axes in drawn(report.draw_latents, points, points, np.arange(300) % 10):
        boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
        assert len(boxes) == 10
        assert not any(one.padded(-1).overlaps(two.padded(-1)) for one, two in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("sequences", [1, 3, 12])
@pytest.mark.parametrize("groups", [2, 10, 40])
def test_the_legend_of_classes_over_time_is_within_the_picture(drawn: Any, sequences: int, groups: int) -> None:
    labels = np.arange(sequences * 50) % groups
    (axes,) = drawn(report.draw_states, labels, labels, np.full(sequences, 50))
    figure = axes.figure
    (legend,) = figure.legends
    inside, whole = legend.get_window_extent(), figure.bbox
    assert inside.x0 >= whole.x0 - 1
    assert inside.x1 <= whole.x1 + 1
    assert inside.y0 >= whole.y0 - 1
    assert inside.y1 <= whole.y1 + 1
    assert not inside.overlaps(axes.get_window_extent())


@pytest.mark.parametrize("names", [["rest", "walk"], ["a very long name of a behaviour"] * 3, list("abcdefghij")])
def test_the_legend_of_a_report_is_within_its_picture(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(drawings, "svg", lambda figure: figures.append(figure) or "")
    texts = [f"{name} {number}" for number, name in enumerate(names)]
    labels = NamedCategories(np.arange(60) % len(names), texts)
    drawings.states(np.arange(60) % len(names), labels, np.array([20, 40]))
    (axes,) = figures[0].axes
    inside, whole = axes.get_legend().get_window_extent(), figures[0].bbox
    assert inside.x0 >= whole.x0 - 1
    assert inside.x1 <= whole.x1 + 1
    assert inside.y1 <= whole.y1 + 2


def test_labels_in_a_report_are_near_their_points(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(drawings, "svg", lambda figure: figures.append(figure) or "")
    plane = np.array([[-3.0, 2.0], [3.0, 2.0], [0.0, -2.0]]).repeat(20, axis=0)
    drawings.latents(plane, ("x", "y"), np.arange(3).repeat(20), "groups")
    (axes,) = figures[0].axes
    for text in axes.texts:
        label = axes.transAxes.transform(text.get_position())
        assert np.linalg.norm(label - axes.transData.transform(text.xy)) < 60
