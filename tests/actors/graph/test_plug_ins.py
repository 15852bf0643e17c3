"""Module types of installed distributions: found by name, imported one at a time, and named if they are not valid."""

import logging
import subprocess
import sys

import pytest

from actors.errors import ModuleError
from actors.graph.registry import BUILT_IN, GROUP, add_code_directories, find, known_names, make_module, module_types
from tests.support.distributions import MODULE, Site


class TestFinding:
    def test_a_type_is_found_by_the_name_of_its_entry_point(self, site):
        site.install("serket-own", {"own": "own_module:Own"}, own_module=MODULE)
        assert find("own").__name__ == "Own"
        assert find("own") is find("own_module:Own")
        assert make_module("own", {"size": 5}).parameters.size == 5

    def test_the_list_names_every_type_and_its_distribution_and_imports_none(self, site):
        site.install("serket-own", {"own": "own_module:Own", "other": "own_module:Other"}, own_module="1 / 0")
        listed = {each.name: each for each in module_types()}
        assert list(listed) == [*BUILT_IN, "other", "own"]
        assert (listed["own"].target, listed["own"].origin) == ("own_module:Own", "serket-own 1.2")
        assert listed["gmm"].built_in
        assert not listed["own"].built_in
        assert "own_module" not in sys.modules

    def test_finding_a_type_imports_no_other(self, site):
        site.install("a", {"a": "a_module:Own"}, a_module=MODULE)
        site.install("b", {"b": "b_module:Own"}, b_module=MODULE)
        find("b")
        assert "b_module" in sys.modules
        assert "a_module" not in sys.modules

    def test_an_unknown_name_is_refused_with_the_known_names(self, site):
        site.install("serket-own", {"own": "own_module:Own"}, own_module=MODULE)
        with pytest.raises(
            ModuleError, match=rf"unknown module type 'owm': one of {', '.join(BUILT_IN)}, own, or pack"
        ):
            find("owm")
        assert known_names() == [*BUILT_IN, "own"]

    def test_of_two_installations_of_one_distribution_the_first_on_the_path_is_used(self, site, tmp_path, monkeypatch):
        site.install("serket_own", {"own": "own_module:Own"}, version="2.0", own_module=MODULE)
        (tmp_path / "later").mkdir()
        Site(tmp_path / "later").install("serket-own", {"own": "elsewhere:Own"}, version="1.0")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "later")])
        assert [each.origin for each in module_types() if each.name == "own"] == ["serket_own 2.0"]
        assert find("own").__module__ == "own_module"


class TestNameConflicts:
    def test_a_built_in_module_keeps_its_name_and_a_warning_names_the_plug_in(self, site, caplog):
        site.install("serket-own", {"gmm": "own_module:Own"}, own_module=MODULE)
        with caplog.at_level(logging.WARNING):
            assert find("gmm") is find(BUILT_IN["gmm"]) is find("gmm")
        assert len(caplog.messages) == 1
        for word in ("'gmm' is the one built into serket-actors", "serket-own 1.2", "type: own_module:Own"):
            assert word in caplog.text
        assert [each.conflict for each in module_types() if each.target == "own_module:Own"] == caplog.messages

    def test_a_name_of_two_plug_ins_is_refused_with_both(self, site):
        for name in ("a", "b"):
            site.install(f"serket-{name}", {"own": f"{name}_module:Own", name: f"{name}_module:Own"})
            (site.path / f"{name}_module.py").write_text(MODULE)
        message = r"'own' is provided by serket-[ab] 1.2 \([ab]_module:Own\) and serket-[ab] 1.2 \([ab]_module:Own\)"
        with pytest.raises(ModuleError, match=message) as raised:
            find("own")
        assert "serket-a" in str(raised.value)
        assert "serket-b" in str(raised.value)
        assert find("a").__module__ == "a_module"
        assert sum(bool(each.conflict) for each in module_types()) == 2


class TestBroken:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import no_such_package", "cannot be loaded: No module named 'no_such_package'"),
            ("class Own(:", "cannot be loaded: SyntaxError"),
            ("import sys; sys.exit(1)", "cannot be loaded: SystemExit"),
            ("", "cannot be loaded: module 'own_module' has no attribute 'Own'"),
            ("class Own: pass", "is no subclass of actors.Module"),
            (MODULE.replace("def state", "def condition"), "does not define state"),
            (MODULE.replace("Parameters", "Settings"), "has no dataclass called Parameters"),
            (MODULE.replace("size:", "threads:"), "a parameter cannot be called 'threads'"),
            (MODULE.replace('"),)', '"))'), "expected a tuple of actors.Port"),
            (MODULE.replace("ports = (", "ports = 2 * ("), "two ports are called 'observations'"),
            (MODULE.replace('"in"', '"into"'), "port 'observations' is 'into' and 'forward', expected in or out"),
            (MODULE.replace('"observations")', '"sights")'), "is of unknown kind 'sights': one of observations, "),
            (MODULE.replace("ports =", "kinds = 'sights'; ports ="), "kinds is 'sights', expected a tuple"),
            (
                MODULE.replace("ports =", "kinds = ('sights',); ports ="),
                "expected a message kind (actors.Kind), got 'sights'",
            ),
        ],
    )
    def test_a_type_that_is_not_valid_is_named_with_its_distribution_and_others_are_found(self, site, source, message):
        site.install("serket-own", {"own": "own_module:Own"}, own_module=source)
        site.install("serket-good", {"good": "good_module:Own"}, good_module=MODULE)
        with pytest.raises(ModuleError, match=r"'own' \(own_module:Own of serket-own 1.2\)") as raised:
            find("own")
        assert message in str(raised.value)
        assert find("good").__name__ == "Own"

    @pytest.mark.parametrize("target", ["own_module", "own_module:", "", "own module:Own"])
    def test_an_entry_point_that_names_no_class_is_refused(self, site, target):
        site.install("serket-own", {"own": target}, own_module=MODULE)
        with pytest.raises(ModuleError, match=r"of serket-own 1.2\) cannot be loaded"):
            find("own")

    def test_a_distribution_with_unreadable_metadata_is_ignored_with_a_warning(self, site, caplog):
        site.install("serket-own", {"own": "own_module:Own"}, own_module=MODULE)
        site.install("half", {})
        (site.path / "half-1.2.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nnonsense\n")
        with caplog.at_level(logging.WARNING):
            assert find("own").__name__ == "Own"
        assert "half-1.2.dist-info" in caplog.text


def test_files_in_code_directories_are_found_after_installed_packages(site, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_module.py").write_text(MODULE)
    (tmp_path / "mine" / "numpy.py").write_text("1 / 0")
    with pytest.raises(ModuleError, match="No module named 'my_module'"):
        find("my_module:Own")
    add_code_directories([tmp_path / "mine"])
    add_code_directories([tmp_path / "mine"])
    assert find("my_module:Own").__name__ == "Own"
    assert sys.path.count(str(tmp_path / "mine")) == 1
    assert sys.path[-1] == str(tmp_path / "mine")


def test_finding_a_built_in_module_imports_no_plug_in():
    code = (
        "import sys; from actors.graph.registry import find; find('observation');"
        "assert not {'actors.modules.mixture.gmm', 'torch', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
