"""Model files: what they resolve to, what is said about wrong ones, and that what is written is read back equal."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
import yaml
from pydantic import AliasChoices, Field

from actors import registry
from actors.graph import Connection, Resources, Step
from actors.module import Context, Inbox, Module, Outbox, Port
from runner.config import ConfigError, RunConfig, load_config

CONFIGS = Path(__file__).parents[2] / "configs"


class Fake(Module[Any]):
    def update(self, inbox: Inbox, context: Context) -> Outbox:
        return Outbox()

    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        return Outbox()

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        pass


@dataclass(frozen=True)
class Nothing:
    pass


class FakeObservation(Fake):
    Parameters = Nothing
    ports = (Port("observations", "out", "forward", "observations"),)


@dataclass(frozen=True)
class VAEParameters:
    latent_dim: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=0, validation_alias=AliasChoices("epochs", "itr"))] = 200
    rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    send: Literal["mean", "sample"] = "mean"
    hidden: tuple[int, ...] = (128,)
    note: str | None = None
    options: dict[str, float] = field(default_factory=dict)


class FakeVAE(Fake):
    Parameters = VAEParameters
    uses_gpu: ClassVar[bool] = True
    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("z", "out", "forward", "latent_vectors"),
    )


@dataclass(frozen=True)
class GMMParameters:
    classes: Annotated[int, Field(ge=2)] = 10
    iterations: Annotated[int, Field(ge=0)] = 100
    prior_scale: Annotated[float, Field(gt=0)] | Literal["data"] = 0.1

    def __post_init__(self) -> None:
        if self.classes == 13:
            raise ValueError("13 classes bring bad luck")


class FakeGMM(Fake):
    Parameters = GMMParameters
    ports = (
        Port("z", "in", "forward", "latent_vectors"),
        Port("classes", "out", "forward", "class_posteriors"),
    )


class FakeMarkov(Fake):
    Parameters = Nothing
    ports = (Port("classes", "in", "forward", "class_posteriors"),)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of a model file without the numerics behind them."""
    kinds = {"observation": FakeObservation, "vae": FakeVAE, "gmm": FakeGMM, "markov": FakeMarkov}
    for name, cls in kinds.items():
        monkeypatch.setitem(registry.BUILT_IN, name, f"{cls.__module__}:{cls.__name__}")


