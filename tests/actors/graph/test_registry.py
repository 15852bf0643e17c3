"""How modules are found, and how their parameters are checked."""

import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from actors.errors import ModuleError
from actors.graph.registry import BUILT_IN, canonical_parameters, find, make, make_parameters
from actors.module import Module, Outbox
from tests.support.port_stubs import Part

HERE = "tests.actors.graph.test_registry"


class Plugin(Part):
    @dataclass(frozen=True)
    class Parameters:
        size: Annotated[int, Field(ge=1)] = 3
        rule: Literal["slow", "fast"] = "slow"
        weights: list[float] = field(default_factory=list)


class Heir(Plugin):
    """Inherits its parameters too."""


class Picky(Plugin):
    @dataclass(frozen=True)
    class Parameters:
        low: int = 0
        high: int = 1

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError("low is above high")


class Needy(Plugin):
    @dataclass(frozen=True)
    class Parameters:
        size: int


class Unfinished(Module):
    @dataclass(frozen=True)
    class Parameters:
        pass

    def update(self, inbox, context):
        return Outbox()


class Bare(Module):
    """Forgot its parameters."""

    update = recognize = state = load_state = Plugin.update


def not_a_class():
    pass


class TestFind:
    @pytest.mark.parametrize("name", sorted(BUILT_IN))
    def test_built_in_modules_by_their_short_names(self, name):
        found = find(name)
        assert issubclass(found, Module)
        assert f"{found.__module__}:{found.__name__}" == BUILT_IN[name]
        assert find(BUILT_IN[name]) is found

    def test_no_built_in_module_is_imported_before_it_is_asked_for(self):
        code = (
            "import sys, actors.graph.registry as r; files = {t.split(':')[0] for t in r.BUILT_IN.values()};"
            "assert not files & set(sys.modules); r.find('observation');"
            "assert files & set(sys.modules) == {'actors.modules.observation'}"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def test_anybodys_module_by_its_dotted_name(self):
        assert find(f"{HERE}:Plugin") is Plugin

    def test_an_unknown_short_name_is_refused_with_those_known(self):
        with pytest.raises(ModuleError, match=f"unknown module type 'vea': one of {', '.join(BUILT_IN)}, or"):
            find("vea")

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("no.such.package:Class", "cannot be loaded: No module named 'no'"),
            (f"{HERE}:Missing", "cannot be loaded: .* has no attribute 'Missing'"),
            (f"{HERE}:", "cannot be loaded"),
            (":Class", "cannot be loaded"),
            (".relative:Class", "cannot be loaded"),
            ("..:Class", "cannot be loaded"),
            ("a\0b:Class", "cannot be loaded"),
            (f"{HERE}:Plugin:more", "cannot be loaded"),
            (f"{HERE}:not_a_class", "is no subclass of actors.module.Module"),
            ("collections:OrderedDict", "is no subclass"),
            (f"{HERE}:HERE", "is no subclass"),
            ("actors.module:Module", "does not define load_state, recognize, state, update"),
            (f"{HERE}:Unfinished", "does not define load_state, recognize, state$"),
            (f"{HERE}:Bare", "has no dataclass called Parameters"),
        ],
    )
    def test_what_is_no_module_is_refused_with_the_reason(self, name, said):
        with pytest.raises(ModuleError, match=said) as raised:
            find(name)
        assert repr(name) in str(raised.value)

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("class Broken(:", "SyntaxError"),
            ("import no_such_package", "No module named 'no_such_package'"),
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
            ("import sys; sys.exit(3)", "SystemExit: 3"),
        ],
    )
    def test_a_file_that_breaks_on_import_is_named_with_what_it_raised(self, source, said, tmp_path, monkeypatch):
        (tmp_path / "broken_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleError, match=f"'broken_plugin:Class' cannot be loaded: {said}"):
            find("broken_plugin:Class")


class TestParameters:
    def test_are_those_given_and_otherwise_the_defaults(self):
        made = make(f"{HERE}:Plugin", {"size": 7, "weights": [1, 2.5]})
        assert isinstance(made, Plugin)
        assert made.parameters == Plugin.Parameters(7, "slow", [1.0, 2.5])
        assert make(f"{HERE}:Plugin", {}).parameters == Plugin.Parameters()
        assert make(f"{HERE}:Heir", {"size": 2}).parameters == Plugin.Parameters(2)

    def test_canonical_parameters_name_all_of_them(self):
        expected = {"size": 7, "rule": "slow", "weights": []}
        assert canonical_parameters(f"{HERE}:Plugin", {"size": 7}) == expected

    @pytest.mark.parametrize(("name", "own"), [("vae", "epochs"), ("gmm", "iterations")])
    def test_an_alias_sets_the_parameter_of_its_own_name(self, name, own):
        found = canonical_parameters(name, {"itr": 3})
        assert found[own] == 3
        assert "itr" not in found
        with pytest.raises(ModuleError, match="itr: Unexpected keyword argument"):
            canonical_parameters(name, {own: 1, "itr": 2})

    @pytest.mark.parametrize(
        ("type_name", "given", "said"),
        [
            ("Plugin", {"size": 0}, "size: Input should be greater than or equal to 1"),
            ("Plugin", {"size": "many"}, "size: Input should be a valid integer"),
            ("Plugin", {"size": None}, "size: "),
            ("Plugin", {"rule": "quick"}, "rule: Input should be 'slow' or 'fast'"),
            ("Plugin", {"weights": [1, "x"]}, "weights.1: Input should be a valid number"),
            ("Plugin", {"sise": 3}, "sise: Unexpected keyword argument"),
            ("Heir", {"sise": 3}, "sise: Unexpected keyword argument"),
            ("Needy", {}, "size: "),
            ("Picky", {"low": 2}, "parameters: Value error, low is above high"),
        ],
    )
    def test_wrong_ones_are_refused_by_name(self, type_name, given, said):
        with pytest.raises(ModuleError, match=f"'{HERE}:{type_name}': {said}"):
            make(f"{HERE}:{type_name}", given)
        with pytest.raises(ModuleError, match=said):
            canonical_parameters(f"{HERE}:{type_name}", given)

    def test_all_faults_at_once_for_whoever_checks_a_model_file(self):
        with pytest.raises(ValidationError) as raised:
            make_parameters(Plugin, {"size": 0, "rule": "quick", "sise": 1})
        assert {fault["loc"] for fault in raised.value.errors()} == {("size",), ("rule",), ("sise",)}

    def test_what_was_given_is_left_as_it_was(self):
        given = {"weights": [1.0]}
        make(f"{HERE}:Plugin", given).parameters.weights.append(2.0)
        assert given == {"weights": [1.0]}

    @pytest.mark.parametrize("name", sorted(BUILT_IN))
    def test_every_built_in_module_can_be_made_of_its_defaults(self, name):
        made = make(name, {})
        assert isinstance(made, find(name))
        assert canonical_parameters(name, {}) == canonical_parameters(name, canonical_parameters(name, {}))
