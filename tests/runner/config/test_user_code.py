"""Finding the Python files of a model: in the model file's, the current or a given directory; and sending them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runner.config.run_config import load_config
from runner.config.user_code import collect_code
from tests.support.model_files import MODEL, config_errors, load, write

OWN = "from tests.support.model_files import FakeGMM\nclass Own(FakeGMM): pass\n"


def with_own_module(name: str) -> str:
    return MODEL.replace("type: gmm", f"type: '{name}:Own'")


@pytest.fixture(autouse=True)
def _import_path_and_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


def write_module(directory: Path, name: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(OWN)
    return directory


@pytest.mark.usefixtures("fakes")
class TestFinding:
    def test_a_file_beside_the_model_file(self, tmp_path: Path) -> None:
        models = write_module(tmp_path / "models", "own_beside")
        config = load_config(write(models, with_own_module("own_beside")))
        assert config.code == [models]
        assert config.graph.modules["gmm"].code == (str(models),)

    def test_a_file_in_the_current_directory(self, tmp_path: Path) -> None:
        here = write_module(tmp_path, "own_here")
        (tmp_path / "models").mkdir()
        assert load_config(write(tmp_path / "models", with_own_module("own_here"))).code == [here]

    def test_a_file_in_a_directory_relative_to_the_model_file(self, tmp_path: Path) -> None:
        write_module(tmp_path / "code", "own_said")
        config = load(tmp_path, "code=[code]", text=with_own_module("own_said"))
        assert config.code == [tmp_path / "code"]

    def test_a_package_that_a_parameter_names(self, tmp_path: Path) -> None:
        write_module(tmp_path / "package", "nets")
        assert load(tmp_path, "modules.vae.note=package.nets:Own").code == [tmp_path]

    def test_the_resolved_config_finds_the_file_from_another_directory(self, tmp_path: Path) -> None:
        models = write_module(tmp_path / "models", "own_again")
        config = load_config(write(models, with_own_module("own_again")))
        (tmp_path / "run").mkdir()
        assert load_config(write(tmp_path / "run", config.to_yaml())) == config

    def test_no_directory_is_listed_if_the_model_needs_no_file(self, tmp_path: Path) -> None:
        write_module(tmp_path, "own_idle")
        assert load(tmp_path).code == []


@pytest.mark.usefixtures("fakes")
class TestRefusals:
    def test_a_directory_that_does_not_exist(self, tmp_path: Path) -> None:
        assert config_errors(tmp_path, MODEL, "code=[gone]") == [f"code.0: there is no directory {tmp_path}/gone"]

    @pytest.mark.parametrize("code", ["here", "[3]", "{a: b}"])
    def test_a_value_that_is_no_list_of_directories(self, tmp_path: Path, code: str) -> None:
        assert all(line.startswith("code") for line in config_errors(tmp_path, MODEL, f"code={code}"))

    def test_a_file_that_cannot_be_found(self, tmp_path: Path) -> None:
        message = config_errors(tmp_path, with_own_module("own_nowhere"))[0]
        assert message.startswith("modules.gmm.type: module type 'own_nowhere:Own' cannot be loaded: No module named")


@pytest.mark.usefixtures("fakes")
class TestCollecting:
    def test_a_package_that_a_parameter_names_is_collected_if_it_is_in_a_code_directory(self, tmp_path: Path) -> None:
        write_module(tmp_path / "nets_to_send", "inner")
        note = "modules.vae.note"
        collected = collect_code(load(tmp_path, f"{note}=nets_to_send.inner:Own").graph)
        assert collected == [
            *collect_code(load(tmp_path, f"{note}=torch.nn:Linear").graph),
            str(tmp_path / "nets_to_send"),
        ]