MODEL = """
name: model-1
seed: 7
data: {source: mnist, count: 3000, order: cyclic}
modules:
  vae: {type: vae, latent_dim: 18, itr: 20, resources: {num_gpus: auto}, threads: 2}
  gmm: {type: gmm, classes: 10}
  mm: {type: markov}
connections: [data -> vae -> gmm, gmm -> mm]
schedule: {rounds: 5}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), overrides)
    return str(caught.value).splitlines()


def load(tmp_path: Path, *overrides: str, text: str = MODEL) -> RunConfig:
    return load_config(write(tmp_path, text), overrides)


@pytest.mark.usefixtures("fakes")
class TestResolving:
    def test_model(self, tmp_path: Path) -> None:
        config = load(tmp_path)
        graph = config.graph()
        assert (config.name, config.seed, config.schedule.rounds) == ("model-1", 7, 5)
        assert list(graph.modules) == ["data", "vae", "gmm", "mm"]
        assert graph.modules["vae"].threads == 2
        assert graph.modules["vae"].resources == Resources(0.0, "auto")
        assert graph.modules["gmm"].resources == Resources()
        assert graph.connections == (Connection("data", "vae"), Connection("vae", "gmm"), Connection("gmm", "mm"))
        assert graph.schedule.steps == (Step("vae"), Step("gmm"), Step("mm"))

    def test_parameters_end_under_their_own_names_with_defaults(self, tmp_path: Path) -> None:
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

    def test_set_of_a_step_keeps_what_was_set_alone(self, tmp_path: Path) -> None:
        config = load(tmp_path, "schedule.steps=[{module: vae, set: {itr: '200', hidden: [3, 4]}}, gmm]")
        assert config.graph().schedule.steps == (Step("vae", {"epochs": 200, "hidden": (3, 4)}), Step("gmm"))

    def test_step_may_set_an_alias_of_what_the_module_sets(self, tmp_path: Path) -> None:
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
    def test_what_is_written_is_read_back_equal(self, tmp_path: Path, overrides: list[str]) -> None:
        config = load(tmp_path, *overrides)
        elsewhere = tmp_path / "runs" / "config.yaml"
        elsewhere.parent.mkdir()
        elsewhere.write_text(config.to_yaml(), encoding="utf-8")
        again = load_config(elsewhere)
        assert again == config
        assert again.to_yaml() == config.to_yaml()
        assert yaml.safe_load(config.to_yaml())["modules"]["vae"]["epochs"] == 20

    def test_paths_start_at_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        config = load(tmp_path, "data={source: files, observations: sub/../o.txt, categories: {gmm: /c.txt}}")
        assert config.data.observations == tmp_path / "o.txt"
        assert config.data.categories == {"gmm": Path("/c.txt")}

    def test_relative_model_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, MODEL)
        monkeypatch.chdir(tmp_path)
        config = load_config(Path("model.yaml"), ["data={source: files, observations: o.txt}"])
        assert config.data.observations == tmp_path / "o.txt"

    def test_aliases_of_yaml_are_not_changed_together(self, tmp_path: Path) -> None:
        text = MODEL.replace("gmm: {type: gmm, classes: 10}", "gmm: &g {type: gmm, classes: 10}\n  g2: *g")
        text = text.replace("gmm -> mm]", "gmm -> mm, vae -> g2]")
        config = load(tmp_path, "modules.gmm.classes=4", text=text)
        assert [config.modules[name].parameters["classes"] for name in ("gmm", "g2")] == [4, 10]
        assert "&" not in config.to_yaml()


@pytest.mark.usefixtures("fakes")
class TestOverrides:
    def test_paths_into_maps_lists_and_what_the_file_leaves_out(self, tmp_path: Path) -> None:
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
        ("override", "said"),
        [
            ("epochs", "--set epochs: expected key.path=value"),
            ("a..b=1", "--set a..b=1: expected key.path=value"),
            ("seed=[", "--set seed, line 1: is not valid YAML"),
            ("seed={a: 1, a: 2}", "--set seed, line 1: is not valid YAML: 'a' is there twice"),
            (
                "modules.vea.epochs=1",
                "modules.vea: --set: unknown module, expected one of vae, gmm, mm, got 'vea'; did",
            ),
            ("modules.vae.epoch=1", "modules.vae.epoch: unknown parameter of module type vae, expected one of"),
            (
                "sed=1",
                "sed: unknown key, expected one of name, seed, data, modules, connections, schedule, got 'sed'; di",
            ),
            ("connections.9=a->b", "connections.9: --set: there is no such place in a list of 2"),
            ("connections.-1=a->b", "connections.-1: --set: there is no such place in a list of 2"),
            ("name.first=x", "name: --set: this is 'model-1', which has no 'first' in it"),
            ("schedule.steps.0=vae", "schedule.steps: expected a list, each entry a module's name"),
        ],
    )
    def test_wrong(self, tmp_path: Path, override: str, said: str) -> None:
        found = faults(tmp_path, MODEL, override)
        assert len(found) == 1
        assert found[0].startswith(said)


@pytest.mark.usefixtures("fakes")
class TestFaults:
    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("name=a/b", "name: expected a plain directory name of letters, digits, '.', '_' and '-', got 'a/b'"),
            ("name=..", "name: expected a plain directory name of letters, digits, '.', '_' and '-', got '..'"),
            ("name=3", "name: expected a text, got 3"),
            ("seed=-1", "seed: expected an integer of at least 0 and below 9223372036854775808, got -1"),
            ("seed=true", "seed: expected an integer of at least 0 and below 9223372036854775808, got true"),
            ("data=mnist", "data: expected a map, got 'mnist'"),
            ("data.source=cifar", "data.source: expected 'mnist' or 'digits' or 'files', got 'cifar'"),
            ("data.count=0", "data.count: expected an integer of at least 1, got 0"),
            ("data.lengths=[3]", "data.lengths: goes with source 'files', the source is 'mnist'"),
            (
                "data={source: files}",
                "data.observations: is missing: source 'files' needs the path of a file of observ",
            ),
            (
                "data={source: files, observations: o.txt, order: cyclic}",
                "data.order: 'cyclic' goes by category: give one file of categories, or order 'given'",
            ),
            (
                "data={source: files, observations: o.txt, lengths: [2, x]}",
                "data.lengths.1: expected a valid integer, got 'x'",
            ),
            ("data={source: files, observations: 3}", "data.observations: expected a path, got 3"),
            (
                "data={source: files, observations: o.txt, categories: {gm: c.txt}}",
                "data.categories.gm: unknown module, expected one of data, vae, gmm, mm, got 'gm'; did you mean 'gmm'?",
            ),
            ("modules=[vae]", "modules: expected a map of names, got ['vae']"),
            (
                "modules.vae.type=vea",
                "modules.vae.type: unknown module type 'vea': one of observation, vae, gmm, markov",
            ),
            ("modules.vae=vae", "modules.vae: expected a map with the module's type and parameters, got 'vae'"),
            ("modules.vae.itr=many", "modules.vae.itr: expected an integer of at least 0, got 'many'"),
            ("modules.vae.epochs=3", "modules.vae.epochs: is the same parameter as 'itr'; give one of them"),
            ("modules.vae.latent_dim=", "modules.vae.latent_dim: expected an integer of at least 1, got nothing"),
            ("modules.vae.rate=2", "modules.vae.rate: expected a number above 0 and of at most 1, got 2"),
            ("modules.vae.hidden=[1, a]", "modules.vae.hidden.1: expected a valid integer, unable to parse string"),
            ("modules.gmm.prior_scale=-1", "modules.gmm.prior_scale: expected a number above 0 or 'data', got -1"),
            ("modules.gmm.classes=13", "modules.gmm: 13 classes bring bad luck"),
            ("modules.vae={type: vae}", "modules.vae.latent_dim: is missing, expected an integer of at least 1"),
            ("modules.vae.threads=0", "modules.vae.threads: expected an integer of at least 1, got 0"),
            (
                "modules.vae.resources.num_gpus=some",
                "modules.vae.resources.num_gpus: expected a number of at least 0 or 'auto', got 'some'",
            ),
            (
                "modules.vae.resources.cpus=1",
                "modules.vae.resources.cpus: unknown key, expected one of num_cpus, num_gpus, got 'cpus'; did you mean",
            ),
            ("modules.data={type: gmm}", "modules.data: is the observation's name; choose another for this module"),
            ("modules={vae.2: {type: gmm}}", "modules.vae.2: expected a name of letters, digits, '_' and '-'"),
            ("connections=data", "connections: expected a list, each entry a text, got 'data'"),
            ("connections.0=data", "connections.0: expected 'a -> b', the names of two modules, got 'data'"),
            (
                "connections.1=gm -> mm",
                "connections.1: unknown module, expected one of data, vae, gmm, mm, got 'gm'; did",
            ),
            ("connections.1=vae -> gmm", "connections.1: vae -> gmm stands here twice; leave one out"),
            (
                "connections.1=vae -> mm",
                "connections: connection vae -> mm: vae sends latent_vectors upwards, mm receive",
            ),
            ("connections=[data -> vae]", "connections: module 'gmm': nothing sends latent_vectors to its port 'z'"),
            ("schedule.rounds=0", "schedule.rounds: expected an integer of at least 1, got 0"),
            ("schedule.steps=[]", "schedule.steps: expected a list, each entry a module's name"),
            (
                "schedule.steps=[gm]",
                "schedule.steps.0: unknown module, expected one of vae, gmm, mm, got 'gm'; did you",
            ),
            ("schedule.steps=[data]", "schedule.steps.0: 'data' gives observations and learns nothing; leave it out"),
            ("schedule.steps=[3]", "schedule.steps.0: expected a module's name, or {module: name, set: {paramet"),
            ("schedule.steps=[{set: {a: 1}}]", "schedule.steps.0.module: is missing, expected a text"),
            (
                "schedule.steps=[{module: gmm, set: {iter: 0}}]",
                "schedule.steps.0.set.iter: unknown parameter of module type gmm, expected one of classes, iterations",
            ),
            (
                "schedule.steps=[{module: vae, set: {itr: -3}}]",
                "schedule.steps.0.set.itr: expected an integer of at least 0, got -3",
            ),
            ("schedule.steps=[{module: gmm, set: 3}]", "schedule.steps.0.set: expected a map of names, got 3"),
            (
                "schedule.steps=[{steps: [gmm, mm], repeat: 20}]",
                "schedule.steps.0: blocks of steps (steps, repeat) are not known yet; expected a module's name, or",
            ),
        ],
    )
    def test_one(self, tmp_path: Path, override: str, said: str) -> None:
        found = [line for line in faults(tmp_path, MODEL, override) if line.startswith(said[:40])]
        assert len(found) == 1
        assert found[0].startswith(said)

    def test_all_at_once(self, tmp_path: Path) -> None:
        found = faults(
            tmp_path,
            """
            nam: x
            data: {source: mnist, count: many, ordr: cyclic}
            modules:
              vae: {type: vae, epochs: many, epoch: 3, threads: two}
              gmm: {type: gmm, classes: 1}
              mm: {tpye: markov}
            connections: [data -> vae, vae -> gm]
            schedule:
              rounds: 0
              steps: [vae, {module: gmm, set: {iterations: x}}, {module: gmm, chains: 3}]
            """,
            "modules.foo.x=1",
        )
        assert {line.split(": ")[0] for line in found} == {
            "name",
            "nam",
            "data.count",
            "data.ordr",
            "modules.vae.epochs",
            "modules.vae.epoch",
            "modules.vae.latent_dim",
            "modules.vae.threads",
            "modules.gmm.classes",
            "modules.mm.type",
            "modules.mm.tpye",
            "modules.foo",
            "connections.1",
            "schedule.rounds",
            "schedule.steps.1.set.iterations",
            "schedule.steps.2.chains",
        }
        assert len(found) == 16

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "the model file: expected a map with name, data, modules, connections and schedule, got nothing"),
            ("- a", "the model file: expected a map with name"),
            ("name: [", "model.yaml, line 1: is not valid YAML"),
            ("name: a\nseed: 1\nname: b\n", "model.yaml, line 3: is not valid YAML: 'name' is there twice"),
            (
                "name: !!python/object/apply:os.system [ls]",
                "model.yaml, line 1: is not valid YAML: could not determine",
            ),
            ("a: " + "[" * 5000, "model.yaml: is not valid YAML"),
            ("name: 2024-99-99", "model.yaml: is not valid YAML"),
            ("name: \x07", "model.yaml: is not valid YAML"),
            ("3: a\n? [x]\n: b\n", "model.yaml, line 2: is not valid YAML"),
        ],
    )
    def test_file(self, tmp_path: Path, text: str, said: str) -> None:
        found = faults(tmp_path, text)
        assert found[0].removeprefix(f"{tmp_path}/").startswith(said)

    def test_keys_are_texts(self, tmp_path: Path) -> None:
        found = faults(tmp_path, MODEL.replace("  mm:", "  3:").replace("seed", "no"))
        assert any(line.startswith("modules.3: expected a name") for line in found)
        assert any(line.startswith("no: unknown key") for line in found)

    def test_missing_file_and_wrong_bytes(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no such file"):
            load_config(tmp_path / "none.yaml")
        with pytest.raises(ConfigError, match="cannot be read as a text file"):
            load_config(tmp_path)
        (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
        with pytest.raises(ConfigError, match="cannot be read as a text file"):
            load_config(tmp_path / "latin.yaml")


@pytest.mark.usefixtures("fakes")
class TestData:
    @pytest.fixture
    def config(self, tmp_path: Path) -> RunConfig:
        np.savetxt(tmp_path / "o.txt", np.arange(12.0).reshape(6, 2))
        np.savetxt(tmp_path / "c.txt", [0, 1, 2, 0, 1, 2], fmt="%d")
        np.savetxt(tmp_path / "d.txt", [5, 5, 6, 6, 7, 7], fmt="%d")
        return load(tmp_path, "data={source: files, observations: o.txt, categories: c.txt, order: shuffled, count: 4}")

    def test_one_file_of_categories_is_everybodys(self, config: RunConfig) -> None:
        data = config.load_data()
        assert len(data.observations) == 4
        np.testing.assert_array_equal(config.categories(data)[""], data.categories)
        np.testing.assert_array_equal(data.categories, (data.observations[:, 0] / 2).astype(int) % 3)

    def test_categories_by_module_follow_the_rows(self, config: RunConfig, tmp_path: Path) -> None:
        config = load(
            tmp_path,
            f"data={{source: files, observations: {tmp_path}/o.txt, order: shuffled, count: 5, "
            "categories: {gmm: c.txt, mm: d.txt}}",
        )
        data = config.load_data(offset=1)
        assert data.categories is None
        found = config.categories(data, offset=1)
        rows = (data.observations[:, 0] / 2).astype(int)
        np.testing.assert_array_equal(found["gmm"], rows % 3)
        np.testing.assert_array_equal(found["mm"], 5 + rows // 2)

    def test_other_rows(self, config: RunConfig) -> None:
        data = config.load_data(offset=4, count=2, order="given")
        np.testing.assert_array_equal(data.observations, [[8, 9], [10, 11]])

    def test_no_categories(self, config: RunConfig, tmp_path: Path) -> None:
        config = load(tmp_path, "data={source: files, observations: o.txt}")
        assert config.categories(config.load_data()) == {}


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, runner.config, runner.progress; print([m for m in ('torch', 'ray', 'numba') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_model_files_that_come_with_it(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert load_config(write(tmp_path, config.to_yaml())) == config
    assert config.graph().schedule.rounds >= 1
