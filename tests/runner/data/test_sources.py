"""Several sources of data: their names in model files, and checks that they describe the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule
from actors.graph.spec import Connection, ModuleSpec, Sharing
from runner.data.datasets import Dataset
from runner.data.readers import DataError
from runner.data.sources import check_modules, load_new_rows, source_states
from tests.support.model_files import MODEL, config_errors, load

TWO = "data={eyes: {source: files, observations: o.txt, categories: c.txt}, ears: {source: files, observations: w.txt}}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.savetxt(tmp_path / "o.txt", np.arange(12.0).reshape(6, 2))
    np.savetxt(tmp_path / "w.txt", np.arange(18.0).reshape(6, 3))
    np.savetxt(tmp_path / "c.txt", [0, 1, 2, 0, 1, 2], fmt="%d")
    return tmp_path


@pytest.mark.usefixtures("fakes")
class TestModelFile:
    def model(self, path: Path, *overrides: str):
        text = MODEL.replace("data -> vae -> gmm, gmm -> mm", "eyes -> vae -> gmm, gmm -> mm, ears -> other")
        text = text.replace("  mm: {type: markov}", "  mm: {type: markov}\n  other: {type: vae, latent_dim: 2}")
        return load(path, TWO, *overrides, text=text)

    def test_each_source_is_a_module_of_its_name(self, files: Path) -> None:
        graph = self.model(files).graph
        assert graph.sources == ("eyes", "ears")
        assert list(graph.modules)[:2] == ["eyes", "ears"]
        assert graph.modules["ears"].type == "observation"

    def test_a_config_is_read_back_equal_from_its_yaml(self, files: Path) -> None:
        config = self.model(files)
        again = load(files, text=config.to_yaml())
        assert again == config
        assert list(again.sources) == ["eyes", "ears"]

    def test_data_are_loaded_by_source_and_categories_hold_for_all(self, files: Path) -> None:
        config = self.model(files)
        data = config.load_data()
        assert data["eyes"].observations.shape == (6, 2)
        assert data["ears"].observations.shape == (6, 3)
        np.testing.assert_array_equal(config.categories(data)[""], [0, 1, 2, 0, 1, 2])

    def test_sources_of_different_length_are_refused(self, files: Path) -> None:
        with pytest.raises(DataError, match=r"data.eyes has 4 rows and data.ears 6; row by row"):
            self.model(files, "data.eyes.count=4").load_data()

    def test_sources_of_different_categories_are_refused(self, files: Path) -> None:
        np.savetxt(files / "d.txt", [0, 1, 2, 0, 1, 1], fmt="%d")
        with pytest.raises(DataError, match=r"the categories of data.eyes and data.ears differ"):
            self.model(files, "data.ears.categories=d.txt").load_data()

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("data.ears.sorce=1", "data.ears.sorce: unknown key"),
            ("data.ears.source=tape", "data.ears.source: expected 'mnist' or"),
            ("data.ears=3", "data.ears: expected a map, got 3"),
            ("modules.eyes={type: markov}", "modules.eyes: is a source's name; choose another for this module"),
            ("data.9to5={source: mnist}", "data.9to5: expected a name of letters"),
            ("data.coordinator={source: mnist}", "data.coordinator: is the coordinator's name"),
            ("schedule.steps=[ears, vae]", "schedule.steps.0: 'ears' gives observations and learns nothing"),
            ("data.ears.categories={unknown: c.txt}", "data.ears.categories.unknown: unknown module"),
        ],
    )
    def test_errors_name_the_source(self, files: Path, override: str, message: str) -> None:
        text = MODEL.replace("data -> vae", "eyes -> vae")
        errors = config_errors(files, text, TWO, override)
        assert any(line.startswith(message) for line in errors), errors

    def test_a_single_source_without_its_kind_is_refused(self, files: Path) -> None:
        assert any(
            line.startswith("data.source: is missing") for line in config_errors(files, MODEL, "data={order: cyclic}")
        )


class TestNewRows:
    def test_a_single_source_needs_no_name(self, files: Path) -> None:
        assert load_new_rows(["data"], [str(files / "o.txt")])["data"].observations.shape == (6, 2)

    def test_several_sources_are_named(self, files: Path) -> None:
        data = load_new_rows(["eyes", "ears"], [f"ears={files}/w.txt", f"eyes={files}/o.txt"], count=4)
        assert {name: each.observations.shape for name, each in data.items()} == {"ears": (4, 3), "eyes": (4, 2)}

    def test_a_row_is_the_same_digit_in_all_built_in_data_sets(self) -> None:
        data = load_new_rows(["eyes", "ears"], ["eyes=mnist", "ears=words"], count=50, ordered=False)
        np.testing.assert_array_equal(data["eyes"].categories, data["ears"].categories)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["mnist"], "'mnist': this run has the sources eyes, ears; name one, as in eyes=mnist"),
            (["eyes=mnist", "eyes=words"], "source eyes is given twice"),
        ],
    )
    def test_an_ambiguous_or_repeated_source_is_refused(self, given: list[str], message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_new_rows(["eyes", "ears"], given)


def test_all_rows_of_a_source_without_data_are_missing(files: Path) -> None:
    sources = [ModuleSpec("eyes", "observation"), ModuleSpec("ears", "observation")]
    modules = [ModuleSpec("one", "gmm"), ModuleSpec("other", "gmm")]
    graph = Graph([*sources, *modules], [Connection("eyes", "one"), Connection("ears", "other")])
    states = source_states(
        graph, load_new_rows(["eyes", "ears"], [f"eyes={files}/o.txt"]), {"eyes": (2,), "ears": (3,)}
    )
    assert states["ears"]["values"].shape == (6, 3)
    assert states["ears"]["mask"].all()
    assert "mask" not in states["eyes"]


def test_more_workers_than_chunks_are_refused_before_anything_starts() -> None:
    rows = Dataset(np.zeros((700, 2), np.float32), None, None, "rows.npy")
    shared = ModuleSpec("kmeans", "tests.support.sharded_modules:KMeans", sharing=Sharing(12, chunk=64))
    graph = Graph(
        [ModuleSpec("data", "observation"), ModuleSpec("pca", "pca", {"latent_dim": 2}), shared],
        [Connection("data", "pca"), Connection("pca", "kmeans")],
        Schedule(1, ()),
    )
    with pytest.raises(ModuleError, match="'kmeans': 12 workers for 700 rows, which are 11 chunks of 64"):
        check_modules(graph, {"data": rows})
