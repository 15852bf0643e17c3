"""Model files: the config that they resolve to, overrides, and equality after writing and reading."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from actors.graph.schedule import Block, Step
from actors.graph.spec import Connection, Resources
from runner.config.run_config import RunConfig, load_config
from tests.support.model_files import MODEL, config_errors, load, write

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.usefixtures("fakes")
class TestResolving:
    def test_a_model_file_resolves_to_a_graph(self, tmp_path: Path) -> None:
        config = load(tmp_path)
        graph = config.graph
        assert (config.name, config.seed, config.schedule.rounds) == ("model-1", 7, 5)
        assert list(graph.modules) == ["data", "vae", "gmm", "mm"]
        assert graph.modules["vae"].threads == 2
        assert graph.modules["vae"].resources == Resources(0.0, "auto")
        assert graph.modules["gmm"].resources == Resources()
        assert graph.connections == (Connection("data", "vae"), Connection("vae", "gmm"), Connection("gmm", "mm"))
        assert graph.schedule.steps == (Step("vae"), Step("gmm"), Step("mm"))

    def test_parameters_have_their_own_names_and_defaults(self, tmp_path: Path) -> None:
        parameters = load(tmp_path).modules["vae"].parameters
        assert parameters == {
            "latent_dim": 18,
            "epochs": 20,
            "rate": 1e-3,
            "send": "mean",
            "hidden": (128,),
            "note": None,
            "options": {},
        }

    def test_a_step_keeps_only_the_parameters_that_it_sets(self, tmp_path: Path) -> None:
        config = load(tmp_path, "schedule.steps=[{module: vae, set: {itr: '200', hidden: [3, 4]}}, gmm]")
        assert config.graph.schedule.steps == (Step("vae", {"epochs": 200, "hidden": (3, 4)}), Step("gmm"))

    def test_a_step_may_set_a_parameter_that_the_module_sets_by_an_alias(self, tmp_path: Path) -> None:
        config = load(tmp_path, "schedule.steps=[{module: vae, set: {epochs: 1}}]")
        assert config.schedule.steps[0].set == {"epochs": 1}

    def test_exponents_are_numbers(self, tmp_path: Path) -> None:
        config = load(tmp_path, "modules.vae.rate=1e-4", "modules.vae.note='1e-4'")
        assert config.modules["vae"].parameters["rate"] == 1e-4
        assert config.modules["vae"].parameters["note"] == "1e-4"

    @pytest.mark.parametrize(
        "overrides",
        [
            [],
            ["schedule.steps=[vae, {module: gmm, set: {iterations: 0}}]"],
            ["modules.vae.note='1e-4'", "modules.vae.hidden=[]", "modules.gmm.prior_scale=data"],
            ["modules.vae.options={a: .inf}", "modules.vae.note='null'"],
            ["data={source: files, observations: o.txt, categories: {gmm: ~/c.txt}, lengths: [2, 3]}"],
            ["data={source: files, observations: ../é.txt, categories: c.txt, lengths: l.txt}"],
        ],
    )
    def test_a_config_is_read_back_equal_from_its_yaml(self, tmp_path: Path, overrides: list[str]) -> None:
        config = load(tmp_path, *overrides)
        elsewhere = tmp_path / "runs" / "config.yaml"
        elsewhere.parent.mkdir()
        elsewhere.write_text(config.to_yaml(), encoding="utf-8")
        again = load_config(elsewhere)
        assert again == config
        assert again.to_yaml() == config.to_yaml()
        assert yaml.safe_load(config.to_yaml())["modules"]["vae"]["epochs"] == 20

    def test_paths_are_relative_to_the_model_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        config = load(tmp_path, "data={source: files, observations: sub/../o.txt, categories: {gmm: /c.txt}}")
        assert config.data.observations == tmp_path / "o.txt"
        assert config.data.categories == {"gmm": Path("/c.txt")}

    def test_the_path_of_the_model_file_may_be_relative(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, MODEL)
        monkeypatch.chdir(tmp_path)
        config = load_config(Path("model.yaml"), ["data={source: files, observations: o.txt}"])
        assert config.data.observations == tmp_path / "o.txt"

    def test_an_override_does_not_change_another_alias_of_the_same_yaml_node(self, tmp_path: Path) -> None:
        text = MODEL.replace("gmm: {type: gmm, classes: 10}", "gmm: &g {type: gmm, classes: 10}\n  g2: *g")
        text = text.replace("gmm -> mm]", "gmm -> mm, vae -> g2]")
        config = load(tmp_path, "modules.gmm.classes=4", text=text)
        assert [config.modules[name].parameters["classes"] for name in ("gmm", "g2")] == [4, 10]
        assert "&" not in config.to_yaml()


@pytest.mark.usefixtures("fakes")
def test_a_block_with_chains_and_moves(tmp_path: Path) -> None:
    block = "{steps: [gmm], repeat: 3, anneal: [0.3, 1], chains: 4, moves: 2, select: evidence}"
    config = load(tmp_path, f"schedule.steps=[vae, {block}]")
    assert config.graph.schedule.steps[1] == Block((Step("gmm"),), 3, (0.3, 1.0), None, 4, 2)
    assert load(tmp_path, text=config.to_yaml()) == config


@pytest.mark.usefixtures("fakes")
class TestOverrides:
    def test_key_paths_lead_into_maps_lists_and_missing_sections(self, tmp_path: Path) -> None:
        text = MODEL.replace("{rounds: 5}", "{rounds: 5, steps: [vae, gmm]}")
        config = load(
            tmp_path,
            "schedule.steps.1={module: gmm}",
            "schedule.steps.1.set.iterations=0",
            "modules.gmm.resources.num_cpus=2",
            "connections.1=gmm->mm",
            "name=x",
            text=text,
        )
        assert config.schedule.steps[1].set == {"iterations": 0}
        assert config.modules["gmm"].resources.num_cpus == 2
        assert config.name == "x"

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("epochs", "--set epochs: expected key.path=value"),
            ("a..b=1", "--set a..b=1: expected key.path=value"),
            ("seed=[", "--set seed, line 1: is not valid YAML"),
            ("seed={a: 1, a: 2}", "--set seed, line 1: is not valid YAML: 'a' is given twice"),
            (
                "modules.vea.epochs=1",
                "modules.vea: --set: unknown module, expected one of vae, gmm, mm, got 'vea'; did",
            ),
            ("modules.vae.epoch=1", "modules.vae.epoch: unknown parameter of module type vae, expected one of"),
            (
                "sed=1",
                "sed: unknown key, expected one of name, seed, data, modules, connections, schedule, recovery, checkp",
            ),
            ("connections.9=a->b", "connections.9: --set: there is no such place in a list of 2"),
            ("connections.-1=a->b", "connections.-1: --set: there is no such place in a list of 2"),
            ("name.first=x", "name: --set: this is 'model-1', which has no 'first' in it"),
            ("schedule.steps.0=vae", "schedule.steps: expected a list, each entry a module's name"),
        ],
    )
    def test_an_override_that_is_not_valid_is_refused(self, tmp_path: Path, override: str, message: str) -> None:
        errors = config_errors(tmp_path, MODEL, override)
        assert len(errors) == 1
        assert errors[0].startswith(message)


@pytest.mark.usefixtures("fakes")
class TestData:
    @pytest.fixture
    def config(self, tmp_path: Path) -> RunConfig:
        np.savetxt(tmp_path / "o.txt", np.arange(12.0).reshape(6, 2))
        np.savetxt(tmp_path / "c.txt", [0, 1, 2, 0, 1, 2], fmt="%d")
        np.savetxt(tmp_path / "d.txt", [5, 5, 6, 6, 7, 7], fmt="%d")
        return load(tmp_path, "data={source: files, observations: o.txt, categories: c.txt, order: shuffled, count: 4}")

    def test_one_file_of_categories_holds_for_all_modules(self, config: RunConfig) -> None:
        data = config.load_data()
        rows = data["data"]
        assert len(rows.observations) == 4
        np.testing.assert_array_equal(config.categories(data)[""], rows.categories)
        np.testing.assert_array_equal(rows.categories, (rows.observations[:, 0] / 2).astype(int) % 3)

    def test_categories_by_module_have_the_order_of_the_rows(self, config: RunConfig, tmp_path: Path) -> None:
        config = load(
            tmp_path,
            f"data={{source: files, observations: {tmp_path}/o.txt, order: shuffled, count: 5, offset: 1, "
            "categories: {gmm: c.txt, mm: d.txt}}",
        )
        data = config.load_data()
        assert data["data"].categories is None
        categories = config.categories(data)
        rows = (data["data"].observations[:, 0] / 2).astype(int)
        np.testing.assert_array_equal(categories["gmm"], rows % 3)
        np.testing.assert_array_equal(categories["mm"], 5 + rows // 2)

    def test_categories_are_empty_without_a_file_of_them(self, config: RunConfig, tmp_path: Path) -> None:
        config = load(tmp_path, "data={source: files, observations: o.txt}")
        assert config.categories(config.load_data()) == {}


def test_loading_a_config_imports_no_heavy_packages() -> None:
    code = (
        "import sys, runner.config.run_config, runner.report.progress; "
        "runner.config.run_config.load_config('configs/mnist.yaml').graph; "
        "print([m for m in ('torch', 'ray', 'numba', 'scipy.special') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_model_files_of_this_repository_are_valid(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert load_config(write(tmp_path, config.to_yaml())) == config
    assert config.graph.schedule.rounds >= 1
