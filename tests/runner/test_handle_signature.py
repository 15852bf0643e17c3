"""Handles show what they take: ``inspect.signature``, ``help``, completion in notebooks, and ``repr``."""

import inspect
import pydoc
import subprocess
import sys
from dataclasses import fields

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import runner as srk
from actors.graph.registry import find
from runner.handle_signature import OPTIONS

HANDLES = [
    srk.VAE,
    srk.PCA,
    srk.GMM,
    srk.ARGMM,
    srk.DPGMM,
    srk.MarkovModel,
    srk.SwitchingMarkov,
    srk.MLDA,
    srk.Product,
    srk.Network,
]
TOOLKIT = [srk.torch_vae.TorchVAE, srk.torch_nn.TorchNN]


@pytest.mark.parametrize("handle", [*HANDLES, *TOOLKIT], ids=lambda handle: handle.__name__)
def test_the_signature_names_every_parameter_with_its_default(handle):
    shown = inspect.signature(handle).parameters
    for each in fields(find(handle.type).Parameters):
        made = handle().parameters[each.name]
        assert shown[each.name].default == made, each.name
    assert set(OPTIONS) <= set(shown)


@pytest.mark.parametrize("handle", [*HANDLES, *TOOLKIT], ids=lambda handle: handle.__name__)
def test_a_handle_takes_what_its_signature_shows_by_position_and_by_name(handle):
    shown = inspect.signature(handle).parameters.values()
    places = [each.default for each in shown if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    names = {each.name: each.default for each in shown if each.kind is not inspect.Parameter.VAR_KEYWORD}
    names.pop("device", None)  # it is another spelling of num_gpus
    assert handle(*places).parameters == handle(**names).parameters == handle().parameters
    with pytest.raises(TypeError, match=f"at most {len(places)} positional"):
        handle(*places, None)


def test_a_subclass_has_the_signature_of_its_own_constructor():
    class Own(srk.VAE):
        def __init__(self, size):
            super().__init__(size)

    class Same(srk.VAE):
        def build_encoder(self, input_dim, latent_dim):
            """Return nothing: it is not called."""

    assert list(inspect.signature(Own).parameters) == ["size"]
    assert inspect.signature(Same) == inspect.signature(srk.VAE)
    assert "divide_by" in inspect.signature(srk.Observation).parameters
    assert list(inspect.signature(srk.Module).parameters) == ["type", "options"]


def test_help_and_completion_show_them():
    assert "GMM(classes: int = 10, iterations: int = 100," in pydoc.plain(pydoc.render_doc(srk.GMM))
    shell = InteractiveShell()
    shell.user_ns["GMM"] = srk.GMM
    with provisionalcompleter():
        found = {
            each.text
            for code in ("GMM(2, prior_", "GMM(2, cal")
            for each in shell.Completer.completions(code, len(code))
        }
    assert {"prior_scale=", "prior_count=", "calibrate="} <= found


def test_a_handle_shows_how_it_was_made():
    assert repr(srk.GMM(3, prior_scale="data", name="places")) == "GMM(classes=3, prior_scale='data')"


def test_signatures_are_made_when_they_are_read():
    code = "import sys; from runner import GMM; sys.exit('actors.modules.mixture.gmm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
