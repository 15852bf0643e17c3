"""Error messages of model files that are not valid: each key path, what was expected and what was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config.run_config import ConfigError, load_config
from tests.support.model_files import MODEL, config_errors

pytestmark = pytest.mark.usefixtures("fakes")


class TestErrors:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("name=a/b", "name: expected a plain directory name of letters, digits, '.', '_' and '-', got 'a/b'"),
            ("name=..", "name: expected a plain directory name of letters, digits, '.', '_' and '-', got '..'"),
            ("name=3", "name: expected a text, got 3"),
            ("seed=-1", "seed: expected an integer of at least 0 and below 9223372036854775808, got -1"),
            ("seed=true", "seed: expected an integer of at least 0 and below 9223372036854775808, got true"),
            ("data=mnist", "data: expected a map, got 'mnist'"),
            (
                "data.source=cifar",
                "data.source: expected 'mnist' or 'digits' or 'words' or 'clumps' or 'cycle' or 'syllables' or ",
            ),
            ("data.count=0", "data.count: expected an integer of at least 1, got 0"),
            ("data.lengths=[3]", "data.lengths: goes with source 'files', the source is 'mnist'"),
            (
                "data={source: files}",
                "data.observations: is missing: source 'files' needs the path of a file of observ",
            ),
            (
                "data={source: files, observations: o.txt, order: cyclic}",
                "data.order: 'cyclic' needs categories: give one file of categories, or order 'given'",
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
                "modules.vae.resources.cpus: unknown key, expected one of num_cpus, num_gpus, memory, "
                "accelerator_type, label_selector, custom, got 'cpus'; did you mean",
            ),
            ("modules.data={type: gmm}", "modules.data: is the observation's name; choose another for this module"),
            ("modules={vae.2: {type: gmm}}", "modules.vae.2: expected a name of letters, digits, '_' and '-'"),
            ("connections=data", "connections: expected a list, each entry a text, got 'data'"),
            ("connections.0=data", "connections.0: expected 'a -> b', the names of two modules, got 'data'"),
            (
                "connections.1=gm -> mm",
                "connections.1: unknown module, expected one of data, vae, gmm, mm, got 'gm'; did",
            ),
            ("connections.1=vae -> gmm", "connections.1: vae -> gmm is given twice; leave one out"),
            (
                "connections.1=vae -> mm",
                "connections: connection vae -> mm: vae sends latent_vectors on port z upwards, mm receive",
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
                "schedule.steps=[{steps: [gmm, mm], repeat: 0}]",
                "schedule.steps.0.repeat: expected an integer of at least 1, got 0",
            ),
            (
                "schedule.steps=[vae, {steps: [{steps: [{module: gmm, set: {iter: 0}}]}]}]",
                "schedule.steps.1.steps.0.steps.0.set.iter: unknown parameter of module type gmm",
            ),
            (
                "schedule.steps=[{steps: [gmm], anneal: [0.3, 2]}]",
                "schedule.steps.0.anneal.1: expected",
            ),
            (
                "schedule.steps=[{steps: [gmm], chians: 2}]",
                "schedule.steps.0.chians: unknown key",
            ),
            (
                "schedule.steps=[{steps: [gmm, mm], chains: -1}]",
                "schedule.steps.0.chains: expected an integer of at least 0, got -1",
            ),
            (
                "schedule.steps=[{steps: [gmm, mm], moves: many}]",
                "schedule.steps.0.moves: expected an integer of at least 0, got 'many'",
            ),
            (
                "schedule.steps=[{steps: [gmm, mm], chains: 2, select: accuracy}]",
                "schedule.steps.0.select: expected 'evidence', got 'accuracy'",
            ),
            (
                "schedule.steps=[{steps: []}]",
                "schedule.steps.0.steps: expected",
            ),
        ],
    )
    def test_each_error_names_its_key_and_what_was_expected(self, tmp_path: Path, override: str, message: str) -> None:
        errors = [line for line in config_errors(tmp_path, MODEL, override) if line.startswith(message[:40])]
        assert len(errors) == 1
        assert errors[0].startswith(message)

    def test_all_errors_are_reported_together(self, tmp_path: Path) -> None:
        errors = config_errors(
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
        assert {line.split(": ")[0] for line in errors} == {
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
        assert len(errors) == 16

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the model file: expected a map with name, data, modules, connections and schedule, got nothing"),
            ("- a", "the model file: expected a map with name"),
            ("name: [", "model.yaml, line 1: is not valid YAML"),
            ("name: a\nseed: 1\nname: b\n", "model.yaml, line 3: is not valid YAML: 'name' is given twice"),
            (
                "name: !!python/object/apply:os.system [ls]",
                "model.yaml, line 1: is not valid YAML: the tag 'tag:yaml.org,2002:python/object/apply:os",
            ),
            ("a: " + "[" * 5000, "model.yaml, line 1: is not valid YAML"),
            ("name: !!int 010", "model.yaml, line 1: is not valid YAML: '010' is not of type int"),
            ("name: \x07", "model.yaml: is not valid YAML"),
            ("3: a\n? [x]\n: b\n", "model.yaml, line 2: is not valid YAML"),
        ],
    )
    def test_a_file_that_is_no_map_is_refused_with_its_line(self, tmp_path: Path, text: str, message: str) -> None:
        errors = config_errors(tmp_path, text)
        assert errors[0].removeprefix(f"{tmp_path}/").startswith(message)

    def test_keys_are_strings_whatever_yaml_makes_of_them(self, tmp_path: Path) -> None:
        errors = config_errors(tmp_path, MODEL.replace("  mm:", "  3:").replace("seed", "no"))
        assert any(line.startswith("modules.3: expected a name") for line in errors)
        assert any(line.startswith("no: unknown key") for line in errors)

    def test_a_missing_file_and_one_that_is_no_text_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no such file"):
            load_config(tmp_path / "none.yaml")
        with pytest.raises(ConfigError, match="cannot be read as a text file"):
            load_config(tmp_path)
        (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
        with pytest.raises(ConfigError, match="cannot be read as a text file"):
            load_config(tmp_path / "latin.yaml")
