"""Several sources of data: how a model file names them, and that their rows belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.graph.graph import Graph
from runner.data.readers import DataError
from runner.data.sources import new_rows, source_states
from tests.support.model_files import MODEL, faults, load

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
        graph = self.model(files).graph()
        assert graph.sources == ("eyes", "ears")
        assert list(graph.modules)[:2] == ["eyes", "ears"]
        assert graph.modules["ears"].type == "observation"

    def test_what_is_written_is_read_back_equal(self, files: Path) -> None:
        config = self.model(files)
        again = load(files, text=config.to_yaml())
        assert again == config
        assert list(again.sources) == ["eyes", "ears"]

    def test_data_come_by_source_and_categories_hold_for_all(self, files: Path) -> None:
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
        ("override", "said"),
        [
            ("data.ears.sorce=1", "data.ears.sorce: unknown key"),
            ("data.ears.source=tape", "data.ears.source: expected 'mnist' or"),
            ("data.ears=3", "data.ears: expected a map, got 3"),
            ("modules.eyes={type: markov}", "modules.eyes: is a source's name; choose another for this module"),
            ("data.9to5={source: mnist}", "data.9to5: expected a name of letters"),
            ("data.coordinator={source: mnist}", "data.coordinator: is the coordinator's name"),
            ("schedule.steps=[ears, vae]", "schedule.steps.0: 'ears' gives observations and learns nothing"),
            ("data.ears.categories={nobody: c.txt}", "data.ears.categories.nobody: unknown module"),
        ],
    )
    def test_faults_name_the_source(self, files: Path, override: str, said: str) -> None:
        text = MODEL.replace("data -> vae", "eyes -> vae")
        found = faults(files, text, TWO, override)
        assert any(line.startswith(said) for line in found), found

    def test_a_single_source_without_its_kind_is_told_so(self, files: Path) -> None:
        assert any(line.startswith("data.source: is missing") for line in faults(files, MODEL, "data={order: cyclic}"))


class TestNewRows:
    def test_a_single_source_needs_no_name(self, files: Path) -> None:
        assert new_rows(["data"], [str(files / "o.txt")])["data"].observations.shape == (6, 2)

    def test_several_are_named(self, files: Path) -> None:
        found = new_rows(["eyes", "ears"], [f"ears={files}/w.txt", f"eyes={files}/o.txt"], count=4)
        assert {name: data.observations.shape for name, data in found.items()} == {"ears": (4, 3), "eyes": (4, 2)}

    def test_a_row_is_the_same_digit_in_packaged_data_sets(self) -> None:
        found = new_rows(["eyes", "ears"], ["eyes=mnist", "ears=words"], count=50, ordered=False)
        np.testing.assert_array_equal(found["eyes"].categories, found["ears"].categories)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (["mnist"], "'mnist': this run has the sources eyes, ears; say which, as eyes=mnist"),
            (["eyes=mnist", "eyes=words"], "source eyes is given twice"),
        ],
    )
    def test_what_is_not_clear_is_refused(self, given: list[str], said: str) -> None:
        with pytest.raises(DataError, match=said):
            new_rows(["eyes", "ears"], given)


def test_a_source_without_data_has_missing_rows(files: Path) -> None:
    sources = [ModuleSpec("eyes", "observation"), ModuleSpec("ears", "observation")]
    modules = [ModuleSpec("one", "gmm"), ModuleSpec("other", "gmm")]
    graph = Graph([*sources, *modules], [Connection("eyes", "one"), Connection("ears", "other")])
    states = source_states(graph, new_rows(["eyes", "ears"], [f"eyes={files}/o.txt"]), {"eyes": (2,), "ears": (3,)})
    assert states["ears"]["values"].shape == (6, 3)
    assert states["ears"]["mask"].all()
    assert "mask" not in states["eyes"]
