"""Where the Python files of a model are found: beside the model file, in the current directory, or where it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runner.config.run_config import load_config
from runner.config.shipping import code_of
from tests.support.model_files import MODEL, faults, load, write

OWN = "from tests.support.model_files import FakeGMM\nclass Own(FakeGMM): pass\n"


def naming(name: str) -> str:
    return MODEL.replace("type: gmm", f"type: '{name}:Own'")


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def place(directory: Path, name: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(OWN)
    return directory


@pytest.mark.usefixtures("fakes")
class TestFound:
    def test_beside_the_model_file(self, tmp_path: Path) -> None:
        models = place(tmp_path / "models", "own_beside")
        config = load_config(write(models, naming("own_beside")))
        assert config.code == [models]
        assert config.graph().modules["gmm"].code == (str(models),)

    def test_in_the_current_directory(self, tmp_path: Path) -> None:
        here = place(tmp_path, "own_here")
        (tmp_path / "models").mkdir()
        assert load_config(write(tmp_path / "models", naming("own_here"))).code == [here]

    def test_where_the_model_file_says_relative_to_it(self, tmp_path: Path) -> None:
        place(tmp_path / "code", "own_said")
        config = load(tmp_path, "code=[code]", text=naming("own_said"))
        assert config.code == [tmp_path / "code"]

    def test_in_a_package_too_and_behind_parameters(self, tmp_path: Path) -> None:
        place(tmp_path / "package", "nets")
        assert load(tmp_path, "modules.vae.note=package.nets:Own").code == [tmp_path]

    def test_again_from_the_config_as_resolved_wherever_that_lies(self, tmp_path: Path) -> None:
        models = place(tmp_path / "models", "own_again")
        config = load_config(write(models, naming("own_again")))
        (tmp_path / "run").mkdir()
        assert load_config(write(tmp_path / "run", config.to_yaml())) == config

    def test_nowhere_where_no_file_is_needed(self, tmp_path: Path) -> None:
        place(tmp_path, "own_idle")
        assert load(tmp_path).code == []


@pytest.mark.usefixtures("fakes")
class TestRefused:
    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        assert faults(tmp_path, MODEL, "code=[gone]") == [f"code.0: there is no directory {tmp_path}/gone"]

    @pytest.mark.parametrize("code", ["here", "[3]", "{a: b}"])
    def test_what_is_no_list_of_directories(self, tmp_path: Path, code: str) -> None:
        assert all(line.startswith("code") for line in faults(tmp_path, MODEL, f"code={code}"))

    def test_a_file_that_is_nowhere(self, tmp_path: Path) -> None:
        said = faults(tmp_path, naming("own_nowhere"))[0]
        assert said.startswith("modules.gmm.type: module type 'own_nowhere:Own' cannot be loaded: No module named")


@pytest.mark.usefixtures("fakes")
class TestShipped:
    def test_what_parameters_name_goes_along_where_it_is_the_models_own(self, tmp_path: Path) -> None:
        place(tmp_path / "nets_to_ship", "inner")
        note = "modules.vae.note"
        shipped = code_of(load(tmp_path, f"{note}=nets_to_ship.inner:Own").graph())
        assert shipped == [*code_of(load(tmp_path, f"{note}=torch.nn:Linear").graph()), str(tmp_path / "nets_to_ship")]
