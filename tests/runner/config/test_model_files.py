"""Test which model file a name means, and that the package holds those of configs/."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from setuptools import find_packages
from typer.testing import CliRunner

from runner.cli.app import app
from runner.config import model_names
from runner.config.error_messages import ConfigError
from runner.config.model_files import describe_models, find_model
from runner.config.model_names import included_models

SLOW = pytest.mark.slow
ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def serket(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done


# --- the package ---------------------------------------------------------------------------------------------------

LISTED = """
import json, setuptools
dist = setuptools.Distribution({"script_name": "none"})
dist.parse_config_files()
build = dist.get_command_obj("build_py")
build.ensure_finalized()
files = {package: sorted(names) for package, _, _, names in build.data_files}
print(json.dumps({"packages": sorted(dist.packages), "data": files, "where": dist.package_dir}))
"""


def test_the_build_puts_every_package_and_every_model_file_into_the_wheel():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LISTED], cwd=ROOT, capture_output=True, text=True)
    built = json.loads(done.stdout.splitlines()[-1])
    folders = find_packages(str(ROOT), include=["actors*", "runner*"])
    assert built["packages"] == sorted([*folders, "runner.models"])
    assert built["where"] == {"runner.models": "configs"}
    assert built["data"]["runner.models"] == [f"{name}.yaml" for name in NAMES]
    assert built["data"]["runner.cli"]  # the templates


def test_a_working_copy_and_an_installed_package_have_the_same_models(tmp_path, monkeypatch):
    assert list(included_models()) == NAMES
    package = tmp_path / "site-packages" / "runner"
    (package / "models").mkdir(parents=True)
    (package.parent / "configs").mkdir()  # somebody else's
    (package.parent / "configs" / "other.yaml").touch()
    monkeypatch.setattr(model_names.runner, "__file__", str(package / "__init__.py"))
    assert included_models() == {}
    (package / "models" / "mnist.yaml").touch()
    assert included_models() == {"mnist": package / "models" / "mnist.yaml"}


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_each_included_model_is_valid_under_its_name_in_any_directory(place, name):
    model = find_model(name)
    assert (model.included, model.note) == (True, "")
    assert model.load().name == name


def test_a_file_of_that_name_goes_before_the_included_model_and_it_is_said(place):
    (place / "hmm").write_text((ROOT / "configs" / "hmm.yaml").read_text().replace("name: hmm", "name: own"))
    model = find_model("hmm")
    assert (model.path, model.included) == (Path("hmm"), False)
    assert model.note == "the file hmm of this directory is taken, not the included model hmm"
    assert model.load().name == "own"
    assert find_model("./hmm").note == ""  # a path says which one is meant


def test_a_directory_of_that_name_is_no_model_file(place):
    (place / "mnist").mkdir()
    assert find_model("mnist").included


@pytest.mark.parametrize("given", ["hmm.yaml", "./hmm", "models/hmm", "hmm.yml"])
def test_what_is_a_path_is_never_an_included_model(place, given):
    model = find_model(given)
    assert (model.path, model.included) == (Path(given), False)
    with pytest.raises(ConfigError, match="there is no such file"):
        model.load()


def test_an_unknown_name_gets_the_nearest_model_or_the_file_beside_it(place):
    with pytest.raises(ConfigError, match=r"^mnits: there is no such file .*; did you mean 'mnist'\?$"):
        find_model("mnits")
    with pytest.raises(ConfigError, match=r"; serket models lists the included ones$"):
        find_model("robot")
    (place / "robot.yaml").touch()
    with pytest.raises(ConfigError, match=r"; give robot\.yaml$"):
        find_model("robot")


def test_a_path_that_is_set_for_an_included_model_starts_where_it_is_typed(place):
    data = ["data.source=files", "data.observations=x.csv", "data.order=given"]
    assert find_model("hmm").load(data).sources["data"].observations == place / "x.csv"


# --- serket models -------------------------------------------------------------------------------------------------


def test_every_included_model_is_described_by_a_sentence_its_data_and_its_sizes():
    entries = {entry["name"]: entry for entry in describe_models()}
    assert list(entries) == NAMES
    for entry in entries.values():
        assert len(entry["summary"]) > 20
        assert all(source["rows"] and source["columns"] for source in entry["data"])
        assert entry["modules"]
        assert entry["rounds"] >= 1
    assert entries["mnist"]["modules"][1] == {"name": "gmm", "type": "gmm", "size": "10 classes"}


@pytest.mark.parametrize("name", ["hmm", *(pytest.param(each, marks=SLOW) for each in ("digits", "vae_gmm_mlda"))])
def test_rows_and_columns_are_those_of_the_data(name):
    entry = next(each for each in describe_models() if each["name"] == name)
    data = find_model(name).load().load_data()
    for source in entry["data"]:
        assert data[source["name"]].observations.shape == (source["rows"], source["columns"])


def test_models_lists_names_and_prints_a_file(place):
    listed = serket("models").stdout
    assert all(f"{name}: " in listed for name in NAMES)
    assert [each["name"] for each in json.loads(serket("models", "--json").stdout)["models"]] == NAMES
    text = serket("models", "hmm").stdout
    assert text == (ROOT / "configs" / "hmm.yaml").read_text()
    assert yaml.safe_load(text)["name"] == json.loads(serket("models", "hmm", "--json").stdout)["name"]
    assert "did you mean 'hmm'?" in serket("models", "hm", code=2).stderr


@pytest.mark.slow
def test_a_model_runs_by_name_in_an_empty_directory(place):
    short = ["--set", "schedule.rounds=1", "--set", "schedule.steps=[gmm, mm]"]
    result = json.loads(serket("run", "hmm", "--local", "--json", *short).stdout.splitlines()[-1])
    assert (result["run"], result["rounds"]) == ("hmm", 1)
    assert (place / "runs" / "hmm" / "result.json").exists()
