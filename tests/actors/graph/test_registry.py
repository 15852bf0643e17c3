"""Finding module types and validating their parameters."""

import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from actors.errors import ModuleError
from actors.graph import registry
from actors.graph.registry import BUILT_IN, find, make_module, make_parameters, validated_parameters
from actors.module import Module, Outbox
from tests.support.port_stubs import StubModule

HERE = "tests.actors.graph.test_registry"


class Plugin(StubModule):
    @dataclass(frozen=True)
    class Parameters:
        size: Annotated[int, Field(ge=1)] = 3
        rule: Literal["slow", "fast"] = "slow"
        weights: list[float] = field(default_factory=list)


class Derived(Plugin):
    """Inherits its parameters too."""


class CrossChecked(Plugin):
    @dataclass(frozen=True)
    class Parameters:
        low: int = 0
        high: int = 1

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError("low is above high")


class Required(Plugin):
    @dataclass(frozen=True)
    class Parameters:
        size: int


class Unfinished(Module):
    @dataclass(frozen=True)
    class Parameters:
        pass

    def update(self, inbox, context):
        return Outbox()


class WithoutParameters(Module):
    """Has no parameters."""

    update = recognize = state = load_state = Plugin.update


def not_a_class():
    pass


class TestFind:
    @pytest.mark.parametrize("name", sorted(BUILT_IN))
    def test_built_in_modules_are_found_by_their_short_names(self, name):
        cls = find(name)
        assert issubclass(cls, Module)
        assert f"{cls.__module__}:{cls.__name__}" == BUILT_IN[name]
        assert find(BUILT_IN[name]) is cls

    def test_a_built_in_module_is_imported_only_when_it_is_requested(self):
        code = (
            "import sys, actors.graph.registry as r; files = {t.split(':')[0] for t in r.BUILT_IN.values()};"
            "assert not files & set(sys.modules); r.find('observation');"
            "assert files & set(sys.modules) == {'actors.modules.observation'}"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def test_other_modules_are_found_by_their_dotted_names(self):
        assert find(f"{HERE}:Plugin") is Plugin

    def test_an_unknown_short_name_is_refused_with_the_known_names(self):
        with pytest.raises(ModuleError, match=f"unknown module type 'vea': one of {', '.join(BUILT_IN)}, or"):
            find("vea")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("no.such.package:Class", "cannot be loaded: No module named 'no'"),
            (f"{HERE}:Missing", "cannot be loaded: .* has no attribute 'Missing'"),
            (f"{HERE}:", "cannot be loaded"),
            (":Class", "cannot be loaded"),
            (".relative:Class", "cannot be loaded"),
            ("..:Class", "cannot be loaded"),
            ("a\0b:Class", "cannot be loaded"),
            (f"{HERE}:Plugin:more", "cannot be loaded"),
            (f"{HERE}:not_a_class", "is no subclass of actors.Module"),
            ("collections:OrderedDict", "is no subclass"),
            (f"{HERE}:HERE", "is no subclass"),
            ("actors.module:Module", "does not define load_state, recognize, state, update"),
            (f"{HERE}:Unfinished", "does not define load_state, recognize, state$"),
            (f"{HERE}:WithoutParameters", "has no dataclass called Parameters"),
        ],
    )
    def test_a_name_of_no_module_is_refused_with_the_reason(self, name, message):
        with pytest.raises(ModuleError, match=message) as raised:
            find(name)
        assert repr(name) in str(raised.value)

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("class Broken(:", "SyntaxError"),
            ("import no_such_package", "No module named 'no_such_package'"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
            ("import sys; sys.exit(3)", "SystemExit: 3"),
        ],
    )
    def test_a_file_that_fails_on_import_is_named_with_the_exception(self, source, message, tmp_path, monkeypatch):
        (tmp_path / "broken_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleError, match=f"'broken_plugin:Class' cannot be loaded: {message}"):
            find("broken_plugin:Class")


class TestParameters:
    def test_parameters_are_those_given_and_otherwise_the_defaults(self):
        made = make_module(f"{HERE}:Plugin", {"size": 7, "weights": [1, 2.5]})
        assert isinstance(made, Plugin)
        assert made.parameters == Plugin.Parameters(7, "slow", [1.0, 2.5])
        assert make_module(f"{HERE}:Plugin", {}).parameters == Plugin.Parameters()
        assert make_module(f"{HERE}:Derived", {"size": 2}).parameters == Plugin.Parameters(2)

    def test_validated_parameters_are_complete(self):
        expected = {"size": 7, "rule": "slow", "weights": []}
        assert validated_parameters(f"{HERE}:Plugin", {"size": 7}) == expected

    @pytest.mark.parametrize(("name", "own"), [("vae", "epochs"), ("gmm", "iterations")])
    def test_an_alias_sets_the_parameter_of_its_own_name(self, name, own):
        parameters = validated_parameters(name, {"itr": 3})
        assert parameters[own] == 3
        assert "itr" not in parameters
        with pytest.raises(ModuleError, match="itr: Unexpected keyword argument"):
            validated_parameters(name, {own: 1, "itr": 2})

    @pytest.mark.parametrize(
        ("type_name", "given", "message"),
        [
            ("Plugin", {"size": 0}, "size: Input should be greater than or equal to 1"),
            ("Plugin", {"size": "many"}, "size: Input should be a valid integer"),
            ("Plugin", {"size": None}, "size: "),
            ("Plugin", {"rule": "quick"}, "rule: Input should be 'slow' or 'fast'"),
            ("Plugin", {"weights": [1, "x"]}, "weights.1: Input should be a valid number"),
            ("Plugin", {"sise": 3}, "sise: Unexpected keyword argument"),
            ("Derived", {"sise": 3}, "sise: Unexpected keyword argument"),
            ("Required", {}, "size: "),
            ("CrossChecked", {"low": 2}, "parameters: Value error, low is above high"),
        ],
    )
    def test_parameters_that_are_not_valid_are_refused_by_name(self, type_name, given, message):
        with pytest.raises(ModuleError, match=f"'{HERE}:{type_name}': {message}"):
            make_module(f"{HERE}:{type_name}", given)
        with pytest.raises(ModuleError, match=message):
            validated_parameters(f"{HERE}:{type_name}", given)

    def test_all_errors_are_reported_together_for_model_files(self):
        with pytest.raises(ValidationError) as raised:
            make_parameters(Plugin, {"size": 0, "rule": "quick", "sise": 1})
        assert {error["loc"] for error in raised.value.errors()} == {("size",), ("rule",), ("sise",)}

    def test_the_given_parameters_are_not_changed(self):
        given = {"weights": [1.0]}
        make_module(f"{HERE}:Plugin", given).parameters.weights.append(2.0)
        assert given == {"weights": [1.0]}

    def test_validated_parameters_are_not_validated_again(self, monkeypatch):
        parameters = pickle.loads(pickle.dumps(validated_parameters(f"{HERE}:Plugin", {"size": 7})))
        monkeypatch.setattr(registry, "make_parameters", None)
        assert make_module(f"{HERE}:Plugin", parameters).parameters == Plugin.Parameters(7)
        with pytest.raises(TypeError):
            make_module(f"{HERE}:Plugin", dict(parameters))

    def test_a_changed_copy_of_validated_parameters_is_validated(self):
        parameters = validated_parameters(f"{HERE}:Plugin", {"size": 7})
        with pytest.raises(ModuleError, match="size: Input should be greater"):
            make_module(f"{HERE}:Plugin", {**parameters, "size": 0})

    def test_modules_do_not_share_validated_parameters(self):
        parameters = validated_parameters(f"{HERE}:Plugin", {"weights": [1.0]})
        make_module(f"{HERE}:Plugin", parameters).parameters.weights.append(2.0)
        assert make_module(f"{HERE}:Plugin", parameters).parameters.weights == parameters["weights"] == [1.0]

    @pytest.mark.parametrize("name", sorted(BUILT_IN))
    def test_every_built_in_module_can_be_made_with_its_defaults(self, name):
        made = make_module(name, {})
        assert isinstance(made, find(name))
        assert validated_parameters(name, {}) == validated_parameters(name, validated_parameters(name, {}))
